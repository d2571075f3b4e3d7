"""From a task file to a task whose every item can be asked and judged, before anything is sent anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightship.errors import LightshipError, MeasurementError, SpecError
from lightship.evaluation.generation import GenerationParameters
from lightship.evaluation.tasks.choices import ChoiceRule
from lightship.evaluation.tasks.definition import (
    MULTIPLE_CHOICE,
    FewShot,
    HubFile,
    LocatedDefinition,
    TaskDefinition,
    parse_definition,
)
from lightship.evaluation.tasks.items import read_items
from lightship.evaluation.tasks.scorer import Item, ScorerFactory
from lightship.evaluation.tasks.scorers.registry import ITEM_GENERATORS, SCORERS
from lightship.evaluation.tasks.task import GeneratedAnswers, Task
from lightship.evaluation.tasks.template import Template, parse_template
from lightship.spec.source import HubSource, parse_source
from lightship.spec.yaml_text import MAX_TEXT_BYTES

# Brings one file of a dataset repository onto this machine; see `artifacts.sources.hub.fetch_dataset_file`.
FetchFile = Callable[[HubSource, str], Path]
# From `score:` options and the task's seed to items.
ItemGenerator = Callable[[Mapping[str, Any], int], list[Item]]
# Options of scorers that name a file; like every other name in a task file it is relative to the file's folder.
_PATH_OPTIONS: Mapping[str, tuple[str, ...]] = {"needle": ("haystack",)}


def load_task(
    path: Path,
    *,
    fetch: FetchFile | None = None,
    scorers: Mapping[str, ScorerFactory] = SCORERS,
    item_generators: Mapping[str, ItemGenerator] = ITEM_GENERATORS,
) -> Task:
    """The task that the file at `path` defines, with all its items, each checked.

    Args:
        path: The task file (YAML); names of items files in it are relative to its folder.
        fetch: Brings files of a hub; without it a task that needs one is refused.
        scorers: Kinds of generation tasks.
        item_generators: Those of them that make their items where the task names no file.

    Raises: MeasurementError: task file or items are not acceptable; names file and line. And what `fetch` raises.
    Effects: reads files; `fetch` may download.
    """
    located = parse_definition(
        _read(path),
        origin=str(path),
        kinds=frozenset({MULTIPLE_CHOICE, *scorers}),
        kinds_making_items=frozenset(item_generators),
    )
    definition = located.definition
    loader = _Loader(located, path.parent, fetch)
    template = None
    if definition.prompt is not None:
        with _at(located.place("prompt")):
            template = parse_template(definition.prompt)
    if definition.kind == MULTIPLE_CHOICE:
        method: ChoiceRule | GeneratedAnswers = _choice_rule(definition)
    else:
        method = _generated(located, scorers, options=loader.options())
    items, items_place = loader.items(item_generators)
    examples: tuple[_Example, ...] = ()
    if definition.few_shot is not None:
        examples = loader.examples(definition.few_shot, template=template, method=method)
    task = Task(
        name=definition.name,
        kind=definition.kind,
        items=items,
        template=template,
        examples="".join(example.text for example in examples),
        num_examples=len(examples),
        method=method,
        seed=definition.seed,
        meaning=_meaning(definition, examples),
    )
    number_of_prompt = {example.prompt: number for number, example in enumerate(examples, start=1)}
    for item in items:
        with _at(f"{items_place}:{item.line}"):
            _check_item(task, item, number_of_prompt)
    return task


@dataclass(frozen=True)
class _Example:
    """A few-shot example: its prompt alone, and with answer and separator."""

    prompt: str
    text: str


@dataclass(frozen=True)
class _Loader:
    located: LocatedDefinition
    folder: Path
    fetch: FetchFile | None

    def options(self) -> dict[str, Any]:
        """The scorer's options, with names of files as paths."""
        options = dict(self.located.definition.score)
        for key in _PATH_OPTIONS.get(self.located.definition.kind, ()):
            if isinstance(options.get(key), str):
                options[key] = str(self.folder / options[key])
        return options

    def items(self, generators: Mapping[str, ItemGenerator]) -> tuple[tuple[Item, ...], str]:
        """The task's items, and the file whose lines they are."""
        definition = self.located.definition
        if definition.items is not None:
            path = self.path_of(definition.items, "items")
            return read_items(path, id_field=definition.id, cluster_field=definition.cluster), str(path)
        for key in ("id", "cluster"):
            if key in definition.model_fields_set:
                raise MeasurementError(
                    f"{key!r} names a field of an items file, and there is none",
                    where=self.located.place(key),
                    hint="Remove the key; items that are made have ids and clusters.",
                )
        with _at(self.located.place("score")):
            made = generators[definition.kind](self.options(), definition.seed)
        return tuple(made), f"{self.located.origin}: item"

    def path_of(self, items: str | HubFile, *key: str) -> Path:
        """Where the items file lies on this machine."""
        place = self.located.place(*key)
        if isinstance(items, str):
            return self.folder / items
        try:
            source = parse_source(f"hf:{items.hub}")
        except SpecError as error:
            raise MeasurementError(
                f"{items.hub!r} is not a dataset of a hub at a revision", where=place, hint="Write org/name@revision."
            ) from error
        if self.fetch is None:
            raise MeasurementError(
                "files of a hub are not fetched here", where=place, hint="Download the file and give its name."
            )
        assert isinstance(source, HubSource)
        return self.fetch(source, items.file)

    def examples(
        self, few_shot: FewShot, *, template: Template | None, method: ChoiceRule | GeneratedAnswers
    ) -> tuple[_Example, ...]:
        """The examples, in the order in which they stand in the prompt."""
        if template is None:
            raise MeasurementError(
                "examples need a prompt template", where=self.located.place("few_shot"), hint="Give the task a prompt."
            )
        path = self.path_of(few_shot.items, "few_shot", "items")
        pool = read_items(path, id_field=None, cluster_field=None)
        if len(pool) < few_shot.count:
            raise MeasurementError(
                f"{few_shot.count} examples are asked for, {path.name} has {len(pool)}",
                where=self.located.place("few_shot", "count"),
            )
        chosen: Sequence[Item] = pool[: few_shot.count]
        if few_shot.pick == "random":
            chosen = random.Random(self.located.definition.seed).sample(pool, few_shot.count)
        answer = None
        if few_shot.answer is not None:
            with _at(self.located.place("few_shot", "answer")):
                answer = parse_template(few_shot.answer)
        examples = []
        for item in chosen:
            with _at(f"{path}:{item.line}"):
                prompt, solved = _solved(item, template, answer, method)
            examples.append(_Example(prompt, prompt + solved + few_shot.separator))
        return tuple(examples)


