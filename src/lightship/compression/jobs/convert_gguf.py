"""Job `convert_gguf`: a Hugging Face folder in, `model.gguf` with configuration and tokenizer files out.

Runs in the toolchain `gguf`; the conversion is llama.cpp's. Two things are ours, because its converter refuses or
mistakes tokenizers that its authors have not met: the name of the pre-tokenizer, and the scores of SentencePiece-like
BPE. Whatever named them, token ids of sample texts are compared between `tokenizer.json` and the finished file, and
llama.cpp must load the file and compute finite numbers with it.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightship.compression.jobs.llama_programs import num_threads, program, run_program, sources
from lightship.compression.pre_tokenizers import describe_pre_tokenizer, merge_scores, pre_tokenizer_name

_NUM_STAGES = 4
# Where a tied matrix is stored under the head's name alone, llama.cpp looks for it under the embedding's.
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# llama-perplexity reads two windows at least; a few tokens show whether the numbers are finite.
_WINDOW_TOKENS = 16
_TOKENIZE_TIMEOUT_S = 120.0
# What splits differently between tokenizers that look alike: contractions, runs of digits and of spaces, line ends,
# capitals, punctuation, scripts, characters of several bytes.
_SAMPLES = (
    "Once upon a time there was a little girl who lived in a village near the forest.",
    "\"I'm sure they've said: it'll rain, don't you think?\" he'd asked; WE'RE SURE IT'S SO.",
    "In 1999 and 2024, 3.14159 was 1000000 times 3,14; call 555-0100 or 12:30:45.",
    "one  two   three    four\n\n  five\n\n\n six\tseven\t\teight \n nine ",
    "def f(x):\n    return {'a': [x ** 2, x // 3], \"b\": x != 0}  # http://example.org/?q=1&r=%20",
    "Ünïcödé: naïve café, Straße, Ångström, fi\u0301, \u201cquotes\u201d \u2018so\u2019 \u2014 dash\u2026 ½ ² ™",
    "Москва — столица России. Ελληνικά. 東京は日本の首都です。 한국어 العربية हिन्दी ไทย",
    "😀🚀 👩\u200d👩\u200d👧 \u00a0\u3000 \u200b.",
    " leading space, trailing space ",
    "\n",
    "ALLCAPS MixedCase camelCaseWord snake_case_word kebab-case-word",
)


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `checkpoint`, `files` (what goes beside the model, paths below `checkpoint`), `output` (an existing
    empty folder), `weight_format` (f32, f16 or bf16).
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    _report(0, "reading the checkpoint")
    with tempfile.TemporaryDirectory() as scratch:
        # The converter writes the folder's name into the file; the same checkpoint must make the same file anywhere.
        named = Path(scratch) / "model"
        named.symlink_to(checkpoint.resolve(), target_is_directory=True)
        _convert(named, output / "model.gguf", job["weight_format"])
    _report(2, "comparing tokenizers")
    known_texts = check_tokenizer(checkpoint / "tokenizer.json", output / "model.gguf")
    _report(3, "computing with it")
    check_numbers(output / "model.gguf", known_texts)
    for name in job["files"]:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint / name, output / name)
    _report(_NUM_STAGES, "")


def _convert(checkpoint: Path, path: Path, weight_format: str) -> None:
    sys.path[:0] = [str(sources()), str(sources() / "gguf-py")]
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))
    hparams = ModelBase.load_hparams(checkpoint, False)
    architecture = get_model_architecture(hparams, ModelType.TEXT)
    try:
        known_class = get_model_class(architecture)
    except NotImplementedError as error:
        raise ValueError(f"llama.cpp cannot convert the architecture {architecture!r}") from error
    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    }
    _teach_scores(gguf.LlamaHfVocab, tokenizer)
    with torch.inference_mode():
        model = _with_our_answers(known_class, tokenizer)(checkpoint, file_types[weight_format], path)
        _report(1, "converting")
        model.write()


def _with_our_answers(known_class: Any, tokenizer: dict[str, Any]) -> Any:
    """The converter's class, with what it does not know: this pre-tokenizer, a tied matrix under another name."""

    class Converter(known_class):
        model_arch = known_class.model_arch

        def get_vocab_base_pre(self, hf_tokenizer: Any) -> str:
            try:
                return str(super().get_vocab_base_pre(hf_tokenizer))
            except NotImplementedError as error:
                name = pre_tokenizer_name(tokenizer)
                if name is None:
                    raise ValueError(
                        "llama.cpp has no pre-tokenizer that is known to split text as this tokenizer does "
                        f"({describe_pre_tokenizer(tokenizer)}); serve the model with another engine"
                    ) from error
                print(f"pre-tokenizer: {name}, from tokenizer.json", flush=True)
                return name

        def index_tensors(self, *arguments: Any, **options: Any) -> dict[str, Any]:
            tensors: dict[str, Any] = super().index_tensors(*arguments, **options)
            if self.hparams.get("tie_word_embeddings") and _HEAD in tensors and _EMBEDDING not in tensors:
                tensors[_EMBEDDING] = tensors.pop(_HEAD)
            return tensors

    return Converter


