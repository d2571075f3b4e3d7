"""Long-context retrieval: a sentence with a secret is put into a long text, and the model is asked for the secret.

Items hold what differs between them (length, depth, sentence, question, secret, where the text begins); the long text,
the haystack, is the same for all and is cut to length when the prompt is built. So an items file stays small, and
`needle_items` can make one from a seed. Finding one sentence is the easiest of long-context tasks: failing it says
much, passing it says little.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightship.artifacts.texts import TextSet, load_texts
from lightship.errors import MeasurementError
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.scorers.options import (
    check_known,
    choice_option,
    is_number,
    is_whole,
    missing_or_wrong,
    number_option,
    only_sample,
    shown,
    text_field,
    text_option,
    whole_option,
)

_GENERATOR_OPTIONS = (
    "chars_per_token", "context_chars", "context_tokens", "depths", "needle", "question", "repeats",
)  # fmt: skip
_SCORER_OPTIONS = ("haystack", "instruction", "match")
_OPTIONS = (*_SCORER_OPTIONS, *_GENERATOR_OPTIONS)
MAX_CONTEXT_CHARS = 64 * 2**20

DEFAULT_NEEDLE = "The secret number of the {place} is {secret}."
DEFAULT_QUESTION = "What is the secret number of the {place}? Answer with the number alone."
DEFAULT_INSTRUCTION = "Read the text below. A question about it follows at the end."
_DEFAULT_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Characters per token of English text with vocabularies of 32,000 or more; `chars_per_token` overrides it.
_CHARS_PER_TOKEN = 4.0
_ADJECTIVES = ("amber", "copper", "crooked", "distant", "frozen", "hollow", "marble", "quiet", "scarlet", "silver")
_NOUNS = (
    "archive",
    "bakery",
    "citadel",
    "foundry",
    "granary",
    "harbour",
    "observatory",
    "orchard",
    "quarry",
    "windmill",
)
_SENTENCE_END = re.compile(r"[.!?][\"'\u201d\u2019)]*\s+|[\u3002\uff01\uff1f][\u300d\u300f\u201d]*|\n+")


class NeedleScorer:
    """`contains`: the secret stands in the answer, by itself; `exact_match`: it is all of the answer.

    Items have `context_chars` (a length), `depth` (0 is the beginning, 1 the end), `needle` (the sentence, which
    contains the secret), `question`, `secret`, and may have `start`, where in the haystack the text begins, or
    `context`, a text of their own to hide the sentence in.
    """

    kind = "needle"
    min_samples = 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        """From the options `haystack` (a .txt or .jsonl file; default: the built-in tales), `instruction` (what stands
        before the text) and `match` (`contains` or `exact_match`, which of the two decides; default contains). The
        options of `needle_items` are accepted and checked too, since both are given the same.

        Raises: MeasurementError: an unknown or wrong option, or the haystack cannot be read.
        """
        check_known(options, _OPTIONS, what="option")
        _Plan(options)
        self._instruction = text_option(options, "instruction", default=DEFAULT_INSTRUCTION)
        deciding = choice_option(options, "match", default="contains", choices=("contains", "exact_match"))
        texts = _haystack_texts(options)
        self._haystack = _joined(texts)
        self.metrics: tuple[str, ...] = tuple(sorted(("contains", "exact_match"), key=lambda name: name != deciding))
        self.binary_metrics = self.metrics
        self.details = f"haystack={texts.label}"

    def check(self, item: Item) -> None:
        """Returns when the item's fields are there and fit together, and nothing but the needle gives the secret."""
        secret, needle, question = (text_field(item, name) for name in ("secret", "needle", "question"))
        chars: Any = item.fields.get("context_chars")
        depth: Any = item.fields.get("depth")
        start = item.fields.get("start", 0)
        if not is_whole(chars) or not 1 <= chars <= MAX_CONTEXT_CHARS:
            raise missing_or_wrong(item.fields, "context_chars", f"a whole number from 1 to {MAX_CONTEXT_CHARS}")
        if not is_number(depth) or not 0 <= depth <= 1:
            raise missing_or_wrong(item.fields, "depth", "a number from 0 to 1")
        if not is_whole(start) or start < 0:
            raise missing_or_wrong(item.fields, "start", "a whole number of 0 or more")
        if not secret.strip() or not _contains(needle, secret.strip()):
            raise MeasurementError(f"field 'needle' does not contain the secret {shown(secret)}")
        if _contains(self._context(item), secret.strip()) or _contains(question, secret.strip()):
            raise MeasurementError(f"the secret {shown(secret)} stands in the text or the question without the needle")

    def prompt(self, item: Item) -> str:
        """Instruction, text with the needle in it at a sentence's end, question."""
        text = insert_at_depth(self._context(item), item.fields["needle"], depth=item.fields["depth"])
        return f"{self._instruction}\n\n{text}\n\n{item.fields['question']}"

    def target(self, item: Item) -> str:
        """The secret."""
        return text_field(item, "secret").strip()

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        """`contains` and `exact_match`."""
        answer, secret = only_sample(texts).strip(), self.target(item)
        return {
            "contains": float(_contains(answer, secret)),
            "exact_match": float(answer.removesuffix(".").casefold() == secret.removesuffix(".").casefold()),
        }

    def _context(self, item: Item) -> str:
        chars, start = item.fields["context_chars"], item.fields.get("start", 0)
        if "context" not in item.fields:
            return cut_haystack(self._haystack, start=start, num_chars=chars)
        own = text_field(item, "context")
        if len(own) < start + chars:
            raise MeasurementError(f"field 'context' has {len(own)} characters, {start + chars} are asked for")
        return own[start : start + chars]


