from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lightship.cli.run_state import ReplicaState, RunState, published, run_folder, running_systems


def state(*, pid: int, port: int = 8080, replica_pid: int = 11) -> RunState:
    replica = ReplicaState(name="fp16-0", base_url="http://127.0.0.1:9000", variant="fp16", pid=replica_pid)
    return RunState(
        pid=pid,
        model="fairytales",
        gateway_url=f"http://127.0.0.1:{port}",
        report_path="/somewhere/report.html",
        started_unix_s=1.5,
        replicas=[replica],
    )


@pytest.fixture(scope="module")
def dead_pid() -> int:
    """The id of a process that has ended and was waited for."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_published_state_is_seen_inside_the_block_and_gone_after(tmp_path: Path) -> None:
    mine = state(pid=os.getpid())
    with published(lambda: mine, tmp_path):
        assert running_systems(tmp_path) == [mine]
    assert running_systems(tmp_path) == []
    assert list(run_folder(tmp_path).iterdir()) == []


def test_published_block_that_fails_removes_the_state(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the gateway broke"), published(lambda: state(pid=os.getpid()), tmp_path):
        raise OSError("the gateway broke")
    assert running_systems(tmp_path) == []


@dataclass
class RestartedWorkers:
    """Worker process ids that change with each restart."""

    pids: list[int] = field(default_factory=lambda: [11, 22])

    def state(self) -> RunState:
        return state(pid=os.getpid(), replica_pid=self.pids.pop(0) if len(self.pids) > 1 else self.pids[0])


def test_published_written_anew_tells_of_a_restarted_worker(tmp_path: Path) -> None:
    workers = RestartedWorkers()
    with published(workers.state, tmp_path) as write:
        write()
        (found,) = running_systems(tmp_path)
    assert found.replicas[0].pid == 22


def test_running_systems_two_gateways_are_two_systems(tmp_path: Path) -> None:
    states = [state(pid=os.getpid(), port=port) for port in (8080, 8081)]
    with published(lambda: states[0], tmp_path), published(lambda: states[1], tmp_path):
        assert running_systems(tmp_path) == states


def test_running_systems_dead_process_is_left_out_and_its_file_removed(tmp_path: Path, dead_pid: int) -> None:
    alive = state(pid=os.getpid(), port=8081)
    with published(lambda: state(pid=dead_pid), tmp_path), published(lambda: alive, tmp_path):
        assert running_systems(tmp_path) == [alive]
        assert len(list(run_folder(tmp_path).iterdir())) == 1


def test_running_systems_other_files_of_the_folder_are_neither_read_nor_removed(tmp_path: Path) -> None:
    run_folder(tmp_path).mkdir()
    others = {"worker-9000.json": b'{"model_name": "fairytales"}', "half.json": b'{"pid": 1', "empty.json": b""}
    for name, content in others.items():
        (run_folder(tmp_path) / name).write_bytes(content)
    assert running_systems(tmp_path) == []
    assert {path.name: path.read_bytes() for path in run_folder(tmp_path).iterdir()} == others


def test_running_systems_new_home_has_none_and_is_not_made(tmp_path: Path) -> None:
    assert running_systems(tmp_path / "home") == []
    assert not (tmp_path / "home").exists()
