from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.loading import load_task
from lightship.evaluation.tasks.scorer import Item, Scorer
from lightship.spec.source import HubSource

WriteTask = Callable[..., Path]

CHOICE = """\
version: 1
name: sky
kind: multiple_choice
items: items.jsonl
prompt: "Q: {question}\\nA:"
choices: choices
answer: answer
"""
WORDS = """\
version: 1
name: words
kind: words
items: items.jsonl
prompt: "{question}"
"""
ITEMS = [
    '{"id": "a", "question": "Sky?", "choices": ["green", "blue"], "answer": 1}',
    '{"id": "b", "question": "Grass?", "choices": ["green", "blue"], "answer": 0}',
]
DEV = [
    '{"question": "Snow?", "choices": ["white", "red"], "answer": 0, "why": "It is."}',
    '{"question": "Coal?", "choices": ["white", "black"], "answer": 1, "why": "It is too."}',
]


class WordsScorer:
    """Wants the field `right`, unless told that it builds its own prompts."""

    kind = "words"
    metrics: tuple[str, ...] = ("exact",)
    binary_metrics: tuple[str, ...] = ("exact",)
    details = ""

    def __init__(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key not in {"own_prompt", "samples"}:
                raise MeasurementError(f"unknown option {key!r}")
        self._has_own_prompt = options.get("own_prompt", False)
        self.min_samples = options.get("samples", 1)

    def check(self, item: Item) -> None:
        if "right" not in item.fields:
            raise MeasurementError("the item has no field 'right'")

    def prompt(self, item: Item) -> str | None:
        return f"own {item.item_id}" if self._has_own_prompt else None

    def target(self, item: Item) -> str:
        return str(item.fields["right"])

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        return {"exact": float(texts[0] == item.fields["right"])}


SCORERS: Mapping[str, Callable[[Mapping[str, Any]], Scorer]] = {"words": WordsScorer}


def test_load_choice_task_renders_its_prompts(write_task: WriteTask) -> None:
    task = load_task(write_task(CHOICE, ITEMS))
    assert [item.item_id for item in task.items] == ["a", "b"]
    assert [task.prompt(item) for item in task.items] == ["Q: Sky?\nA:", "Q: Grass?\nA:"]
    assert [task.target(item) for item in task.items] == ["blue", "green"]
    assert (task.metrics, task.binary_metrics) == (("acc", "acc_norm"), ("acc", "acc_norm"))


def test_load_examples_stand_solved_before_each_question(write_task: WriteTask) -> None:
    definition = CHOICE + "few_shot: {items: dev.jsonl, count: 2}\n"
    task = load_task(write_task(definition, ITEMS, dev=DEV))
    assert task.prompt(task.items[0]) == "Q: Snow?\nA: white\n\nQ: Coal?\nA: black\n\nQ: Sky?\nA:"
    assert "/shots=2/" in task.protocol


def test_load_examples_of_generation_tasks_use_their_answer_template(write_task: WriteTask) -> None:
    definition = WORDS + 'few_shot: {items: dev.jsonl, count: 1, answer: " {why}", separator: "\\n"}\n'
    items = ['{"question": "Sky?", "right": "blue"}']
    task = load_task(write_task(definition, items, dev=DEV), scorers=SCORERS)
    assert task.prompt(task.items[0]) == "Snow? It is.\nSky?"


def test_load_random_examples_depend_on_the_seed_alone(write_task: WriteTask) -> None:
    dev = [json.dumps({"question": f"{n}?", "choices": ["x", "y"], "answer": 0}) for n in range(40)]

    def examples(seed: int) -> str:
        definition = CHOICE + f"seed: {seed}\nfew_shot: {{items: dev.jsonl, count: 5, pick: random}}\n"
        return load_task(write_task(definition, ITEMS, dev=dev)).examples

    assert examples(1) == examples(1) != examples(2)


def test_load_letters_show_options_and_follow_the_prompt(write_task: WriteTask) -> None:
    definition = CHOICE.replace("{question}", "{question}\\n{options}") + "choice_style: letters\n"
    task = load_task(write_task(definition, ITEMS))
    assert task.prompt(task.items[0]) == "Q: Sky?\nA. green\nB. blue\nA:"
    assert task.target(task.items[0]) == "B"


def test_load_scorer_builds_prompts_where_the_task_has_none(write_task: WriteTask) -> None:
    definition = WORDS.replace('prompt: "{question}"', "score: {own_prompt: true}")
    task = load_task(write_task(definition, ['{"id": "x", "right": "y"}']), scorers=SCORERS)
    assert task.prompt(task.items[0]) == "own x"


def test_load_hub_file_is_fetched_at_its_revision(write_task: WriteTask, tmp_path: Path) -> None:
    asked = []

    def fetch(source: HubSource, name: str) -> Path:
        asked.append((source, name))
        return tmp_path / "items.jsonl"

    definition = CHOICE.replace("items: items.jsonl", "items: {hub: org/sky@main, file: data/test.jsonl}")
    assert len(load_task(write_task(definition, ITEMS), fetch=fetch).items) == 2
    assert asked == [(HubSource("org/sky", "main"), "data/test.jsonl")]


def test_protocol_names_what_scores_depend_on(write_task: WriteTask) -> None:
    task = load_task(write_task(CHOICE, ITEMS))
    assert task.protocol == f"task-1/sky:{task.digest[:8]}/multiple_choice/items=2/shots=0/chat=no/seed=0"
    assert task.first(1).protocol != task.protocol
    assert "/items=1/" in task.first(1).protocol
    assert task.first(5).protocol == task.protocol


@dataclass(frozen=True)
class Change:
    name: str
    definition: str
    items: list[str]
    is_same: bool


CHANGES = [
    Change("comment_and_order", "# hello\n" + "\n".join(reversed(CHOICE.splitlines())) + "\n", ITEMS, True),
    Change("default_written_out", CHOICE + 'choice_prefix: " "\n', ITEMS, True),
    Change(
        "keys_of_an_item_in_other_order",
        CHOICE,
        [ITEMS[0], json.dumps(dict(reversed(list(json.loads(ITEMS[1]).items()))))],
        True,
    ),
    Change("prompt", CHOICE.replace("Q:", "Question:"), ITEMS, False),
    Change("prefix", CHOICE + 'choice_prefix: ""\n', ITEMS, False),
    Change("answer_of_an_item", CHOICE, [ITEMS[0], ITEMS[1].replace('"answer": 0', '"answer": 1')], False),
    Change("order_of_items", CHOICE, ITEMS[::-1], False),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_digest_changes_exactly_with_what_changes_scores(change: Change, write_task: WriteTask) -> None:
    original = load_task(write_task(CHOICE, ITEMS)).digest
    assert (load_task(write_task(change.definition, change.items)).digest == original) is change.is_same


@dataclass(frozen=True)
class Fault:
    name: str
    definition: str
    where: str
    says: str
    items: tuple[str, ...] = tuple(ITEMS)
    dev: tuple[str, ...] = tuple(DEV)


FEW = "few_shot: {items: dev.jsonl, count: 2}\n"
FAULTS = [
    Fault("unknown_key", CHOICE + "promt: x\n", "task.yaml:8: promt", "unknown key 'promt'. Did you mean prompt?"),
    Fault(
        "unknown_nested_key",
        CHOICE + "few_shot:\n  items: dev.jsonl\n  counts: 2\n  count: 1\n",
        "task.yaml:10: few_shot.counts",
        "Did you mean count?",
    ),
    Fault(
        "unknown_hub_key",
        CHOICE.replace("items.jsonl", "{hub: a/b@c, file: x.jsonl, split: test}"),
        "task.yaml:4: items.split",
        "unknown key",
    ),
    Fault("missing", CHOICE.replace("name: sky\n", ""), "task.yaml: name", "missing"),
    Fault("future_version", CHOICE.replace("version: 1", "version: 2"), "task.yaml:1: version", "must be 1"),
    Fault("bad_name", CHOICE.replace("sky", "Sky!"), "task.yaml:2: name", "lower-case letters"),
    Fault(
        "unknown_kind",
        CHOICE.replace("multiple_choice", "multi_choice"),
        "task.yaml:3: kind",
        "Did you mean multiple_choice?",
    ),
    Fault("wrong_type", CHOICE + 'seed: "1"\n', "task.yaml:8: seed", "must be a valid integer"),
    Fault("items_number", CHOICE.replace("items.jsonl", "3"), "task.yaml:4: items", "must be a file name, or"),
    Fault("choice_without_answer", CHOICE.replace("answer: answer\n", ""), "task.yaml: answer", "missing"),
    Fault(
        "choice_with_generation",
        CHOICE + "generation: {max_tokens: 5}\n",
        "task.yaml:8: generation",
        "have no 'generation'",
    ),
    Fault("choice_with_chat", CHOICE + "chat: true\n", "task.yaml:8: chat", "have no 'chat'"),
    Fault("words_with_choices", WORDS + "choices: x\n", "task.yaml:6: choices", "belong under `score:`"),
    Fault(
        "same_samples",
        WORDS + "generation: {top_p: 1}\nscore: {samples: 2}\n",
        "task.yaml:6: generation.temperature",
        "2 samples at temperature 0 are all the same",
    ),
    Fault("unknown_score_option", WORDS + "score: {scale: 3}\n", "task.yaml:6: score", "unknown option 'scale'"),
    Fault(
        "empty_stop", WORDS + 'generation: {stop: [""]}\n', "task.yaml:6: generation.stop[0]", "at least 1 character"
    ),
    Fault("not_a_mapping", "- 1\n", "task.yaml", "a mapping"),
    Fault("key_twice", CHOICE + "name: other\n", "task.yaml:8", "there twice"),
    Fault("anchor", CHOICE + "cluster: &x y\n", "task.yaml:8", "anchors"),
    Fault(
        "bad_template", CHOICE.replace("{question}", "{question.x}"), "task.yaml:5: prompt", "not the name of a field"
    ),
    Fault(
        "hub_without_revision",
        CHOICE.replace("items.jsonl", "{hub: org/sky, file: x.jsonl}"),
        "task.yaml:4: items",
        "org/name@revision",
    ),
    Fault(
        "hub_without_fetch",
        CHOICE.replace("items.jsonl", "{hub: org/sky@main, file: x.jsonl}"),
        "task.yaml:4: items",
        "not fetched here",
    ),
    Fault("items_missing", CHOICE.replace("items.jsonl", "none.jsonl"), "none.jsonl", "No such file"),
    Fault("item_without_template_field", CHOICE.replace("{question}", "{query}"), "items.jsonl:1", "no field 'query'"),
    Fault(
        "item_without_choice",
        CHOICE,
        "items.jsonl:1",
        "1 choices",
        ('{"question": "?", "choices": ["a"], "answer": 0}',),
    ),
    Fault(
        "answer_out_of_range",
        CHOICE,
        "items.jsonl:2",
        "is 5, but there are 2",
        (ITEMS[0], '{"question": "?", "choices": ["a", "b"], "answer": 5}'),
    ),
    Fault("scorer_refuses_item", WORDS, "items.jsonl:1", "no field 'right'"),
    Fault(
        "words_without_prompt",
        WORDS.replace('prompt: "{question}"\n', ""),
        "items.jsonl:1",
        "need a prompt template",
        ('{"right": "x"}',),
    ),
    Fault(
        "own_prompt_and_template",
        WORDS + "score: {own_prompt: true}\n",
        "items.jsonl:1",
        "build their own prompts",
        ('{"question": "?", "right": "x"}',),
    ),
    Fault("empty_prompt", WORDS, "items.jsonl:1", "the prompt is empty", ('{"question": "", "right": "x"}',)),
    Fault("too_few_examples", CHOICE + FEW.replace("2", "3"), "task.yaml:8: few_shot.count", "dev.jsonl has 2"),
    Fault(
        "example_malformed",
        CHOICE + FEW,
        "dev.jsonl:2",
        "no field 'choices'",
        tuple(ITEMS),
        (DEV[0], '{"question": "?"}'),
    ),
    Fault(
        "example_is_an_item", CHOICE + FEW, "items.jsonl:2", "also few-shot example 1", tuple(ITEMS), (ITEMS[1], DEV[0])
    ),
    Fault(
        "example_answer_of_choice",
        CHOICE + FEW.replace("2}", '2, answer: "x"}'),
        "task.yaml:8: few_shot.answer",
        "right choice",
    ),
    Fault("example_answer_missing", WORDS + FEW, "task.yaml:6: few_shot.answer", "missing"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_load_bad_task_is_refused_at_its_place(fault: Fault, write_task: WriteTask, tmp_path: Path) -> None:
    path = write_task(fault.definition, list(fault.items), dev=list(fault.dev))
    with pytest.raises(MeasurementError) as refusal:
        load_task(path, scorers=SCORERS)
    assert refusal.value.where == f"{tmp_path}/{fault.where}"
    assert fault.says in str(refusal.value)


def test_load_several_problems_are_told_at_once(write_task: WriteTask) -> None:
    path = write_task(CHOICE.replace("sky", "Sky") + "promt: x\nseed: -1\n", ITEMS)
    with pytest.raises(MeasurementError, match="3 problems") as refusal:
        load_task(path)
    assert all(f"task.yaml:{line}: " in str(refusal.value) for line in (2, 8, 9))


def test_load_limit_below_one_is_refused(write_task: WriteTask) -> None:
    with pytest.raises(MeasurementError, match="limit of 0"):
        load_task(write_task(CHOICE, ITEMS)).first(0)


def test_load_missing_or_unreadable_task_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot read the task: No such file"):
        load_task(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"version: 1\nname: \xe9\n")
    with pytest.raises(MeasurementError, match="not UTF-8") as refusal:
        load_task(tmp_path / "latin.yaml")
    assert refusal.value.where == f"{tmp_path}/latin.yaml:2"
