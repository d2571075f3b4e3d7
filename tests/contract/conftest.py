"""After a run of the engines' contract: one line per engine."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

_TEST = re.compile(r"test_engines\.py::\w+\[(?P<engine>[a-z]+)[-\]]")
_KINDS = {"passed": "kept", "failed": "broken", "error": "broken", "skipped": "not declared"}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints how many checks each engine kept."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, word in _KINDS.items():
        for report in terminalreporter.stats.get(kind, []):
            if found := _TEST.search(report.nodeid):
                counts[found["engine"]][word] += 1
    if counts:
        terminalreporter.section("contract of the engines")
    for engine, count in counts.items():
        words = ", ".join(f"{number} {word}" for word, number in sorted(count.items()))
        terminalreporter.write_line(f"{engine:<10} {words}")
