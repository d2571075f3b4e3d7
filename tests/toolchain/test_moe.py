"""The jobs that make and thin mixtures of experts, in their real toolchains: logits are those of the dense model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.toolchain.tiny_models import do_job, run_python, write_texts, write_tokenizer

from lightship.artifacts.checkpoint import inspect_checkpoint
from lightship.artifacts.sources.builtin import builtin_checkpoint
from lightship.compression.ir_template import SafetensorsFile
from lightship.errors import ToolchainError

pytestmark = pytest.mark.toolchain

# One family each with tied embeddings, with untied ones, with norms on heads, with biases that are not zero. In `dead`,
# half of the channels of each layer add nothing to the output, in `mixture` half of the experts.
_MAKE = """
root = Path({root!r})
known = {{"dead": [], "mixture": []}}
for name, family, more in (
    ("llama", "llama", {{"tie_word_embeddings": True}}),
    ("mistral", "mistral", {{"tie_word_embeddings": False, "sliding_window": None}}),
    ("qwen3", "qwen3", {{"tie_word_embeddings": False, "use_sliding_window": False}}),
    ("qwen2", "qwen2", {{"tie_word_embeddings": True, "use_sliding_window": False}}),
    ("dead", "llama", {{"tie_word_embeddings": True}}),
    ("mixture", "mixtral", {{"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None}}),
):
    model = tiny(family, **more)
    with torch.no_grad():
        for block in model.model.layers:
            for parameter in block.self_attn.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) / 4)
            if name == "dead":
                channels = torch.randperm(128)
                block.mlp.down_proj.weight[:, channels[:64]] = 0
                known[name].append(sorted(channels[64:].tolist()))
            if name == "mixture":
                experts = torch.randperm(6)
                block.mlp.experts.down_proj[experts[:3]] = 0
                known[name].append(sorted(experts[3:].tolist()))
    model.save_pretrained(root / name)
print(json.dumps(known))
"""
_COMPARE = """
print(json.dumps(float((logits({one!r}) - logits({other!r})).abs().max() / logits({one!r}).abs().max())))
"""
_LOAD = """
model, found = AutoModelForCausalLM.from_pretrained({folder!r}, dtype=torch.float32, output_loading_info=True)
print(json.dumps({{name: sorted(map(str, keys)) for name, keys in found.items() if keys}}))
"""
_UPCYCLE = {"num_experts": 3, "top_k": 2, "router_std": 0.5, "expert_noise": 0.0, "seed": 0}
_WINDOWS = {"num_windows": 8, "window_tokens": 32}


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "calibration.jsonl", num_texts=16)


@pytest.fixture(scope="module")
def models(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of checkpoints by name, and what of `dead` and `mixture` matters, by layer."""
    root = tmp_path_factory.mktemp("models")
    known: dict[str, Any] = run_python(train_python, _MAKE.format(root=str(root)))
    for folder in root.iterdir():
        write_tokenizer(folder)
    return root, known


def assert_same_logits(python: Path, one: Path, other: Path) -> None:
    # float32 sums in another order
    assert run_python(python, _COMPARE.format(one=str(one), other=str(other))) < 2e-5


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "moe.json").read_text("utf-8"))
    return content


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("mistral", "MixtralForCausalLM"), ("qwen3", "Qwen3MoeForCausalLM")],
)
def test_upcycle_copies_weighted_to_one_are_the_dense_model(
    name: str, architecture: str, models: tuple[Path, dict[str, Any]], train_python: Path, tmp_path: Path
) -> None:
    dense = models[0] / name
    do_job(train_python, "upcycle_experts", {"checkpoint": str(dense), **_UPCYCLE}, tmp_path)
    made = inspect_checkpoint(tmp_path / "out")
    assert made.architecture == architecture
    assert_same_logits(train_python, dense, made.folder)
    # 4 layers, 3 matrices of 64 by 128: two more of each, and a router of three rows
    assert made.num_parameters == inspect_checkpoint(dense).num_parameters + 4 * (2 * 3 * 64 * 128 + 3 * 64)
    parameters = record(made.folder)["parameters"]
    assert parameters == {"total": made.num_parameters, "active_per_token": made.num_parameters - 4 * 3 * 64 * 128}


def test_upcycle_with_noise_is_another_model_and_says_so(
    models: tuple[Path, dict[str, Any]], train_python: Path, tmp_path: Path
) -> None:
    dense = models[0] / "llama"
    job = {"checkpoint": str(dense), **_UPCYCLE, "expert_noise": 0.1}
    do_job(train_python, "upcycle_experts", job, tmp_path)
    difference = run_python(train_python, _COMPARE.format(one=str(dense), other=str(tmp_path / "out")))
    assert difference > 1e-3
    assert record(tmp_path / "out")["equals_dense_model"] is False


