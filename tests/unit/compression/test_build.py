"""Recipes become variants. Jobs run in stand-in interpreters: scripts that do what a conversion leaves on the disk."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.store import ArtifactStore
from lightship.compression import ir_template, resources
from lightship.compression.build import BuildContext, build_key, build_variant
from lightship.compression.recipes import PRESETS, choose_recipes
from lightship.compression.steps.base import TextFile
from lightship.compression.steps.registry import tool_versions
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.errors import SpecError, ToolchainError, UsageError
from lightship.ports.clock import SystemClock
from lightship.ports.variants import Recipe, RecipeStep, Variant, WeightFormat
from lightship.testing.recording_progress import RecordingProgress

PYTHON = sys.executable  # the tests put a stand-in in its place
MATRIX = np.arange(32, dtype=np.float32).reshape(8, 4)  # exact in bf16 and fp16
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
# Runs as `python -I -W ignore bootstrap.py KIND JOB.json --exit-with-parent`, like the real one.
STAND_IN = """
import json, pathlib, sys
kind, job = sys.argv[5], json.loads(pathlib.Path(sys.argv[6]).read_text())
output, calls = pathlib.Path(job["output"]), pathlib.Path({calls!r})
with calls.open("a") as log:
    told = {{name: value for name, value in job.items() if name not in ("output", "source", "checkpoint")}}
    log.write(json.dumps([kind, told]) + "\\n")
failure = {failure!r}
if failure:
    (output / "openvino_model.bin").write_bytes(b"half")
    print(json.dumps({{"event": "error", "message": failure}}))
    sys.exit(1)
source = pathlib.Path(job.get("checkpoint") or job["source"])
weights = next(path for path in sorted(source.iterdir()) if path.suffix in (".bin", ".safetensors"))
word = (job.get("weight_format") or job["scheme"]).encode() + weights.read_bytes()
data = '<data element_type="f16" shape="2" offset="0" size="4"/>'
graph = '<net><layers><layer name="w" type="Const">' + data + "</layer></layers></net>"
for name in ("openvino_model", "openvino_tokenizer", "openvino_detokenizer"):
    (output / (name + ".xml")).write_text(graph)
    (output / (name + ".bin")).write_bytes(word)
