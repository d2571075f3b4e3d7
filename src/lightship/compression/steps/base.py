"""A step of a recipe, described: its options, what must be installed, which job does it. Decides, does nothing.

A step is found by its kind and the format of what it is applied to: `quantize` is NNCF's on an OpenVINO network,
llm-compressor's on a checkpoint, llama.cpp's on a GGUF file.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.toolchains.definitions import Toolchain
from lightship.errors import SpecError
from lightship.ports.variants import RecipeStep, WeightFormat


@dataclass(frozen=True)
class TextFile:
    """Texts that go into a job: JSON lines with `text`, and the digest of the texts in order."""

    path: Path
    digest: str


@dataclass(frozen=True)
class JobEstimate:
    """What a job is expected to take on this machine, roughly; told before it starts and compared with what it took.

    Args:
        memory_bytes: Peak resident memory of the job's process.
        duration_s: Wall time.
        disk_bytes: What it writes, the result included.
    """

    memory_bytes: int
    duration_s: float
    disk_bytes: int


@dataclass(frozen=True)
class JobPlan:
    """A job to run as a process of its own.

    Args:
        kind: Module name below `compression.jobs`.
        toolchain: Where it runs; None for this interpreter.
        job: The job file's content; `output` (an existing empty folder) is added, and `work_folder` where it is wanted.
        title: For people.
        has_work_folder: Whether the job keeps a folder between runs, so that one that was stopped continues.
    """

    kind: str
    toolchain: Toolchain | None
    job: Mapping[str, Any]
    title: str
    estimate: JobEstimate
    has_work_folder: bool = False


@dataclass(frozen=True)
class CopyPlan:
    """A step that only copies files: `write` fills the empty folder that it is given."""

    write: Callable[[Path], None]


StepPlan = JobPlan | CopyPlan


@dataclass(frozen=True)
class StepContext:
    """What a step may use besides its parent.

    Args:
        source: The checkpoint the recipe began with: the teacher of a distillation, the reference of a comparison.
        students: Checkpoint folders of distilled students that ship with the model, by name.
        calibration: Texts that activations are watched on; never those that are evaluated.
        training: Texts to train on; None where the user has none.
    """

    source: Checkpoint
    students: Mapping[str, Path]
    calibration: TextFile
    training: TextFile | None = None


OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class Step(ABC, Generic[OptionsT]):
    """One kind of step on one format of weights."""

    kind: ClassVar[str]
    parent_format: ClassVar[WeightFormat]
    options_type: type[OptionsT]

    @abstractmethod
    def plan(self, options: OptionsT, parent: Checkpoint, context: StepContext) -> StepPlan:
        """What would make this step of `parent`.

        Raises: SpecError: the options do not suit this model (what, and the nearest that does).
        """

    def result_format(self, options: OptionsT) -> WeightFormat:
        """Format of what the step makes."""
        del options
        return self.parent_format

    def tool_versions(self, options: OptionsT) -> dict[str, str]:
        """Versions of the tools that decide the result; part of a variant's identity."""
        del options
        return {}

    def inputs(self, options: OptionsT, context: StepContext) -> dict[str, str]:
        """Digests of what goes in besides the parent, by name; part of a variant's identity."""
        del options, context
        return {}

    def options(self, step: RecipeStep) -> OptionsT:
        """The step's options, checked.

        Raises: SpecError: an unknown option (with the nearest known one), or a value it cannot have.
        """
        known = {field.name for field in msgspec.structs.fields(self.options_type)}
        for name in step.options:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
                raise SpecError(
                    f"step {self.kind!r} on {self.parent_format} has no option {name!r}",
                    where="recipe",
                    hint=f"{hint}Known: {', '.join(sorted(known))}.",
                )
        try:
            return msgspec.convert(dict(step.options), self.options_type)
        except msgspec.ValidationError as error:
            values = self._known_values(str(error))
            raise SpecError(
                f"step {self.kind!r} on {self.parent_format}: {error}",
                where="recipe",
                hint=f"Known: {', '.join(values)}." if values else None,
            ) from error

    def _known_values(self, message: str) -> list[str]:
        """The values of the option that `message` is about; none where it takes more than a list of them."""
        named = re.search(r"`\$\.(\w+)`", message)
        hints = get_type_hints(self.options_type)
        known = hints.get(named[1]) if named else None
        if isinstance(known, type) and issubclass(known, Enum):
            return [str(one.value) for one in known]
        return [str(one) for one in get_args(known)] if get_origin(known) is Literal else []
