"""Scores whether a reply follows instructions that a program can check.

Strict takes the reply as it is. Loose also accepts it without its first line, its last line, both, and each of these
without asterisks: an introduction ("Sure, here it is:") or bold type is not held against the model.
An empty reply follows nothing, though it has no comma either.
Source: Zhou et al. 2023, arXiv:2311.07911, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.scorers.instructions.instruction import Instruction
from lightship.evaluation.tasks.scorers.instructions.registry import INSTRUCTIONS
from lightship.evaluation.tasks.scorers.options import check_known, missing_or_wrong, nearest, only_sample


class InstructionsScorer:
    """`prompt_strict`, `prompt_loose`: all instructions of the item are followed; `instruction_strict`,
    `instruction_loose`: the share of them.

    Items have `instruction_id_list`, and `kwargs` with an object of parameters for each of its entries.
    """

    kind = "instructions"
    metrics: tuple[str, ...] = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")
    binary_metrics: tuple[str, ...] = ("prompt_strict", "prompt_loose")
    min_samples = 1
    details = ""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """There are no options. Raises: MeasurementError: one is given."""
        check_known(options, (), what="option")

    def check(self, item: Item) -> None:
        """Returns when every instruction is known and has its parameters."""
        _instructions_of(item)

    def prompt(self, item: Item) -> str | None:
        """None: the task's template is used."""

    def target(self, item: Item) -> str:
        """The instructions with their parameters, a line each."""
        return "\n".join(
            " ".join([name, *(f"{key}={value!r}" for key, value in parameters.items())])
            for name, _, parameters in _instructions_of(item)
        )

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        """All four metrics of the reply."""
        reply = only_sample(texts)
        variants = loose_variants(reply)
        instructions = _instructions_of(item)
        strict = [_follows(instruction, reply, parameters) for _, instruction, parameters in instructions]
        loose = [
            any(_follows(instruction, variant, parameters) for variant in variants)
            for _, instruction, parameters in instructions
        ]
        return {
            "prompt_strict": float(all(strict)),
            "prompt_loose": float(all(loose)),
            "instruction_strict": sum(strict) / len(strict),
            "instruction_loose": sum(loose) / len(loose),
        }


def loose_variants(reply: str) -> list[str]:
    """The reply, without its first line, its last line, both; then these four without asterisks."""
    lines = reply.split("\n")
    cut = [reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(variant.replace("*", "") for variant in cut)]


def _follows(instruction: Instruction, reply: str, parameters: Mapping[str, Any]) -> bool:
    return bool(reply.strip()) and instruction.follows(reply, **parameters)


def _instructions_of(item: Item) -> list[tuple[str, Instruction, dict[str, Any]]]:
    names, given = item.fields.get("instruction_id_list"), item.fields.get("kwargs")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise missing_or_wrong(item.fields, "instruction_id_list", "a list of instruction ids")
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise missing_or_wrong(item.fields, "kwargs", "a list of objects")
    if len(names) != len(given):
        raise MeasurementError(f"{len(names)} instructions, but 'kwargs' has {len(given)} entries")
    instructions = []
    for name, entry in zip(names, given, strict=True):
        if name not in INSTRUCTIONS:
            raise MeasurementError(f"unknown instruction {name!r}", hint=nearest(name, INSTRUCTIONS))
        try:
            parameters = INSTRUCTIONS[name].read_parameters(entry)
        except MeasurementError as error:
            raise MeasurementError(f"{name}: {error.what}", hint=error.hint) from error
        instructions.append((name, INSTRUCTIONS[name], parameters))
    return instructions
