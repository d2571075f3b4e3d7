"""A program that ignores its standard input ends with it all the same, and so do its helpers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from lightship.engines.idle import Drain
from lightship.engines.memory import group_members
from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.tether import tethered

# The child starts a helper that ignores SIGTERM, says its own process id, and does nothing.
PROGRAM = """
import signal, subprocess, sys, time
helper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", helper], stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
time.sleep(600)
"""


def start(program: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = tethered([sys.executable, "-c", program])
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


def is_soon(is_true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not is_true() and time.monotonic() < end:
        os.sched_yield()
    return is_true()


@pytest.mark.parametrize("how", ["standard_input", "SIGTERM"])
def test_tether_ended_parent_or_signal_ends_child_and_helpers(how: str) -> None:
    with start(PROGRAM) as tether:
        assert tether.stdout is not None
        assert tether.stdin is not None
        assert tether.stdout.readline() == "ready\n"
        assert len(group_members(tether.pid)) == 3
        if how == "SIGTERM":
            tether.send_signal(signal.SIGTERM)
        else:
            tether.stdin.close()
        assert tether.wait(10) == 128 + signal.SIGTERM
        assert is_soon(lambda: group_members(tether.pid) == [])


def test_tether_ends_with_the_childs_status() -> None:
    with start("raise SystemExit(7)") as tether:
        assert tether.wait(10) == 7


def test_tethered_worker_is_stopped_by_its_owner(tmp_path: Path) -> None:
    server = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), type('H', ("
    server += "http.server.BaseHTTPRequestHandler,), {'do_GET': lambda s: (s.send_response(200), s.end_headers())}))"
    server += ".serve_forever()"
    port = free_port()
    worker = WorkerProcess(
        name="w",
        command=tethered([sys.executable, "-c", server, str(port)]),
        base_url=f"http://127.0.0.1:{port}",
        ready_path="/health",
        log_path=tmp_path / "w.log",
    )

    async def scenario() -> int | None:
        await worker.start(startup_timeout_s=20.0)
        await worker.stop(drain_timeout_s=10.0)
        return worker.returncode

    assert asyncio.run(scenario()) == 128 + signal.SIGTERM
    assert worker.pid is not None
    assert is_soon(lambda: group_members(worker.pid or 0) == [])


# A server with one request under way until somebody posts, that says when it was told to end and then hangs.
BUSY = """
import http.server, signal, subprocess, sys
state = {"running": 1}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"running %d" % state["running"]
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        state["running"] = 0
        self.do_GET()
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: print("told", flush=True))
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("is_signal_first", [True, False])
def test_tether_drain_waits_for_what_is_under_way_and_ends_a_server_that_hangs(is_signal_first: bool) -> None:
    port = free_port()
    drain = Drain(
        f"http://127.0.0.1:{port}/metrics", ("running",), timeout_s=60.0, is_signal_first=is_signal_first, grace_s=0.2
    )
    command = tethered([sys.executable, "-c", BUSY, str(port)], drain)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as tether:  # type: ignore[call-overload]
        assert tether.stdout.readline() == "ready\n"
        tether.send_signal(signal.SIGTERM)
        if is_signal_first:
            assert tether.stdout.readline() == "told\n"
        assert tether.poll() is None
        assert len(group_members(tether.pid)) == 3, "helpers stay while a request is under way"
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/", method="POST")).close()
        if not is_signal_first:
            assert tether.stdout.readline() == "told\n"
        assert tether.wait(20) == 128 + signal.SIGKILL
        assert is_soon(lambda: group_members(tether.pid) == [])


def test_tether_second_signal_ends_a_drain() -> None:
    port = free_port()
    drain = Drain(f"http://127.0.0.1:{port}/metrics", ("running",), timeout_s=600.0, is_signal_first=False, grace_s=0.2)
    command = tethered([sys.executable, "-c", BUSY, str(port)], drain)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as tether:  # type: ignore[call-overload]
        assert tether.stdout.readline() == "ready\n"
        tether.send_signal(signal.SIGINT)
        tether.send_signal(signal.SIGTERM)
        assert tether.stdout.readline() == "told\n"
        assert tether.wait(20) == 128 + signal.SIGKILL


# Two that compute together, and a third that does not, each under a name of its own.
TEAM = """
import subprocess, sys, time
for name in ("TEAM::one", "TEAM::two", "other"):
    child = subprocess.Popen([name, "-c", "import time; time.sleep(600)"], executable=sys.executable)
    print(child.pid, flush=True)
time.sleep(600)
"""


def has_looked_again(process_id: int) -> bool:
    """Waits until the tether, which has nothing else to do, has looked at its processes a few times."""

    def num_wakes() -> int:
        texts = [path.read_text() for path in Path(f"/proc/{process_id}/task").glob("*/status")]
        return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)

    before = num_wakes()
    return is_soon(lambda: num_wakes() >= before + 5)


@pytest.mark.parametrize(("killed", "is_end_of_all"), [(0, True), (1, True), (2, False)])
def test_tether_processes_that_compute_together_end_together(killed: int, is_end_of_all: bool) -> None:
    command = tethered([sys.executable, "-c", TEAM], together="TEAM::")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as tether:  # type: ignore[call-overload]
        children = [int(tether.stdout.readline()) for _ in range(3)]
        assert has_looked_again(tether.pid)
        os.kill(children[killed], signal.SIGKILL)
        if is_end_of_all:
            assert tether.wait(20) == 128 + signal.SIGKILL
        else:
            assert has_looked_again(tether.pid)
            assert tether.poll() is None
            tether.send_signal(signal.SIGTERM)
            assert tether.wait(20) == 128 + signal.SIGTERM
        assert is_soon(lambda: group_members(tether.pid) == [])


def test_tether_ordered_end_of_processes_that_compute_together_is_no_death() -> None:
    command = tethered(
        [sys.executable, "-c", f"import signal\nsignal.signal(15, lambda *_: exit(7))\n{TEAM}"], together="TEAM::"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as tether:  # type: ignore[call-overload]
        for _ in range(3):
            tether.stdout.readline()
        tether.send_signal(signal.SIGTERM)
        assert tether.wait(20) == 7
