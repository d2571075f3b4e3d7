"""`python -m lightship.testing.engine_contract URL --model NAME`: the contract on a server that runs already."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lightship.engines.base import EngineAdapter, EngineFeature, EngineQuirk
from lightship.engines.llamacpp.adapter import LlamacppAdapter
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.vllm.adapter import VllmAdapter
from lightship.testing.engine_contract.subject import EngineUnderTest
from lightship.testing.engine_contract.suite import CheckResult, Outcome, run_checks

_KNOWN: tuple[EngineAdapter[Any], ...] = (OpenVinoAdapter(), VllmAdapter(), LlamacppAdapter(), SimulatedAdapter())


def main(argv: list[str]) -> int:
    """Prints a line per check and a summary; 1 when the contract is broken."""
    parser = argparse.ArgumentParser(prog="python -m lightship.testing.engine_contract", description=__doc__)
    parser.add_argument("url", help="address of the server, without /v1")
    parser.add_argument("--model", required=True, help="what it calls its model")
    parser.add_argument("--like", choices=[one.name for one in _KNOWN], help="declares what this engine does")
    parser.add_argument("--feature", action="append", default=[], choices=list(EngineFeature), help="declares it, too")
    parser.add_argument("--quirk", action="append", default=[], choices=list(EngineQuirk), help="declares it, too")
    parser.add_argument("--adapter", action="append", default=[], help="name of a LoRA adapter it serves")
    parser.add_argument("--api-key", default="", help="sent as a bearer token")
    args = parser.parse_args(argv)
    like = next((one for one in _KNOWN if one.name == args.like), None)
    features = {EngineFeature(one) for one in args.feature} or ({EngineFeature.COMPLETIONS, EngineFeature.CHAT})
    engine = EngineUnderTest(
        base_url=args.url.rstrip("/").removesuffix("/v1"),
        model=args.model,
        features=frozenset(features | (like.features if like else frozenset())),
        quirks=frozenset({EngineQuirk(one) for one in args.quirk} | (like.quirks if like else frozenset())),
        adapters=tuple(args.adapter),
        headers={"authorization": f"Bearer {args.api_key}"} if args.api_key else {},
    )
    results = run_checks(engine, on_result=_print)
    counts = {outcome: sum(one.outcome is outcome for one in results) for outcome in Outcome}
    sys.stdout.write("  ".join(f"{outcome}: {count}" for outcome, count in counts.items()) + "\n")
    return 1 if counts[Outcome.BROKEN] else 0


def _print(result: CheckResult) -> None:
    sys.stdout.write(f"{result.outcome:<12} {result.name}{': ' + result.detail if result.detail else ''}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