def needle_items(options: Mapping[str, Any], seed: int) -> list[Item]:
    """An item for each length, depth and repeat, the same for the same options and seed.

    Options: `context_chars` or `context_tokens` (a list of lengths, needed), `chars_per_token` (default 4; lengths in
    tokens are an estimate, since the tokenizer is the endpoint's), `depths` (default 0, 0.25, 0.5, 0.75, 1), `repeats`
    (default 1, with other secrets and another part of the haystack), `needle` with {place} and {secret}, `question`
    with {place}. Items of one length and repeat share their text, and are one cluster.

    Raises: MeasurementError: an unknown, missing or wrong option.
    """
    check_known(options, _OPTIONS, what="option")
    plan = _Plan(options)
    if not plan.lengths:
        raise MeasurementError("option 'context_chars' or 'context_tokens' is missing", hint="Give a list of lengths.")
    haystack = _joined(_haystack_texts(options))
    generator = random.Random(seed)
    items: list[Item] = []
    for num_chars in plan.lengths:
        for repeat in range(plan.repeats):
            start = _sentence_start(haystack, generator.randrange(len(haystack)))
            for depth in plan.depths:
                place = f"{generator.choice(_ADJECTIVES)} {generator.choice(_NOUNS)}"
                # Seven digits: no year, no count, and no more than a few tokens.
                secret = str(generator.randrange(1_000_000, 10_000_000))
                fields = {
                    "context_chars": num_chars,
                    "depth": depth,
                    "start": start,
                    "needle": _filled(plan.needle, place, secret),
                    "question": _filled(plan.question, place, ""),
                    "secret": secret,
                }
                cluster = f"chars-{num_chars}-repeat-{repeat}"
                items.append(Item(f"{cluster}-depth-{depth:g}", fields, line=len(items) + 1, cluster=cluster))
    return items


