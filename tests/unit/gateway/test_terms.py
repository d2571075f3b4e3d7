"""What a request costs and accepts, from its headers, its head and its class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from lightship.gateway.dispatch.config import DispatchConfig, LadderConfig, PriorityClass, RungFacts
from lightship.gateway.terms import call_terms
from lightship.ports.engine import CallTerms, Degrade
from lightship.wire.errors import ApiError
from lightship.wire.paths import API_PATHS
from lightship.wire.requests import RequestHead

LADDER = LadderConfig(rungs=(RungFacts(variant_name="fp16"),), ttft_s=0.4, tpot_s=0.04)
CONFIG = DispatchConfig(
    ladders={"m": LADDER},
    priorities={
        "interactive": PriorityClass(importance=5, min_quality=0.9),
        "batch": PriorityClass(importance=1, degrade=Degrade.PREFERRED, max_wait_s=60, trimmed_output_tokens=64),
    },
    default_output_tokens=100,
    private_tags=frozenset({"pii"}),
)


def terms(
    *headers: tuple[bytes, bytes],
    head: RequestHead | None = None,
    path: str = "/v1/chat/completions",
    max_importance: float = math.inf,
) -> CallTerms:
    return call_terms(
        headers,
        head or RequestHead(model="m"),
        path=API_PATHS[path],
        num_body_bytes=400,
        ladder=LADDER,
        config=CONFIG,
        tenant="t",
        default_priority="",
        max_importance=max_importance,
        now_s=1000.0,
    )


def test_terms_nothing_said_are_those_of_the_spec() -> None:
    plain = terms()
    assert (plain.tenant, plain.priority, plain.importance, plain.degrade) == ("t", "default", 0, Degrade.ALLOWED)
    assert (plain.num_prompt_tokens, plain.max_output_tokens) == (100, 100)
    assert (plain.ttft_s, plain.max_wait_s, plain.deadline_s) == (0.4, 0.4, math.inf)
    assert plain.reads_cache
    assert plain.stores_in_cache


def test_terms_headers_are_heard() -> None:
    heard = terms(
        (b"x-priority", b"interactive"),
        (b"x-deadline-ms", b"250"),
        (b"x-slo-ttft-ms", b"900"),
        (b"x-slo-tpot-ms", b"20.5"),
        (b"x-min-quality", b"0.95"),
        (b"x-no-degrade", b"true"),
        (b"x-session-id", b"chat-1"),
        (b"cache-control", b"No-Store, no-cache"),
    )
    assert (heard.priority, heard.importance, heard.min_quality) == ("interactive", 5, 0.95)
    assert (heard.deadline_s, heard.ttft_s, heard.tpot_s) == (1000.25, 0.9, 0.0205)
    assert (heard.degrade, heard.session) == (Degrade.NEVER, "chat-1")
    assert not heard.reads_cache
    assert not heard.stores_in_cache


def test_terms_private_tag_keeps_the_request_here() -> None:
    assert terms((b"x-tags", b"beta, pii")).may_leave is False
    assert terms((b"x-tags", b"beta")).may_leave is True


def test_terms_class_with_patience_waits_as_long_as_it_says() -> None:
    batch = terms((b"x-priority", b"batch"))
    assert (batch.max_wait_s, batch.ttft_s, batch.trimmed_output_tokens) == (60, math.inf, 64)
    assert batch.degrade is Degrade.PREFERRED


def test_terms_class_floor_holds_under_a_lower_wish() -> None:
    assert terms((b"x-priority", b"interactive"), (b"x-min-quality", b"0.1")).min_quality == 0.9


def test_terms_class_above_the_keys_is_lowered_to_its_best() -> None:
    lowered = terms((b"x-priority", b"interactive"), max_importance=3)
    assert (lowered.priority, lowered.importance) == ("batch", 1)


@dataclass(frozen=True)
class Output:
    """A head, and the most tokens it may cost."""

    head: RequestHead
    path: str
    expected: int


@pytest.mark.parametrize(
    "case",
    [
        Output(RequestHead(model="m", max_tokens=7), "/v1/completions", 7),
        Output(RequestHead(model="m", max_tokens=7, max_completion_tokens=9), "/v1/chat/completions", 9),
        Output(RequestHead(model="m", max_tokens=7, n=3), "/v1/chat/completions", 21),
        Output(RequestHead(model="m", max_tokens=7, n=2, best_of=4), "/v1/completions", 28),
        Output(RequestHead(model="m", max_tokens=-5), "/v1/completions", 1),
        Output(RequestHead(model="m", max_tokens=2**60), "/v1/completions", 2**31),
        Output(RequestHead(model="m", max_output_tokens=8), "/v1/responses", 8),
        Output(RequestHead(model="m", max_tokens=7), "/tokenize", 0),
    ],
    ids=str,
)
def test_terms_output_is_bounded_by_all_choices(case: Output) -> None:
    assert terms(head=case.head, path=case.path).max_output_tokens == case.expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-priority", b"urgent"),
        (b"x-deadline-ms", b"soon"),
        (b"x-deadline-ms", b"-1"),
        (b"x-deadline-ms", b"1e9"),
        (b"x-slo-ttft-ms", b"nan"),
        (b"x-min-quality", b"1.5"),
        (b"x-no-degrade", b"maybe"),
        (b"x-tags", b"pii, Beta"),
        (b"x-session-id", b"two words"),
        (b"x-session-id", b"x" * 129),
        (b"x-session-id", "\u00e9".encode()),
    ],
)
def test_terms_wrong_header_is_refused_by_name(name: bytes, value: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        terms((name, value))
    assert (caught.value.status, caught.value.param) == (400, name.decode())
