"""A real checkpoint made elsewhere: converted, compressed, scored, put in order, and refused when it is damaged."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lightship.artifacts.checkpoint import Checkpoint, inspect_checkpoint
from lightship.artifacts.home import artifact_root, measurement_path
from lightship.artifacts.measurements import MeasurementStore
from lightship.artifacts.store import ArtifactStore
from lightship.cli.worker_settings import openvino_settings
from lightship.compression.build import BuildContext, build_variant
from lightship.compression.calibration import builtin_calibration, write_text_file
from lightship.compression.recipes import PRESETS
from lightship.compression.toolchains.environment import ToolchainFolder
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import ToolchainError
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.ports.clock import SystemClock
from lightship.ports.measurements import Metric
from lightship.ports.progress import SilentProgress
from lightship.ports.variants import Variant, WeightFormat
from lightship.spec.load import parse_spec

pytestmark = [pytest.mark.toolchain, pytest.mark.local]

ORACLE = Path(__file__).resolve().parents[2] / "benchmarks" / "reference_bits_per_byte.py"
RECIPES = ("fp32", "fp16", "int8", "int4")
NUM_PARAMETERS = 656_000  # what its makers say; the stored weights are 128 * 2048 + 2 * 196,864 + 128
FULL_PRECISION = ("engines.openvino.precision=f32", "engines.openvino.kv_cache_precision=f32")


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Checkpoint:
    return inspect_checkpoint(shared_data / "models" / "tinystories-656k")


@pytest.fixture(scope="module")
def home(convert_python: Path, toolchain_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the toolchain and nothing else."""
    del convert_python  # it is installed now
    folder = tmp_path_factory.mktemp("home")
    (folder / "toolchains").symlink_to(toolchain_root)
    return folder


def context_in(home: Path) -> BuildContext:
    return BuildContext(
        store=ArtifactStore(artifact_root(home), SystemClock()),
        toolchains=ToolchainFolder(home / "toolchains"),
        logs=home / "logs",
        work=home / "work",
        students={},
        calibration=write_text_file(builtin_calibration(), home / "texts"),
        progress=SilentProgress(),
    )


@pytest.fixture(scope="module")
def built(home: Path, stories: Checkpoint) -> dict[str, Variant]:
    """All four variants."""
    context = context_in(home)
    return {name: build_variant(PRESETS[name], stories, context, model_name="stories") for name in RECIPES}


def lightship(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lightship", *arguments],
        env={**os.environ, "LIGHTSHIP_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=home,
    )


def test_build_real_checkpoint_gives_sound_variants_that_shrink_with_their_bits(
    built: dict[str, Variant], stories: Checkpoint, home: Path
) -> None:
    store = context_in(home).store
    for variant in built.values():
        store.verify(variant, full=True)
        assert variant.manifest.weight_format is WeightFormat.OPENVINO_IR
        assert variant.manifest.parent_digest == stories.digest
        assert variant.manifest.context_length == 512
        assert variant.manifest.num_parameters == pytest.approx(NUM_PARAMETERS, rel=0.01)
    sizes = [built[name].manifest.weight_bytes for name in RECIPES]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(4 * NUM_PARAMETERS, rel=0.01)
    assert sizes[1] == pytest.approx(2 * NUM_PARAMETERS, rel=0.01)
    assert len(store.ls()) == len(RECIPES)  # int8 and int4 took the conversion of fp16: nothing was made twice


def test_build_again_makes_nothing(built: dict[str, Variant], stories: Checkpoint, home: Path) -> None:
    logs = {path: path.stat().st_mtime_ns for path in (home / "logs").iterdir()}
    context = context_in(home)
    again = {name: build_variant(PRESETS[name], stories, context, model_name="stories") for name in RECIPES}
    assert again == built
    assert {path: path.stat().st_mtime_ns for path in (home / "logs").iterdir()} == logs


def stories_to_score(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "text" / "tinystories_sample.txt.gz", "rt", encoding="utf-8", errors="ignore") as text:
        parts = [part.strip() for part in text.read().split("<|endoftext|>")]
    return [part for part in parts if part and "<|" not in part][:20]


async def worker_nats(variant: Variant, texts: list[str], folder: Path) -> float:
    """Negative log-likelihood of the texts by a real worker that computes in float32."""
    adapter, spec = OpenVinoAdapter(), parse_spec("", overrides=["model.name=stories", *FULL_PRECISION]).spec
    settings = openvino_settings(spec, variant, port=free_port())
    adapter.write_config(settings, folder / "worker.json")
    worker = WorkerProcess(
        name="fp32",
        command=adapter.worker_command(folder / "worker.json"),
        base_url=settings.address,
        log_path=folder / "worker.log",
    )
    try:
        await worker.start(startup_timeout_s=60.0)
        async with aiohttp.ClientSession() as session:
            endpoint = CompletionEndpoint(worker.base_url, model="stories", session=session)
            scored = [await endpoint.score_prompt(text, top_k=1) for text in texts]
    finally:
        await worker.stop(drain_timeout_s=5.0)
    return -sum(nats for prompt in scored for nats in prompt.token_logprobs[1:] if nats is not None)


def test_worker_bits_per_byte_in_fp32_are_those_of_plain_transformers(
    built: dict[str, Variant], shared_data: Path, convert_python: Path, stories: Checkpoint, tmp_path: Path
) -> None:
    texts = stories_to_score(shared_data)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    argv = [str(convert_python), "-W", "ignore", str(ORACLE), str(stories.folder), str(tmp_path / "texts.json")]
    printed = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True).stdout
    oracle = json.loads(printed.splitlines()[-1])
    assert oracle["num_tokens"] > 2000
    nats = asyncio.run(worker_nats(built["fp32"], texts, tmp_path))
    assert nats == pytest.approx(oracle["nats"], rel=1e-3)


