"""Re-runs every claim of the topic "start" in docs/evidence.md: figures beside targets; exit 1 if one falls short.

    python benchmarks/evidence_start.py [--only 1,3] [--data FOLDER]

Lines 1 and 2 need nothing; line 3 needs a checkpoint made elsewhere (`--data`, or LIGHTSHIP_TEST_DATA: the folder that
holds `models/tinystories-656k` and `text/tinystories_sample.txt.gz`) and says so when it is not there. Run it on an
idle machine: it measures speed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from evidence import DEFAULT_DATA, ROOT, Line, figure_of, pytest, run_topic
from lightship.artifacts.home import data_home
from lightship.cli.progress import progress_for_stderr
from lightship.compression.toolchains.definitions import OPENVINO_CONVERT
from lightship.compression.toolchains.environment import ToolchainFolder

NUM_STORIES = 20
NUM_STARTS = 7


def chat_first_token(url: str, model: str) -> float:
    """Seconds to the first streamed token of a chat."""
    messages = [{"role": "user", "content": "The Fox and the Lantern"}]
    body = json.dumps({"model": model, "stream": True, "max_tokens": 8, "messages": messages}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", data=body, headers={"content-type": "application/json"}
    )
    started = time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as reply:
        for line in reply:
            if b'"content"' in line:
                return time.monotonic() - started
    raise AssertionError("the stream had no token")


@contextmanager
def running(command: list[str], *, cwd: Path, environment: dict[str, str]) -> Iterator[tuple[str, float]]:
    """A started `up`: its address and the seconds until its first streamed token; stopped with Ctrl-C."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        url = next(m[1] for line in process.stdout or () if (m := re.match(r"(http://[^/]+)/v1 ", line)))
        chat_first_token(url, "fairytales")
        yield url, time.monotonic() - started
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=90)
        if process.stdout is not None:
            process.stdout.close()


