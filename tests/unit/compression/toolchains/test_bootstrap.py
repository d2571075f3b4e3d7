"""How a job starts and ends, in a real process: an interpreter that sees nothing of the host's packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightship.compression.toolchains import bootstrap
from lightship.compression.toolchains.bootstrap import EXIT_WITH_PARENT, error_message
from lightship.errors import ToolchainError


def argv(*arguments: str) -> list[str]:
    """The command of a job; `-S` keeps the host's packages out, as a toolchain's own interpreter does."""
    return [sys.executable, "-I", "-S", "-W", "ignore", bootstrap.__file__, *arguments]


def test_main_failing_job_prints_one_error_event_and_keeps_the_traceback_for_the_log(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.json"
    result = subprocess.run(
        argv("quantize_openvino", str(missing)), capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    event = json.loads(result.stdout)
    assert event["event"] == "error"
    assert event["message"].startswith("FileNotFoundError: ")
    assert str(missing) in event["message"]
    assert "Traceback" in result.stderr


def test_main_job_that_lacks_a_package_names_it(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text("{}")
    result = subprocess.run(argv("convert_openvino", str(job)), capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(result.stdout)["message"] == "ModuleNotFoundError: No module named 'optimum'"


def test_main_parent_that_is_gone_ends_the_job(tmp_path: Path) -> None:
    """The job waits for a file that never has content; only the end of its standard input can stop it."""
    never = tmp_path / "job.json"
    subprocess.run(["mkfifo", str(never)], check=True)
    job = subprocess.Popen(argv("quantize_openvino", str(never), EXIT_WITH_PARENT), stdin=subprocess.PIPE)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(timeout=0.5)
        assert job.stdin is not None
        job.stdin.close()
        assert job.wait(timeout=30) == 1
    finally:
        job.kill()
        job.wait()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("corpus.jsonl:3: not a record"), "ValueError: corpus.jsonl:3: not a record"),
        (KeyError("scheme"), "KeyError: 'scheme'"),
        (MemoryError(), "MemoryError"),
        (ToolchainError("the conversion wrote no openvino_model.xml"), "the conversion wrote no openvino_model.xml"),
    ],
    ids=["sentence", "key", "silent", "ours"],
)
def test_error_message_is_one_line_for_people(error: Exception, words: str) -> None:
    assert error_message(error) == words
