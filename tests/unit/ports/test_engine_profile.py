"""Engine profiles as documents: bounds, round trips, digests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from lightship.errors import UsageError
from lightship.ports.engine_profile import (
    EngineLimits,
    EngineProfile,
    FitQuality,
    ProfileOrigin,
    ProfileSource,
    StepCosts,
    decode_profile,
    encode_profile,
)
from lightship.ports.measurements import Target

PROFILE = EngineProfile(
    name="p",
    costs=StepCosts(step_s=0.01, prefill_token_s=1e-4, decode_token_s=2e-4),
    limits=EngineLimits(),
    source=ProfileSource(
        origin=ProfileOrigin.FITTED,
        description="a test",
        target=Target("openvino", "1", "CPU", "avx2", 2, {"precision": "f32"}),
        machine="abc",
    ),
    fit=FitQuality(num_observations=9, median_error=0.1, p90_error=0.2, median_errors={"ttft": 0.1}),
)


def test_profile_written_and_read_is_the_same() -> None:
    assert decode_profile(encode_profile(PROFILE), where="p.json") == PROFILE


def test_profile_digest_names_content() -> None:
    renamed = msgspec.structs.replace(PROFILE, name="q")
    assert decode_profile(encode_profile(PROFILE), where="p.json").digest == PROFILE.digest
    assert renamed.digest != PROFILE.digest
    assert PROFILE.digest.startswith("sha256:")


def test_profile_unknown_field_is_refused_with_nearest_name() -> None:
    document = encode_profile(PROFILE).replace(b'"step_s"', b'"steps_s"')
    with pytest.raises(UsageError, match="steps_s") as caught:
        decode_profile(document, where="p.json")
    assert caught.value.hint == "Did you mean 'step_s'?"
    assert caught.value.where == "p.json"


@dataclass(frozen=True)
class BadValue:
    """A section, the values put there, and what the refusal must say."""

    section: str
    values: dict[str, Any]
    message: str


BAD_VALUES = {
    "negative": BadValue("costs", {"step_s": -0.1}, "step_s must be from 0"),
    "huge": BadValue("costs", {"step_s": 1e9}, "step_s must be from 0"),
    "free": BadValue("costs", {"step_s": 0.0, "decode_token_s": 0.0}, "a step takes time"),
    "text": BadValue("costs", {"step_s": "fast"}, "step_s"),
    "no-blocks": BadValue("limits", {"num_kv_blocks": 0}, "num_kv_blocks must be from 1"),
    "more-sequences-than-tokens": BadValue("limits", {"max_batched_tokens": 8}, "over max_batched_tokens 8"),
}


@pytest.mark.parametrize("case", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_profile_bad_value_is_refused_by_name(case: BadValue) -> None:
    document = msgspec.json.decode(encode_profile(PROFILE))
    document[case.section].update(case.values)
    with pytest.raises(UsageError, match=case.message):
        decode_profile(msgspec.json.encode(document), where="p.json")


def test_profile_costs_not_finite_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="prefill_token_s"):
            StepCosts(step_s=1, prefill_token_s=value, decode_token_s=1)


def test_profile_of_another_schema_is_refused() -> None:
    document = encode_profile(PROFILE).replace(b"engine-profile/2", b"engine-profile/9")
    with pytest.raises(UsageError, match="engine-profile/9"):
        decode_profile(document, where="p.json")


@pytest.mark.parametrize("document", [b"", b"[]", b"\xff", b'{"name": "p"}', b"nonsense"])
def test_profile_not_a_profile_is_refused(document: bytes) -> None:
    with pytest.raises(UsageError, match="not an engine profile"):
        decode_profile(document, where="p.json")


def test_limits_usable_context_is_bounded_by_the_cache() -> None:
    assert EngineLimits(num_kv_blocks=10, kv_block_tokens=16, context_length=4096).usable_context == 160
    assert EngineLimits(num_kv_blocks=1000, kv_block_tokens=16, context_length=4096).usable_context == 4096
