from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

from lightship.cli.progress import LineProgress, TerminalProgress, progress_for_stderr


def test_line_progress_finished_task_is_one_plain_line() -> None:
    shown = io.StringIO()
    with LineProgress(Console(file=shown, width=20)).task("converting [bold]x[/] to OpenVINO fp16") as task:
        task.advance(done=1, total=3, note="torch")
        assert shown.getvalue() == ""
    assert re.fullmatch(r"converting \[bold\]x\[/\] to OpenVINO fp16: \d+ ms\n", shown.getvalue())
    assert "\x1b" not in shown.getvalue()


def test_line_progress_failed_task_claims_no_end() -> None:
    shown = io.StringIO()
    with pytest.raises(OSError, match="disk"), LineProgress(Console(file=shown)).task("converting"):
        raise OSError("disk")
    assert shown.getvalue() == ""


def terminal(shown: io.StringIO) -> Console:
    return Console(file=shown, force_terminal=True, width=120, color_system=None, legacy_windows=False)


def test_terminal_progress_draws_count_and_note_and_ends_with_a_tick() -> None:
    shown = io.StringIO()
    with TerminalProgress(terminal(shown)).task("measuring [x]") as task:
        task.advance(done=2.4, total=5, note="8 at a time")
    drawn = shown.getvalue()
    assert "2/5" in drawn
    assert "8 at a time" in drawn
    assert re.search(r"✓ measuring \[x\] \d+ ms\n$", drawn)


def test_terminal_progress_failed_task_shows_no_tick() -> None:
    shown = io.StringIO()
    with pytest.raises(OSError, match="disk"), TerminalProgress(terminal(shown)).task("measuring"):
        raise OSError("disk")
    assert "✓" not in shown.getvalue()


def test_progress_for_stderr_not_a_terminal_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress_for_stderr(), LineProgress)