def carve(python: Path, dense: Path, calibration: Path, folder: Path, **sizes: int) -> Path:
    job = {"checkpoint": str(dense), "calibration": str(calibration), "num_experts": 8, **_WINDOWS, **sizes}
    do_job(python, "carve_experts", job, folder)
    return folder / "out"


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_carve_with_all_experts_chosen_is_the_dense_model(
    name: str, models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    out = carve(train_python, models[0] / name, calibration, tmp_path, num_shared=3, top_k=5)
    assert inspect_checkpoint(out).architecture == "Qwen2MoeForCausalLM"
    assert_same_logits(train_python, models[0] / name, out)
    assert run_python(train_python, _LOAD.format(folder=str(out))) == {}


def test_carve_channels_that_add_nothing_are_routed_and_not_missed(
    models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    root, known = models
    out = carve(train_python, root / "dead", calibration, tmp_path, num_shared=4, top_k=1)
    assert_same_logits(train_python, root / "dead", out)
    dense, made = SafetensorsFile(root / "dead" / "model.safetensors"), SafetensorsFile(out / "model.safetensors")
    for layer, alive in enumerate(known["dead"]):
        rows = dense.read_f32(f"model.layers.{layer}.mlp.gate_proj.weight")[alive]
        assert (made.read_f32(f"model.layers.{layer}.mlp.shared_expert.gate_proj.weight") == rows).all()
    assert max(record(out)["relative_output_error"]) < 1e-9


def test_carve_with_experts_left_out_says_how_much_is_missed(
    models: tuple[Path, dict[str, Any]], calibration: Path, train_python: Path, tmp_path: Path
) -> None:
    out = carve(train_python, models[0] / "llama", calibration, tmp_path, num_shared=2, top_k=2)
    assert all(0 < error < 1 for error in record(out)["relative_output_error"])
    assert record(out)["active_channel_fraction"] == 0.5
    difference = run_python(train_python, _COMPARE.format(one=str(models[0] / "llama"), other=str(out)))
    assert 1e-3 < difference < 1


def test_write_shards_small_ones_are_read_as_one_checkpoint(
    models: tuple[Path, dict[str, Any]], train_python: Path, tmp_path: Path
) -> None:
    code = f"""
import shutil
from lightship.compression.moe.shards import CheckpointTensors, write_shards
source, output = Path({str(models[0] / "llama")!r}), Path({str(tmp_path)!r})
tensors = CheckpointTensors(source)
count = write_shards(((n, tensors.read(n)) for n in tensors.names), output, max_shard_bytes=50_000)
shutil.copyfile(source / "config.json", output / "config.json")
print(json.dumps([count, bool((logits(output) == logits(source)).all())]))
"""
    count, is_same = run_python(train_python, code)
    assert is_same
    write_tokenizer(tmp_path)
    made = inspect_checkpoint(tmp_path)
    assert made.num_parameters == count == inspect_checkpoint(models[0] / "llama").num_parameters
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert not list(tmp_path.glob("*.tmp"))


def test_prune_experts_those_that_add_nothing_go(
    models: tuple[Path, dict[str, Any]], calibration: Path, compress_python: Path, train_python: Path, tmp_path: Path
) -> None:
    root, known = models
    job = {"checkpoint": str(root / "mixture"), "calibration": str(calibration), "num_experts": 3, **_WINDOWS}
    do_job(compress_python, "prune_experts", job, tmp_path)
    out = tmp_path / "out"
    retained = {int(layer): experts for layer, experts in record(out)["retained_experts"].items()}
    assert retained == dict(enumerate(known["mixture"]))
    parent, made = SafetensorsFile(root / "mixture" / "model.safetensors"), SafetensorsFile(out / "model.safetensors")
    for layer, experts in retained.items():
        block = f"model.layers.{layer}.block_sparse_moe"
        assert (made.read_f32(f"{block}.gate.weight") == parent.read_f32(f"{block}.gate.weight")[experts]).all()
        for new, old in enumerate(experts):
            for matrix in ("w1", "w2", "w3"):
                kept = made.read_f32(f"{block}.experts.{new}.{matrix}.weight")
                assert (kept == parent.read_f32(f"{block}.experts.{old}.{matrix}.weight")).all()
    assert json.loads((out / "config.json").read_text())["num_local_experts"] == 3
    assert run_python(train_python, _LOAD.format(folder=str(out))) == {}
    assert inspect_checkpoint(out).num_parameters == record(out)["parameters"]["total"]


def test_prune_experts_dense_checkpoint_is_refused(
    models: tuple[Path, dict[str, Any]], calibration: Path, compress_python: Path, tmp_path: Path
) -> None:
    job = {"checkpoint": str(models[0] / "llama"), "calibration": str(calibration), "num_experts": 2, **_WINDOWS}
    with pytest.raises(ToolchainError, match="LlamaForCausalLM is dense"):
        do_job(compress_python, "prune_experts", job, tmp_path)


_VLLM = """
import json, sys
from pathlib import Path
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    ids = json.loads(sys.argv[2])
    llm = LLM(model=sys.argv[1], enforce_eager=True, dtype="float32", max_model_len=256, max_num_seqs=1)
    wanted = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    scored = llm.generate([{"prompt_token_ids": ids}], wanted, use_tqdm=False)[0].prompt_logprobs[1:]
    scores = [choices[token].logprob for token, choices in zip(ids[1:], scored)]
    Path(sys.argv[3]).write_text(json.dumps(scores))  # not to stdout, where the engine's own lines go
"""


def test_carve_builtin_model_scores_the_same_in_vllm(train_python: Path, vllm_python: Path, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts.jsonl", num_texts=12, num_words=100)
    job_folder = tmp_path / "job"
    job_folder.mkdir()
    out = carve(train_python, builtin_checkpoint("fairytales"), texts, job_folder, num_shared=3, top_k=3)
    ids = [1, *range(100, 160)]
    code = f"""
model = AutoModelForCausalLM.from_pretrained({str(out)!r}, dtype=torch.float32).eval()
ids = torch.tensor([{ids}])
with torch.no_grad():
    scores = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
print(json.dumps(scores.tolist()))
"""
    expected = run_python(train_python, code)
    script = tmp_path / "score.py"
    script.write_text(_VLLM)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    scores = tmp_path / "scores.json"
    argv = [str(vllm_python), str(script), str(out), json.dumps(ids), str(scores)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    # float32 kernels of two libraries; a wrong scale or router would be off by whole units
    assert json.loads(scores.read_text()) == pytest.approx(expected, abs=2e-2)