def fresh_start() -> Iterator[Line]:
    """`make up` on a clean clone with nothing but python3 and make, then again; then the fast tests."""
    with tempfile.TemporaryDirectory() as temporary:
        clone, home = Path(temporary) / "clone", Path(temporary) / "home"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "LIGHTSHIP"))},
            "LIGHTSHIP_HOME": str(home),
            "LIGHTSHIP__GATEWAY__LISTEN": "127.0.0.1:0",
        }
        with running(["make", "up"], cwd=clone, environment=environment) as (_, seconds):
            yield Line(
                "1a",
                "make up, clean clone, to the first streamed token",
                f"{seconds:.0f} s",
                "<= 240 s",
                seconds <= 240,
            )
        with running(["make", "up"], cwd=clone, environment=environment) as (_, seconds):
            yield Line("1b", "second make up", f"{seconds:.1f} s", "<= 15 s", seconds <= 15)
        subprocess.run(["make", ".venv/.dev-ready"], cwd=clone, env=environment, check=True, capture_output=True)
        started = time.monotonic()
        result = subprocess.run(
            ["make", "test-fast"], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - started
        summary = result.stdout.strip().splitlines()[-1]
        yield Line(
            "1c", "fast tests", f"{seconds:.0f} s: {summary}", "pass, <= 60 s", result.returncode == 0 and seconds <= 60
        )


def openai_client() -> Iterator[Line]:
    """The official client against the running system."""
    result = pytest("tests/e2e/test_openai_client.py")
    yield Line("2", "official openai client", result.stdout.strip().splitlines()[-1], "pass", result.returncode == 0)


def foreign_checkpoint(data: Path) -> Iterator[Line]:
    """A checkpoint made elsewhere: converted, measured, served; its figures against plain transformers."""
    checkpoint, sample = data / "models" / "tinystories-656k", data / "text" / "tinystories_sample.txt.gz"
    claim = "bits/byte of a checkpoint made elsewhere, against plain transformers (f32)"
    if not checkpoint.is_dir() or not sample.is_file():
        yield Line("3", claim, f"NOT TRIED: {data} has no tinystories-656k", "<= 1e-3", None)
        return
    stories = gzip.decompress(sample.read_bytes()).decode("utf-8", errors="ignore").split("<|endoftext|>")
    texts = [story.strip() for story in stories[1:] if story.strip()][:NUM_STORIES]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (folder / "texts.json").write_text(json.dumps(texts))
        spec = {
            "model": {"name": "stories", "source": str(checkpoint)},
            "variants": ["fp32", "fp16", "int8", "int4"],
            "engines": {"openvino": {"precision": "f32", "kv_cache_precision": "f32"}},
            "quality": {"text": str(folder / "texts.jsonl")},
        }
        (folder / "lightship.yaml").write_text(json.dumps(spec))
        command = [sys.executable, "-m", "lightship", "up", "--no-serve", "--remeasure"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        output = subprocess.run(
            [sys.executable, "-m", "lightship", "report", "--json"], cwd=folder, check=True, capture_output=True
        )
        report = json.loads(output.stdout)
        ours = figure_of(report, "fp32@openvino", "bits_per_byte")
        oracle = transformers_bits_per_byte(checkpoint, folder / "texts.json")
    difference = abs(ours - oracle) / oracle
    yield Line(
        "3a", claim, f"{ours:.6f} against {oracle:.6f}: {difference:.1e} relative", "<= 1e-3", difference <= 1e-3
    )
    speeds = [rung["speed"] for rung in report["rungs"]]
    words = " < ".join(f"{rung['name']} {rung['speed']:.1f}" for rung in report["rungs"])
    yield Line("3b", "its ladder is ordered by measured goodput", words, "ascending", speeds == sorted(speeds))


def transformers_bits_per_byte(checkpoint: Path, texts: Path) -> float:
    """The same quantity by plain transformers in float32, in the toolchain that has it."""
    toolchains = ToolchainFolder(data_home(os.environ) / "toolchains")
    python = toolchains.ensure(OPENVINO_CONVERT, progress_for_stderr()).python
    script = Path(__file__).with_name("reference_bits_per_byte.py")
    command = [str(python), "-I", "-W", "ignore", str(script), str(checkpoint), str(texts)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.strip().splitlines()[-1])["bits_per_byte"])


def streaming() -> Iterator[Line]:
    """Worker and gateway against the bare pipeline."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "figures.json"
        script = Path(__file__).with_name("streaming_overhead.py")
        subprocess.run([sys.executable, str(script), "--rounds", "5", "--json", str(path)], check=True)
        figures = json.loads(path.read_text())
    ratio = figures["median_ratio"]
    spread = f"{min(figures['ratios']):.3f}-{max(figures['ratios']):.3f}"
    speeds = f"{median(figures['served_tokens_per_s']):.0f} of {median(figures['bare_tokens_per_s']):.0f} tokens/s"
    claim = "streaming at 32 concurrent, worker + gateway of the bare pipeline"
    yield Line("4", claim, f"{ratio:.3f} ({spread}; {speeds})", ">= 0.95", ratio >= 0.95)


def startup() -> Iterator[Line]:
    """Spawn of a worker to the first token, the built-in model on a warm disk."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**os.environ, "LIGHTSHIP_HOME": temporary}
        command = [sys.executable, "-m", "lightship", "up", "--no-serve", "--remeasure", "--set", "variants=[fp16]"]
        for _ in range(NUM_STARTS):
            subprocess.run(command, cwd=temporary, env=environment, check=True, capture_output=True)
            output = subprocess.run(
                [*command[:3], "report", "--json", *command[6:]], cwd=temporary, env=environment, check=True,
                capture_output=True,
            )  # fmt: skip
            seconds.append(figure_of(json.loads(output.stdout), "fp16@openvino", "startup_to_first_token_s"))
    middle = median(seconds)
    spread = f"median of {len(seconds)}, {min(seconds):.2f}-{max(seconds):.2f}"
    yield Line(
        "5", "worker start-up to first token, built-in model", f"{middle:.2f} s ({spread})", "<= 1.5 s", middle <= 1.5
    )


def main() -> int:
    """Runs the chosen lines; 1 if one falls short."""
    parser = argparse.ArgumentParser(description="Evidence: from a fresh machine to a served, measured ladder.")
    parser.add_argument("--only", default="1,2,3,4,5", help="numbers of the lines to run")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    args = parser.parse_args()
    steps = {
        "1": fresh_start,
        "2": openai_client,
        "3": lambda: foreign_checkpoint(args.data),
        "4": streaming,
        "5": startup,
    }
    return run_topic(steps, args.only)


if __name__ == "__main__":
    if shutil.which("git") is None:
        sys.exit("git is needed for the clean clone")
    sys.exit(main())
