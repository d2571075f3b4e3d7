"""Job `quantize_gguf`: a GGUF folder in, the same model with quantized weights out (llama-quantize, llama-imatrix).

With an importance matrix, `llama-imatrix` first watches how strongly each column of the weights is used on calibration
texts; rounding then errs where it matters least. `quantization.json` in the result says what became of the tensors:
K-quants need rows in multiples of 256, and what has others falls back to a larger type.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from lightship.artifacts.gguf_header import read_gguf_header
from lightship.compression.job_texts import read_job_texts
from lightship.compression.jobs.llama_programs import num_threads, program, run_program

_MODEL = "model.gguf"
_CHUNK = re.compile(r"\[(\d+)\]-?[\d.]+,")
_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
# Elements that a row must be a multiple of. Others are of 256.
_BLOCK_ELEMENTS = {"Q8_0": 32, "Q4_0": 32}


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `source`, `files` (what makes the model, paths below `source`), `output` (an existing empty folder),
    `scheme` (one of llama-quantize's), `calibration` (JSON lines with `text`, or null for no importance matrix),
    `num_chunks`, `chunk_tokens` (with calibration).
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    source, output = Path(job["source"]), Path(job["output"])
    options: list[str] = []
    num_watched_chunks = 0
    with tempfile.TemporaryDirectory() as scratch:
        if job["calibration"] is not None:
            matrix = Path(scratch) / "imatrix.gguf"
            num_watched_chunks = _measure_importance(job, source / _MODEL, matrix)
            options = ["--imatrix", str(matrix)]
        argv = [program("llama-quantize"), *options, str(source / _MODEL), str(output / _MODEL), job["scheme"]]
        run_program([*argv, str(num_threads())], _report_tensor)
    for name in job["files"]:
        if name not in {_MODEL, "quantization.json"}:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, output / name)
    _summarize(job["scheme"], num_watched_chunks, output)


def _measure_importance(job: dict[str, Any], model: Path, matrix: Path) -> int:
    """Chunks of text that were looked at, which are fewer than wanted where the texts end before.

    Effects: writes the importance matrix. Raises: RuntimeError: it failed, perhaps for want of text.
    """
    texts = matrix.with_name("texts.txt")
    content = "\n\n".join(read_job_texts(Path(job["calibration"])))
    texts.write_text(_without_unknown(content, model.with_name("tokenizer.json")), encoding="utf-8")
    num_chunks = int(job["num_chunks"])

    def report(piece: str) -> None:
        if found := _CHUNK.findall(piece):
            _report(min(int(found[-1]), num_chunks), num_chunks, "chunks of calibration text")

    argv = [program("llama-imatrix"), "--model", str(model), "--file", str(texts), "--output-file", str(matrix)]
    argv += ["--ctx-size", str(job["chunk_tokens"]), "--chunks", str(num_chunks), "--threads", str(num_threads())]
    try:
        run_program([*argv, "--batch-size", str(job["chunk_tokens"]), "--fit", "off"], report)
        num_watched = int(read_gguf_header(matrix).metadata["imatrix.chunk_count"])
    except (RuntimeError, OSError, KeyError) as error:
        text_bytes = texts.stat().st_size
        raise RuntimeError(
            f"no importance matrix was made: {error}; it takes two chunks of {job['chunk_tokens']} tokens, and the "
            f"calibration texts have {text_bytes} bytes"
        ) from error
    if num_watched < num_chunks:
        print(f"WARNING: the calibration texts make {num_watched} chunks, not {num_chunks}", flush=True)
    return num_watched


def _without_unknown(text: str, tokenizer_path: Path) -> str:
    """The text without characters that the tokenizer does not know, even by their bytes: llama.cpp stops there."""
    from tokenizers import Tokenizer

    unknown_token = json.loads(tokenizer_path.read_text("utf-8"))["model"].get("unk_token")
    if unknown_token is None:
        return text
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    unknown_id = tokenizer.token_to_id(unknown_token)
    unknown = {one for one in set(text) if unknown_id in tokenizer.encode(one, add_special_tokens=False).ids}
    if unknown:
        shown = "".join(sorted(unknown))[:40]
        print(f"WARNING: left out of the calibration texts, unknown to the tokenizer: {shown!r}", flush=True)
    return text.translate(dict.fromkeys(map(ord, unknown)))


def _report_tensor(piece: str) -> None:
    if found := _TENSOR.search(piece):
        _report(int(found[1]), int(found[2]), "tensors")


def _summarize(scheme: str, num_watched_chunks: int, output: Path) -> None:
    """Effects: writes `quantization.json` and tells the figures that matter."""
    header = read_gguf_header(output / _MODEL)
    bits_per_weight = 8 * header.weight_bytes / header.num_parameters
    block_elements = _BLOCK_ELEMENTS.get(scheme, 256)
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) > 1]
    num_fallbacks = sum(tensor.shape[0] % block_elements != 0 for tensor in matrices)
    elements: Counter[str] = Counter()
    for tensor in header.tensors:
        elements[tensor.dtype] += tensor.num_elements
    summary = {
        "scheme": scheme,
        "bits_per_weight": round(bits_per_weight, 4),
        "num_matrices": len(matrices),
        "num_fallback_matrices": num_fallbacks,
        "num_elements_by_type": dict(sorted(elements.items())),
        "num_calibration_chunks": num_watched_chunks,
    }
    (output / "quantization.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    note = f"{bits_per_weight:.2f} bits per weight"
    if num_fallbacks:
        note += f"; {num_fallbacks} of {len(matrices)} matrices have rows that are no multiple of {block_elements}"
        print(f"WARNING: {note}, so {scheme} stores them in a larger type", flush=True)
    _report(len(header.tensors), len(header.tensors), note)


def _report(done: int, total: int, note: str) -> None:
    print(json.dumps({"event": "progress", "done": done, "total": total, "note": note}), flush=True)
