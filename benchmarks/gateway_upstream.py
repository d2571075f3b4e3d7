"""The trivial server behind every gateway of `gateway.py`: answers at once, or streams events, and computes nothing.

    python benchmarks/gateway_upstream.py PORT

What an answer looks like stands in the prompt, because that is what every gateway passes on: `burst 256` is a stream of
256 events as fast as the socket takes them, `paced 50 100` one of 50 events, one every 100 ms and each written by
itself; any other prompt gets a whole answer.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sys
from collections import defaultdict

import httptools
import uvloop

# One event of a chat completion, as engines write it; words alternate, since LiteLLM ends streams that repeat one.
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1763900000,'
    b'"model":"bench","choices":[{"index":0,"delta":{"content":" once"},"logprobs":null,"finish_reason":null}]}\n\n'
)
LAST_EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1763900000,'
    b'"model":"bench","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
)
USAGE_EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1763900000,'
    b'"model":"bench","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":%d,"total_tokens":%d}}\n\n'
)
DONE_EVENT = b"data: [DONE]\n\n"
WHOLE = (
    b'{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion","created":1763900000,'
    b'"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"Once upon a time there was a '
    b'little gateway."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,'
    b'"total_tokens":30}}'
)
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":1763900000,"owned_by":"bench"}]}'
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PLAN = re.compile(rb'"(burst|paced) (\d+)(?: (\d+))?"')
# Seconds between two looks at the streams that are due; their steps are whole multiples of it.
_TICK_S = 0.005


def chunk(content: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def json_answer(body: bytes) -> bytes:
    """A whole answer with its head."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


_EVENT_CHUNKS = (chunk(EVENT), chunk(EVENT.replace(b" once", b" upon")))
_WHOLE_ANSWER = json_answer(WHOLE)
_OTHER_ANSWER = json_answer(MODELS)


def stream_end(num_events: int) -> bytes:
    """What follows the last event with text: finish reason, usage, `[DONE]`, each a chunk of its own."""
    usage = USAGE_EVENT % (num_events, num_events + 20)
    return chunk(LAST_EVENT) + chunk(usage) + chunk(DONE_EVENT) + b"0\r\n\r\n"


class Pacing:
    """Writes the next event of every stream that is due, each with a write of its own."""

    def __init__(self) -> None:
        self._due: dict[int, list[Upstream]] = defaultdict(list)
        self._tick = 0

    def add(self, connection: Upstream, ticks: int) -> None:
        """The stream's next event comes after so many ticks."""
        self._due[self._tick + ticks].append(connection)

    async def run(self) -> None:
        """Never returns."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            self._tick += 1
            next_s += _TICK_S
            for connection in self._due.pop(self._tick, ()):
                connection.step()
            await asyncio.sleep(max(0.0, next_s - loop.time()))


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._num_left = self._num_events = self._ticks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport
        transport.set_write_buffer_limits(2**22)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        body, self._body = self._body, b""
        write = self._transport.write  # type: ignore[attr-defined]
        plan = _PLAN.search(body)
        if self._parser.get_method() != b"POST":
            write(_OTHER_ANSWER)
        elif plan is None:
            write(_WHOLE_ANSWER)
        elif plan[1] == b"burst":
            num_events = int(plan[2])
            events = b"".join(_EVENT_CHUNKS) * (num_events // 2) + _EVENT_CHUNKS[0] * (num_events % 2)
            write(_STREAM_HEAD + events + stream_end(num_events))
        else:
            self._num_left = self._num_events = int(plan[2])
            self._ticks = max(1, round(int(plan[3]) / 1000 / _TICK_S))
            write(_STREAM_HEAD)
            self._pacing.add(self, 1)

    def step(self) -> None:
        """One event of a paced stream."""
        if self._transport.is_closing():
            return
        self._num_left -= 1
        write = self._transport.write  # type: ignore[attr-defined]
        event = _EVENT_CHUNKS[self._num_left % 2]
        if self._num_left > 0:
            write(event)
            self._pacing.add(self, self._ticks)
        else:
            write(event + stream_end(self._num_events))


async def serve(port: int) -> None:
    """Serves until it is killed."""
    pacing = Pacing()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(pacing), "127.0.0.1", port, backlog=4096)
    async with server:
        await pacing.run()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(int(sys.argv[1])))
