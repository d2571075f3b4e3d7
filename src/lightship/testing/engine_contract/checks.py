"""The registry of checks: each with the features without which it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lightship.engines.base import EngineFeature
from lightship.testing.engine_contract.subject import EngineUnderTest

CheckFunction = Callable[[EngineUnderTest], None]


@dataclass(frozen=True)
class Check:
    """One thing an engine has to do."""

    name: str
    run: CheckFunction
    needs: frozenset[EngineFeature]

    def applies_to(self, engine: EngineUnderTest) -> bool:
        """Whether the engine declares all that the check is about."""
        return self.needs <= engine.features


class Checks:
    """Checks in the order in which they were written down."""

    def __init__(self) -> None:
        self._found: list[Check] = []

    def needing(self, *features: EngineFeature) -> Callable[[CheckFunction], CheckFunction]:
        """Registers a function as a check of engines with these features."""

        def register(function: CheckFunction) -> CheckFunction:
            self._found.append(Check(function.__name__, function, frozenset(features)))
            return function

        return register

    def add(self, name: str, run: CheckFunction, *, needs: Iterable[EngineFeature] = ()) -> None:
        """Registers one check of a table."""
        self._found.append(Check(name, run, frozenset(needs)))

    def __iter__(self) -> Iterator[Check]:
        return iter(self._found)
