"""Re-runs every claim of the topic "deployment" in docs/evidence.md: figures beside targets; exit 1 if one falls short.

    python benchmarks/evidence_deployment.py [--only 2,3] [--data FOLDER]

Lines 1, 4 and 5 need the toolchains `vllm` and `gguf`, which are installed on first use (minutes, 8 GB). Lines 2 to 5
measure speed or memory and want an idle machine of two cores or more. Everything takes about forty minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from evidence import DEFAULT_DATA, ROOT, Line, from_script, from_tests, pytest, run_topic

ENGINES = ("simulated", "remote", "openvino", "llamacpp", "vllm")
_KEPT = re.compile(rf"({'|'.join(ENGINES)}) +(\d+) kept, (\d+) not declared(.*)")


def engines() -> Iterator[Line]:
    """One contract for every engine; vLLM in several processes, killed under load."""
    result = pytest("-n", "0", "-m", "toolchain or not toolchain", "tests/contract/test_engines.py")
    kept = [match for line in result.stdout.splitlines() if (match := _KEPT.fullmatch(line.strip()))]
    figure = "; ".join(match[0] for match in kept) or result.stdout.strip()[-200:]
    is_met = result.returncode == 0 and {match[1] for match in kept} == set(ENGINES)
    yield Line("1a", "one contract, every engine", figure, "all of it kept, or not declared", is_met)
    yield from from_script("1", "vLLM with two processes behind the gateway, one killed", "vllm_parallel.py")


def changes_under_load() -> Iterator[Line]:
    """Rolling updates and steps down: processes here, a cluster's lifecycle simulated."""
    yield from from_script("3p", "replicas change under load", "rolling_update.py", "--seconds", "30")
    rendered = ("--pre-stop-s", "15", "--drain-s", "30", "--grace-s", "70")  # of a spec that says nothing about it
    load = ("--longest-request-s", "28", "--request-median-s", "4")
    yield from from_script("3k", "a cluster's rolling update", "kubernetes_rollout.py", *rendered, *load)


def simulated(data: Path) -> Iterator[Line]:
    """The simulator beside a measured run, and its own speed."""
    yield from from_script("4r", "simulated beside measured", "simulated_two_replicas.py")
    yield from from_script("4s", "a million requests", "simulated_million.py")


def rendered() -> Iterator[Line]:
    """What platforms say to what is rendered for them."""
    schemas = "strict schemas of three Kubernetes versions, of the CRDs and of Compose"
    yield from from_tests("6a", schemas, "tests/unit/deploy/test_schemas.py")
    yield from from_tests("6b", "golden files", "tests/repo/test_deploy_goldens.py")
    tools = ("tests/unit/deploy/test_tools.py", "-k", "kustomize or systemd")
    yield from from_tests("6c", "kubectl kustomize builds every overlay, systemd-analyze reads the units", *tools)


def main() -> int:
    """Runs the chosen lines; 1 if one falls short."""
    parser = argparse.ArgumentParser(description="Evidence: from one machine to clusters, planned and simulated.")
    parser.add_argument("--only", default="1,2,3,4,5,6", help="numbers of the lines to run")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()
    data: Path = args.data.resolve()
    os.environ["LIGHTSHIP_TEST_DATA"] = str(data)
    steps = {
        "1": engines,
        "2": lambda: from_script("2", "from a sleeping model to the first token", "scale_from_zero.py"),
        "3": changes_under_load,
        "4": lambda: simulated(data),
        "5": lambda: from_script("5", "planned memory beside measured", "planned_memory.py"),
        "6": rendered,
    }
    return run_topic(steps, args.only)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