(output / "config.json").write_bytes((source / "config.json").read_bytes())
"""


@dataclass(frozen=True)
class Workshop:
    """A store, stand-in interpreters, and what they were asked to do."""

    home: Path
    progress: RecordingProgress
    students: dict[str, Path]

    @property
    def context(self) -> BuildContext:
        return BuildContext(
            store=ArtifactStore(self.home / "artifacts", SystemClock()),
            toolchains=ToolchainFolder(self.home / "toolchains"),
            logs=self.home / "logs",
            work=self.home / "work",
            students=self.students,
            calibration=TextFile(self.home / "calibration.jsonl", "sha256:0"),
            progress=self.progress,
        )

    @property
    def calls(self) -> list[tuple[str, dict[str, object]]]:
        path = self.home / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(kind, fields) for kind, fields in map(json.loads, lines)]

    def write_python(self, path: Path, *, failure: str = "") -> None:
        script = STAND_IN.format(calls=str(self.home / "calls.jsonl"), failure=failure)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nexec {PYTHON} -S - \"$@\" <<'END'\n{script}\nEND\n")
        path.chmod(0o755)

    def build(self, name: str, checkpoint: Checkpoint) -> Variant:
        return build_variant(PRESETS[name], checkpoint, self.context, model_name="tiny")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(tmp_path / "home", RecordingProgress(), {})
    (folder,) = (s.folder for s in made.context.toolchains.ls() if s.toolchain is OPENVINO_CONVERT)
    made.write_python(folder / "bin" / "python")
    (folder / "COMPLETE").write_text("")
    made.write_python(tmp_path / "host-python")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "host-python"))
    return made


def write_safetensors(path: Path, matrix: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    """A one-tensor bf16 file, written by hand: bf16 is the upper half of the float32 bits."""
    data = (matrix.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = json.dumps({"embed": {"dtype": "BF16", "shape": list(matrix.shape), "data_offsets": [0, len(data)]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)


def write_checkpoint(folder: Path, *, scale: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", MATRIX * np.float32(scale))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    return folder


def write_ir(folder: Path) -> Path:
    """A ready-made OpenVINO folder whose constants are the matrix in fp16, and a small table."""
    folder.mkdir(parents=True)
    weights, table = MATRIX.astype(np.float16).tobytes(), np.array([7, 8], dtype=np.int64).tobytes()
    constants = (("w", "f16", "8, 4", 0, len(weights)), ("shape", "i64", "2", len(weights), len(table)))
    layers = "".join(
        f'<layer id="{number}" name="{name}" type="Const">'
        f'<data element_type="{kind}" shape="{shape}" offset="{offset}" size="{size}"/></layer>'
        for number, (name, kind, shape, offset, size) in enumerate(constants)
    )
    for name in ("openvino_model", "openvino_tokenizer", "openvino_detokenizer"):
        (folder / f"{name}.xml").write_text(f"<net><layers>{layers}</layers></net>")
        (folder / f"{name}.bin").write_bytes(weights + table)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return inspect_checkpoint(write_checkpoint(tmp_path / "checkpoint"))


@pytest.fixture
def ready_made(tmp_path: Path) -> Path:
    return write_ir(tmp_path / "ready-made")


def test_build_fp16_runs_one_conversion_and_describes_it(workshop: Workshop, checkpoint: Checkpoint) -> None:
    manifest = workshop.build("fp16", checkpoint).manifest
    assert workshop.calls == [("convert_openvino", {"weight_format": "fp16"})]
    assert (manifest.name, manifest.model_name, manifest.source) == ("fp16", "tiny", "checkpoint")
    assert manifest.weight_format is WeightFormat.OPENVINO_IR
    assert manifest.parent_digest == checkpoint.digest
    assert manifest.tool_versions == {"openvino": "2026.4.1", "optimum-intel": "2.2.0"}  # of the toolchain's lock


def test_build_second_time_runs_nothing(workshop: Workshop, checkpoint: Checkpoint) -> None:
    first = workshop.build("int8", checkpoint)
    num_calls = len(workshop.calls)
    assert workshop.build("int8", checkpoint) == first
    assert len(workshop.calls) == num_calls


def test_build_int8_then_int4_convert_once_and_name_the_conversion_fp16(
    workshop: Workshop, checkpoint: Checkpoint
) -> None:
    workshop.build("int8", checkpoint)
    workshop.build("int4", checkpoint)
    assert [kind for kind, _ in workshop.calls] == ["convert_openvino", "quantize_openvino", "quantize_openvino"]
    assert {variant.manifest.name for variant in workshop.context.store.ls()} == {"fp16", "int8", "int4"}
    assert workshop.build("fp16", checkpoint).manifest.name == "fp16"
    assert len(workshop.calls) == 3


def test_build_intermediate_no_preset_has_is_named_after_its_options(
    workshop: Workshop, checkpoint: Checkpoint
) -> None:
    first = RecipeStep("quantize", {"scheme": "int4", "group_size": 32})
    steps = (RecipeStep("convert"), first, RecipeStep("quantize", {"scheme": "int4"}))
    build_variant(Recipe("mine", steps), checkpoint, workshop.context, model_name="tiny")
    names = {variant.manifest.name for variant in workshop.context.store.ls()}
    assert names == {"convert", "convert-int4-32", "mine"}


def test_build_changed_weights_are_converted_again(workshop: Workshop, checkpoint: Checkpoint, tmp_path: Path) -> None:
    workshop.build("fp16", checkpoint)
    changed = inspect_checkpoint(write_checkpoint(tmp_path / "changed", scale=2.0))
    assert workshop.build("fp16", changed).manifest.parent_digest == changed.digest
    assert len(workshop.calls) == 2


def test_build_failed_conversion_tells_why_leaves_nothing_and_works_the_next_time(
    workshop: Workshop, checkpoint: Checkpoint
) -> None:
    (folder,) = (s.folder for s in workshop.context.toolchains.ls() if s.is_installed)
    workshop.write_python(folder / "bin" / "python", failure="weights are of type F8")
    with pytest.raises(ToolchainError, match=r"weights are of type F8.*logs/convert_openvino-"):
        workshop.build("int8", checkpoint)
    store = workshop.context.store
    assert (store.ls(), store.damaged(), list((store.root / "partial").iterdir())) == ([], [], [])
    workshop.write_python(folder / "bin" / "python")
    assert workshop.build("int8", checkpoint).manifest.name == "int8"


def test_build_checkpoint_with_template_is_assembled_without_a_toolchain(
    workshop: Workshop, tmp_path: Path, ready_made: Path
) -> None:
    folder = write_checkpoint(tmp_path / "with-template")
    ir_template.pack(folder, ready_made, weight_format="fp16")
    variant = workshop.build("fp16", inspect_checkpoint(folder))
    assert workshop.calls == []
    assert (variant.folder / "openvino_model.bin").read_bytes() == (ready_made / "openvino_model.bin").read_bytes()
    workshop.build("fp32", inspect_checkpoint(folder))  # the template is of another format
    assert workshop.calls == [("convert_openvino", {"weight_format": "fp32"})]


def test_build_distilled_recipe_takes_the_student_and_keeps_the_model_as_parent(
    workshop: Workshop, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    student = write_checkpoint(tmp_path / "student", scale=3.0)
    workshop.students["fairytales-quarter"] = student
    final = workshop.build("quarter-depth-int8", checkpoint)
    by_name = {variant.manifest.name: variant for variant in workshop.context.store.ls()}
    assert by_name.keys() == {"fairytales-quarter", "quarter-depth", "quarter-depth-int8"}
    copied = by_name["fairytales-quarter"].folder / "model.safetensors"
    assert copied.read_bytes() == (student / "model.safetensors").read_bytes()
    assert {variant.manifest.parent_digest for variant in by_name.values()} == {checkpoint.digest}
    assert [step.kind for step in final.manifest.recipe.steps] == ["student", "convert", "quantize"]


def test_build_newer_student_of_the_same_name_is_not_taken_for_the_old_one(
    workshop: Workshop, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Once a store that knew the student of an older release served it for that of a newer one."""
    workshop.students["fairytales-quarter"] = write_checkpoint(tmp_path / "old", scale=3.0)
    old = workshop.build("quarter-depth", checkpoint)
    workshop.students["fairytales-quarter"] = write_checkpoint(tmp_path / "new", scale=4.0)
    new = workshop.build("quarter-depth", checkpoint)
    assert old.manifest.digest != new.manifest.digest
    assert workshop.build("quarter-depth", checkpoint).manifest.digest == new.manifest.digest