def test_up_ladder_is_in_order_of_measured_goodput(built: dict[str, Variant], stories: Checkpoint, home: Path) -> None:
    settings = [f"model.source={stories.folder}", "model.name=stories", "variants=[fp32, fp16, int8, int4]"]
    settings += [*FULL_PRECISION, "quality.floor=0.5"]  # low, so that speed decides and not four digits of quality
    result = lightship(home, "up", "--no-serve", *(word for one in settings for word in ("--set", one)))
    assert result.returncode == 0, result.stderr
    report = json.loads((home / "reports" / "stories" / "report.json").read_text())
    stored = MeasurementStore(measurement_path(home)).find(metric=Metric.GOODPUT_REQUESTS_PER_S, concurrency=32)
    goodput = {one.variant_digest: one.value for one in stored}
    assert set(goodput) == {variant.manifest.digest for variant in built.values()}
    digests = {f"{name}@openvino": variant.manifest.digest for name, variant in built.items()}
    speeds = [goodput[digests[rung["name"]]] for rung in report["rungs"]]
    assert speeds == [rung["speed"] for rung in report["rungs"]]
    assert all(lower >= 1.1 * upper for upper, lower in pairwise(speeds))
    on_ladder = {rung["name"] for rung in report["rungs"]}
    qualities = {one["name"]: one["candidate"]["quality_recovery"] for one in report["variants"]}
    last = report["rungs"][-1]
    for name in qualities.keys() - on_ladder:  # nothing that would have been a further rung was left out
        is_lower = qualities[name] < last["quality_recovery"]
        assert not (is_lower and qualities[name] > 0.6 and goodput[digests[name]] > 1.1 * last["speed"]), name


@pytest.fixture
def damaged(stories: Checkpoint, tmp_path: Path) -> Path:
    """A copy of the checkpoint to be damaged."""
    return Path(shutil.copytree(stories.folder, tmp_path / "damaged", copy_function=shutil.copyfile))


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamoForCausalLM"]}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ["truncated", "model.safetensors"]),
        (pickle_only, ["pickle", "pytorch_model.bin"]),
        (unknown_architecture, ["LlamoForCausalLM", "LlamaForCausalLM"]),
    ],
    ids=["truncated", "pickle", "architecture"],
)
def test_up_unusable_checkpoint_is_refused_before_any_job(
    damage: Callable[[Path], None], words: list[str], damaged: Path, tmp_path: Path
) -> None:
    damage(damaged)
    home = tmp_path / "home"
    home.mkdir()
    result = lightship(home, "up", "--no-serve", "--set", f"model.source={damaged}")
    assert result.returncode == 3
    assert [word for word in words if word not in result.stderr] == []
    assert "Traceback" not in result.stderr
    assert [path.name for path in home.iterdir() if path.name in {"logs", "toolchains", "artifacts"}] == []


@pytest.fixture
def fresh_home(toolchain_root: Path, convert_python: Path, tmp_path: Path) -> Path:
    """A data directory in which nothing was built."""
    del convert_python
    (tmp_path / "toolchains").symlink_to(toolchain_root)
    return tmp_path


def test_build_killed_conversion_leaves_nothing_and_the_next_build_works(
    stories: Checkpoint, fresh_home: Path, processes: Any
) -> None:
    context = context_in(fresh_home)
    partial = context.store.root / "partial"
    errors: list[BaseException] = []

    def build() -> None:
        try:
            build_variant(PRESETS["fp16"], stories, context, model_name="stories")
        except ToolchainError as error:
            errors.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    processes.wait_until(lambda: any(path.is_file() for path in partial.rglob("*")) or not thread.is_alive())
    for process_id in processes.jobs("convert_openvino", fresh_home):
        os.kill(process_id, signal.SIGKILL)
    thread.join(timeout=60)
    assert [type(error) for error in errors] == [ToolchainError]
    assert "killed" in str(errors[0])
    assert context.store.ls() == []
    assert context.store.damaged() == []
    assert list(partial.iterdir()) == []
    variant = build_variant(PRESETS["fp16"], stories, context, model_name="stories")
    context.store.verify(variant, full=True)


def start_up(home: Path, stories: Checkpoint) -> subprocess.Popen[str]:
    """`lightship up` with the checkpoint still to be converted."""
    command = [sys.executable, "-m", "lightship", "up", "--no-serve", "--set", f"model.source={stories.folder}"]
    environment = {**os.environ, "LIGHTSHIP_HOME": str(home)}
    return subprocess.Popen(
        command, env=environment, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_up_stopped_while_it_converts_leaves_no_process_and_no_half_variant(
    number: signal.Signals, stories: Checkpoint, fresh_home: Path, processes: Any
) -> None:
    store = context_in(fresh_home).store
    partial = store.root / "partial"
    with start_up(fresh_home, stories) as running:
        processes.wait_until(lambda: any(path.is_file() for path in partial.rglob("*")) or running.poll() is not None)
        assert len(processes.jobs("convert_openvino", fresh_home)) == 1
        running.send_signal(number)
        _, told = running.communicate(timeout=30)
    processes.wait_until(lambda: not processes.jobs("convert_openvino", fresh_home), timeout_s=10)
    assert "Traceback" not in told
    if number != signal.SIGKILL:  # who is killed without a word leaves garbage, which `artifacts gc` takes away
        assert (running.returncode, told) == (130, "stopped\n")
        assert list(partial.iterdir()) == []
    store.gc()
    assert (list(partial.iterdir()), store.ls(), store.damaged()) == ([], [], [])
