"""What requests cost: exact, in billionths of a dollar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightship.gateway.tenants.config import PriceConfig

DEFAULT = "default"
# A dollar per million tokens is a thousand billionths per token.
_NANOUSD_PER_TOKEN = 1000.0


class Price(NamedTuple):
    """Billionths of a dollar per token."""

    prompt: float = 0.0
    output: float = 0.0

    def of(self, num_prompt_tokens: int, num_output_tokens: int) -> int:
        """What so many tokens cost."""
        return round(self.prompt * num_prompt_tokens + self.output * num_output_tokens)


class PriceTable:
    """The price of each rung of each model, found by position, and the highest of each model.

    Args:
        prices: By `model@variant`, `model`, or `default`; the first of these that there is counts. None at all is free.
        variants: Names of the variants of each served model, from the top rung down.
    """

    def __init__(self, prices: Mapping[str, PriceConfig], variants: Mapping[str, Sequence[str]]) -> None:
        def price(model: str, variant: str) -> Price:
            found = prices.get(f"{model}@{variant}") or prices.get(model) or prices.get(DEFAULT)
            if found is None:
                return Price()
            return Price(
                found.usd_per_1m_input_tokens * _NANOUSD_PER_TOKEN, found.usd_per_1m_output_tokens * _NANOUSD_PER_TOKEN
            )

        self._rungs = {model: [price(model, variant) for variant in names] for model, names in variants.items()}
        self._highest = {
            model: Price(max(one.prompt for one in rungs), max(one.output for one in rungs))
            for model, rungs in self._rungs.items()
            if rungs
        }

    def of(self, model: str, rung: int) -> Price:
        """The price of one rung; the highest of its model for one that is not known."""
        rungs = self._rungs.get(model, [])
        return rungs[rung] if 0 <= rung < len(rungs) else self.highest(model)

    def highest(self, model: str) -> Price:
        """What a request is reserved for before it is known which rung answers."""
        return self._highest.get(model, Price())
