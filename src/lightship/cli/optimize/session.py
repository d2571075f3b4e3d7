"""A search on disk: the journal of outcomes that a stopped search continues from, and the record that it ends with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from lightship.artifacts.disk import write_durably
from lightship.compression.search.record import render_record, render_record_json
from lightship.compression.search.records import Outcome, SearchState
from lightship.compression.search.search import dump_outcome, load_outcome


class SearchSession:
    """The files of one search below `<home>/searches`; the same model, engines and machine find them again.

    Args:
        home: The data directory.
        identity: What makes a search another one: digests and names, not limits. More time or another floor continue.
    """

    def __init__(self, home: Path, identity: Sequence[str]) -> None:
        key = hashlib.sha256(json.dumps(list(identity)).encode()).hexdigest()[:16]
        self.folder = home / "searches" / key

    @property
    def _journal_path(self) -> Path:
        return self.folder / "journal.jsonl"

    def earlier_outcomes(self) -> tuple[Outcome, ...]:
        """What came out so far, in order; a last line that was cut off is left out.

        Raises: UsageError: the journal is of another version.
        """
        if not self._journal_path.exists():
            return ()
        lines = self._journal_path.read_bytes().split(b"\n")
        return tuple(load_outcome(line) for line in lines[:-1])

    def begin_anew(self) -> None:
        """Effects: forgets what came out; variants and figures stay in their stores."""
        self._journal_path.unlink(missing_ok=True)

    def keep(self, outcome: Outcome) -> None:
        """Effects: appends one line, in place of what a kill left of one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._journal_path.open("a+b") as journal:
            journal.seek(0)
            journal.truncate(journal.read().rfind(b"\n") + 1)
            journal.write(dump_outcome(outcome) + b"\n")

    def write_record(self, state: SearchState) -> tuple[Path, Path]:
        """The record for people and the one for programs. Effects: writes both files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = self.folder / "record.md", self.folder / "record.json"
        for path, text in zip(paths, (render_record(state), render_record_json(state)), strict=True):
            write_durably(path, text.encode())
        return paths
