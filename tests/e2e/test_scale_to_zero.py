"""A model that sleeps, wakes, is replaced and is killed, as its users see it: nothing of it loses a request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.local

ZERO = ("--set", "variants=[fp16, quarter-depth]", "--set", "replicas.min=0", "--set", "replicas.idle_after_s=1")


def phases(running: Any) -> list[str]:
    """Where the replicas of this system stand."""
    command = [sys.executable, "-m", "lightship", "status", "--json"]
    result = subprocess.run(command, env=running.environment, capture_output=True, text=True, timeout=60, check=True)
    (mine,) = [one for one in json.loads(result.stdout) if one["gateway_url"] == running.base_url]
    return [replica["phase"] for replica in mine["replicas"]]


def ask(running: Any, model: str = "fairytales", *, num_tokens: int = 8) -> tuple[int, dict[str, str]]:
    """Status and headers of one completion."""
    body = json.dumps({"model": model, "prompt": "Once", "max_tokens": num_tokens}).encode()
    url = f"{running.base_url}/v1/completions"
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            assert json.load(reply)["choices"][0]["text"]
            return reply.status, dict(reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


@pytest.fixture(scope="module")
def sleeping_up(running_up: Any, systems: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The built-in model, kept by nobody: it sleeps after a second without requests."""
    running = systems.start(running_up.home, *ZERO, folder=tmp_path_factory.mktemp("zero"))
    yield running
    assert systems.stop(running) == 0


def until_asleep(running: Any, systems: Any) -> None:
    systems.wait_until(lambda: set(phases(running)) == {"sleeping"})


def test_zero_starts_no_worker_and_is_ready_for_requests(sleeping_up: Any, systems: Any) -> None:
    until_asleep(sleeping_up, systems)
    with urllib.request.urlopen(f"{sleeping_up.base_url}/health/ready", timeout=10) as reply:
        assert reply.status == 200
    names = urllib.request.urlopen(f"{sleeping_up.base_url}/v1/models", timeout=10)
    with names:
        assert "fairytales" in {card["id"] for card in json.load(names)["data"]}


def test_zero_fifty_requests_during_one_wake_are_all_answered(sleeping_up: Any, systems: Any) -> None:
    until_asleep(sleeping_up, systems)
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda _: ask(sleeping_up), range(50)))
    assert {status for status, _ in results} == {200}
    assert sum(headers.get("x-cold-start") == "true" for _, headers in results) >= 1


def test_zero_unknown_model_is_404_while_the_known_one_sleeps(sleeping_up: Any, systems: Any) -> None:
    until_asleep(sleeping_up, systems)
    status, _ = ask(sleeping_up, "nobody")
    assert status == 404
    assert set(phases(sleeping_up)) == {"sleeping"}


def test_rolling_update_under_requests_loses_none(running_up: Any, systems: Any, tmp_path: Path) -> None:
    running = systems.start(running_up.home, "--set", "variants=[fp16, quarter-depth]", folder=tmp_path)
    over = threading.Event()

    def keep_asking(_: int) -> list[int]:
        statuses = []
        while not over.is_set():
            statuses.append(ask(running)[0])
        return statuses

    try:
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(keep_asking, number) for number in range(4)]
            try:
                before = pids(running)
                os.kill(running.process.pid, signal.SIGHUP)
                systems.wait_until(lambda: not (pids(running) & before) and set(phases(running)) == {"ready"})
            finally:
                over.set()
            statuses = [status for one in asking for status in one.result()]
    finally:
        assert systems.stop(running) == 0
    assert len(statuses) > 4
    assert set(statuses) == {200}


def test_terminated_in_mid_stream_finishes_the_stream_and_leaves_nobody(
    running_up: Any, systems: Any, tmp_path: Path
) -> None:
    running = systems.start(running_up.home, "--set", "variants=[fp16, quarter-depth]", folder=tmp_path)
    workers = pids(running)
    body = {"model": "fairytales", "prompt": "Once", "max_tokens": 600, "stream": True, "ignore_eos": True}
    request = urllib.request.Request(
        f"{running.base_url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        first = reply.readline()
        running.process.send_signal(signal.SIGTERM)
        lines = [line for line in [first, *reply] if line.strip()]
    assert lines[-1] == b"data: [DONE]\n"
    assert systems.stop(running, number=signal.SIGTERM) == 0
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def pids(running: Any) -> set[int]:
    """The processes of this system's replicas."""
    command = [sys.executable, "-m", "lightship", "status", "--json"]
    result = subprocess.run(command, env=running.environment, capture_output=True, text=True, timeout=60, check=True)
    (mine,) = [one for one in json.loads(result.stdout) if one["gateway_url"] == running.base_url]
    return {replica["pid"] for replica in mine["replicas"]} - {0}
