"""Re-runs every claim of the topic "gateway" in docs/evidence.md: figures beside targets; exit 1 if one falls short.

    python benchmarks/evidence_gateway.py [--only 2,5] [--data FOLDER]

Line 1 installs two peers into environments of their own (build/peers, minutes on first use). Line 2 needs a trace made
elsewhere (`--data`, or LIGHTSHIP_TEST_DATA) and says so when it is not there. Run it on an idle machine of two cores or
more: lines 1, 2 and 6 measure speed. Everything takes about an hour, of which chaos takes ten minutes and soak five.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from evidence import DEFAULT_DATA, ROOT, Line, from_script, from_tests, run_topic

ACCOUNTING = (
    "tests/unit/gateway/test_app_interleavings.py",
    "tests/unit/gateway/routing/test_interleavings.py",
    "tests/unit/gateway/cache/test_cache_properties.py::test_cache_any_interleaving_leaves_nothing_and_mixes_nothing_up",
    "tests/unit/gateway/tenants/test_limiting.py::test_any_interleaving_of_ends_leaves_no_reservation",
)
BUDGETS = (
    "tests/contract/test_ledger.py::test_limits_any_interleaving_of_processes_are_never_passed",
    "tests/contract/test_ledger_processes.py",
)
ISOLATION = ("tests/unit/gateway/cache/test_cache_properties.py::test_cache_no_tenant_ever_gets_anothers_answer",)


def overload(data: Path) -> Iterator[Line]:
    """Real workers under a scaled trace, and a million simulated requests."""
    yield from from_script("2r", "overload, real workers", "overload.py", "--data", str(data))
    yield from from_script("2s", "overload, simulated", "overload_simulated.py")


def properties() -> Iterator[Line]:
    """Everything that is counted comes back to where it was; nothing is overspent."""
    yield from from_tests("5a", "any interleaving of ends leaves all accounting at zero", *ACCOUNTING)
    yield from from_tests("5b", "budgets are never overspent: memory, SQLite, Redis; several processes", *BUDGETS)


def exact_cache() -> Iterator[Line]:
    """Hits, shared calls, tenants apart."""
    yield from from_script("6", "exact cache", "exact_cache.py")
    yield from from_tests("6z", "no tenant gets another's answer", *ISOLATION)


def main() -> int:
    """Runs the chosen lines; 1 if one falls short."""
    parser = argparse.ArgumentParser(description="Evidence: the gateway keeps its promise at peak load.")
    parser.add_argument("--only", default="1,2,3,4,5,6", help="numbers of the lines to run")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()
    data: Path = args.data.resolve()
    steps = {
        "1": lambda: from_script("1", "beside LiteLLM, SMG and the bare upstream", "gateway.py"),
        "2": lambda: overload(data),
        "3": lambda: from_script("3", "ten minutes of chaos", "chaos.py"),
        "4": lambda: from_script("4", "a million distinct requests", "soak.py"),
        "5": properties,
        "6": exact_cache,
    }
    return run_topic(steps, args.only)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