def test_build_student_that_is_not_there_is_named(workshop: Workshop, checkpoint: Checkpoint) -> None:
    with pytest.raises(SpecError, match="there is no student 'fairytales-quarter'"):
        workshop.build("quarter-depth", checkpoint)


def test_build_ready_made_folder_is_copied_as_it_is_without_what_else_lies_there(
    workshop: Workshop, ready_made: Path
) -> None:
    for name in ("notes.py", ".gitattributes", "old.pt"):
        (ready_made / name).write_text("not part of the model")
    variant = workshop.build("as-is", inspect_checkpoint(ready_made))
    assert workshop.calls == []
    assert [step.kind for step in variant.manifest.recipe.steps] == ["adopt"]
    expected = {"config.json"} | {
        f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")
    }
    assert {path.name for path in variant.folder.iterdir()} == expected | {"manifest.json"}
    for name in expected:
        assert (variant.folder / name).read_bytes() == (ready_made / name).read_bytes()


def test_build_ready_made_folder_is_quantized_without_conversion_and_only_its_model_files_go_along(
    workshop: Workshop, ready_made: Path
) -> None:
    """Once every file of the folder was copied, so a stray one made the finished variant unacceptable to the store."""
    (ready_made / ".gitattributes").write_text("*.bin filter=lfs")
    network = inspect_checkpoint(ready_made)
    (recipe,) = choose_recipes(("int4",), has_student=False, network_types=("f16",))
    build_variant(recipe, network, workshop.context, model_name="tiny")
    ((kind, fields),) = workshop.calls
    assert (kind, fields["scheme"], fields["group_size"]) == ("quantize_openvino", "int4", 64)
    assert isinstance(fields["files"], list)
    assert {"config.json", "openvino_tokenizer.xml", "openvino_tokenizer.bin"} <= set(fields["files"])
    assert ".gitattributes" not in fields["files"]


