"""The worker's end of the conversation with the pipeline process: sequences in, pieces of text out.

    STARTING --Loaded--> READY --Broken or end of socket--> BROKEN
        `-----------------end of socket----------------------^

All of it runs on the event loop's thread. One frame carries the tokens of all sequences of a step; they are decoded in
one call, because a call costs the same for one sequence or thirty-two.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Literal

import msgspec

from lightship.engines.openvino.frames import (
    Add,
    Broken,
    Cancel,
    Event,
    FieldValue,
    FrameSplitter,
    Loaded,
    Output,
    Refused,
    Stepped,
    encode_frame,
)
from lightship.engines.openvino.text import DecodeBatch, StopMatcher, TokenWindow, advance_all, context_tail
from lightship.wire.errors import ApiError, invalid_request, overloaded

_RECEIVE_BYTES = 2**18


class GeneratorState(StrEnum):
    """Whether sequences can be run."""

    STARTING = "starting"
    READY = "ready"
    BROKEN = "broken"


@dataclass(frozen=True)
class SequenceRequest:
    """One choice to generate. `index` is its place in the answer."""

    index: int
    prompt_ids: list[int]
    fields: dict[str, FieldValue]
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """What is new of one choice; `finish` is set on its last piece.

    `has_end_token` says that the last token is the model's end of text; `token_ids` may reach behind a stop string.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"] | None
    has_end_token: bool


