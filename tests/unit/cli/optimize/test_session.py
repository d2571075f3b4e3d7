"""A search on disk: what came out is there again, whatever the end of the process was."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightship.cli.optimize.session import SearchSession
from lightship.compression.search.records import ActionFailed, ActionKind, Built
from lightship.errors import UsageError

BUILT = Built(candidate="fp16@openvino", duration_s=1.5, num_bytes=10, digest="sha256:1")
FAILED = ActionFailed(candidate="fp16@openvino", duration_s=2.0, kind=ActionKind.MEASURE_SPEED, reason="it ended")


def session(home: Path, *identity: str) -> SearchSession:
    return SearchSession(home, identity or ("model", "machine"))


def test_session_outcomes_kept_are_there_for_the_next_process_in_order(tmp_path: Path) -> None:
    for outcome in (BUILT, FAILED):
        session(tmp_path).keep(outcome)
    assert session(tmp_path).earlier_outcomes() == (BUILT, FAILED)


def test_session_of_another_model_has_a_journal_of_its_own(tmp_path: Path) -> None:
    session(tmp_path).keep(BUILT)
    assert session(tmp_path, "another", "machine").earlier_outcomes() == ()


def test_session_line_that_was_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    one = session(tmp_path)
    one.keep(BUILT)
    one.keep(FAILED)
    journal = one.folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    assert session(tmp_path).earlier_outcomes() == (BUILT,)
    session(tmp_path).keep(FAILED)
    assert session(tmp_path).earlier_outcomes() == (BUILT, FAILED)


def test_session_begun_anew_has_forgotten(tmp_path: Path) -> None:
    one = session(tmp_path)
    one.begin_anew()  # nothing there yet: nothing happens
    one.keep(BUILT)
    one.begin_anew()
    assert one.earlier_outcomes() == ()


def test_session_journal_of_something_else_says_so(tmp_path: Path) -> None:
    one = session(tmp_path)
    one.folder.mkdir(parents=True)
    (one.folder / "journal.jsonl").write_text('{"type": "guessed"}\n')
    with pytest.raises(UsageError, match="this is no outcome of a search"):
        one.earlier_outcomes()
