"""Multiple choice decided by log-likelihood: which choice does the model find likeliest after the prompt? Pure.

The procedure is that of lm-evaluation-harness, and item-by-item results agree with it where the tokenizer does not join
the end of the prompt with the beginning of a choice. Where it does, the harness sends tokens that no tokenizer would
make of the text; here the text is sent as it is, and the model sees what it sees when it serves.

- White space at the end of the prompt belongs to what follows, since tokenizers join a space with the next word.
- A choice's tokens are those of (prompt + choice) after as many as the prompt alone has.
- `acc` takes the highest sum of their log-probabilities; `acc_norm` the highest sum per character of the choice,
  without the prefix that joins it to the prompt. Of equal ones the first wins.

Source: EleutherAI/lm-evaluation-harness 0.4, `TemplateLM._encode_pair` and `ConfigurableTask.process_results`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import PromptLogprobs
from lightship.evaluation.tasks.template import json_kind

ACC, ACC_NORM = "acc", "acc_norm"
CHOICE_METRICS = (ACC, ACC_NORM)
# The field that a template may name for the lettered list of choices.
OPTIONS_FIELD = "options"
_LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class ChoiceRule:
    """Where an item's choices and its answer stand.

    Args:
        choices: The field with the list, or the texts themselves where they are the same for every item.
        answer: The field with the 0-based index, or with the text of the right choice.
        prefix: Put between prompt and choice.
        style: `text`: the choice itself follows the prompt. `letters`: A, B, C ... follow, and the template's
            `{options}` shows which is which; there the answer may be a letter too.
    """

    choices: str | tuple[str, ...]
    answer: str
    prefix: str
    style: Literal["text", "letters"]

    def texts(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """What each choice is as a continuation, without the prefix; two or more.

        Raises: MeasurementError: no list of two or more texts, or an empty text.
        """
        listed = self._listed(fields)
        if len(listed) < 2:
            raise MeasurementError(f"{self._name} has {len(listed)} choices; there must be two or more")
        for index, text in enumerate(listed):
            if not isinstance(text, str) or not text:
                found = "empty" if text == "" else json_kind(text)
                raise MeasurementError(f"choice {index} of {self._name} must be text, got {found}")
        if self.style == "text":
            return tuple(listed)
        if len(listed) > len(_LETTERS):
            raise MeasurementError(f"{self._name} has {len(listed)} choices; letters reach for {len(_LETTERS)}")
        return tuple(_LETTERS[: len(listed)])

    def answer_index(self, fields: Mapping[str, Any]) -> int:
        """Index of the right choice.

        Raises: MeasurementError: neither an index of a choice nor the text of one.
        """
        listed, texts = self._listed(fields), self.texts(fields)
        answer = _field(fields, self.answer)
        where = f"the answer in field {self.answer!r}"
        if isinstance(answer, int) and not isinstance(answer, bool):
            if not 0 <= answer < len(listed):
                raise MeasurementError(
                    f"{where} is {answer}, but there are {len(listed)} choices",
                    hint=f"It is an index from 0 to {len(listed) - 1}.",
                )
            return answer
        if not isinstance(answer, str):
            raise MeasurementError(f"{where} must be a whole number or a choice's text, got {json_kind(answer)}")
        for candidates in (listed, texts):
            if answer in candidates:
                return candidates.index(answer)
        hint = "Write the index without quotes." if answer.isdecimal() else "It must equal one of them, to the letter."
        raise MeasurementError(f"{where}, {answer[:80]!r}, is none of the choices", hint=hint)

    def shown_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The item's fields for its template, with `options` ("A. first", one line each) where choices are lettered.

        Raises: MeasurementError: see `texts`; or the item has a field of that name itself.
        """
        if self.style == "text":
            return dict(fields)
        if OPTIONS_FIELD in fields:
            raise MeasurementError(
                f"the item has a field {OPTIONS_FIELD!r}, the name lettered choices have in a template",
                hint="Rename the field.",
            )
        lines = zip(self.texts(fields), self._listed(fields), strict=True)
        return {**fields, OPTIONS_FIELD: "\n".join(f"{letter}. {text}" for letter, text in lines)}

    @property
    def _name(self) -> str:
        return f"the field {self.choices!r}" if isinstance(self.choices, str) else "the task"

    def _listed(self, fields: Mapping[str, Any]) -> Sequence[Any]:
        if not isinstance(self.choices, str):
            return self.choices
        listed = _field(fields, self.choices)
        if not isinstance(listed, list):
            raise MeasurementError(f"{self._name} must be a list of choices, got {json_kind(listed)}")
        return listed


@dataclass(frozen=True)
class ChoiceScore:
    """The summed log-probability of each choice, and which choice wins by it and by it per character."""

    logprobs: tuple[float, ...]
    likeliest: int
    likeliest_per_char: int

    def scores(self, answer_index: int) -> dict[str, float]:
        """1 or 0 for each of `CHOICE_METRICS`."""
        return {
            ACC: float(self.likeliest == answer_index),
            ACC_NORM: float(self.likeliest_per_char == answer_index),
        }


def choose(logprobs: Sequence[float], texts: Sequence[str]) -> ChoiceScore:
    """Which choice wins; of equal ones the first.

    >>> choose([-4.0, -6.0], ["a", "ab"])
    ChoiceScore(logprobs=(-4.0, -6.0), likeliest=0, likeliest_per_char=1)
    """
    per_char = [logprob / len(text) for logprob, text in zip(logprobs, texts, strict=True)]
    return ChoiceScore(tuple(logprobs), _argmax(logprobs), _argmax(per_char))


def split_at_white_space(context: str, continuation: str) -> tuple[str, str]:
    """The pair with white space at the context's end moved to the continuation.

    >>> split_at_white_space("Q: 1 + 1? A: ", "2")
    ('Q: 1 + 1? A:', ' 2')
    """
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def continuation_logprob(whole: PromptLogprobs, *, num_context_tokens: int) -> float:
    """Sum of the log-probabilities of the tokens after the context's.

    Raises: MeasurementError: no token comes after the context, nothing comes before the first one, or a number is
        missing or not finite.
    """
    if len(whole.token_ids) <= num_context_tokens:
        raise MeasurementError(
            f"the choice adds no token to the {num_context_tokens} of its prompt",
            hint="The tokenizer joins it with the end of the prompt; end the prompt before white space.",
        )
    if num_context_tokens == 0:
        raise MeasurementError(
            "nothing comes before the choice: the prompt is empty, and the tokenizer adds no token of its own",
            hint="Give the task a prompt.",
        )
    values = [math.nan if value is None else value for value in whole.token_logprobs[num_context_tokens:]]
    for position, value in enumerate(values, start=num_context_tokens):
        if not math.isfinite(value):
            raise MeasurementError(
                f"the log-probability at token position {position} is not a finite number",
                hint="The variant computes NaN or infinity on this engine; it must not be served.",
            )
    return math.fsum(values)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda index: (values[index], -index))


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise MeasurementError(f"the item has no field {name!r}", hint=f"It has {', '.join(fields)}.")
    return fields[name]
