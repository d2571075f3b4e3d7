"""What a variant is, as records: the manifest that is written last into its folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class WeightFormat(StrEnum):
    """File layout of a variant's weights; anything else (pickle above all) is refused."""

    SAFETENSORS = "safetensors"
    OPENVINO_IR = "openvino-ir"
    GGUF = "gguf"


@dataclass(frozen=True)
class FileEntry:
    """One file of a variant, path relative to its folder with forward slashes."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class RecipeStep:
    """One step of a recipe: a kind (`convert`, `quantize`, ...) and its options."""

    kind: str
    options: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A named list of steps that makes a variant from a checkpoint. Data, not code."""

    name: str
    steps: tuple[RecipeStep, ...]


@dataclass(frozen=True)
class BuildCost:
    """What the last step of a variant took, beside what was expected before it started."""

    duration_s: float
    peak_rss_bytes: int
    estimated_duration_s: float
    estimated_memory_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a variant is and where it came from.

    `digest` names the content: SHA-256 over the sorted (path, size, SHA-256) of its files, as `sha256:<hex>`.
    `parent_digest` names the checkpoint it was made from; `build_key` the (parent, recipe, inputs, tool versions) it
    answers. `inputs` are digests of what else went in, by name (calibration and training texts, students); `cost` is
    None where a step only copied.
    """

    digest: str
    name: str
    model_name: str
    weight_format: WeightFormat
    parent_digest: str
    recipe: Recipe
    build_key: str
    tool_versions: dict[str, str]
    files: tuple[FileEntry, ...]
    weight_bytes: int
    num_parameters: int
    context_length: int
    created_unix_s: float
    source: str
    inputs: dict[str, str] = field(default_factory=dict)
    cost: BuildCost | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.num_bytes for entry in self.files)

    @property
    def short_digest(self) -> str:
        """Twelve hex digits, enough to tell variants apart for people."""
        return self.digest.removeprefix("sha256:")[:12]


@dataclass(frozen=True)
class Variant:
    """A variant in the store: its manifest and the folder that holds its files."""

    manifest: Manifest
    folder: Path
