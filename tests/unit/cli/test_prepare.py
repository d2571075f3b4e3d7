from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from lightship.artifacts.machine import Machine
from lightship.cli.feasible import check_recipes
from lightship.cli.prepare import Surroundings, build_variants, resolve_model
from lightship.compression.recipes import PRESETS
from lightship.errors import CheckpointError, SpecError, UnsafeCheckpointError, UnsupportedModelError
from lightship.ports.clock import SystemClock
from lightship.ports.variants import WeightFormat
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec
from lightship.testing.recording_progress import RecordingProgress

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def write_checkpoint(folder: Path, **changes: object) -> Path:
    """A checkpoint of one 32 x 8 float32 matrix."""
    folder.mkdir(parents=True)
    header = json.dumps({"embed": {"dtype": "F32", "shape": [32, 8], "data_offsets": [0, 1024]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(1024))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    return folder


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    return Surroundings(home=tmp_path / "home", clock=SystemClock(), progress=RecordingProgress())


def spec(*overrides: str) -> Spec:
    return parse_spec("", overrides=overrides).spec


def test_resolve_model_builtin_comes_with_its_student(around: Surroundings) -> None:
    model = resolve_model(spec(), around)
    assert model.checkpoint.folder.name == "fairytales"
    assert model.checkpoint.weight_format is WeightFormat.SAFETENSORS
    assert {name: path.is_dir() for name, path in model.students.items()} == {"fairytales-quarter": True}


def test_resolve_model_unknown_builtin_lists_the_known(around: Surroundings) -> None:
    with pytest.raises(CheckpointError, match=r"'robots'.*Known: fairytales"):
        resolve_model(spec("model.source=builtin:robots"), around)


def test_resolve_model_folder_is_inspected_where_it_lies(around: Surroundings, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "mine")
    model = resolve_model(spec(f"model.source={folder}"), around)
    assert (model.checkpoint.folder, model.checkpoint.num_parameters, model.students) == (folder, 256, {})


def test_resolve_model_relative_folder_starts_at_the_current_one(
    around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    assert resolve_model(spec("model.source=./models/mine"), around).checkpoint.folder == folder


def test_resolve_model_second_look_finds_the_same_digest_and_a_change_another(
    around: Surroundings, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "mine")
    wanted = spec(f"model.source={folder}")
    first, second = (resolve_model(wanted, around).checkpoint.digest for _ in range(2))
    (folder / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    assert first == second != resolve_model(wanted, around).checkpoint.digest


def test_resolve_model_missing_folder_is_named(around: Surroundings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}/nowhere.*does not exist"):
        resolve_model(spec(f"model.source={tmp_path}/nowhere"), around)


def test_resolve_model_pickled_weights_are_refused(around: Surroundings, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "mine")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"pytorch_model\.bin"):
        resolve_model(spec(f"model.source={folder}"), around)


def test_resolve_model_unknown_architecture_names_the_nearest(around: Surroundings, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "mine", architectures=["LlammaForCausalLM"])
    with pytest.raises(UnsupportedModelError, match=r"'LlammaForCausalLM'.*LlamaForCausalLM"):
        resolve_model(spec(f"model.source={folder}"), around)


def test_resolve_model_pinned_hub_commit_that_is_there_needs_no_network(around: Surroundings) -> None:
    folder = write_checkpoint(around.home / "hub" / "org--tiny" / COMMIT)
    model = resolve_model(spec(f"model.source=hf:org/tiny@{COMMIT}"), around)
    assert (model.checkpoint.folder, model.students) == (folder, {})


def test_build_variants_reference_that_is_no_variant_lists_them(around: Surroundings) -> None:
    wanted = spec("variants=[fp16, int8]", "quality.reference=int4")
    with pytest.raises(SpecError, match=r"'int4' is not among the variants.*`source` or one of fp16, int8"):
        build_variants(wanted, resolve_model(wanted, around), around)


def test_build_variants_student_of_a_model_without_one_is_refused_before_any_work(
    around: Surroundings, tmp_path: Path
) -> None:
    wanted = spec(f"model.source={write_checkpoint(tmp_path / 'mine')}", "variants=[fp16, quarter-depth]")
    with pytest.raises(SpecError, match="needs a student"):
        build_variants(wanted, resolve_model(wanted, around), around)
    assert not around.store.root.exists()
    assert not around.logs.exists()


def test_build_variants_builtin_needs_no_toolchain_and_keeps_the_order_of_the_spec(around: Surroundings) -> None:
    wanted = spec("variants=[quarter-depth, fp16]")
    model = resolve_model(wanted, around)
    built = build_variants(wanted, model, around)
    assert [variant.manifest.name for variant in built.variants] == ["quarter-depth", "fp16"]
    assert built.reference == built.variants[1]
    assert {variant.manifest.parent_digest for variant in built.variants} == {model.checkpoint.digest}
    assert build_variants(wanted, model, around) == built
    assert not (around.home / "toolchains").exists()
    by_name = spec("variants=[quarter-depth, fp16]", "quality.reference=quarter-depth")
    assert build_variants(by_name, model, around).reference == built.variants[0]


def test_build_variants_recipe_for_an_engine_that_is_left_out_is_refused_before_anything_is_made(
    around: Surroundings,
) -> None:
    """Once the engine was installed and started all the same."""
    wanted = spec("model.source=builtin:fairytales", "variants=[fp16, w8a8-rtn]")
    with pytest.raises(SpecError, match=r"'w8a8-rtn' is served by vllm.*Add `vllm: \{\}` to `engines`"):
        build_variants(wanted, resolve_model(wanted, around), around)
    assert around.store.ls() == []


def test_build_variants_recipe_that_this_machine_cannot_serve_is_refused_before_anything_is_made(
    around: Surroundings, tmp_path: Path
) -> None:
    """Once its toolchain was installed and vLLM started, which then ended with a traceback in its log."""
    folder = write_checkpoint(tmp_path / "mine")  # two heads in a hidden size of 8
    wanted = spec(f"model.source={folder}", "engines.vllm={device: cpu}", "variants=[bf16]")
    with pytest.raises(SpecError, match=r"'bf16' cannot be served here: .* heads of 4 .*OpenVINO or llama\.cpp"):
        build_variants(wanted, resolve_model(wanted, around), around)
    assert around.store.ls() == []
    assert not (around.home / "toolchains").exists()


def test_build_variants_quantized_source_on_an_engine_that_cannot_read_it_is_refused(
    around: Surroundings, tmp_path: Path
) -> None:
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": False}
    folder = write_checkpoint(tmp_path / "mine", quantization_config=quantization)
    wanted = spec(f"model.source={folder}", "variants=[fp16]")
    with pytest.raises(SpecError, match=r"conversions of unquantized checkpoints.*\(gptq\).*with vLLM"):
        build_variants(wanted, resolve_model(wanted, around), around)
    assert around.store.ls() == []


def test_check_recipes_research_is_let_through_with_what_it_does_not_buy(around: Surroundings) -> None:
    wanted = spec("engines.vllm={device: cpu}", "variants=[sparse-2of4]")
    checkpoint = resolve_model(wanted, around).checkpoint
    notes = check_recipes(wanted, [PRESETS["sparse-2of4"]], checkpoint, Machine("Xeon", "x86_64", ("avx2",), 2, 8))
    assert any(note.startswith("sparse-2of4: research only: ") and "neither bytes nor speed" in note for note in notes)
