"""`lightship up` as a user meets it: what it prints, serves, keeps and leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.local


def lightship(running: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of the same user."""
    command = [sys.executable, "-m", "lightship", *arguments]
    return subprocess.run(
        command, env=running.environment, capture_output=True, text=True, timeout=120, check=False, cwd=running.home
    )


def get_json(url: str) -> Any:
    """The JSON at an address."""
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)


def test_up_models_list_names_the_model_and_each_rung(running_up: Any) -> None:
    ids = {card["id"] for card in get_json(f"{running_up.base_url}/v1/models")["data"]}
    assert "fairytales" in ids
    assert "fairytales@fp16" in ids


def test_up_report_is_one_file_with_the_ladder_in_order_of_goodput(running_up: Any) -> None:
    folder = running_up.home / "reports" / "fairytales"
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    report = json.loads((folder / "report.json").read_text())
    speeds = [rung["speed"] for rung in report["rungs"]]
    assert len(speeds) >= 1
    assert speeds == sorted(speeds)


def test_status_while_running_names_gateway_and_workers_as_ready(running_up: Any) -> None:
    result = lightship(running_up, "status", "--json")
    assert result.returncode == 0, result.stderr
    (system,) = json.loads(result.stdout)
    assert system["gateway_url"] == running_up.base_url
    assert set(system["health"].values()) == {"ready"}
    assert len(system["replicas"]) >= 1


def test_artifacts_rm_of_a_served_variant_is_refused(running_up: Any) -> None:
    rows = json.loads(lightship(running_up, "artifacts", "ls", "--json").stdout)["variants"]
    served = json.loads(lightship(running_up, "status", "--json").stdout)[0]["replicas"][0]["variant"]
    digest = next(row["digest"] for row in rows if row["name"] == served)
    result = lightship(running_up, "artifacts", "rm", digest)
    assert result.returncode == 4
    assert "in use" in result.stderr


def test_up_second_start_on_a_taken_port_says_so_at_once(running_up: Any) -> None:
    port = running_up.base_url.rpartition(":")[2]
    result = lightship(running_up, "up", "--set", f"gateway.listen=127.0.0.1:{port}")
    assert result.returncode == 7
    assert "port is taken" in result.stderr
    assert "Traceback" not in result.stderr


def test_up_worker_killed_in_mid_stream_ends_the_stream_and_is_started_again(running_up: Any, systems: Any) -> None:
    replica = status_of(running_up)["replicas"][0]
    body = {"model": f"fairytales@{replica['variant']}", "prompt": "Once", "max_tokens": 900, "stream": True}
    request = urllib.request.Request(
        f"{running_up.base_url}/v1/completions",
        data=json.dumps({**body, "ignore_eos": True}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        first = reply.readline()
        os.killpg(replica["pid"], signal.SIGKILL)
        lines = [line for line in [first, *reply] if line.strip()]
    assert first.startswith(b"data: {")
    assert json.loads(lines[-1].removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert b"data: [DONE]\n" not in lines
    systems.wait_until(lambda: answers(running_up, replica["variant"]))
    systems.wait_until(lambda: status_of(running_up)["replicas"][0]["pid"] != replica["pid"])
    assert set(status_of(running_up)["health"].values()) == {"ready"}


def test_up_second_start_builds_and_measures_nothing(running_up: Any, systems: Any, tmp_path: Path) -> None:
    again = systems.start(running_up.home, "--set", "variants=[fp16, quarter-depth]", folder=tmp_path)
    assert systems.stop(again) == 0
    log = (tmp_path / "up.log").read_text()
    assert "starting workers and gateway" in log
    assert "quality of" not in log
    assert "speed of" not in log


def test_up_terminated_leaves_no_process_and_no_state(running_up: Any, systems: Any, tmp_path: Path) -> None:
    again = systems.start(running_up.home, "--set", "variants=[fp16, quarter-depth]", folder=tmp_path)
    running = json.loads(lightship(again, "status", "--json").stdout)
    mine = next(system for system in running if system["gateway_url"] == again.base_url)
    assert systems.stop(again, number=signal.SIGTERM) == 0
    for replica in mine["replicas"]:
        with pytest.raises(ProcessLookupError):
            os.kill(replica["pid"], 0)
    left = json.loads(lightship(again, "status", "--json").stdout)
    assert again.base_url not in {system["gateway_url"] for system in left}


def test_up_killed_without_a_word_takes_its_workers_with_it(running_up: Any, systems: Any, tmp_path: Path) -> None:
    again = systems.start(running_up.home, "--set", "variants=[fp16, quarter-depth]", folder=tmp_path)
    running = json.loads(lightship(again, "status", "--json").stdout)
    mine = next(system for system in running if system["gateway_url"] == again.base_url)
    systems.stop(again, number=signal.SIGKILL)
    urls = [again.base_url, *(replica["base_url"] for replica in mine["replicas"])]
    systems.wait_until(lambda: not any(is_listening(url) for url in urls))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["up", "--set", "model.source=./nowhere"], 3, "nowhere"),
        (["up", "--set", "model.source=builtin:nothing"], 3, "fairytales"),
        (["up", "--set", "variants=[fp17]"], 2, "fp16"),
        (["up", "--set", "slo.ttfs_ms=1"], 2, "ttft_ms"),
        (["up", "--set", "gateway.cache.semantic.mode=serve"], 2, "not supported yet"),
        (["up", "-f", "missing.yaml"], 2, "missing.yaml"),
    ],
    ids=["folder", "builtin", "recipe", "key", "unsupported", "file"],
)
def test_up_wrong_input_is_one_clear_message(arguments: list[str], code: int, words: str, running_up: Any) -> None:
    result = lightship(running_up, *arguments)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def status_of(running: Any) -> Any:
    """What `lightship status` says of this system."""
    systems = json.loads(lightship(running, "status", "--json").stdout)
    return next(system for system in systems if system["gateway_url"] == running.base_url)


def answers(running: Any, variant: str) -> bool:
    """Whether the rung that serves the variant completes a prompt."""
    body = json.dumps({"model": f"fairytales@{variant}", "prompt": "Once", "max_tokens": 4}).encode()
    url = f"{running.base_url}/v1/completions"
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return bool(json.load(reply)["choices"][0]["text"])
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {502, 503}:
            return False
        raise


def is_listening(url: str) -> bool:
    """Whether anything accepts connections there."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0