def _solved(
    item: Item, template: Template, answer: Template | None, method: ChoiceRule | GeneratedAnswers
) -> tuple[str, str]:
    """Prompt and answer of an example."""
    if isinstance(method, ChoiceRule):
        right = method.texts(item.fields)[method.answer_index(item.fields)]
        return template.render(method.shown_fields(item.fields)), method.prefix + right
    assert answer is not None, "the definition was checked for it"
    return template.render(item.fields), answer.render(item.fields)


def _check_item(task: Task, item: Item, number_of_prompt: Mapping[str, int]) -> None:
    """Returns when the item has a prompt and a target, and no example gives its answer away."""
    if isinstance(task.method, GeneratedAnswers):
        task.method.scorer.check(item)
        builds_prompt = task.method.scorer.prompt(item) is not None
        if builds_prompt and task.template is not None:
            raise MeasurementError(
                f"tasks of kind {task.kind} build their own prompts", hint="Remove `prompt` and `few_shot`."
            )
        if not builds_prompt and task.template is None:
            raise MeasurementError(
                f"tasks of kind {task.kind} need a prompt template", hint='For example prompt: "{question}".'
            )
    prompt = task.prompt(item)
    if not prompt:
        raise MeasurementError("the prompt is empty")
    task.target(item)
    number = number_of_prompt.get(prompt[len(task.examples) :])
    if number is not None:
        raise MeasurementError(
            f"the item is also few-shot example {number}, so the prompt would give its answer away",
            hint="Take examples from another split, or leave the item out.",
        )


def _choice_rule(definition: TaskDefinition) -> ChoiceRule:
    choices = definition.choices
    assert choices is not None, "the definition was checked for it"
    assert definition.answer is not None, "the definition was checked for it"
    return ChoiceRule(
        choices=choices if isinstance(choices, str) else tuple(choices),
        answer=definition.answer,
        prefix=definition.choice_prefix,
        style=definition.choice_style,
    )


def _generated(
    located: LocatedDefinition, scorers: Mapping[str, ScorerFactory], *, options: Mapping[str, Any]
) -> GeneratedAnswers:
    definition = located.definition
    generation = definition.generation
    with _at(located.place("score")):
        scorer = scorers[definition.kind](options)
    if scorer.min_samples > 1 and generation.temperature == 0:
        raise MeasurementError(
            f"{scorer.min_samples} samples at temperature 0 are all the same",
            where=located.place("generation", "temperature"),
            hint="Set generation.temperature above 0, or ask for one sample.",
        )
    return GeneratedAnswers(
        scorer=scorer,
        parameters=GenerationParameters(
            max_tokens=generation.max_tokens,
            stop=tuple(generation.stop),
            temperature=float(generation.temperature),
            top_p=float(generation.top_p),
        ),
        num_samples=scorer.min_samples,
        is_chat=definition.chat,
    )


def _meaning(definition: TaskDefinition, examples: Sequence[_Example]) -> dict[str, Any]:
    """The definition without its name and what only says where things stand: equal for equal prompts and scores."""
    plain = definition.model_dump(exclude={"version", "name", "items", "id", "cluster", "few_shot", "seed"})
    if definition.kind == MULTIPLE_CHOICE:
        kept = ("kind", "prompt", "choices", "choice_prefix", "choice_style", "answer")
        return {**{key: plain[key] for key in kept}, "examples": [example.text for example in examples]}
    # What a named file holds is in the protocol's details.
    plain["score"] = {k: v for k, v in definition.score.items() if k not in _PATH_OPTIONS.get(definition.kind, ())}
    return {**plain, "examples": [example.text for example in examples]}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise MeasurementError(f"cannot read the task: {error.strerror or error}", where=str(path)) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise MeasurementError("not UTF-8", where=f"{path}:{line}", hint="Convert the file to UTF-8.") from error


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Adds the place to errors raised inside that name none."""
    try:
        yield
    except LightshipError as error:
        if error.where is not None:
            raise
        raise type(error)(error.what, where=place, hint=error.hint) from error
