"""`lightship gateway` as far as it can be told without serving: `--check`, and every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightship.cli.main import main
from lightship.gateway.config import GatewayConfig, decode_config

ONE = "http://127.0.0.1:9#m"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTSHIP_HOME", str(tmp_path / "home"))
    return tmp_path


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> GatewayConfig:
    """The configuration that `--check` prints."""
    assert main(["gateway", *arguments, "--check", "--json"]) == 0
    return decode_config(capsys.readouterr().out.encode(), where="stdout")


def test_check_prints_the_ladder_and_that_it_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "--rung", f"big={ONE}", "--rung", f"small={ONE}", "--listen", "[::1]:1", "--check"]) == 0
    printed = capsys.readouterr().out
    assert "::1:1" in printed
    assert "not measured" in printed
    assert printed.index("big") < printed.index("small")


def test_check_flags_and_spec_make_one_configuration(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_folder / "lightship.yaml").write_text(
        "gateway:\n"
        "  access_log: {file: access.log}\n"
        "  cors: {origins: ['https://a.example']}\n"
        "  timeouts: {total_s: 900}\n"
        "upstreams: [{name: one, base_url: 'http://127.0.0.1:9', model: m}]\n"
    )
    config = checked(capsys, "--workers", "3", "--set", "gateway.send_timeout_s=7")
    assert (config.model_name, config.replicas[0].name, config.timeouts.total_s) == ("m", "one", 900)
    assert (config.server.workers, config.server.send_timeout_s) == (3, 7)
    assert config.server.access_log.file == "access.log"
    assert config.server.cors is not None
    assert config.server.cors.origins == ("https://a.example",)
    assert config.state.folder == str(own_folder / "home" / "gateway")  # what three processes share


def test_check_one_process_without_a_spec_needs_no_files(capsys: pytest.CaptureFixture[str]) -> None:
    config = checked(capsys, ONE)
    assert config.state.folder == ""
    assert config.dispatch.ladders == {}


def test_check_promise_of_the_spec_is_that_of_every_ladder(capsys: pytest.CaptureFixture[str]) -> None:
    config = checked(capsys, ONE, "--set", "slo.ttft_ms=250")
    assert config.dispatch.ladders["m"].ttft_s == 0.25


def test_check_settings_without_meaning_here_are_told(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["gateway", ONE, "--set", "variants=[int8]", "--check"]) == 0
    assert "without meaning for a gateway alone: variants" in capsys.readouterr().err + caplog.text


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "there is no endpoint to serve"),
        (["--file", "none.yaml", ONE], 2, "none.yaml"),
        ([ONE, "--set", "gateway.worker=2"], 2, "Did you mean gateway.workers?"),
        ([ONE, "--workers", "many"], 2, "expected a whole number from 1 to 256, got the text 'many'"),
        ([ONE, "--listen", "here"], 2, "expected host:port"),
        ([ONE, "--set", "gateway.tls={cert_file: c.pem, key_file: k.pem}"], 2, "the TLS file cannot be read"),
        ([ONE, "--set", "gateway.cors={origins: ['https://a.example/page']}"], 2, "gateway.cors.origins[0]"),
        ([ONE, "--api-key-env", "LIGHTSHIP_TEST_NO_SUCH_KEY"], 2, "LIGHTSHIP_TEST_NO_SUCH_KEY is not set"),
        (["--name", "chat"], 2, "--name"),
        ([ONE, "--json"], 2, "it belongs to --check"),
        (["http://127.0.0.1:9"], 7, "the endpoint cannot be reached"),
    ],
)
def test_mistake_is_told_in_one_message(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check = [] if "--json" in arguments else ["--check"]
    assert main(["gateway", *arguments, *check]) == code
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_tls_files_that_are_no_certificate_say_so(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("c.pem", "k.pem"):
        (own_folder / name).write_text("nothing")
    assert main(["gateway", ONE, "--set", "gateway.tls={cert_file: c.pem, key_file: k.pem}", "--check"]) == 2
    assert "the TLS certificate cannot be used with k.pem" in capsys.readouterr().err


def test_up_refuses_endpoints_and_names_the_command_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--set", "upstreams=[{name: one, base_url: 'http://127.0.0.1:9'}]"]) == 2
    assert "lightship gateway" in capsys.readouterr().err
