"""The simulated worker as a process, asked as clients ask it; and each of its faults, as a real client sees it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.contract.own_workers import (
    BAD_BODIES,
    CHAT,
    DIGEST,
    TEXT,
    BadBody,
    assert_drains_when_asked,
    assert_other_requests_get_error_objects,
    assert_refused,
)

from lightship.engines.process import WorkerProcess, free_port
from lightship.engines.simulated.adapter import SimulatedAdapter
from lightship.engines.simulated.config import SimulatedWorkerConfig
from lightship.engines.simulated.faults import FaultPlan, parse_fault
from lightship.errors import EngineError
from lightship.ports.engine_profile import EngineLimits, EngineProfile, ProfileOrigin, ProfileSource, StepCosts

pytestmark = pytest.mark.slow

PROMPT = "Once upon a time there was a little girl"
ON = {"ignore_eos": True}
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


def test_timing_is_what_the_profile_says(own_worker: Callable[..., Worker]) -> None:
    costs = StepCosts(step_s=0.02, prefill_token_s=0.001, decode_token_s=0.0, request_latency_s=0.1)
    worker = own_worker(profile=make_profile(costs))
    started_s = time.monotonic()
    worker.complete(prompt="a" * 400, max_tokens=21, **ON)
    # 0.1 latency, 0.02 + 100 x 0.001 to the first token, 20 more steps; never less, and more only for a busy machine
    assert time.monotonic() - started_s >= 0.1 + 0.12 + 20 * 0.02 - 0.002
    assert worker.metric("lightship_simulated_steps") == 21


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


# What this engine does not compute, and its own paths.
OWN_BAD_BODIES = {
    "echo": BadBody("/v1/completions", {**TEXT, "echo": True}, 400, "echo", "unsupported_parameter"),
    "logprobs": BadBody("/v1/completions", {**TEXT, "logprobs": 1}, 400, "logprobs", "unsupported_parameter"),
    "chat-logprobs": BadBody(
        "/v1/chat/completions", {**CHAT, "logprobs": True}, 400, "logprobs", "unsupported_parameter"
    ),
    "bad-fault": BadBody("/simulated/faults", {"rules": [{"kind": "hang", "share": 2}]}, 400, "rules[0].share", None),
    "odd-fault": BadBody("/simulated/faults", {"rules": [{"kind": "trickle"}]}, 400, "rules[0]", "invalid_type"),
}


@pytest.mark.parametrize("case", {**BAD_BODIES, **OWN_BAD_BODIES}.values(), ids={**BAD_BODIES, **OWN_BAD_BODIES}.keys())
def test_bad_body_is_refused_by_name(worker: Worker, case: BadBody) -> None:
    assert_refused(worker, case)


def test_other_requests_get_error_objects(worker: Worker) -> None:
    assert_other_requests_get_error_objects(worker)


def test_drain_by_request_finishes_what_runs_and_refuses_what_comes(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker(profile=make_profile(StepCosts(step_s=0.01, prefill_token_s=0, decode_token_s=0)))
    assert_drains_when_asked(worker)
    assert worker.loop.run_until_complete(worker.process.wait()) == 0
