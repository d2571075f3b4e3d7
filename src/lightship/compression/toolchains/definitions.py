"""The toolchains: what each one is for, what it must be able to import, and its lock.

They are separate environments because their pins conflict: optimum-intel wants transformers below 5.6, the trainer
and vLLM want newer ones. A lock lists every package; all but torch are installed with `--no-deps`, for two reasons:
nothing moves after it was tested, and packages that only do harm stay out (torchvision from the index is built for
CUDA and breaks a CPU torch of the same version on import; vLLM wants it, and triton and OpenCV too, but serves text
on a CPU without any of them).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Toolchain:
    """One isolated environment.

    Args:
        name: Also the name of its lock, `locks/NAME.txt`.
        purpose: One line for people.
        modules: Imported by the check after installation.
        approximate_bytes: Disk it takes, measured once, to warn before a download.
        built_from: Pinned source distribution whose programs are compiled into it; "" for none (see `llama_cpp.py`).
        programs: What is compiled of it, found in its `bin` afterwards.
    """

    name: str
    purpose: str
    modules: tuple[str, ...]
    approximate_bytes: int
    built_from: str = ""
    programs: tuple[str, ...] = ()

    @property
    def lock_text(self) -> str:
        """Pinned requirements, one per line."""
        return (resources.files(__package__) / "locks" / f"{self.name}.txt").read_text("utf-8")

    @property
    def lock_digest(self) -> str:
        """Twelve hex digits that change when the lock does, or what is built; part of the folder's name."""
        content = self.lock_text + " ".join((self.built_from, *self.programs)).strip()
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def requirements(self) -> tuple[str, ...]:
        """The lock without comments."""
        return tuple(line for line in self.lock_text.splitlines() if line and not line.startswith("#"))

    def version_of(self, package: str) -> str:
        """Version that is pinned for `package`.

        Raises: KeyError: none is.
        """
        built_from = (self.built_from,) if self.built_from else ()
        pins: dict[str, str] = dict(one.split("==") for one in (*self.requirements, *built_from))
        return pins[package]


OPENVINO_CONVERT = Toolchain(
    name="openvino-convert",
    purpose="converts Hugging Face checkpoints to OpenVINO IR (optimum-intel)",
    modules=("optimum.exporters.openvino", "openvino_tokenizers"),
    approximate_bytes=1_700_000_000,
)
TRAIN = Toolchain(
    name="train",
    purpose="trains, distils and prunes models (torch, transformers, TRL)",
    modules=("torch", "transformers", "tokenizers", "trl"),
    approximate_bytes=1_300_000_000,
)
COMPRESS = Toolchain(
    name="compress",
    purpose="quantizes and prunes checkpoints for vLLM (llm-compressor, auto-round)",
    modules=("llmcompressor", "compressed_tensors", "auto_round"),
    approximate_bytes=1_600_000_000,
)
VLLM = Toolchain(
    name="vllm",
    purpose="serves checkpoints (vLLM, CPU build)",
    modules=("vllm", "compressed_tensors"),
    approximate_bytes=2_500_000_000,
)
GGUF = Toolchain(
    name="gguf",
    purpose="converts, quantizes and serves GGUF files (llama.cpp, compiled here)",
    modules=("torch", "transformers", "sentencepiece"),
    approximate_bytes=1_700_000_000,
    built_from="llama-cpp-python==0.3.36",
    programs=("llama-server", "llama-quantize", "llama-imatrix", "llama-perplexity", "llama-tokenize"),
)
TOOLCHAINS: dict[str, Toolchain] = {
    toolchain.name: toolchain for toolchain in (COMPRESS, GGUF, OPENVINO_CONVERT, TRAIN, VLLM)
}
