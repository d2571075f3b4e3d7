"""`serve-simulated` and `calibrate` as command lines: what they ask for, and what they refuse."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightship.cli.calibrate_command import add_calibrate_command
from lightship.cli.serve_simulated import worker_config
from lightship.cli.simulated_command import add_serve_simulated_command
from lightship.engines.process import free_port
from lightship.engines.simulated.faults import FaultKind
from lightship.engines.simulated.presets import load_preset
from lightship.errors import LightshipError, NetworkError, UsageError
from lightship.ports.engine_profile import encode_profile
from lightship.testing.asgi_server import serving_app
from lightship.testing.virtual_time import LoopClock


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    add_serve_simulated_command(subparsers)
    add_calibrate_command(subparsers)
    return parser.parse_args(arguments)


def test_serve_without_flags_is_the_toy() -> None:
    config = worker_config(parse("serve-simulated"))
    assert config.profile == load_preset("toy")
    assert (config.model_name, config.host, config.is_fault_admin) == ("simulated", "127.0.0.1", False)
    assert config.variant_digest == config.profile.digest
    assert config.faults.rules == ()


def test_serve_takes_profile_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(encode_profile(load_preset("vllm-cpu-0.5b-bf16-2core-amx")))
    config = worker_config(
        parse(
            "serve-simulated",
            "--profile",
            str(path),
            "--model",
            "m",
            "--fault",
            "hang:share=0.1",
            "--fault",
            "503",
            "--fault-seed",
            "5",
            "--fault-admin",
        )
    )
    assert config.profile.name == "vllm-cpu-0.5b-bf16-2core-amx"
    assert [rule.kind for rule in config.faults.rules] == [FaultKind.HANG, FaultKind.STATUS]
    assert (config.faults.seed, config.is_fault_admin, config.model_name) == (5, True, "m")


@dataclass(frozen=True)
class Refused:
    """Flags, and what the message must name."""

    flags: Sequence[str]
    message: str


REFUSED = {
    "preset": Refused(["--preset", "nope"], "no preset 'nope'"),
    "missing-file": Refused(["--profile", "/does/not/exist.json"], "cannot read the profile"),
    "port": Refused(["--port", "70000"], "70000 is not from 0 to 65535"),
    "delay": Refused(["--load-delay", "-1"], "--load-delay"),
    "nan-delay": Refused(["--load-delay", "nan"], "--load-delay"),
    "answers": Refused(["--mean-answer-tokens", "0"], "--mean-answer-tokens"),
    "fault": Refused(["--fault", "explode"], "--fault explode"),
    "fault-option": Refused(["--fault", "hang:shar=0.1"], "shar"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_serve_flag_that_makes_no_sense_is_refused_by_name(case: Refused) -> None:
    with pytest.raises(UsageError, match=case.message):
        worker_config(parse("serve-simulated", *case.flags))


def test_serve_profile_and_preset_together_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("serve-simulated", "--profile", "p.json", "--preset", "toy")
    assert "not allowed with" in capsys.readouterr().err


def calibrate(url: str, tmp_path: Path, *flags: str, model: str = "m") -> LightshipError:
    args = parse("calibrate", url, "--model", model, "-o", str(tmp_path / "p.json"), *flags)
    with pytest.raises(LightshipError) as caught:
        args.run(args)
    assert not (tmp_path / "p.json").exists()
    return caught.value


def test_calibrate_nobody_there_is_a_network_error(tmp_path: Path) -> None:
    error = calibrate(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert isinstance(error, NetworkError)
    assert (error.where or "").endswith("/v1/models")


def test_calibrate_into_a_folder_that_is_not_there_is_refused_before_any_load(tmp_path: Path) -> None:
    args = parse("calibrate", "http://127.0.0.1:1", "--model", "m", "-o", str(tmp_path / "no" / "p.json"))
    with pytest.raises(UsageError, match="folder does not exist"):
        args.run(args)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-sequences", "9999"], "max_sequences is 9999"),
        (["--kv-blocks", "0"], "num_kv_blocks must be from 1"),
        (["--repeats", "0"], "--repeats"),
    ],
)
def test_calibrate_settings_that_make_no_sense_are_refused(tmp_path: Path, flags: list[str], message: str) -> None:
    assert message in str(_with_server(tmp_path, *flags))


def test_calibrate_unknown_model_is_refused_with_the_known(tmp_path: Path) -> None:
    error = _with_server(tmp_path, model="other")
    assert isinstance(error, UsageError)
    assert "simulated" in (error.hint or "")


def _with_server(tmp_path: Path, *flags: str, model: str = "simulated") -> LightshipError:
    """What `calibrate` says of a simulated worker that listens for real."""
    from lightship.engines.simulated.worker import build_worker

    async def main() -> LightshipError:
        app, _, _ = build_worker(worker_config(parse("serve-simulated")), clock=LoopClock())
        async with serving_app(app) as url:
            return await asyncio.to_thread(calibrate, url, tmp_path, *flags, model=model)

    return asyncio.run(main())
