"""Log-probabilities of given text, and alternatives per token, which the pipeline does not offer.

The same IR is compiled a second time, without the pipeline's paged attention, on the first request that needs it. What
that costs: once more the memory of the weights (OpenVINO shares the mapped file where the precision allows), a few
tenths of a second to seconds of loading, and while it computes it shares the cores with generation. One text is scored
at a time. The pipeline itself cannot do this: with its prefix cache on it skips positions whose values it has cached.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.openvino.runtime import device_properties, load_openvino
from lightship.wire.errors import overloaded

_MAX_LOGIT_VALUES = 2**24  # 64 MiB of f32 logits at a time, whatever the vocabulary
_MIN_CHUNK_TOKENS = 16


@dataclass(frozen=True)
class TokenScore:
    """One position of a text: the token's log-probability and the most likely alternatives, best first."""

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


@dataclass(frozen=True)
class ScorerCost:
    """What having the scorer costs so far; zeros before its first use."""

    load_s: float = 0.0
    memory_bytes: int = 0


class Scorer:
    """Scores texts, one at a time, in a thread.

    Args:
        vocab_size: Bounds how many positions are computed at once.
        max_waiting: Texts that may wait for their turn.
    """

    def __init__(self, config: OpenVinoWorkerConfig, *, vocab_size: int, max_waiting: int) -> None:
        self._config = config
        self._chunk_tokens = max(_MIN_CHUNK_TOKENS, _MAX_LOGIT_VALUES // vocab_size)
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._turn = asyncio.Lock()
        self._infer_request: Any = None
        self.cost = ScorerCost()

    async def score(self, token_ids: list[int], *, num_top: int) -> list[TokenScore | None]:
        """The score of each token given those before it; None for the first.

        Raises: ApiError: 503, too many texts wait.
        """
        if self._num_waiting >= self._max_waiting:
            raise overloaded("Too many texts wait to be scored. Try again later.", reason="queue-full")
        self._num_waiting += 1
        try:
            async with self._turn:
                # a cancelled caller must not let the next one in while the thread still computes
                return await _finish_even_if_cancelled(asyncio.to_thread(self._score_blocking, token_ids, num_top))
        finally:
            self._num_waiting -= 1

    def _score_blocking(self, token_ids: list[int], num_top: int) -> list[TokenScore | None]:
        import numpy as np

        if self._infer_request is None:
            self._load()
        request = self._infer_request
        request.reset_state()
        ids = np.array([token_ids], dtype=np.int64)
        scores: list[TokenScore | None] = [None]
        for begin in range(0, len(token_ids) - 1, self._chunk_tokens):
            end = min(begin + self._chunk_tokens, len(token_ids) - 1)
            logits = request.infer(self._inputs(ids, begin, end), share_inputs=True, share_outputs=True)[0][0]
            scores += _scores_of(np, logits, ids[0, begin + 1 : end + 1], num_top)
        return scores

    def _inputs(self, ids: Any, begin: int, end: int) -> dict[str, Any]:
        import numpy as np

        inputs = {
            "input_ids": ids[:, begin:end],
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(begin, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        return {name: value for name, value in inputs.items() if name in self._input_names}

    def _load(self) -> None:
        openvino = load_openvino()
        before_bytes, started_s = _resident_bytes(), time.monotonic()
        properties = device_properties(self._config)
        # the pipeline keeps its cache in 16 bits or more unless told otherwise; the runtime would choose 8
        properties.setdefault("KV_CACHE_PRECISION", "f16")
        path = Path(self._config.folder) / "openvino_model.xml"
        compiled = openvino.Core().compile_model(path, self._config.device, properties)
        self._input_names = {name for port in compiled.inputs for name in port.names}
        self._infer_request = compiled.create_infer_request()
        self.cost = ScorerCost(
            load_s=time.monotonic() - started_s, memory_bytes=max(0, _resident_bytes() - before_bytes)
        )


async def _finish_even_if_cancelled(work: Any) -> list[TokenScore | None]:
    task: asyncio.Task[list[TokenScore | None]] = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _scores_of(np: Any, logits: Any, next_ids: Any, num_top: int) -> list[TokenScore | None]:
    peak = logits.max(axis=-1, keepdims=True)
    log_sum = peak + np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True, dtype=np.float64))
    chosen = (np.take_along_axis(logits, next_ids[:, None], axis=-1) - log_sum)[:, 0].tolist()
    if num_top == 0:
        return [TokenScore(logprob, [], []) for logprob in chosen]
    num_top = min(num_top, logits.shape[-1])
    top = np.argpartition(logits, -num_top, axis=-1)[:, -num_top:]
    values = np.take_along_axis(logits, top, axis=-1) - log_sum
    order = np.argsort(-values, axis=-1, kind="stable")
    top_ids = np.take_along_axis(top, order, axis=-1).tolist()
    top_logprobs = np.take_along_axis(values, order, axis=-1).tolist()
    return [TokenScore(*row) for row in zip(chosen, top_ids, top_logprobs, strict=True)]


def _resident_bytes() -> int:
    """Resident memory of this process, 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
