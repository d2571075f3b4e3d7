"""The simulated worker as a process, asked as clients ask it; and each of its faults, as a real client sees it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.faults import FaultPlan, parse_fault
from lightship.errors import EngineError
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts

pytestmark = pytest.mark.slow

PROMPT = "Once upon a time there was a little girl"
ON = {"ignore_eos": True}
DIGEST = "sha256:" + "ab" * 32
STARTUP_TIMEOUT_S = 30.0
LIMITS = EngineLimits(max_batched_tokens=2048, kv_block_tokens=16, context_length=1024)
QUICK = StepCosts(step_s=0.001, prefill_token_s=1e-6, decode_token_s=1e-6)


def make_profile(costs: StepCosts = QUICK, limits: EngineLimits = LIMITS) -> EngineProfile:
    source = ProfileSource(origin=ProfileOrigin.ASSUMED, description="test")
    return EngineProfile(name="test", costs=costs, limits=limits, source=source)


def make_config(**changes: Any) -> SimulatedWorkerConfig:
    values: dict[str, Any] = {
        "model_name": "tiny",
        "variant_name": "fp32",
        "variant_digest": DIGEST,
        "port": free_port(),
        "body_limit_bytes": 200_000,
        "profile": make_profile(),
        "is_fault_admin": True,
        **changes,
    }
    return SimulatedWorkerConfig(**values)


@dataclass
class Worker:
    """A running worker and the loop its process object lives on."""

    process: WorkerProcess
    config: SimulatedWorkerConfig
    loop: asyncio.AbstractEventLoop

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.config.address}/v1", api_key="none", max_retries=0, timeout=20)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, timeout_s: float = 20
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.config.host, self.config.port, timeout=timeout_s)
        try:
            content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {"content-type": "application/json", **(headers or {})})
            reply = connection.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/metrics")[2].decode()
        line = next(line for line in text.splitlines() if line.startswith(name + "{"))
        return float(line.split()[-1])

    def complete(self, **fields: Any) -> dict[str, Any]:
        status, _, body = self.ask("POST", "/v1/completions", {"model": "tiny", "prompt": PROMPT, **fields})
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def set_faults(self, *texts: str) -> None:
        plan = {"rules": [json.loads(json.dumps(_document(text))) for text in texts]}
        assert self.ask("POST", "/simulated/faults", plan)[0] == 200


def _document(text: str) -> dict[str, Any]:
    rule = parse_fault(text)
    values = {name: getattr(rule, name) for name in rule.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}


def start_worker(config: SimulatedWorkerConfig, folder: Path) -> Worker:
    adapter = SimulatedAdapter()
    path = folder / f"worker-{config.port}.json"
    adapter.write_config(config, path)
    process = WorkerProcess(
        name="tiny", command=adapter.worker_command(path), base_url=config.address, log_path=folder / "worker.log"
    )
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(process.start(startup_timeout_s=STARTUP_TIMEOUT_S))
    except BaseException:
        loop.close()
        raise
    return Worker(process, config, loop)


def stop_worker(worker: Worker) -> None:
    worker.loop.run_until_complete(worker.process.stop(drain_timeout_s=5.0))
    worker.loop.close()


@pytest.fixture(scope="module")
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    running = start_worker(make_config(), tmp_path_factory.mktemp("worker"))
    yield running
    stop_worker(running)


@pytest.fixture
def worker(shared_worker: Worker) -> Iterator[Worker]:
    yield shared_worker
    shared_worker.set_faults()


@pytest.fixture
def own_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers that a test may break."""
    started: list[Worker] = []

    def start(**changes: Any) -> Worker:
        started.append(start_worker(make_config(**changes), tmp_path))
        return started[-1]

    yield start
    for running in started:
        stop_worker(running)


def test_completion_official_client_gets_text_and_usage(worker: Worker) -> None:
    reply = worker.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, temperature=0, extra_body=ON)
    assert reply.choices[0].text
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(PROMPT) // 4
    assert reply.usage.completion_tokens == 12
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12