def cut_haystack(haystack: str, *, start: int, num_chars: int) -> str:
    """`num_chars` characters from `start` on; the haystack begins again where it is too short.

    >>> cut_haystack("abc", start=2, num_chars=5)
    'cabca'
    """
    offset = start % len(haystack)
    repeats = -(-(offset + num_chars) // len(haystack))
    return (haystack * repeats)[offset : offset + num_chars]


def insert_at_depth(text: str, sentence: str, *, depth: float) -> str:
    """The text with the sentence after the last sentence that ends at or before the depth (0: in front, 1: at the end).

    >>> insert_at_depth("One. Two. Three.", "New.", depth=0.6)
    'One. New. Two. Three.'
    """
    if depth >= 1:
        return f"{text} {sentence}"
    wanted = int(depth * len(text))
    # A sentence, or a piece of text without any end, is hardly longer than this.
    window_start = max(0, wanted - 5_000)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, window_start, wanted)]
    if not ends and window_start > 0:
        raise MeasurementError(f"no sentence ends within 5000 characters before depth {depth:g}")
    position = ends[-1] if ends else 0
    return f"{text[:position]}{sentence} {text[position:]}"


class _Plan:
    """The options of `needle_items`, read."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.lengths = _lengths(options)
        depths = options.get("depths", list(_DEFAULT_DEPTHS))
        if not isinstance(depths, list) or not depths or not all(is_number(d) and 0 <= d <= 1 for d in depths):
            raise MeasurementError(f"option 'depths': expected a list of numbers from 0 to 1, got {shown(depths)}")
        if len(set(depths)) < len(depths):
            raise MeasurementError(f"option 'depths' names a depth twice: {shown(depths)}")
        self.depths: tuple[float, ...] = tuple(map(float, depths))
        self.repeats = whole_option(options, "repeats", default=1, at_least=1, at_most=10_000)
        self.needle = text_option(options, "needle", default=DEFAULT_NEEDLE)
        self.question = text_option(options, "question", default=DEFAULT_QUESTION)
        if self.needle.count("{secret}") != 1:
            raise MeasurementError("option 'needle' must contain {secret} once")
        if "{secret}" in self.question:
            raise MeasurementError("option 'question' contains {secret}, which would give it away")


def _lengths(options: Mapping[str, Any]) -> tuple[int, ...]:
    key = "context_tokens" if "context_tokens" in options else "context_chars"
    if key == "context_tokens" and "context_chars" in options:
        raise MeasurementError("options 'context_chars' and 'context_tokens' exclude each other")
    if "chars_per_token" in options and key != "context_tokens":
        raise MeasurementError("option 'chars_per_token' has no effect without 'context_tokens'")
    factor = 1.0
    if key == "context_tokens":
        factor = number_option(options, "chars_per_token", default=_CHARS_PER_TOKEN, at_least=0.1, at_most=100)
    lengths = options.get(key)
    if lengths is None and key not in options:
        return ()
    if not isinstance(lengths, list) or not lengths or not all(is_whole(n) and n >= 1 for n in lengths):
        raise MeasurementError(f"option {key!r}: expected a list of whole numbers above 0, got {shown(lengths)}")
    chars = tuple(round(length * factor) for length in lengths)
    if len(set(chars)) < len(chars):
        raise MeasurementError(f"option {key!r} names a length twice: {shown(lengths)}")
    if not all(1 <= n <= MAX_CONTEXT_CHARS for n in chars):
        raise MeasurementError(f"option {key!r}: a length is not within 1 to {MAX_CONTEXT_CHARS} characters")
    return chars


def _haystack_texts(options: Mapping[str, Any]) -> TextSet:
    if "haystack" not in options:
        return builtin_texts()
    return load_texts(Path(text_option(options, "haystack", default="")))


def _joined(texts: TextSet) -> str:
    return "\n\n".join(document.scored_text.strip() for document in texts.documents) + "\n\n"


def _sentence_start(text: str, position: int) -> int:
    """Where the sentence after `position` begins; 0 where none follows."""
    match = _SENTENCE_END.search(text, position)
    return 0 if match is None or match.end() >= len(text) else match.end()


def _filled(template: str, place: str, secret: str) -> str:
    return template.replace("{place}", place).replace("{secret}", secret)


def _contains(text: str, secret: str) -> bool:
    """Whether the secret occurs with no letter or digit right before or after it; case plays no part."""
    return re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text, re.IGNORECASE) is not None
