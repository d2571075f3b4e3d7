"""The harness's generation arguments as fields of a completion request. Pure.

Arguments that an endpoint cannot honour are refused by name: a beam search that silently became greedy would be scored
as if it were one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightship.errors import MeasurementError

# What the harness's own backends take where a task does not say.
DEFAULT_MAX_TOKENS = 256
# The API's documented bound; further strings are cut here, which gives the same text for some more work.
_MAX_SENT_STOPS = 4
_MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING_NAMES = (
    "temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "min_tokens",
)  # fmt: skip
_KNOWN_NAMES = ("until", "do_sample", *_MAX_TOKENS_NAMES, *_SAMPLING_NAMES)


@dataclass(frozen=True)
class GenerationOptions:
    """How to continue a text. `fields` go into the request as they are; text ends before the first of `stops`."""

    max_tokens: int
    stops: tuple[str, ...] = ()
    fields: dict[str, float] = field(default_factory=dict)

    @property
    def is_greedy(self) -> bool:
        """Whether equal requests have equal answers."""
        return self.fields["temperature"] == 0

    @property
    def request_fields(self) -> dict[str, Any]:
        """What is sent beside the prompt."""
        stop = {"stop": list(self.stops[:_MAX_SENT_STOPS])} if self.stops else {}
        return {"max_tokens": self.max_tokens, **self.fields, **stop}


def generation_options(arguments: Mapping[str, Any], *, where: str) -> GenerationOptions:
    """The arguments, with the harness's meaning of what is left out.

    Without `do_sample`, text is sampled exactly where a temperature above 0 is given; with `do_sample: false` it is
    greedy whatever the temperature.

    Raises: MeasurementError: an argument is unknown, contradicts another, or has a wrong value.
    """
    for name in arguments:
        if name not in _KNOWN_NAMES:
            near = difflib.get_close_matches(name, _KNOWN_NAMES, n=1)
            raise MeasurementError(
                f"the generation argument {name!r} has no meaning for a completion endpoint",
                where=where,
                hint=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(_KNOWN_NAMES)}.",
            )
    given = {name: arguments[name] for name in _SAMPLING_NAMES if arguments.get(name) is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise MeasurementError(f"{name} must be a number, got {value!r}", where=where)
    return GenerationOptions(
        max_tokens=_max_tokens(arguments, where=where),
        stops=_stops(arguments.get("until"), where=where),
        fields={**given, "temperature": _temperature(arguments.get("do_sample"), given.get("temperature"))},
    )


def cut_at_stops(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string; servers leave it out already, but may know fewer of them."""
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _temperature(do_sample: Any, temperature: float | None) -> float:
    if do_sample is None:
        return temperature or 0.0
    if not do_sample:
        return 0.0
    return 1.0 if temperature is None else temperature


def _max_tokens(arguments: Mapping[str, Any], *, where: str) -> int:
    given = {name: arguments[name] for name in _MAX_TOKENS_NAMES if arguments.get(name) is not None}
    if len(set(given.values())) > 1:
        raise MeasurementError(f"these say different things: {given}", where=where, hint="Keep one of them.")
    value = next(iter(given.values()), DEFAULT_MAX_TOKENS)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MeasurementError(f"{next(iter(given))} must be a whole number from 1, got {value!r}", where=where)
    return value


def _stops(until: Any, *, where: str) -> tuple[str, ...]:
    strings = [until] if isinstance(until, str) else list(until or [])
    if not all(isinstance(stop, str) for stop in strings):
        raise MeasurementError(f"until must be a text or a list of texts, got {until!r}", where=where)
    return tuple(dict.fromkeys(stop for stop in strings if stop))