def _teach_scores(vocabulary: Any, tokenizer: dict[str, Any]) -> None:
    """Effects: gives tokens of SentencePiece-like BPE scores by merge rank; the converter gives them all the same."""
    scores = merge_scores(tokenizer)
    tokens = {number: token for token, number in (tokenizer.get("model") or {}).get("vocab", {}).items()}
    # what no merge makes is never chosen before what one makes
    vocabulary.get_token_score = lambda _self, number: scores.get(tokens.get(number, ""), -1e9)


def check_tokenizer(tokenizer_path: Path, model_path: Path) -> list[str]:
    """Sample texts of which llama.cpp makes the same token ids as the tokenizer does: all that it knows.

    Texts with characters that a tokenizer without byte tokens does not know are left out and told of: llama.cpp refuses
    a request with such a text, where others put the unknown token.

    Raises: ValueError: it does not (the first text that differs).
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    unknown = json.loads(tokenizer_path.read_text("utf-8"))["model"].get("unk_token")
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    compared = []
    for text in _SAMPLES:
        expected = tokenizer.encode(text).ids
        if unknown_id is not None and unknown_id in expected:
            print(f"WARNING: characters of {text!r} are unknown to the tokenizer; llama.cpp refuses them", flush=True)
            continue
        _check_same(text, expected, llama_token_ids(model_path, text))
        compared.append(text)
    if not compared:
        raise ValueError("the tokenizer knows none of the sample texts, so it cannot be compared with llama.cpp's")
    return compared


def _check_same(text: str, expected: list[int], found: list[int]) -> None:
    if expected == found:
        return
    place = next((i for i, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other), None)
    at = min(len(expected), len(found)) if place is None else place
    raise ValueError(
        f"llama.cpp splits text in another way than this tokenizer: from token {at} of {text!r}, "
        f"{found[at : at + 4]} instead of {expected[at : at + 4]}; serve the model with another engine"
    )


def check_numbers(model_path: Path, texts: list[str]) -> None:
    """Returns when llama.cpp loads the model and predicts these texts with finite numbers.

    They are read from the file of logits that it writes: of what it prints, the last lines can get lost.

    Raises: ValueError: it computes NaN or infinity. RuntimeError: it does not load the model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path, logits = Path(scratch) / "texts.txt", Path(scratch) / "logits"
        path.write_text("\n".join(texts * _WINDOW_TOKENS), encoding="utf-8")
        argv = [program("llama-perplexity"), "--model", str(model_path), "--file", str(path), "--chunks", "1"]
        argv += ["--ctx-size", str(_WINDOW_TOKENS), "--batch-size", str(_WINDOW_TOKENS), "--fit", "off"]
        run_program([*argv, "--threads", str(num_threads()), "--save-all-logits", str(logits)], lambda _line: None)
        content = logits.read_bytes()
    if not all_finite(content):
        raise ValueError("the converted model computes no finite numbers; does the checkpoint hold NaN or infinity?")


def all_finite(content: bytes) -> bool:
    """Whether the normalization of every position is finite in a file of logits that llama-perplexity wrote.

    Raises: RuntimeError: it is not such a file.
    Source: `log_softmax` and `perplexity` in `tools/perplexity/perplexity.cpp`: the file begins with `_logits_`, three
        int32 (window, vocabulary, chunks) and the tokens; then come, for each position, two float32 (scale and lowest
        log-probability) and a uint16 for each token, padded to an even number of them.
    """
    window, vocab_size, num_chunks = struct.unpack_from("<8x3i", content) if len(content) >= 20 else (0, 0, 0)
    begin = 20 + 4 * window * num_chunks
    row_bytes = 2 * (2 * ((vocab_size + 1) // 2) + 4)
    positions = range(begin, len(content), row_bytes)
    if content[:8] != b"_logits_" or not positions or begin + len(positions) * row_bytes != len(content):
        raise RuntimeError("llama-perplexity wrote no logits")
    return all(map(math.isfinite, (value for at in positions for value in struct.unpack_from("<2f", content, at))))


def llama_token_ids(model_path: Path, text: str) -> list[int]:
    """Token ids that llama.cpp makes of a text, special tokens included."""
    argv = [program("llama-tokenize"), "--model", str(model_path), "--stdin", "--ids", "--no-escape", "--log-disable"]
    result = subprocess.run(argv, input=text.encode(), capture_output=True, timeout=_TOKENIZE_TIMEOUT_S, check=False)
    try:
        if result.returncode == 0:
            return [int(number) for number in json.loads(result.stdout)]
    except ValueError:
        pass
    words = (result.stderr or result.stdout).decode("utf-8", errors="replace").strip().splitlines()
    raise RuntimeError(
        f"llama.cpp cannot read the file that its converter wrote: {words[-1] if words else 'no reason'}"
    )


def _report(done: int, note: str) -> None:
    print(json.dumps({"event": "progress", "done": done, "total": _NUM_STAGES, "note": note}), flush=True)
