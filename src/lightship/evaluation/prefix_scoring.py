"""Scores texts on llama.cpp's server, which accepts `echo` and ignores it: it is asked to predict after every prefix.

`POST /completion` with a prompt of token ids and one token to generate returns log-probabilities of the likeliest
tokens over the whole vocabulary, before any sampling. The prompt's keys and values stay in the server's slot, so each
further prefix costs one token. A document keeps its slot, and several documents are scored at a time.

Two traps of the server. It leaves the log-probabilities out when the generated token ends inside a character, so a
harmless token is forced; the bias acts on sampling alone. And it computes them as float32 probabilities, so those below
the smallest such number arrive as the lowest float, and are taken for `LOWEST_LOGPROB`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec

from lightship.errors import MeasurementError
from lightship.evaluation.endpoint import (
    DEFAULT_TIMEOUTS,
    MAX_TOP_LOGPROBS,
    EndpointTraits,
    PromptLogprobs,
    PromptTooLongError,
)
from lightship.evaluation.transport import EndpointTransport, Served, decoded
from lightship.ports.clock import Clock, SystemClock
from lightship.ports.engine import HopTimeouts

# The natural logarithm of the smallest float32 above zero, 2 to the power of -149.
LOWEST_LOGPROB = -149 * math.log(2)
# More slots than this fill no more of a machine that one model serves on.
_MAX_SLOTS = 8
# Where a text's own token is not among the likeliest: so many of them, then all of the vocabulary (a megabyte of JSON).
_WIDER = (1024, 2**30)
# Added to the forced token's logit; logits are tens.
_BIAS = 1e6
_KEPT_PROMPTS = 2 * _MAX_SLOTS
_PROBE_TEXTS = ("the old king went to sea in a small boat.", "and then a door opened by itself, very slowly.")
_HINT = "Text quality of GGUF files is measured on llama.cpp's own server."

_RecordT = TypeVar("_RecordT", bound=msgspec.Struct)


@dataclass(frozen=True)
class _Position:
    """What was said of one token: its log-probability, and the likeliest tokens in its place."""

    logprob: float
    top: dict[int, float | None]


@dataclass(frozen=True)
class _Server:
    """What the server says of itself, and a token that is a whole character."""

    num_slots: int
    context_length: int
    forced_token: int


class PrefixScoringEndpoint:
    """One model behind one llama-server; the interface of `CompletionEndpoint` as far as scoring goes.

    Args:
        base_url: Scheme, host and port, with or without the trailing `/v1`.
        model: The name to send.
        session: Open aiohttp session; the caller closes it and puts authorization headers there.
        timeouts: Limits per hop.
        clock: Time to wait with between retries.

    Concurrency: safe for several prompts at a time from one event loop; one that finds no free slot waits. A second
        client of the same server would take the slots' caches away: the figures stay right, and come slowly.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        session: aiohttp.ClientSession,
        timeouts: HopTimeouts = DEFAULT_TIMEOUTS,
        clock: Clock | None = None,
    ) -> None:
        self.model = model
        self.transport = EndpointTransport(base_url, session=session, timeouts=timeouts, clock=clock or SystemClock())
        self._server: _Server | None = None
        self._server_lock = asyncio.Lock()
        self._slots: asyncio.Queue[int] = asyncio.Queue()
        # A document that is too long is tried in several lengths, all of which begin alike.
        self._recent: deque[tuple[tuple[int, ...], list[_Position]]] = deque(maxlen=_KEPT_PROMPTS)

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without `/v1`."""
        return self.transport.base_url

    @property
    def concurrent_prompts(self) -> int:
        """Prompts worth scoring at a time: one for each slot, once the server has told how many it has."""
        return self._server.num_slots if self._server is not None else 1

    async def score_prompt(self, prompt: str | Sequence[int], *, top_k: int) -> PromptLogprobs:
        """Log-probabilities of every token of a text (or of these token ids), with the `top_k` likeliest alternatives.

        Raises:
            PromptTooLongError: the text does not fit the context.
            MeasurementError: the server refuses, or answers with something else than log-probabilities.
            NetworkError: it cannot be reached, breaks off, stays busy, or takes too long.
        """
        if not 0 < top_k <= MAX_TOP_LOGPROBS:
            raise MeasurementError(f"top_k must be 1..{MAX_TOP_LOGPROBS}, got {top_k}")
        server = await self._introduced()
        offsets: tuple[int, ...] | None = None
        if isinstance(prompt, str):
            pieces = await self._pieces(prompt)
            token_ids = tuple(piece.id for piece in pieces)
            offsets = text_offsets(prompt, [piece.content for piece in pieces])
        else:
            token_ids = tuple(prompt)
        if len(token_ids) >= server.context_length:
            raise PromptTooLongError(
                f"{len(token_ids)} tokens do not fit the model's context of {server.context_length}",
                where=self.base_url,
            )
        positions, served = await self._positions(server, token_ids, top_k=top_k)
        return PromptLogprobs(
            token_ids=token_ids,
            token_logprobs=(None, *(position.logprob for position in positions)),
            top_logprobs=(None, *(_likeliest(position.top, top_k) for position in positions)),
            text_offsets=offsets,
            served=served,
        )

    async def tokenize(self, text: str) -> tuple[int, ...] | None:
        """Token ids of `text` as a prompt has them, special tokens included.

        Raises: MeasurementError, NetworkError: see `score_prompt`.
        """
        return tuple(piece.id for piece in await self._pieces(text))

    async def probe_prompt_logprobs(self, *, top_k: int) -> EndpointTraits:
        """Traits of a server that was shown to return log-probabilities over its whole vocabulary.

        Raises: MeasurementError: it does not; the message says what was wrong. NetworkError: see `score_prompt`.
        """
        server = await self._introduced()
        probed = [await self.score_prompt(text, top_k=top_k) for text in _PROBE_TEXTS]
        for scored in probed:
            self._check_numbers(scored)
        everything, _ = await self._predict(server, probed[0].token_ids[:2], slot=0, num_probs=_WIDER[-1])
        total = math.fsum(math.exp(value) for value in everything.values())
        # float32 sums over a large vocabulary are off by less
        if abs(total - 1) > 1e-3:
            raise self._not_scored(f"the probabilities of all {len(everything)} tokens add up to {total:.4g}")
        return EndpointTraits(
            is_first_token_text=probed[0].token_ids[0] != probed[1].token_ids[0],
            context_length=server.context_length,
        )

    async def _positions(
        self, server: _Server, token_ids: tuple[int, ...], *, top_k: int
    ) -> tuple[list[_Position], Served]:
        """One entry for each token but the first."""
        positions = self._known(token_ids, top_k)
        served = Served(model=self.model)
        slot = await self._slots.get()
        try:
            for index in range(len(positions) + 1, len(token_ids)):
                prefix, token = token_ids[:index], token_ids[index]
                top, served = await self._predict(server, prefix, slot=slot, num_probs=top_k)
                logprob = top.get(token)
                for wider in _WIDER:
                    if logprob is not None:
                        break
                    everything, served = await self._predict(server, prefix, slot=slot, num_probs=wider)
                    logprob = everything.get(token)
                if logprob is None:
                    raise self._not_scored(f"it told no log-probability of token {token} after {index} tokens")
                positions.append(_Position(logprob, dict(top)))
        finally:
            self._slots.put_nowait(slot)
        self._recent.append((token_ids, positions))
        return positions, served

    def _known(self, token_ids: tuple[int, ...], top_k: int) -> list[_Position]:
        """Entries of the longest beginning that this prompt shares with a recent one."""
        best: list[_Position] = []
        for known_ids, positions in self._recent:
            same = 0
            while same < min(len(known_ids), len(token_ids)) and known_ids[same] == token_ids[same]:
                same += 1
            usable = positions[: max(0, same - 1)]
            if len(usable) > len(best) and all(len(position.top) >= top_k for position in usable):
                best = usable
        return list(best)

    async def _predict(
        self, server: _Server, prefix: Sequence[int], *, slot: int, num_probs: int
    ) -> tuple[dict[int, float], Served]:
        """Log-probabilities of the `num_probs` likeliest tokens after `prefix`."""
        body = {
            "prompt": list(prefix),
            "n_predict": 1,
            "n_probs": num_probs,
            "post_sampling_probs": False,
            "cache_prompt": True,
            "id_slot": slot,
            "temperature": 0,
            "logit_bias": [[server.forced_token, _BIAS]],
            "response_fields": ["completion_probabilities", "model"],
        }
        reply = await self._record("/completion", body, _Completion)
        if not reply.completion_probabilities:
            raise self._not_scored("its answer has no log-probabilities")
        top = {entry.id: _logprob(entry.logprob) for entry in reply.completion_probabilities[0].top_logprobs}
        return top, Served(model=reply.model)

    async def _introduced(self) -> _Server:
        async with self._server_lock:
            if self._server is None:
                props = await self._record("/props", None, _Props)
                forced = await self._record("/tokenize", {"content": "a", "with_pieces": True}, _Tokens)
                if not forced.tokens or forced.tokens[-1].content.strip() != b"a":
                    raise self._not_scored("its tokenizer has no token for the letter a")
                num_slots = min(_MAX_SLOTS, props.total_slots)
                for slot in range(num_slots):
                    self._slots.put_nowait(slot)
                context_length = props.default_generation_settings.n_ctx
                self._server = _Server(num_slots, context_length, forced.tokens[-1].id)
            return self._server

    async def _pieces(self, text: str) -> list[_Piece]:
        body = {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
        return (await self._record("/tokenize", body, _Tokens)).tokens

    async def _record(self, path: str, body: dict[str, Any] | None, kind: type[_RecordT]) -> _RecordT:
        reply = await self.transport.request("GET" if body is None else "POST", path, body, hint=_HINT)
        record = decoded(reply.content, kind)
        if isinstance(record, str):
            raise self._not_scored(f"its answer to {path} is not that of llama.cpp's server: {record}")
        return record

    def _check_numbers(self, scored: PromptLogprobs) -> None:
        values = [value for value in scored.token_logprobs[1:] if value is not None]
        if len(values) < 2:
            raise self._not_scored(f"it made only {len(scored.token_ids)} tokens of a sentence")
        if worst := next((value for value in values if not math.isfinite(value) or value > 0), None):
            raise self._not_scored(f"a log-probability is {worst}")
        if len(set(values)) == 1:
            raise self._not_scored(f"all {len(values)} log-probabilities equal {values[0]}")

    def _not_scored(self, reason: str) -> MeasurementError:
        return MeasurementError(
            f"the server does not tell log-probabilities of what follows: {reason}", where=self.base_url, hint=_HINT
        )


def text_offsets(text: str, pieces: Sequence[bytes]) -> tuple[int, ...] | None:
    """Character of `text` at which each token begins; None where the pieces do not make up the text.

    Tokens that are no text (BOS) take no room; a space that the tokenizer puts before a text counts as none.

    >>> text_offsets("Once upon", [b"<s>", b" Once", b" upon"])
    (0, 0, 4)
    """
    content, position = text.encode(), 0
    offsets = []
    for piece in pieces:
        offsets.append(len(content[:position].decode("utf-8", errors="ignore")))
        if content.startswith(piece, position):
            position += len(piece)
        elif position == 0 and piece.startswith(b" ") and content.startswith(piece[1:]):
            position += len(piece) - 1
        elif position > 0:
            return None
    return tuple(offsets) if position == len(content) else None


def _likeliest(top: dict[int, float | None], top_k: int) -> dict[int, float | None]:
    """The first `top_k`: the server gives them in falling order."""
    return dict(list(top.items())[:top_k])


def _logprob(value: float) -> float:
    return max(value, LOWEST_LOGPROB)


class _TopLogprob(msgspec.Struct):
    id: int
    logprob: float


class _Predicted(msgspec.Struct):
    top_logprobs: list[_TopLogprob]


class _Completion(msgspec.Struct):
    completion_probabilities: list[_Predicted] = []
    model: str = ""


class _Piece(msgspec.Struct):
    id: int
    piece: str | list[int]

    @property
    def content(self) -> bytes:
        """The piece's bytes; the server sends numbers where they are no text by themselves."""
        return self.piece.encode() if isinstance(self.piece, str) else bytes(self.piece)


class _Tokens(msgspec.Struct):
    tokens: list[_Piece]


class _GenerationSettings(msgspec.Struct):
    n_ctx: int


class _Props(msgspec.Struct):
    total_slots: int
    default_generation_settings: _GenerationSettings
