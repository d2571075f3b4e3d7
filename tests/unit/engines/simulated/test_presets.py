"""The presets, and the adapter that tells simulations from engines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightship.engines.base import EngineFeature
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.simulated.config import SimulatedWorkerConfig, read_config
from lightship.engines.simulated.presets import load_preset, preset_names
from lightship.engines.simulated.simulation import SimulatedRequest, simulate
from lightship.errors import UsageError
from lightship.ports.engine_profile import ProfileOrigin


@pytest.mark.parametrize("name", preset_names())
def test_preset_says_where_its_figures_come_from(name: str) -> None:
    profile = load_preset(name)
    assert profile.name == name
    if profile.source.origin is ProfileOrigin.PUBLISHED:
        assert profile.source.description.startswith("Approximate.")
        assert profile.fit is not None
    else:
        assert profile.source.description.startswith("Made up")


@pytest.mark.parametrize("name", [name for name in preset_names() if name != "toy"])
@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_preset_gives_back_the_figures_it_states(name: str, concurrency: int) -> None:
    profile = load_preset(name)
    found = re.search(r"out: ([\d.]+) tokens/s.* ([\d.]+) and ([\d.]+) tokens/s", profile.source.description)
    assert found is not None
    stated = float(found[{1: 1, 8: 2, 32: 3}[concurrency]])
    num_output = 128 if concurrency == 1 else 64
    outcomes = simulate(profile, [SimulatedRequest(0.0, 128, num_output)] * concurrency)
    ended_s = max(outcome.last_token_s or 0.0 for outcome in outcomes)
    if concurrency == 1:  # decoding alone is stated without the first token
        ended_s -= outcomes[0].ttft_s or 0.0
    # int8 of OpenVINO is slower at 8 than any linear cost allows: the profile's own fit says so
    assert profile.fit is not None
    tolerance = 0.06 if profile.fit.median_errors["load"] < 0.05 else 0.35
    assert num_output * concurrency / ended_s == pytest.approx(stated, rel=tolerance)


def test_preset_unknown_is_refused_with_the_known() -> None:
    with pytest.raises(UsageError) as caught:
        load_preset("nope")
    assert "toy" in (caught.value.hint or "")


def make_config(**changes: object) -> SimulatedWorkerConfig:
    return SimulatedWorkerConfig(
        model_name="m",
        variant_name="v",
        variant_digest="sha256:0",
        profile=load_preset("toy"),
        **changes,  # type: ignore[arg-type] # settings by name
    )


def test_adapter_config_written_and_read_is_the_same(tmp_path: Path) -> None:
    config = make_config(load_delay_s=2.5)
    SimulatedAdapter().write_config(config, tmp_path / "c.json")
    assert read_config(tmp_path / "c.json") == config


def test_adapter_target_names_the_profile_by_its_content() -> None:
    target = SimulatedAdapter().target(make_config())
    assert (target.engine, target.device) == ("simulated", "simulated")
    assert target.settings["profile_digest"] == load_preset("toy").digest
    assert EngineFeature.LOGPROBS not in SimulatedAdapter.features


def test_config_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    SimulatedAdapter().write_config(make_config(), path)
    path.write_text(path.read_text("utf-8").replace("load_delay_s", "load_delay"), "utf-8")
    with pytest.raises(UsageError, match="load_delay"):
        read_config(path)
