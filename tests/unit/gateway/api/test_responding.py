"""`/v1/responses` at engines that have it and at engines that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from lightship.gateway.api.responding import RETRY_NATIVE_S, ResponsesEngine, ResponsesMode
from lightship.gateway.routing.retrying import RetryBudget, RetryingEngine
from lightship.ports.engine import AttemptError, AttemptFailure, EngineCall, EngineReply, StreamBrokenError
from lightship.testing.fake_engine import FakeEngine, FakeReply, Fault, Script, error_reply
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time
from lightship.wire.sse import CONTENT_TYPE, DONE, data_event, named_event

PATH, CHAT = "/v1/responses", "/v1/chat/completions"
BODY = b'{"model":"m","input":"hi","stream":true}'
CALL = EngineCall(path=PATH, body=BODY, request_id="r", model="m", is_streaming=True)
WHOLE_CALL = replace(CALL, body=b'{"model":"m","input":"hi"}', is_streaming=False)
NO_PATH = FakeReply(chunks=(b'{"detail":"Not Found"}',), status=404)


def chat_event(content: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    delta = {"content": content} if content is not None else {"role": "assistant"}
    return data_event(json.dumps({"choices": [{"delta": delta, "finish_reason": finish}], **fields}).encode())


USAGE = data_event(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}')
CHAT_STREAM = FakeReply(
    chunks=(chat_event(), b": ping\n\n", chat_event("a"), chat_event("b") + chat_event("", "stop"), USAGE, DONE),
    headers={"content-type": CONTENT_TYPE, "x-served-variant": "v", "content-length": "9"},
)
CHAT_WHOLE = FakeReply(
    chunks=(b'{"choices":[{"message":{"content":"ab"},"finish_reason":"length"}],', b'"usage":null}'),
)


def native_event(name: str, **fields: Any) -> bytes:
    return named_event(name, json.dumps({"type": name, **fields}).encode())


NATIVE_STREAM = FakeReply(
    chunks=(
        native_event("response.created", response={"usage": None}),
        native_event("response.output_item.added") + native_event("response.output_text.delta", delta="a"),
        native_event("response.output_text.delta", delta="b"),
        native_event(
            "response.completed",
            response={"usage": {"input_tokens": 3, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 1}}},
        ),
    ),
    headers={"content-type": CONTENT_TYPE},
)


def without_path(chat: FakeReply) -> Script:
    """An engine that knows chat only."""
    return lambda call: NO_PATH if call.path == PATH else chat


@dataclass
class Seen:
    """What a client would have got."""

    reply: EngineReply
    chunks: list[bytes]
    broken: StreamBrokenError | None = None

    @property
    def text(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def types(self) -> list[str]:
        return [line.removeprefix("event: ") for line in self.text.decode().split("\n") if line.startswith("event: ")]

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.text)
        return document


def responding(script: Script, mode: ResponsesMode = ResponsesMode.AUTO) -> tuple[ResponsesEngine, FakeEngine]:
    inner = FakeEngine(script)
    return ResponsesEngine(inner, clock=LoopClock(), mode=mode, draw_id=lambda: "1"), inner


async def read(engine: ResponsesEngine, call: EngineCall = CALL) -> Seen:
    async with engine.open(call) as reply:
        seen = Seen(reply, [])
        try:
            async for chunk in reply.chunks:
                seen.chunks.append(chunk)
        except StreamBrokenError as error:
            seen.broken = error
    return seen


def see(script: Script, call: EngineCall = CALL, mode: ResponsesMode = ResponsesMode.AUTO) -> tuple[Seen, FakeEngine]:
    engine, inner = responding(script, mode)
    seen = run_in_virtual_time(read(engine, call))
    assert inner.num_open == 0
    return seen, inner


def test_other_paths_are_opened_at_the_inner_engine_itself() -> None:
    engine, inner = responding(lambda call: CHAT_STREAM)
    seen = run_in_virtual_time(read(engine, replace(CALL, path=CHAT, body=b"{}")))
    assert seen.text == CHAT_STREAM.body
    assert inner.calls[0].body == b"{}"


def test_lacking_engine_answers_a_stream_through_chat() -> None:
    seen, inner = see(without_path(CHAT_STREAM))
    assert [call.path for call in inner.calls] == [PATH, CHAT]
    assert json.loads(inner.calls[1].body)["messages"] == [{"role": "user", "content": "hi"}]
    assert inner.calls[1].is_streaming
    assert seen.types[0] == "response.created"
    assert seen.types[-1] == "response.completed"
    assert seen.reply.headers == {"content-type": CONTENT_TYPE, "x-served-variant": "v"}
    usage = seen.reply.usage
    assert (usage.num_prompt_tokens, usage.num_output_tokens, usage.is_reported) == (3, 2, True)


def test_lacking_engine_answers_whole_through_chat() -> None:
    seen, inner = see(without_path(CHAT_WHOLE), WHOLE_CALL)
    assert not inner.calls[1].is_streaming
    assert seen.document["output"][0]["content"][0]["text"] == "ab"
    assert seen.document["status"] == "incomplete"
    assert seen.reply.headers == {"content-type": "application/json", "content-length": str(len(seen.text))}
    assert not seen.reply.usage.is_reported


def test_lacking_engine_is_asked_again_only_after_a_while() -> None:
    engine, inner = responding(without_path(CHAT_STREAM))

    async def run() -> list[str]:
        for pause_s in (0, 0, RETRY_NATIVE_S):
            await LoopClock().sleep(pause_s)
            await read(engine)
        return [call.path for call in inner.calls]

    assert run_in_virtual_time(run()) == [PATH, CHAT, CHAT, PATH, CHAT]


def test_mode_translated_never_asks_for_the_path() -> None:
    _, inner = see(without_path(CHAT_STREAM), mode=ResponsesMode.TRANSLATED)
    assert [call.path for call in inner.calls] == [CHAT]


def test_mode_native_passes_on_what_the_engine_says() -> None:
    seen, _ = see(without_path(CHAT_STREAM), mode=ResponsesMode.NATIVE)
    assert (seen.reply.status, seen.text) == (404, NO_PATH.body)


def test_native_404_about_the_model_is_the_answer() -> None:
    reply = error_reply(404, "The model `m` does not exist.")
    seen, inner = see(lambda call: reply)
    assert (seen.reply.status, seen.text, len(inner.calls)) == (404, reply.body, 1)


@pytest.mark.parametrize("status", [400, 401, 422, 429])
def test_native_refusal_passes_byte_for_byte(status: int) -> None:
    reply = error_reply(status, "no")
    seen, inner = see(lambda call: reply)
    assert (seen.reply.status, seen.text, len(inner.calls)) == (status, reply.body, 1)


def test_native_stream_passes_byte_for_byte_from_its_first_token_on() -> None:
    seen, inner = see(lambda call: NATIVE_STREAM)
    assert seen.text == NATIVE_STREAM.body
    assert seen.chunks[0] == NATIVE_STREAM.chunks[0] + NATIVE_STREAM.chunks[1]
    assert len(inner.calls) == 1
    usage = seen.reply.usage
    assert (usage.num_prompt_tokens, usage.num_cached_tokens, usage.num_output_tokens) == (3, 1, 9)


def test_native_whole_answer_passes_byte_for_byte_and_its_usage_is_read() -> None:
    body = b'{"object":"response","usage":{"input_tokens":3,"output_tokens":9}}'
    seen, _ = see(lambda call: FakeReply(chunks=(body[:20], body[20:])), WHOLE_CALL)
    assert (seen.text, seen.reply.usage.num_output_tokens) == (body, 9)


def test_native_stream_that_breaks_is_settled_by_the_deltas_that_came() -> None:
    script = replace(NATIVE_STREAM, chunks=NATIVE_STREAM.chunks[:3], fault=Fault.CLOSE_AFTER_CHUNKS)
    seen, _ = see(lambda call: script)
    assert seen.broken is not None
    assert (seen.reply.usage.num_output_tokens, seen.reply.usage.is_reported) == (2, False)


def cut(reply: FakeReply, num_chunks: int) -> FakeReply:
    """The beginning of a stream, which then ends as if it were whole."""
    return replace(reply, chunks=reply.chunks[:num_chunks])


LATE_FAILURES = {
    "native-no-end": (lambda call: cut(NATIVE_STREAM, 3), []),
    "native-error": (
        lambda call: replace(NATIVE_STREAM, chunks=(*NATIVE_STREAM.chunks[:3], native_event("error", message="x"))),
        ["error"],
    ),
    "chat-no-done": (without_path(cut(CHAT_STREAM, 5)), ["response.failed", "error"]),
    "chat-closed": (
        without_path(replace(cut(CHAT_STREAM, 3), fault=Fault.CLOSE_AFTER_CHUNKS)),
        ["response.failed", "error"],
    ),
    "chat-error-event": (
        without_path(replace(CHAT_STREAM, chunks=(chat_event("a"), data_event(b'{"error":{"message":"oom"}}')))),
        ["response.failed", "error"],
    ),
    "chat-malformed": (
        without_path(replace(CHAT_STREAM, chunks=(chat_event("a"), data_event(b"{")))),
        ["response.failed", "error"],
    ),
    "chat-endless-event": (
        without_path(replace(CHAT_STREAM, chunks=(chat_event("a"), *[b"data: " + b"x" * 2**20] * 4))),
        ["response.failed", "error"],
    ),
}


@pytest.mark.parametrize(("script", "last"), LATE_FAILURES.values(), ids=LATE_FAILURES.keys())
def test_failure_after_the_first_token_breaks_the_stream_and_says_so(script: Script, last: list[str]) -> None:
    seen, _ = see(script)
    assert seen.broken is not None
    assert b"response.output_text.delta" in seen.text
    assert seen.types[-len(last) :] == last or last == []


EARLY_FAILURES: dict[str, Callable[[EngineCall], FakeReply]] = {
    "native-promises-only": lambda call: cut(NATIVE_STREAM, 1),
    "native-failed": lambda call: replace(
        NATIVE_STREAM, chunks=(NATIVE_STREAM.chunks[0], native_event("response.failed"))
    ),
    "native-closed": lambda call: replace(cut(NATIVE_STREAM, 1), fault=Fault.CLOSE_AFTER_CHUNKS),
    "native-large": lambda call: replace(NATIVE_STREAM, chunks=(b": " + b"x" * 2**20 + b"\n\n",) * 4),
    "chat-role-only": without_path(cut(CHAT_STREAM, 1)),
    "chat-error-first": without_path(replace(CHAT_STREAM, chunks=(data_event(b'{"error":{"message":"oom"}}'),))),
    "chat-closed": without_path(replace(cut(CHAT_STREAM, 1), fault=Fault.CLOSE_AFTER_CHUNKS)),
    "chat-malformed": without_path(replace(CHAT_STREAM, chunks=(data_event(b"{"),))),
    "chat-html": without_path(FakeReply(chunks=(b"<html>",), headers={"content-type": "text/html"})),
    "chat-gzip": without_path(replace(CHAT_STREAM, headers={**CHAT_STREAM.headers, "content-encoding": "gzip"})),
    "chat-whole-for-stream": without_path(CHAT_WHOLE),
}


@pytest.mark.parametrize("script", EARLY_FAILURES.values(), ids=EARLY_FAILURES.keys())
def test_failure_before_the_first_token_is_an_attempt_that_may_be_repeated(script: Script) -> None:
    engine, inner = responding(script)
    with pytest.raises(AttemptError) as caught:
        run_in_virtual_time(read(engine))
    assert caught.value.failure in {AttemptFailure.CLOSED_EARLY, AttemptFailure.BAD_STATUS}
    assert (caught.value.replica, inner.num_open) == ("fake", 0)


@pytest.mark.parametrize(
    "chat",
    [
        FakeReply(chunks=(b"{}",)),
        FakeReply(chunks=(b"<html>",), headers={"content-type": "text/html"}),
        replace(CHAT_WHOLE, fault=Fault.CLOSE_AFTER_CHUNKS),
        FakeReply(chunks=(b"x" * 2**20,) * 40),
    ],
    ids=["empty", "html", "closed", "large"],
)
def test_whole_answer_that_is_none_is_an_attempt_that_may_be_repeated(chat: FakeReply) -> None:
    engine, inner = responding(without_path(chat))
    with pytest.raises(AttemptError):
        run_in_virtual_time(read(engine, WHOLE_CALL))
    assert inner.num_open == 0


def test_attempt_that_promised_and_failed_is_repeated_elsewhere() -> None:
    replies = iter([cut(NATIVE_STREAM, 1), NATIVE_STREAM])
    engine, inner = responding(lambda call: next(replies))

    async def run() -> bytes:
        async with RetryingEngine(engine, max_attempts=2, budget=RetryBudget(0.5)).open(CALL) as reply:
            return b"".join([chunk async for chunk in reply.chunks])

    assert run_in_virtual_time(run()) == NATIVE_STREAM.body
    assert inner.calls[1].excluded == {"fake"}


def test_refusal_of_the_engine_names_the_clients_own_field() -> None:
    body = json.dumps({"error": {"message": "no", "type": "invalid_request_error", "param": "messages[0].content"}})
    seen, _ = see(without_path(FakeReply(chunks=(body.encode(),), status=400)))
    assert (seen.reply.status, seen.document["error"]["param"]) == (400, "input[0].content")


def test_refusal_that_is_no_error_object_passes_as_it_is() -> None:
    seen, _ = see(without_path(FakeReply(chunks=(b"<html>",), status=413, headers={"content-type": "text/html"})))
    assert (seen.reply.status, seen.text, seen.reply.headers["content-type"]) == (413, b"<html>", "text/html")


def test_promises_without_a_token_are_given_up_in_time() -> None:
    held = replace(CHAT_STREAM, chunks=(chat_event(), b": ping\n\n"), fault=Fault.STALL_AFTER_CHUNKS)
    inner = FakeEngine(without_path(held))
    engine = ResponsesEngine(inner, clock=LoopClock(), first_token_s=5.0)

    async def run() -> float:
        with pytest.raises(AttemptError) as caught:
            await read(engine)
        assert caught.value.failure is AttemptFailure.FIRST_TOKEN_TIMEOUT
        return LoopClock().monotonic_s()

    assert run_in_virtual_time(run()) == pytest.approx(5.0)
    assert inner.num_open == 0
