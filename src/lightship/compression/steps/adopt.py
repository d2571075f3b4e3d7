"""Step `adopt`: takes what is there as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import msgspec

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.steps.base import CopyPlan, Step, StepContext, StepPlan
from lightship.ports.variants import WeightFormat


class AdoptOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


class AdoptNetwork(Step[AdoptOptions]):
    """A ready-made OpenVINO network, copied."""

    kind = "adopt"
    parent_format = WeightFormat.OPENVINO_IR
    options_type = AdoptOptions

    def plan(self, options: AdoptOptions, parent: Checkpoint, context: StepContext) -> StepPlan:
        """See `Step`."""
        del options, context
        return CopyPlan(lambda output: copy_files(parent, output))


class AdoptCheckpoint(AdoptNetwork):
    """A checkpoint in its own precision, for an engine that reads checkpoints."""

    parent_format: ClassVar[WeightFormat] = WeightFormat.SAFETENSORS


def copy_files(source: Checkpoint, output: Path) -> None:
    """Copies what makes the model, and nothing else that lies in the folder."""
    for entry in source.files:
        (output / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / entry.path, output / entry.path)