def test_build_recipe_without_steps_or_of_an_unknown_kind_is_refused(
    workshop: Workshop, checkpoint: Checkpoint
) -> None:
    with pytest.raises(UsageError, match="has no steps"):
        build_variant(Recipe("none", ()), checkpoint, workshop.context, model_name="tiny")
    with pytest.raises(SpecError, match="there is no step 'prun'"):
        build_variant(Recipe("p", (RecipeStep("prun"),)), checkpoint, workshop.context, model_name="tiny")


def test_build_last_step_that_cannot_be_is_found_before_the_first_is_made(
    workshop: Workshop, checkpoint: Checkpoint
) -> None:
    convert = RecipeStep("convert", {"weight_format": "fp16"})
    for wrong, words in (
        (
            RecipeStep("quantize", {"scheme": "int8", "groupsize": 32}),
            "'groupsize'.*Did you mean 'group_size'",
        ),
        (RecipeStep("quantize", {"scheme": "int3"}), r"step 'quantize' on openvino-ir: .*int3"),
        (RecipeStep("convert"), "step 'convert' cannot be applied to openvino-ir"),
    ):
        with pytest.raises(SpecError, match=words):
            build_variant(Recipe("wrong", (convert, wrong)), checkpoint, workshop.context, model_name="tiny")
    assert workshop.calls == []


def test_build_tells_in_the_manifest_what_the_job_took_beside_what_was_expected(
    workshop: Workshop, checkpoint: Checkpoint
) -> None:
    cost = workshop.build("fp16", checkpoint).manifest.cost
    assert cost is not None
    assert cost.duration_s > 0
    assert cost.estimated_memory_bytes > 10**9  # libraries alone


def test_build_more_memory_than_there_is_refuses_before_the_job(
    workshop: Workshop, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "available_memory_bytes", lambda: 10**6)
    with pytest.raises(ToolchainError, match=r"converting.*of memory are needed, 977 KiB are available"):
        workshop.build("fp16", checkpoint)
    assert workshop.calls == []


def test_build_key_changes_with_source_steps_options_and_their_order_alone(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = inspect_checkpoint(write_checkpoint(tmp_path / "other", scale=2.0))
    convert, quantize = RecipeStep("convert", {"weight_format": "fp16"}), RecipeStep("quantize", {"scheme": "int8"})
    keys = [
        build_key(checkpoint, (convert, quantize)),
        build_key(other, (convert, quantize)),
        build_key(checkpoint, (convert,)),
        build_key(checkpoint, (RecipeStep("convert", {"weight_format": "fp32"}), quantize)),
        build_key(checkpoint, (convert, quantize), inputs={"calibration": "sha256:1"}),
    ]
    assert len(set(keys)) == len(keys)
    assert build_key(checkpoint, (RecipeStep("convert", {"weight_format": "fp16"}), quantize)) == keys[0]


def test_tool_versions_of_a_copied_student_are_none() -> None:
    assert tool_versions((RecipeStep("student", {"name": "s"}),), WeightFormat.SAFETENSORS) == {}
    used = tool_versions(PRESETS["int8"].steps, WeightFormat.SAFETENSORS)
    assert used.keys() == {"optimum-intel", "openvino", "nncf"}