class Mailbox:
    """Pieces for one HTTP request, in order; one reader. What waits in it is bounded by what was asked for."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._error: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, piece: Piece) -> None:
        """Adds a piece and wakes the reader."""
        self._pieces.append(piece)
        self._wake()

    def fail(self, error: ApiError) -> None:
        """The reader gets this error after the pieces that are there."""
        self._error = self._error or error
        self._wake()

    async def take(self) -> list[Piece]:
        """All pieces that are there, at least one.

        Raises: ApiError: the request failed and no piece is left.
        """
        if not self._pieces and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._pieces and self._error is not None:
            raise self._error
        pieces, self._pieces = self._pieces, []
        return pieces

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass
class _Stream:
    request: SequenceRequest
    mailbox: Mailbox
    window: TokenWindow
    stop: StopMatcher
    unsent_ids: list[int] = field(default_factory=list)
    unsent_logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class PipelineLoad:
    """What the pipeline is doing, for gauges."""

    num_running: int
    num_waiting: int
    kv_usage: float
    kv_cache_bytes: int


class Generator:
    """Runs sequences on the pipeline process at the other end of `connection`.

    Args:
        connection: A connected stream socket; owned from now on.
        decode: The tokenizer's batch decoding.
        max_sequences: Sequences the pipeline runs at a time.
        max_waiting: Sequences that may wait behind them.
    """

    def __init__(self, *, connection: socket.socket, decode: DecodeBatch, max_sequences: int, max_waiting: int) -> None:
        self._connection = connection
        self._decode = decode
        self._max_live = max_sequences + max_waiting
        self._writer: asyncio.StreamWriter | None = None
        self._streams: dict[int, _Stream] = {}
        self._sequence_ids = count(1)
        self._num_scheduled = 0
        self._kv_usage = 0.0
        self._kv_cache_bytes = 0
        self._is_closing = False
        self.state = GeneratorState.STARTING
        self.failure = ""
        self.load_s = 0.0

    @property
    def load(self) -> PipelineLoad:
        """The state after the last step."""
        num_running = min(len(self._streams), self._num_scheduled)
        return PipelineLoad(
            num_running=num_running,
            num_waiting=len(self._streams) - num_running,
            kv_usage=self._kv_usage if self._streams else 0.0,
            kv_cache_bytes=self._kv_cache_bytes,
        )

    async def run(self) -> None:
        """Reads frames until the socket closes; then `state` is BROKEN and every waiting request has failed."""
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        splitter = FrameSplitter()
        decoder = msgspec.msgpack.Decoder(Event)
        try:
            while received := await reader.read(_RECEIVE_BYTES):
                for payload in splitter.feed(received):
                    self._handle(decoder.decode(payload))
        except ConnectionResetError:
            pass  # the same as the end of the socket: the process is gone
        finally:
            self._break("The model's process ended.")
            self._writer.close()

    def close(self) -> None:
        """Ends the pipeline process; it leaves when it sees the end of the socket."""
        self._is_closing = True
        if self._writer is not None:
            self._writer.close()
        else:
            self._connection.close()

    @contextmanager
    def open(self, requests: Sequence[SequenceRequest]) -> Iterator[Mailbox]:
        """A mailbox that gets the pieces of these sequences; leaving the block cancels what is unfinished.

        Raises: ApiError: 503 when not ready or full, 400 when the request alone is over the limit.
        """
        self.check_capacity(len(requests))
        assert self._writer is not None  # READY means that the writer is there
        mailbox = Mailbox()
        opened: list[int] = []
        tails = [context_tail(request.prompt_ids) for request in requests]
        try:
            for request, tail, tail_text in zip(requests, tails, self._decode(tails), strict=True):
                sequence_id = next(self._sequence_ids)
                self._streams[sequence_id] = _Stream(
                    request, mailbox, TokenWindow(tail, tail_text), StopMatcher(request.stop)
                )
                opened.append(sequence_id)
                self._writer.write(encode_frame(Add(sequence_id, request.prompt_ids, request.fields)))
            yield mailbox
        finally:
            for sequence_id in opened:
                self._cancel(sequence_id)

    def check_ready(self) -> None:
        """Returns when sequences can be run.

        Raises: ApiError: 503 while the model loads, 500 after it failed.
        """
        if self.state is GeneratorState.STARTING:
            raise overloaded("The model is still loading.", reason="starting")
        if self.state is GeneratorState.BROKEN:
            raise self._broken_error()

    def check_capacity(self, num_sequences: int) -> None:
        """Returns when this many sequences can be taken now.

        Raises: ApiError: as `open`.
        """
        self.check_ready()
        if num_sequences > self._max_live:
            raise invalid_request(
                f"The request asks for {num_sequences} sequences; this server takes {self._max_live} at a time."
            )
        if len(self._streams) + num_sequences > self._max_live:
            raise overloaded("The queue of this engine is full. Try again later.", reason="queue-full")

    def _cancel(self, sequence_id: int) -> None:
        if self._streams.pop(sequence_id, None) is not None and self._writer is not None:
            self._writer.write(encode_frame(Cancel(sequence_id)))

    def _handle(self, event: Event) -> None:
        match event:
            case Stepped():
                self._num_scheduled = event.num_scheduled
                self._kv_usage = event.kv_usage
                self._deliver(event.outputs)
            case Loaded():
                self._kv_cache_bytes = event.kv_cache_bytes
                self.load_s = event.load_s
                self.state = GeneratorState.READY
            case Refused():
                self._refuse(event)
            case Broken(message=message):
                self._break(message)

    def _refuse(self, event: Refused) -> None:
        stream = self._streams.pop(event.sequence_id, None)
        if stream is None:
            return
        if event.is_capacity:
            stream.mailbox.fail(overloaded(event.message, reason="kv-cache-full"))
        else:
            stream.mailbox.fail(invalid_request(f"The engine refused the request: {event.message}"))

    def _deliver(self, outputs: list[Output]) -> None:
        known = [
            (output, self._streams[output.sequence_id]) for output in outputs if output.sequence_id in self._streams
        ]
        if not known:
            return
        for output, stream in known:
            stream.window.extend(output.token_ids)
        pieces = advance_all(self._decode, [(stream.window, bool(output.finish)) for output, stream in known])
        for (output, stream), new_text in zip(known, pieces, strict=True):
            self._deliver_one(output, stream, new_text)

    def _deliver_one(self, output: Output, stream: _Stream, new_text: str) -> None:
        text, is_stopped = stream.stop.feed(new_text, is_last=bool(output.finish))
        stream.unsent_ids += output.token_ids
        stream.unsent_logprobs += output.logprobs
        if not (text or is_stopped or output.finish):
            return
        finish = "stop" if is_stopped else (output.finish or None)
        if is_stopped and not output.finish:
            self._cancel(output.sequence_id)
        elif finish is not None:
            del self._streams[output.sequence_id]
        piece = Piece(
            stream.request.index,
            text,
            stream.unsent_ids,
            stream.unsent_logprobs,
            finish,
            has_end_token=output.finish == "stop",
        )
        stream.unsent_ids, stream.unsent_logprobs = [], []
        stream.mailbox.put(piece)

    def _break(self, message: str) -> None:
        if self.state is GeneratorState.BROKEN:
            return
        self.state = GeneratorState.BROKEN
        self.failure = "" if self._is_closing else message
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.mailbox.fail(self._broken_error())

    def _broken_error(self) -> ApiError:
        return ApiError(
            500,
            f"The engine failed: {self.failure or 'it is shutting down.'}",
            type="server_error",
            code="engine_failed",
            origin="engine",
        )
