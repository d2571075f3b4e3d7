"""Every example task can be loaded as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightship.evaluation.tasks.loading import load_task

EXAMPLES = Path(__file__).resolve().parents[4] / "examples" / "tasks"
NUM_ITEMS = {
    "letters-home": 4,
    "long-tale": 6,
    "market": 5,
    "nature": 10,
    "nature-letters": 10,
    "small-functions": 2,
}


def test_examples_are_all_known() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.yaml")) == sorted(NUM_ITEMS)


@pytest.mark.parametrize("name", sorted(NUM_ITEMS))
def test_example_task_loads(name: str) -> None:
    task = load_task(EXAMPLES / f"{name}.yaml")
    assert (task.name, len(task.items)) == (name, NUM_ITEMS[name])
    assert all(task.prompt(item) and task.target(item) for item in task.items)


def test_example_with_letters_and_examples_reads_as_an_exam_sheet() -> None:
    task = load_task(EXAMPLES / "nature-letters.yaml")
    assert task.prompt(task.items[0]).endswith(
        "A. Under the ground\nB. In the sea\nC. In the clouds\nD. On a glacier\nAnswer: A\n\n"
        "What do bees make from nectar?\nA. Honey\nB. Bread\nC. Milk\nD. Silk\nAnswer:"
    )
