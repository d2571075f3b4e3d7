"""The real OpenVINO worker on a real, small model, asked as clients ask it."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import EngineError

pytestmark = pytest.mark.local

PROMPT = "Once upon a time there was a little girl"
ON = {"ignore_eos": True}  # goes on after the end of the text, so that lengths are known
DIGEST = "sha256:" + "ab" * 32
STARTUP_TIMEOUT_S = 30.0


def make_config(folder: Path, **changes: Any) -> OpenVinoWorkerConfig:
    values: dict[str, Any] = {
        "model_name": "tiny",
        "variant_name": "fp32",
        "variant_digest": DIGEST,
        "folder": str(folder),
        "port": free_port(),
        "precision": "f32",
        "kv_cache_precision": "f32",
        "kv_cache_bytes": 2**28,
        "body_limit_bytes": 200_000,
        **changes,
    }
    return OpenVinoWorkerConfig(**values)


@dataclass
class Worker:
    """A running worker and the loop its process object lives on."""

    process: WorkerProcess
    config: OpenVinoWorkerConfig
    loop: asyncio.AbstractEventLoop

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.config.address}/v1", api_key="none", max_retries=0)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.config.host, self.config.port, timeout=20)
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {"content-type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        result = reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        connection.close()
        return result

    def gauge(self, name: str) -> float:
        text = self.ask("GET", "/metrics")[2].decode()
        line = next(line for line in text.splitlines() if line.startswith(name + "{"))
        return float(line.split()[-1])

    def complete(self, **fields: Any) -> dict[str, Any]:
        status, _, body = self.ask("POST", "/v1/completions", {"model": "tiny", "prompt": PROMPT, **fields})
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer


def start_worker(config: OpenVinoWorkerConfig, folder: Path) -> Worker:
    adapter = OpenVinoAdapter()
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
def worker(builtin_ir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    running = start_worker(make_config(builtin_ir), tmp_path_factory.mktemp("worker"))
    yield running
    stop_worker(running)


@pytest.fixture
def own_worker(builtin_ir: Path, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers that a test may break."""
    started: list[Worker] = []

    def start(**changes: Any) -> Worker:
        folder = changes.pop("folder", builtin_ir)
        started.append(start_worker(make_config(folder, **changes), tmp_path))
        return started[-1]

    yield start
    for running in started:
        stop_worker(running)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> float:
    """Seconds until the condition held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, "the condition did not come true in time"
        time.sleep(0.01)
    return time.monotonic() - started_s


def test_completion_official_client_gets_text_and_usage(worker: Worker) -> None:
    reply = worker.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, temperature=0, extra_body=ON)
    assert reply.choices[0].text
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 12
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12


def test_completion_streamed_equals_whole(worker: Worker) -> None:
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
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 60
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_completion_streamed_with_running_usage_counts_up(worker: Worker) -> None:
    """Load generators ask for it; each chunk then tells the tokens so far, and the last one all of them."""
    chunks = list(
        worker.client.completions.create(
            model="tiny",
            prompt=PROMPT,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={**ON, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        )
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert len(counts) == len(chunks)
    assert counts == sorted(counts)
    assert (counts[-1], counts[0] <= 20) == (20, True)


def test_completion_running_usage_without_usage_is_refused(worker: Worker) -> None:
    with pytest.raises(openai.BadRequestError, match="include_usage"):
        worker.client.completions.create(
            model="tiny", prompt=PROMPT, stream=True, extra_body={"stream_options": {"continuous_usage_stats": True}}
        )


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


def test_chat_without_limit_uses_rest_of_context(worker: Worker) -> None:
    context_length = json.loads(worker.ask("GET", "/v1/models")[2])["data"][0]["max_model_len"]
    reply = worker.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        temperature=0,
        extra_body=ON,
    )
    assert reply.usage is not None
    assert reply.usage.total_tokens == context_length
    assert reply.choices[0].finish_reason == "length"


def test_logprobs_of_generation_equal_those_of_scoring(worker: Worker) -> None:
    generated = worker.complete(max_tokens=20, temperature=0, logprobs=0, return_tokens_as_token_ids=True)["choices"][0]
    prompt_ids = json.loads(worker.ask("POST", "/tokenize", {"prompt": PROMPT})[2])["tokens"]
    ids = [int(token.removeprefix("token_id:")) for token in generated["logprobs"]["tokens"]]
    scored = worker.complete(prompt=[*prompt_ids, *ids], max_tokens=0, echo=True, logprobs=5)["choices"][0]["logprobs"]
    assert scored["token_logprobs"][0] is None
    assert scored["token_logprobs"][len(prompt_ids) :] == pytest.approx(
        generated["logprobs"]["token_logprobs"], abs=2e-4
    )
    for chosen, top in zip(scored["token_logprobs"][1:], scored["top_logprobs"][1:], strict=True):
        assert len(top) in (5, 6)
        assert max(top.values()) <= 0.0
        assert chosen <= max(top.values()) + 1e-9


def test_scoring_top_logprobs_of_whole_vocabulary_share_sum_to_at_most_one(worker: Worker) -> None:
    reply = worker.complete(max_tokens=0, echo=True, logprobs=64, return_tokens_as_token_ids=True)["choices"][0]
    assert reply["text"] == PROMPT
    for top in reply["logprobs"]["top_logprobs"][1:]:
        assert 0.5 < sum(math.exp(value) for value in top.values()) <= 1.0 + 1e-6


def test_scoring_text_offsets_point_into_text(worker: Worker) -> None:
    reply = worker.complete(max_tokens=6, temperature=0, echo=True, logprobs=1)["choices"][0]
    logprobs = reply["logprobs"]
    assert reply["text"].startswith(PROMPT)
    # not the first two: a special token is no part of the text, and some tokenizers begin a text with a silent space
    named = list(zip(logprobs["tokens"][2:], logprobs["text_offset"][2:], strict=True))
    assert [reply["text"][offset : offset + len(token)] for token, offset in named] == [token for token, _ in named]


def test_chat_top_logprobs_come_best_first(worker: Worker) -> None:
    reply = worker.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=5,
        seed=3,
        logprobs=True,
        top_logprobs=4,
        extra_body=ON,
    )
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content
    assert content is not None
    assert len(content) == 5
    for entry in content:
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert entry.logprob <= values[0] + 1e-6


def test_stop_string_across_tokens_ends_text_before_it(worker: Worker) -> None:
    text = worker.complete(max_tokens=80, temperature=0)["choices"][0]["text"]
    middle = len(text) // 2
    stop = text[middle : middle + 15]
    expected = text[: text.index(stop)]
    stopped = worker.complete(max_tokens=80, temperature=0, stop=[stop, "never said"])
    assert stopped["choices"][0]["text"] == expected
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] < 80
    streamed = worker.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=80, temperature=0, stop=stop, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_seed_same_request_same_text_and_others_differ(worker: Worker) -> None:
    def text(**fields: Any) -> str:
        return str(worker.complete(max_tokens=24, **ON, **fields)["choices"][0]["text"])

    assert text(seed=7) == text(seed=7)
    assert text(seed=7) != text(seed=8)
    assert text() != text()


def test_seed_is_kept_among_other_requests(worker: Worker) -> None:
    alone = worker.complete(max_tokens=24, seed=11, **ON)["choices"][0]["text"]

    async def crowd() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{worker.config.address}/v1", api_key="none", max_retries=0)
        async with client:
            replies = await asyncio.gather(
                *(
                    client.completions.create(model="tiny", prompt=PROMPT, max_tokens=24, seed=seed, extra_body=ON)
                    for seed in (11, 12, 13, 14)
                )
            )
        return [reply.choices[0].text for reply in replies]

    assert asyncio.run(crowd())[0] == alone


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
    assert by_text[1]["text"] == worker.complete(prompt=ids[1], max_tokens=8, temperature=0)["choices"][0]["text"]


def test_tokenize_detokenize_returns_the_text(worker: Worker) -> None:
    reply = json.loads(worker.ask("POST", "/tokenize", {"prompt": PROMPT, "return_token_strs": True})[2])
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert json.loads(worker.ask("POST", "/detokenize", {"tokens": reply["tokens"]})[2]) == {"prompt": PROMPT}


def test_tokenize_is_found_under_both_prefixes_and_counts_a_conversation(worker: Worker) -> None:
    replies = [worker.ask("POST", path, {"messages": CHAT["messages"]})[2] for path in ("/tokenize", "/v1/tokenize")]
    assert replies[0] == replies[1]
    answer = worker.ask("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 1})[2]
    assert json.loads(replies[0])["count"] == json.loads(answer)["usage"]["prompt_tokens"]


def test_text_with_any_characters_is_valid_and_the_same_both_ways(worker: Worker) -> None:
    prompt = "Zoë said: “日本 😀” – "
    fields: dict[str, Any] = {"prompt": prompt, "max_tokens": 40, "temperature": 1.5, "seed": 5}
    whole = worker.complete(**fields)["choices"][0]["text"]
    stream = worker.client.completions.create(model="tiny", stream=True, **fields)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole
    assert whole.encode("utf-8").decode("utf-8") == whole


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
    assert worker.gauge("lightship_engine_requests_running") == 0


def test_disconnect_mid_stream_cancels_at_once(worker: Worker) -> None:
    connection = http.client.HTTPConnection(worker.config.host, worker.config.port, timeout=10)
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 400, "n": 16, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    reply = connection.getresponse()
    assert reply.read(6) == b"data: "
    before = worker.gauge("lightship_engine_generation_tokens_total")
    reply.close()
    connection.close()
    gone_after_s = wait_until(lambda: worker.gauge("lightship_engine_requests_running") == 0, timeout_s=2.0)
    assert gone_after_s < 1.0
    assert worker.gauge("lightship_engine_generation_tokens_total") == before, "it was cancelled, not finished"


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
    "empty": BadBody("/v1/completions", {**TEXT, "prompt": []}, 400, "prompt", None),
    "bad-token": BadBody("/v1/completions", {**TEXT, "prompt": [5, 10**9]}, 400, "prompt", None),
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
    "detokenize-far": BadBody("/v1/detokenize", {"tokens": [10**9]}, 400, "tokens", None),
    "too-big": BadBody("/v1/completions", {**TEXT, "user": "x" * 300_000}, 413, None, "payload_too_large"),
}


@pytest.mark.parametrize("case", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_body_is_refused_by_name(worker: Worker, case: BadBody) -> None:
    status, headers, body = worker.ask("POST", case.path, case.body)
    error = json.loads(body)["error"]
    assert (status, error["param"], error["code"]) == (case.status, case.param, case.code), error
    assert headers["x-request-id"]


def test_bad_path_method_and_type_get_error_objects(worker: Worker) -> None:
    assert worker.ask("GET", "/v1/nothing")[0] == 404
    status, headers, body = worker.ask("GET", "/v1/completions")
    assert (status, headers["allow"], json.loads(body)["error"]["code"]) == (405, "POST", "method_not_allowed")
    status, _, body = worker.ask("POST", "/v1/completions", TEXT, {"content-type": "text/plain"})
    assert (status, json.loads(body)["error"]["code"]) == (415, "unsupported_media_type")


def test_errors_reach_official_client_as_its_exceptions(worker: Worker) -> None:
    with pytest.raises(openai.NotFoundError):
        worker.client.completions.create(model="other", prompt="hi")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        worker.client.completions.create(model="tiny", prompt="hi", temperature=9)


def test_headers_repeat_request_id_and_name_variant(worker: Worker) -> None:
    _, headers, _ = worker.ask("POST", "/v1/completions", {**TEXT, "max_tokens": 1}, {"x-request-id": "job-17"})
    assert (headers["x-request-id"], headers["x-served-variant"]) == ("job-17", DIGEST)
    _, headers, _ = worker.ask("GET", "/health/ready", headers={"x-request-id": "bad id"})
    assert headers["x-request-id"] != "bad id"


def test_metrics_state_memory_and_cost_of_scorer(worker: Worker) -> None:
    worker.complete(max_tokens=0, echo=True, logprobs=0)
    assert worker.gauge("lightship_engine_scorer_load_seconds") > 0
    assert worker.gauge("lightship_engine_peak_rss_bytes") > 50 * 2**20
    assert worker.process.peak_rss_bytes() == pytest.approx(worker.gauge("lightship_engine_peak_rss_bytes"), rel=0.2)


def test_drain_finishes_what_runs_and_refuses_what_comes(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker()
    with worker.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=300, stream=True, extra_body=ON
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


def test_pipeline_killed_mid_stream_client_gets_error_and_worker_ends(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker()
    with worker.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=450, n=16, stream=True, extra_body=ON
    ) as stream:
        next(stream)
        assert worker.process.pid is not None
        children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text("ascii").split()
        os.kill(int(children[0]), signal.SIGKILL)
        with pytest.raises(openai.APIError, match="engine failed"):
            list(stream)
    assert worker.loop.run_until_complete(worker.process.wait()) == EngineError.exit_code


def test_queue_full_is_503_with_retry_after(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker(max_sequences=2, max_waiting_requests=1)
    with worker.client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=450, n=3, stream=True, extra_body=ON
    ) as stream:
        next(stream)
        status, headers, body = worker.ask("POST", "/v1/completions", TEXT)
    assert (status, headers["x-reject-reason"]) == (503, "queue-full"), body
    assert int(headers["retry-after"]) >= 1


def test_cache_too_small_for_all_still_serves_each(own_worker: Callable[..., Worker]) -> None:
    # 8 MiB hold about a thousand tokens of this model: eight long sequences need three times that
    worker = own_worker(kv_cache_bytes=8 * 2**20)
    reply = worker.complete(n=8, max_tokens=400, ignore_eos=True, seed=2)
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["length"] * 8
    assert reply["usage"]["completion_tokens"] == 8 * 400


def test_worker_dies_with_the_process_that_started_it(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker()
    process = worker.process._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # what the system does when the parent dies
    assert worker.loop.run_until_complete(asyncio.wait_for(worker.process.wait(), 10.0)) == 0


def test_folder_without_model_fails_with_reason(own_worker: Callable[..., Worker], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"openvino_model\.xml"):
        own_worker(folder=tmp_path)
