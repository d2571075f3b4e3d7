"""What a task file may say: strict, frozen, with the line of every problem. No I/O: the caller hands in the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from lightship.errors import MeasurementError
from lightship.spec.paths import Path as KeyPath
from lightship.spec.paths import show_path
from lightship.spec.yaml_text import YamlTextError, read_yaml

MULTIPLE_CHOICE = "multiple_choice"
# A generation kind's scorer says what is right; these keys belong to multiple choice alone.
_CHOICE_KEYS = ("choices", "choice_prefix", "choice_style", "answer")
_GENERATION_KEYS = ("generation", "score", "chat")

FieldName = Annotated[str, Field(min_length=1, max_length=200)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class HubFile(_Section):
    """A file of a dataset repository on a hub, at one revision."""

    hub: str
    file: str = Field(min_length=1)


class FewShot(_Section):
    """Solved examples in front of each question: the first `count` of a file, or a sample drawn with the task's seed.

    `answer` is a template for what follows an example's prompt; multiple choice knows its answers and has none.
    """

    items: str | HubFile
    count: int = Field(ge=1, le=100)
    pick: Literal["first", "random"] = "first"
    separator: str = "\n\n"
    answer: str | None = None


class GenerationSection(_Section):
    """How an answer is generated. How many there are per item is the scorer's business."""

    max_tokens: int = Field(default=256, ge=1, le=2**20)
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default=[], max_length=16)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)


class TaskDefinition(_Section):
    """One task file.

    `items` and `prompt` are None for kinds that make their own; `choices` is a field's name or a fixed list.
    """

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    kind: str
    items: str | HubFile | None = None
    prompt: str | None = None
    choices: FieldName | list[str] | None = None
    choice_prefix: str = " "
    choice_style: Literal["text", "letters"] = "text"
    answer: FieldName | None = None
    id: FieldName | None = None
    cluster: FieldName | None = None
    few_shot: FewShot | None = None
    chat: bool = False
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    generation: GenerationSection = GenerationSection()
    score: dict[str, Any] = Field(default={})


@dataclass(frozen=True)
class LocatedDefinition:
    """A definition, and where in which file its keys stand."""

    definition: TaskDefinition
    origin: str
    lines: Mapping[KeyPath, int]

    def place(self, *path: str | int) -> str:
        """File, line and key, for messages: `task.yaml:7: few_shot.count`."""
        return _place(self.origin, self.lines, path)


def parse_definition(
    text: str, *, origin: str, kinds: frozenset[str], kinds_making_items: frozenset[str] = frozenset()
) -> LocatedDefinition:
    """The definition that `text` is.

    Args:
        origin: Name of the file, for messages.
        kinds: The kinds of task there are.
        kinds_making_items: Those of them that can do without an items file.

    Raises: MeasurementError: names every problem at once, with file, line and key: not YAML, unknown keys (with the
        nearest known one), wrong values, keys another kind of task has.
    """
    try:
        document = read_yaml(text)
    except YamlTextError as error:
        where = origin if error.line is None else f"{origin}:{error.line}"
        raise MeasurementError(error.what, where=where, hint=error.hint) from error
    if not isinstance(document.data, dict):
        raise MeasurementError(
            "a task is a mapping from keys to values", where=origin, hint="Begin with `version: 1`, `name:`, `kind:`."
        )
    try:
        definition = TaskDefinition.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise _together([_problem(d, origin, document.lines) for d in _most_telling(details)], origin) from error
    located = LocatedDefinition(definition, origin, document.lines)
    problems = list(_kind_problems(located, kinds))
    if definition.items is None and definition.kind in kinds - kinds_making_items:
        problems.append(MeasurementError("missing", where=located.place("items"), hint="Name the file with the items."))
    if problems:
        raise _together(problems, origin)
    return located


