"""What an engine sends before its first token does not commit anybody to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightship.gateway.api.first_token import MAX_HELD_BYTES, FirstTokenEngine
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, StreamBrokenError
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.sse import CONTENT_TYPE, DONE, data_event

CALL = EngineCall(path="/v1/chat/completions", body=b"{}", request_id="r", model="m", is_streaming=True)
ROLE = data_event(b'{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}')
TOKEN = data_event(b'{"choices":[{"delta":{"content":"a"}}]}')
HEADERS = {"content-type": CONTENT_TYPE}


def stream(*chunks: bytes, fault: Fault = Fault.NONE) -> FakeReply:
    return FakeReply(chunks=chunks, headers=HEADERS, fault=fault)


async def read(reply: FakeReply, call: EngineCall = CALL, *, first_token_s: float = 5.0) -> tuple[list[bytes], bool]:
    """The chunks that come, and whether they break off."""
    inner = FakeEngine(lambda call: reply)
    chunks: list[bytes] = []
    try:
        async with FirstTokenEngine(inner, first_token_s=first_token_s).open(call) as opened:
            assert inner.num_open == 1
            async for chunk in opened.chunks:
                chunks.append(chunk)
    except StreamBrokenError:
        return chunks, True
    finally:
        assert inner.num_open == 0
    return chunks, False


BEFORE = {
    "nothing": (),
    "role": (ROLE,),
    "role-null-content": (data_event(b'{"choices":[{"delta":{"role":"assistant","content":null}}]}'),),
    "comments": (b": ping\n\n", b": ping\n\n"),
    "no-choices": (data_event(b'{"choices":[],"prompt_filter_results":[]}'),),
    "choices-null": (data_event(b'{"choices":null}'),),
    "empty-text": (data_event(b'{"choices":[{"text":"","finish_reason":null}]}'),),
    "empty-tools": (data_event(b'{"choices":[{"delta":{"tool_calls":[]}}]}'),),
    "in-pieces": (ROLE[:7], ROLE[7:30], ROLE[30:]),
    "with-the-token": (ROLE + TOKEN,),
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
def test_stream_is_opened_with_its_first_token_and_loses_nothing(before: tuple[bytes, ...]) -> None:
    reply = stream(*before, TOKEN, DONE)
    chunks, is_broken = run_in_virtual_time(read(reply))
    assert not is_broken
    assert b"".join(chunks) == reply.body
    assert TOKEN in chunks[0]


FIRST = {
    "text": data_event(b'{"choices":[{"text":"a"}]}'),
    "reasoning": data_event(b'{"choices":[{"delta":{"role":"assistant","reasoning_content":"hm"}}]}'),
    "tool": data_event(b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}'),
    "second-choice": data_event(b'{"choices":[{"delta":{}},{"delta":{"content":"a"}}]}'),
    "finish": data_event(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}'),
    "done": DONE,
    "not-json": data_event(b"{{"),
    "odd": data_event(b'{"choices":[{"delta":"a"}]}'),
    "crlf": TOKEN.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST.keys())
def test_token_of_any_kind_and_what_is_not_known_commit(first: bytes) -> None:
    stalled = stream(ROLE, first, fault=Fault.STALL_AFTER_CHUNKS)
    inner = FakeEngine(lambda call: stalled)

    async def run() -> bytes:
        async with FirstTokenEngine(inner, first_token_s=5.0).open(CALL) as opened:
            return await anext(opened.chunks)

    assert run_in_virtual_time(run()) == ROLE + first


EARLY = {
    "ends": (stream(ROLE), AttemptFailure.CLOSED_EARLY),
    "closes": (stream(ROLE, fault=Fault.CLOSE_AFTER_CHUNKS), AttemptFailure.CLOSED_EARLY),
    "stalls": (stream(ROLE, fault=Fault.STALL_AFTER_CHUNKS), AttemptFailure.FIRST_TOKEN_TIMEOUT),
    "error-first": (stream(data_event(b'{"error":{"message":"oom"}}'), DONE), AttemptFailure.BAD_STATUS),
    "error-after-role": (stream(ROLE, data_event(b'{"error":{"message":"oom"}}')), AttemptFailure.BAD_STATUS),
    "comments-without-end": (stream(*[b": ping\n\n" * 2**16] * 4), AttemptFailure.CLOSED_EARLY),
    "event-without-end": (stream(*[b"data: " + b"x" * MAX_HELD_BYTES] * 2), AttemptFailure.CLOSED_EARLY),
}


@pytest.mark.parametrize(("reply", "failure"), EARLY.values(), ids=EARLY.keys())
def test_failure_before_the_first_token_is_an_attempt_that_may_be_repeated(
    reply: FakeReply, failure: AttemptFailure
) -> None:
    with pytest.raises(AttemptError) as caught:
        run_in_virtual_time(read(reply))
    assert (caught.value.failure, caught.value.replica) == (failure, "fake")
    assert caught.value.api_error is None or caught.value.api_error.message == "oom"


def test_first_token_that_is_late_is_given_up_at_its_time() -> None:
    async def run() -> float:
        with pytest.raises(AttemptError):
            await read(stream(ROLE, fault=Fault.STALL_AFTER_CHUNKS), first_token_s=3.0)
        return LoopClock().monotonic_s()

    assert run_in_virtual_time(run()) == pytest.approx(3.0)


def test_break_after_the_first_token_is_a_break() -> None:
    chunks, is_broken = run_in_virtual_time(read(stream(ROLE, TOKEN, fault=Fault.CLOSE_AFTER_CHUNKS)))
    assert (chunks, is_broken) == ([ROLE + TOKEN], True)


@pytest.mark.parametrize(
    ("reply", "call"),
    [
        (FakeReply(), replace(CALL, is_streaming=False)),
        (FakeReply(chunks=(ROLE,), status=400), CALL),
        (FakeReply(chunks=(b"{}",)), CALL),
        (stream(ROLE), replace(CALL, path="/v1/responses")),
    ],
    ids=["whole", "refusal", "json", "responses"],
)
def test_what_is_no_such_stream_passes_as_it_comes(reply: FakeReply, call: EngineCall) -> None:
    assert run_in_virtual_time(read(reply, call)) == (list(reply.chunks), False)