def test_completion_streamed_equals_whole_and_has_one_event_per_token(worker: Worker) -> None:
    whole = worker.complete(max_tokens=60, temperature=0, **ON)["choices"][0]["text"]
    chunks = list(
        worker.client.completions.create(
            model="tiny",
            prompt=PROMPT,
            max_tokens=60,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=ON,
        )
    )
    texts = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole
    assert len([text for text in texts if text]) == 60
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 60
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_completion_streamed_with_running_usage_counts_up(worker: Worker) -> None:
    chunks = list(
        worker.client.completions.create(
            model="tiny",
            prompt=PROMPT,
            max_tokens=20,
            temperature=0,
            stream=True,
            extra_body={**ON, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        )
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert len(counts) == len(chunks)
    assert (counts == sorted(counts), counts[-1]) == (True, 20)


def test_health_answers_where_load_generators_look(worker: Worker) -> None:
    assert worker.ask("GET", "/health")[0] == 200


def test_chat_streamed_role_comes_with_first_text(worker: Worker) -> None:
    chunks = list(
        worker.client.chat.completions.create(
            model="tiny@fp32",
            messages=[{"role": "system", "content": "Tell a story."}, {"role": "user", "content": PROMPT}],
            max_completion_tokens=8,
            temperature=0,
            stream=True,
            extra_body=ON,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_chat_without_limit_ends_by_itself_or_uses_rest_of_context(worker: Worker) -> None:
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    reply = worker.client.chat.completions.create(model="tiny", messages=messages, temperature=0)
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert 64 <= reply.usage.completion_tokens <= 192  # half to one and a half of the mean
    reply = worker.client.chat.completions.create(model="tiny", messages=messages, temperature=0, extra_body=ON)
    assert reply.usage is not None
    assert reply.usage.total_tokens == 1024


def test_chat_next_turn_finds_the_conversation_in_the_prefix_cache(worker: Worker) -> None:
    messages: list[dict[str, str]] = [{"role": "user", "content": "Tell me of the fox. " * 10}]
    body = {"model": "tiny", "max_tokens": 40, **ON}
    first = json.loads(worker.ask("POST", "/v1/chat/completions", {**body, "messages": messages})[2])
    messages += [first["choices"][0]["message"] | {"role": "assistant"}, {"role": "user", "content": "And then?"}]
    messages[1].pop("refusal")
    second = json.loads(worker.ask("POST", "/v1/chat/completions", {**body, "messages": messages})[2])
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == (first["usage"]["total_tokens"] - 1) // 16 * 16


def test_repeated_prompt_is_reported_as_cached(worker: Worker) -> None:
    prompt = "an entirely new beginning of a tale " * 10  # 90 tokens
    cached = [
        worker.complete(prompt=prompt, max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in "12"
    ]
    assert cached == [0, 80]


def test_stop_string_across_tokens_ends_text_before_it(worker: Worker) -> None:
    text = worker.complete(max_tokens=60, temperature=0, **ON)["choices"][0]["text"]
    middle = len(text) // 2
    stop = text[middle : middle + 15]
    expected = text[: text.index(stop)]
    stopped = worker.complete(max_tokens=60, temperature=0, stop=[stop, "never said"], **ON)
    assert stopped["choices"][0]["text"] == expected
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] < 60
    streamed = worker.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=60, temperature=0, stop=stop, stream=True, extra_body=ON
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_seed_same_request_same_text_and_others_differ(worker: Worker) -> None:
    def text(**fields: Any) -> str:
        return str(worker.complete(max_tokens=24, **ON, **fields)["choices"][0]["text"])

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text() != text()
    assert text(temperature=0, seed=1) == text(temperature=0, seed=2)


def test_choices_two_are_numbered_and_differ(worker: Worker) -> None:
    reply = worker.complete(n=2, max_tokens=24, seed=1, **ON)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["choices"][0]["text"] != reply["choices"][1]["text"]
    assert reply["usage"]["completion_tokens"] == 48


def test_prompts_as_texts_and_as_tokens_give_same_answers(worker: Worker) -> None:
    prompts = [PROMPT, "The dog ran"]
    ids = [json.loads(worker.ask("POST", "/tokenize", {"prompt": text})[2])["tokens"] for text in prompts]
    by_text = worker.complete(prompt=prompts, max_tokens=8, temperature=0)["choices"]
    by_ids = worker.complete(prompt=ids, max_tokens=8, temperature=0)["choices"]
    assert [choice["text"] for choice in by_text] == [choice["text"] for choice in by_ids]


def test_tokenize_detokenize_returns_the_text(worker: Worker) -> None:
    text = "Zoë said: “日本 😀” – "
    reply = json.loads(worker.ask("POST", "/tokenize", {"prompt": text, "return_token_strs": True})[2])
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert json.loads(worker.ask("POST", "/detokenize", {"tokens": reply["tokens"]})[2]) == {"prompt": text}
    assert worker.complete(prompt=text, max_tokens=1)["usage"]["prompt_tokens"] == reply["count"]


def test_tokenize_is_found_under_both_prefixes_and_counts_a_conversation(worker: Worker) -> None:
    replies = [worker.ask("POST", path, {"messages": CHAT["messages"]})[2] for path in ("/tokenize", "/v1/tokenize")]
    assert replies[0] == replies[1]
    answer = worker.ask("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 1})[2]
    assert json.loads(replies[0])["count"] == json.loads(answer)["usage"]["prompt_tokens"]


def test_many_streams_at_once_all_complete(worker: Worker) -> None:
    async def one(client: openai.AsyncOpenAI, seed: int) -> int:
        stream = await client.completions.create(
            model="tiny",
            prompt=PROMPT,
            max_tokens=40,
            seed=seed,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=ON,
        )
        usage = [chunk.usage async for chunk in stream if chunk.usage is not None]
        return usage[0].completion_tokens

    async def all_of_them() -> list[int]:
        client = openai.AsyncOpenAI(base_url=f"{worker.config.address}/v1", api_key="none", max_retries=0)
        async with client:
            return await asyncio.gather(*(one(client, seed) for seed in range(32)))

    assert asyncio.run(all_of_them()) == [40] * 32
    assert worker.metric("lightship_engine_requests_running") == 0


def test_timing_is_what_the_profile_says(own_worker: Callable[..., Worker]) -> None:
    costs = StepCosts(step_s=0.02, prefill_token_s=0.001, decode_token_s=0.0, request_latency_s=0.1)
    worker = own_worker(profile=make_profile(costs))
    started_s = time.monotonic()
    worker.complete(prompt="a" * 400, max_tokens=21, **ON)
    # 0.1 latency, 0.02 + 100 x 0.001 to the first token, 20 more steps; never less, and more only for a busy machine
    assert time.monotonic() - started_s >= 0.1 + 0.12 + 20 * 0.02 - 0.002
    assert worker.metric("lightship_simulated_steps") == 21


def test_disconnect_mid_stream_cancels_at_once(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker(profile=make_profile(StepCosts(step_s=0.05, prefill_token_s=0, decode_token_s=0)))
    connection = http.client.HTTPConnection(worker.config.host, worker.config.port, timeout=10)
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 900, "n": 16, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    reply = connection.getresponse()
    assert reply.read(6) == b"data: "
    assert worker.metric("lightship_engine_requests_running") == 16
    reply.close()
    connection.close()
    _wait_until(lambda: worker.metric("lightship_engine_requests_running") == 0)
    assert worker.metric("lightship_engine_generation_tokens_total") == 0, "it was cancelled, not finished"


def _wait_until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "the condition did not come true in time"


@dataclass(frozen=True)
class BadBody:
    """A body and what the refusal must say."""

    path: str
    body: object
    status: int
    param: str | None
    code: str | None


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "tiny", "prompt": "hi"}
BAD_BODIES = {
    "malformed": BadBody("/v1/completions", b'{"model": ', 400, None, "invalid_json"),
    "unknown-field": BadBody("/v1/completions", {**TEXT, "temprature": 1}, 400, "temprature", "unknown_parameter"),
    "no-prompt": BadBody("/v1/completions", {"model": "tiny"}, 400, "prompt", "missing_parameter"),
    "wrong-type": BadBody("/v1/completions", {**TEXT, "max_tokens": "many"}, 400, "max_tokens", "invalid_type"),
    "no-model": BadBody("/v1/chat/completions", {**CHAT, "model": "other"}, 404, "model", "model_not_found"),
    "hot": BadBody("/v1/chat/completions", {**CHAT, "temperature": 2.5}, 400, "temperature", None),
    "tools": BadBody("/v1/chat/completions", {**CHAT, "tools": [{}]}, 400, "tools", "unsupported_parameter"),
    "bias": BadBody("/v1/completions", {**TEXT, "logit_bias": {"5": 1}}, 400, "logit_bias", "unsupported_parameter"),
    "echo": BadBody("/v1/completions", {**TEXT, "echo": True}, 400, "echo", "unsupported_parameter"),
    "logprobs": BadBody("/v1/completions", {**TEXT, "logprobs": 1}, 400, "logprobs", "unsupported_parameter"),
    "chat-logprobs": BadBody(
        "/v1/chat/completions", {**CHAT, "logprobs": True}, 400, "logprobs", "unsupported_parameter"
    ),
    "empty": BadBody("/v1/completions", {**TEXT, "prompt": []}, 400, "prompt", None),
    "bad-token": BadBody("/v1/completions", {**TEXT, "prompt": [5, 10**12]}, 400, "prompt", None),
    "nul": BadBody("/v1/completions", {**TEXT, "prompt": "a\x00b"}, 400, "prompt", "invalid_prompt"),
    "image": BadBody(
        "/v1/chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    "too-long": BadBody(
        "/v1/chat/completions",
        {"model": "tiny", "messages": [{"role": "user", "content": "a dog and " * 2000}]},
        400,
        "messages",
        "context_length_exceeded",
    ),
    "too-many-tokens": BadBody(
        "/v1/completions", {**TEXT, "max_tokens": 100_000}, 400, "prompt", "context_length_exceeded"
    ),
    "json-mode": BadBody(
        "/v1/chat/completions",
        {**CHAT, "response_format": {"type": "json_object"}},
        400,
        "response_format",
        "unsupported_parameter",
    ),
    "schema": BadBody(
        "/v1/chat/completions",
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        400,
        "response_format",
        "unsupported_parameter",
    ),
    "tool-choice": BadBody(
        "/v1/chat/completions", {**CHAT, "tool_choice": "required"}, 400, "tool_choice", "unsupported_parameter"
    ),
    "functions": BadBody(
        "/v1/chat/completions", {**CHAT, "functions": [{"name": "f"}]}, 400, "functions", "unsupported_parameter"
    ),
    "audio": BadBody("/v1/chat/completions", {**CHAT, "audio": {"voice": "v"}}, 400, "audio", "unsupported_parameter"),
    "guided": BadBody("/v1/chat/completions", {**CHAT, "guided_json": {}}, 400, "guided_json", "unknown_parameter"),
    "many": BadBody("/v1/chat/completions", {**CHAT, "n": 17}, 400, "n", None),
    "best-of": BadBody("/v1/completions", {**TEXT, "best_of": 3}, 400, "best_of", "unsupported_parameter"),
    "suffix": BadBody("/v1/completions", {**TEXT, "suffix": "!"}, 400, "suffix", "unsupported_parameter"),
    "embeddings": BadBody("/v1/embeddings", {"model": "tiny", "input": "hi"}, 404, None, "unsupported_path"),
    "tokenize-both": BadBody("/tokenize", {"prompt": "a", "messages": CHAT["messages"]}, 400, "prompt", None),
    "tokenize-template": BadBody(
        "/v1/tokenize", {"prompt": "a", "chat_template": "x"}, 400, "chat_template", "unsupported_parameter"
    ),
    "detokenize-far": BadBody("/v1/detokenize", {"tokens": [10**12]}, 400, "tokens", None),
    "too-big": BadBody("/v1/completions", {**TEXT, "user": "x" * 300_000}, 413, None, "payload_too_large"),
    "bad-fault": BadBody("/simulated/faults", {"rules": [{"kind": "hang", "share": 2}]}, 400, "rules[0].share", None),
    "odd-fault": BadBody("/simulated/faults", {"rules": [{"kind": "trickle"}]}, 400, "rules[0]", "invalid_type"),
}


@pytest.mark.parametrize("case", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_body_is_refused_by_name(worker: Worker, case: BadBody) -> None:
    status, headers, body = worker.ask("POST", case.path, case.body)
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (case.status, case.param), error
    assert case.code is None or error["code"] == case.code
    assert headers["x-request-id"]


def test_bad_path_method_and_type_get_error_objects(worker: Worker) -> None:
    assert worker.ask("GET", "/v1/nothing")[0] == 404
    status, headers, body = worker.ask("GET", "/v1/completions")
    assert (status, headers["allow"], json.loads(body)["error"]["code"]) == (405, "POST", "method_not_allowed")
    status, _, body = worker.ask("POST", "/v1/completions", TEXT, {"content-type": "text/plain"})
    assert (status, json.loads(body)["error"]["code"]) == (415, "unsupported_media_type")


def test_headers_repeat_request_id_and_name_variant(worker: Worker) -> None:
    _, headers, _ = worker.ask("POST", "/v1/completions", {**TEXT, "max_tokens": 1}, {"x-request-id": "job-17"})
    assert (headers["x-request-id"], headers["x-served-variant"]) == ("job-17", DIGEST)
    card = json.loads(worker.ask("GET", "/v1/models/tiny@fp32")[2])
    assert (card["variant_digest"], card["max_model_len"]) == (DIGEST, 1024)


def test_drain_finishes_what_runs_and_refuses_what_comes(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker(profile=make_profile(StepCosts(step_s=0.01, prefill_token_s=0, decode_token_s=0)))
    with worker.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=100, stream=True, extra_body=ON
    ) as stream:
        first = next(stream)
        assert json.loads(worker.ask("POST", "/drain")[2])["status"] == "draining"
        assert worker.ask("GET", "/health/ready")[0] == 503
        assert worker.ask("GET", "/health/live")[0] == 200
        status, headers, _ = worker.ask("POST", "/v1/completions", TEXT)
        assert (status, headers["x-reject-reason"]) == (503, "shutdown")
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGTERM)
        rest = list(stream)
    assert first.choices[0].text
    assert rest[-1].choices[0].finish_reason == "length"
    assert worker.loop.run_until_complete(worker.process.wait()) == 0


def test_queue_full_is_503_with_retry_after(own_worker: Callable[..., Worker]) -> None:
    limits = EngineLimits(max_batched_tokens=64, max_sequences=2, context_length=1024)
    slow = StepCosts(step_s=0.05, prefill_token_s=0, decode_token_s=0)
    worker = own_worker(profile=make_profile(slow, limits), max_waiting_requests=1)
    with worker.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=450, n=3, stream=True, extra_body=ON
    ) as stream:
        next(stream)
        status, headers, body = worker.ask("POST", "/v1/completions", TEXT)
        assert worker.metric("lightship_engine_requests_waiting") == 1
    assert (status, headers["x-reject-reason"]) == (503, "queue-full"), body
    assert int(headers["retry-after"]) >= 1


def test_worker_dies_with_the_process_that_started_it(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker()
    process = worker.process._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # what the system does when the parent dies
    assert worker.loop.run_until_complete(asyncio.wait_for(worker.process.wait(), 10.0)) == 0


def test_load_delay_is_not_ready_until_it_is_over(tmp_path: Path) -> None:
    config = make_config(load_delay_s=3600)
    SimulatedAdapter().write_config(config, tmp_path / "worker.json")
    process = WorkerProcess(
        name="tiny",
        command=SimulatedAdapter().worker_command(tmp_path / "worker.json"),
        base_url=config.address,
        log_path=tmp_path / "worker.log",
    )
    with asyncio.Runner() as runner, pytest.raises(EngineError, match="not ready within"):
        runner.run(process.start(startup_timeout_s=2.0))


# Faults, each as a real client sees it.

STREAM = {"model": "tiny", "prompt": PROMPT, "max_tokens": 20, "stream": True, **ON}
WHOLE = {**STREAM, "stream": False}


def test_fault_status_answers_instead(worker: Worker) -> None:
    worker.set_faults("502:num_requests=1", "503:num_requests=1,retry_after_s=3")
    assert worker.ask("POST", "/v1/completions", STREAM)[0] == 502
    status, headers, body = worker.ask("POST", "/v1/completions", STREAM)
    assert (status, headers["retry-after"]) == (503, "3")
    assert json.loads(body)["error"]["message"].startswith("Simulated fault")
    assert worker.ask("POST", "/v1/completions", STREAM)[0] == 200
    assert json.loads(worker.ask("GET", "/simulated/faults")[2])["num_hits"] == [1, 1]


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
def test_fault_hang_sends_nothing_and_keeps_the_connection(worker: Worker, body: dict[str, Any]) -> None:
    worker.set_faults("hang")
    with pytest.raises(TimeoutError):
        worker.ask("POST", "/v1/completions", body, timeout_s=0.3)


def test_fault_hang_after_events_stalls_the_stream(worker: Worker) -> None:
    worker.set_faults("hang:after_events=2")
    stream = iter(worker.client.with_options(timeout=0.5).completions.create(**_official(STREAM)))
    assert next(stream).choices[0].text
    assert next(stream).choices[0].text
    with pytest.raises(openai.APITimeoutError):
        list(stream)


def test_fault_slow_first_byte_is_late_but_whole(worker: Worker) -> None:
    worker.set_faults("slow_first_byte:delay_s=0.3")
    started_s = time.monotonic()
    status, _, body = worker.ask("POST", "/v1/completions", STREAM)
    assert time.monotonic() - started_s >= 0.3
    assert status == 200
    assert body.endswith(b"data: [DONE]\n\n")


def test_fault_error_event_comes_after_the_first_event_and_ends_without_done(worker: Worker) -> None:
    worker.set_faults("error_event")
    status, _, body = worker.ask("POST", "/v1/completions", STREAM)
    events = body.decode().strip().split("\n\n")
    assert status == 200
    assert "text_completion" in events[0]
    assert "Simulated fault" in events[-1]
    assert b"[DONE]" not in body
    with pytest.raises(openai.APIError, match="Simulated fault"):
        list(worker.client.completions.create(**_official(STREAM)))
    assert worker.ask("POST", "/v1/completions", WHOLE)[0] == 500


def receive_all(worker: Worker, body: dict[str, Any]) -> tuple[bytes, bool]:
    """What comes over a bare socket until it ends, and whether a reset ended it."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    )
    received = b""
    with socket.create_connection((worker.config.host, worker.config.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + content)
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            return received, True
    return received, False


@pytest.mark.parametrize("num_events", [1, 5])
def test_fault_truncate_closes_in_the_middle_of_the_stream(worker: Worker, num_events: int) -> None:
    worker.set_faults(f"truncate:after_events={num_events}")
    received, is_reset = receive_all(worker, STREAM)
    assert num_events <= received.count(b"text_completion") < 20
    assert not received.endswith(b"0\r\n\r\n"), "the body was ended properly"
    assert b"[DONE]" not in received
    assert not is_reset


@pytest.mark.parametrize("num_events", [0, 1])
def test_fault_reset_sends_a_reset(worker: Worker, num_events: int) -> None:
    worker.set_faults(f"reset:after_events={num_events}")
    received, is_reset = receive_all(worker, STREAM)
    assert is_reset
    assert b"[DONE]" not in received


@pytest.mark.parametrize("kind", ["truncate", "reset:after_events=1"])
def test_fault_truncate_and_reset_break_a_whole_answer(worker: Worker, kind: str) -> None:
    worker.set_faults(kind)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        worker.ask("POST", "/v1/completions", WHOLE)


def test_fault_reset_before_anything_is_a_lost_connection(worker: Worker) -> None:
    worker.set_faults("reset:num_requests=1")
    with pytest.raises(ConnectionError):
        worker.ask("POST", "/v1/completions", STREAM)
    assert worker.ask("POST", "/v1/completions", STREAM)[0] == 200


@pytest.mark.parametrize("body", [STREAM, WHOLE], ids=["stream", "whole"])
def test_fault_trickle_is_slow_and_complete(worker: Worker, body: dict[str, Any]) -> None:
    worker.set_faults("trickle:delay_s=0.05")
    started_s = time.monotonic()
    status, _, answer = worker.ask("POST", "/v1/completions", body)
    assert time.monotonic() - started_s >= 0.1
    assert status == 200
    assert b"[DONE]" in answer or json.loads(answer)["usage"]["completion_tokens"] == 20


def test_faults_from_the_config_hit_a_share_and_leave_nothing_behind(own_worker: Callable[..., Worker]) -> None:
    plan = FaultPlan(rules=(parse_fault("500:share=0.5"),), seed=1)
    worker = own_worker(faults=plan, is_fault_admin=False)
    statuses = [worker.ask("POST", "/v1/completions", {**WHOLE, "max_tokens": 1})[0] for _ in range(40)]
    assert set(statuses) == {200, 500}
    assert 8 <= statuses.count(500) <= 32  # binomial, 40 draws: standard deviation 3.2
    assert worker.ask("GET", "/simulated/faults")[0] == 404
    assert worker.metric("lightship_engine_requests_running") == 0


def _official(body: dict[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in body.items() if name != "ignore_eos"}, "extra_body": ON}
