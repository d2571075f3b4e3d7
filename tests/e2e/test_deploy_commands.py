"""The commands of rendered systemd units, run as they stand: a worker, the gateway before it, an answer, a drain."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.deploy_cases import input_of, spec_of

from lightship.deploy.render import render
from lightship.deploy.systemd import model_folder
from lightship.deploy.writer import write_rendered
from lightship.engines.process import free_port

SPEC = """
model: {source: builtin:fairytales, name: storyteller}
variants: [fp16]
engines: {openvino: {threads: 1}}
"""
VARIANTS = "variants=[fp16, quarter-depth]"  # those that are measured already
READY_TIMEOUT_S = 60.0


@contextlib.contextmanager
def running(unit: Path, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The unit's process, with the paths of a box taken to be below `root`."""
    (line,) = [one for one in unit.read_text("utf-8").splitlines() if one.startswith("ExecStart=")]
    command = shlex.split(line.partition("=")[2].replace(" /etc/", f" {root}/etc/"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(root)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_ready(url: str) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(url, timeout=5) as reply,
        ):
            if reply.status == 200:
                return
        assert time.monotonic() < deadline_s, f"{url} did not become ready"


@pytest.mark.local
def test_deploy_systemd_commands_serve_and_drain(builtin_ir: Path, deploy_home: Path, tmp_path: Path) -> None:
    ports = free_port(), free_port()
    spec = spec_of(
        SPEC,
        gateway__listen=f"127.0.0.1:{ports[0]}",
        deploy__engine_port=ports[1],
        deploy__systemd={"python": sys.executable, "models": str(tmp_path / "models")},
    )
    around = input_of(spec, deploy_home, platform="systemd")
    folder = Path(model_folder(around, around.deployment.rungs[0]))
    folder.parent.mkdir(parents=True)
    folder.symlink_to(builtin_ir)
    root = tmp_path / "box"
    write_rendered(render("systemd", around), root)
    units = root / "etc/systemd/system"
    with (
        running(units / "storyteller-fp16.service", root),
        running(units / "storyteller-gateway.service", root) as gateway,
    ):
        wait_until_ready(f"http://127.0.0.1:{ports[0]}/health/ready")
        body = msgspec.json.encode({"model": "storyteller", "prompt": "Once", "max_tokens": 4, "temperature": 0})
        request = urllib.request.Request(
            f"http://127.0.0.1:{ports[0]}/v1/completions", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            answer = msgspec.json.decode(reply.read())
        assert answer["choices"][0]["text"]
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(20) == 0


@pytest.mark.local
def test_deploy_measured_ladder_is_that_of_up(running_up: Any) -> None:
    command = [sys.executable, "-m", "lightship", "deploy", "kubernetes", "--set", VARIANTS, "--json"]
    environment = {**running_up.environment, "LIGHTSHIP__GATEWAY__LISTEN": "127.0.0.1:8080"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    told = json.loads(result.stdout)
    assert [note for note in told["notes"] if "measured" in note or "not built" in note] == []
    numbers = {one["what"]: one["how"] for one in told["reckonings"]}
    memory = [how for what, how in numbers.items() if what.endswith("memory") and "gateway" not in what]
    assert memory
    assert all("measured at most" in how for how in memory)
    with urllib.request.urlopen(f"{running_up.base_url}/v1/models", timeout=30) as reply:
        served = [one["id"].partition("@")[2] for one in msgspec.json.decode(reply.read())["data"]]
    rungs = {path.rpartition("/")[2] for path in (one["path"] for one in told["documents"]) if "50-engine" in path}
    assert len(rungs) == len([one for one in served if one])
