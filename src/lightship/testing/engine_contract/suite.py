"""All checks on a running engine, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException

from lightship.testing.engine_contract.answers import ANSWERS
from lightship.testing.engine_contract.checks import Check
from lightship.testing.engine_contract.load import LOAD
from lightship.testing.engine_contract.refusals import REFUSALS
from lightship.testing.engine_contract.subject import ContractError, EngineUnderTest

CHECKS: tuple[Check, ...] = (*ANSWERS, *REFUSALS, *LOAD)


class Outcome(StrEnum):
    """How a check came out."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_DECLARED = "not declared"  # about a feature that the engine does not have


@dataclass(frozen=True)
class CheckResult:
    """One check of one engine; `detail` says why it is broken."""

    name: str
    outcome: Outcome
    detail: str = ""


def run_checks(
    engine: EngineUnderTest, *, on_result: Callable[[CheckResult], None] = lambda result: None
) -> list[CheckResult]:
    """Every check in turn.

    Args:
        engine: With nothing else under way.
        on_result: Told of each result as it comes.
    """
    results = []
    for check in CHECKS:
        results.append(_result(check, engine))
        on_result(results[-1])
    return results


def _result(check: Check, engine: EngineUnderTest) -> CheckResult:
    if not check.applies_to(engine):
        return CheckResult(check.name, Outcome.NOT_DECLARED)
    try:
        check.run(engine)
    except ContractError as error:
        return CheckResult(check.name, Outcome.BROKEN, str(error))
    except (OSError, HTTPException) as error:
        return CheckResult(check.name, Outcome.BROKEN, f"no answer: {error!r}")
    except (LookupError, TypeError, AttributeError) as error:
        # an answer of another shape than the API's
        return CheckResult(check.name, Outcome.BROKEN, f"the answer has another shape: {error!r}")
    return CheckResult(check.name, Outcome.KEPT)
