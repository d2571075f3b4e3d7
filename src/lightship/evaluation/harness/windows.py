"""Which tokens of a request are scored and which stand before them, by the rules of the harness's own torch backend.

Pure. Equal rules are what makes scores comparable with published ones; where they are not what one would choose, the
docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import PromptLogprobs

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Tokens to send, of which the last `num_scored` are scored."""

    token_ids: TokenIds
    num_scored: int


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of the scored tokens in nats, and whether each of them was the model's first choice."""

    nats: float
    is_greedy: bool


def split_pair(context: str, continuation: str) -> tuple[str, str]:
    """The pair with white space at the end of the context moved to the continuation.

    Most tokenizers attach a space to the word after it, so a context that ends in one would be cut inside a token.

    >>> split_pair("Answer: ", "yes")
    ('Answer:', ' yes')
    """
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def without_doubled_prefix(token_ids: TokenIds, prefix_token_id: int | None) -> TokenIds:
    """The tokens with one prefix token, where the text brought its own and the tokenizer added another."""
    if prefix_token_id is not None and token_ids[:2] == (prefix_token_id, prefix_token_id):
        return token_ids[1:]
    return token_ids


def pair_window(context_ids: TokenIds, whole_ids: TokenIds, *, where: str) -> Window:
    """The window of a continuation: what is left of the whole after as many tokens as the context has.

    The context's own tokens stand in front, also where the whole text is split differently there.

    Raises: MeasurementError: the context or the continuation has no tokens of its own.
    """
    if not context_ids:
        raise MeasurementError(
            "the context has no tokens, so the continuation's first token has nothing before it",
            where=where,
            hint="Give the id of the token that stands for an empty context (prefix_token_id).",
        )
    scored = whole_ids[len(context_ids) :]
    if not scored:
        raise MeasurementError("the continuation has no tokens of its own after the context", where=where)
    return Window(context_ids + scored, len(scored))


def fitted(window: Window, *, context_length: int | None, may_cut: bool, where: str) -> Window:
    """The window, cut at the front where it is longer than the model's context and cutting is allowed.

    Raises: MeasurementError: it does not fit, and must not be cut or would lose all of its context.
    """
    num_tokens = len(window.token_ids)
    if context_length is None or num_tokens <= context_length:
        return window
    too_long = f"{num_tokens} tokens do not fit the model's context of {context_length}"
    if window.num_scored >= context_length:
        raise MeasurementError(f"{too_long}, {window.num_scored} of them to be scored", where=where)
    if not may_cut:
        raise MeasurementError(
            too_long,
            where=where,
            hint="Take fewer few-shot examples, or allow cutting contexts at the front (truncate_context=True).",
        )
    return Window(window.token_ids[num_tokens - context_length :], window.num_scored)


def rolling_windows(token_ids: TokenIds, *, prefix_token_id: int, context_length: int) -> list[Window]:
    """Windows that score each token exactly once, the last with as much context as fits.

    The prefix token stands before the first window also where the tokenizer has put one there already, as in the
    harness. An endpoint takes `context_length` tokens in all, so this equals a torch backend with `max_length`
    one less (it counts inputs, of which the last scored token is none).

    >>> [(w.token_ids, w.num_scored) for w in rolling_windows((1, 2, 3, 4, 5), prefix_token_id=0, context_length=4)]
    [((0, 1, 2, 3), 3), ((2, 3, 4, 5), 2)]
    """
    max_scored = context_length - 1
    if max_scored < 1:
        raise MeasurementError(f"a context of {context_length} tokens leaves none to score")
    windows: list[Window] = []
    for begin in range(0, len(token_ids), max_scored):
        end = min(begin + max_scored, len(token_ids))
        before = (prefix_token_id, *token_ids) if begin == 0 else token_ids
        shift = 1 if begin == 0 else 0
        windows.append(Window(before[max(0, end + shift - context_length) : end + shift], end - begin))
    return windows


def likelihood(window: Window, scored: PromptLogprobs, *, where: str) -> Likelihood:
    """What the endpoint's answer says about the window's scored tokens.

    Raises: MeasurementError: the answer is about other tokens, or a number is missing, not finite or impossible.
    """
    if scored.token_ids != window.token_ids:
        raise MeasurementError(
            "the endpoint scored other tokens than it was sent",
            where=where,
            hint="It must take a list of token ids as a prompt and leave it as it is.",
        )
    nats: list[float] = []
    is_greedy = True
    for position in range(len(window.token_ids) - window.num_scored, len(window.token_ids)):
        value = scored.token_logprobs[position]
        if value is None or not math.isfinite(value) or value > 0:
            raise MeasurementError(
                f"the log-probability at token position {position} is {value}",
                where=where,
                hint="The variant computes NaN or infinity on this engine; it must not be served.",
            )
        nats.append(value)
        is_greedy = is_greedy and _is_first_choice(window.token_ids[position], value, scored.top_logprobs[position])
    return Likelihood(math.fsum(nats), is_greedy)


def _is_first_choice(token_id: int, value: float, alternatives: dict[int, float | None] | None) -> bool:
    """Whether an argmax would pick the token; of equally likely ones it picks the lowest id."""
    known = {id_: other for id_, other in (alternatives or {}).items() if other is not None}
    best = max([value, *known.values()])
    equals = [id_ for id_, other in known.items() if other == best]
    return value == best and token_id == min([token_id, *equals])


def excerpt(texts: Sequence[str]) -> str:
    """The end of a request for an error's place: the part that tells requests apart."""
    text = "".join(texts)
    return repr(text if len(text) <= 80 else f"...{text[-77:]}")