def nearest_hint(key: str, known: tuple[str, ...]) -> str:
    """What to write instead of an unknown key."""
    near = get_close_matches(key, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."


def _kind_problems(located: LocatedDefinition, kinds: frozenset[str]) -> Iterator[MeasurementError]:
    definition = located.definition
    if definition.kind not in kinds:
        yield MeasurementError(
            f"unknown kind {definition.kind!r}",
            where=located.place("kind"),
            hint=nearest_hint(definition.kind, tuple(sorted(kinds))),
        )
        return
    is_choice = definition.kind == MULTIPLE_CHOICE
    for key in _GENERATION_KEYS if is_choice else _CHOICE_KEYS:
        if key in definition.model_fields_set:
            hint = (
                "Multiple choice compares log-likelihoods of its choices and generates nothing; remove the key."
                if is_choice
                else "What is right, and the field it stands in, belong under `score:`."
            )
            yield MeasurementError(
                f"tasks of kind {definition.kind} have no {key!r}", where=located.place(key), hint=hint
            )
    if is_choice:
        for key in ("prompt", "choices", "answer"):
            if getattr(definition, key) is None:
                yield MeasurementError(f"missing; tasks of kind {MULTIPLE_CHOICE} need it", where=located.place(key))
    yield from _few_shot_problems(located, is_choice=is_choice)


def _few_shot_problems(located: LocatedDefinition, *, is_choice: bool) -> Iterator[MeasurementError]:
    few_shot = located.definition.few_shot
    if few_shot is None:
        return
    if is_choice and few_shot.answer is not None:
        yield MeasurementError(
            "multiple choice takes the right choice as the answer of an example",
            where=located.place("few_shot", "answer"),
            hint="Remove the key.",
        )
    if not is_choice and few_shot.answer is None:
        yield MeasurementError(
            "missing; a template for the answer of an example",
            where=located.place("few_shot", "answer"),
            hint='For example answer: " {solution}".',
        )


def _most_telling(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """One finding for each key; pydantic gives one for each branch of a union, of which the deepest says most."""
    chosen: dict[KeyPath, ErrorDetails] = {}
    for detail in details:
        path = _key_path(detail)
        root = next((known for known in chosen if path[: len(known)] == known or known[: len(path)] == path), None)
        if root is None:
            chosen[path] = detail
        elif len(path) > len(root):
            del chosen[root]
            chosen[path] = detail
    return list(chosen.values())


# Names pydantic puts into a location for the branches of `str | HubFile` and `FieldName | list[str]`.
_BRANCHES = frozenset({"str", "HubFile", "list[str]", "constrained-str"})

# Where a pattern, or the branches of a union, would be all that pydantic says.
_EXPECTED: Mapping[str | int, str] = {
    "items": "a file name, or {hub: org/name@revision, file: name}",
    "choices": "the name of a field, or a list of texts",
    "name": "1 to 64 lower-case letters, digits, '.', '_' and '-', with a letter or digit first",
}


def _key_path(detail: ErrorDetails) -> KeyPath:
    return tuple(part for part in detail["loc"] if part not in _BRANCHES)


def _problem(detail: ErrorDetails, origin: str, lines: Mapping[KeyPath, int]) -> MeasurementError:
    path = _key_path(detail)
    where = _place(origin, lines, path)
    if detail["type"] == "extra_forbidden":
        return MeasurementError(f"unknown key {path[-1]!r}", where=where, hint=nearest_hint(str(path[-1]), _keys(path)))
    if detail["type"] == "missing":
        return MeasurementError("missing", where=where)
    expected = _EXPECTED.get(path[-1]) if len(path) == 1 else None
    message = f"must be {expected}" if expected else detail["msg"].replace("Input should be", "must be")
    return MeasurementError(message[0].lower() + message[1:], where=where)


def _keys(path: KeyPath) -> tuple[str, ...]:
    sections: dict[str | int, type[BaseModel]] = {"few_shot": FewShot, "generation": GenerationSection}
    section = TaskDefinition if len(path) == 1 else sections.get(path[-2], HubFile)
    return tuple(section.model_fields)


def _place(origin: str, lines: Mapping[KeyPath, int], path: KeyPath) -> str:
    known = path
    while known and known not in lines:
        known = known[:-1]
    line = f":{lines[known]}" if known else ""
    return f"{origin}{line}: {show_path(path)}"


def _together(problems: list[MeasurementError], origin: str) -> MeasurementError:
    if len(problems) == 1:
        return problems[0]
    listed = "\n  ".join([f"{len(problems)} problems", *(str(problem) for problem in problems)])
    return MeasurementError(listed, where=origin)
