"""Step `student`: a shallower model that ships with the built-in one, distilled from it when both were made."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.compression.steps.base import CopyPlan, Step, StepContext, StepPlan
from lightship.errors import SpecError
from lightship.ports.variants import WeightFormat


class StudentOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`name` of the student."""

    name: str


class TakeStudent(Step[StudentOptions]):
    """Copies the student in place of its teacher."""

    kind = "student"
    parent_format = WeightFormat.SAFETENSORS
    options_type = StudentOptions

    def plan(self, options: StudentOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`. Raises: SpecError: no such student ships with this model."""
        del parent
        if options.name not in context.students:
            known = f"Known: {', '.join(context.students)}." if context.students else "This model ships with none."
            raise SpecError(f"there is no student {options.name!r}", where="recipe", hint=known)
        folder = context.students[options.name]

        def write(output: Path) -> None:
            shutil.copytree(folder, output, dirs_exist_ok=True)

        return CopyPlan(write)

    def inputs(self, options: StudentOptions, context: StepContext) -> dict[str, str]:
        """The student's digest: a newer release may bring another one under the same name."""
        if options.name not in context.students:
            return {}
        return {f"student {options.name}": inspect_checkpoint(context.students[options.name]).digest}
