"""The real OpenVINO worker on a real, small model, asked as clients ask it."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import os
import signal
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

from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.errors import EngineError

pytestmark = pytest.mark.local

PROMPT = "Once upon a time there was a little girl"
ON = {"ignore_eos": True}  # goes on after the end of the text, so that lengths are known
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


def test_completion_running_usage_without_usage_is_refused(worker: Worker) -> None:
    with pytest.raises(openai.BadRequestError, match="include_usage"):
        worker.client.completions.create(
            model="tiny", prompt=PROMPT, stream=True, extra_body={"stream_options": {"continuous_usage_stats": True}}
        )


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


def test_prompts_as_texts_and_as_tokens_give_same_answers(worker: Worker) -> None:
    prompts = [PROMPT, "The dog ran"]
    ids = [json.loads(worker.ask("POST", "/tokenize", {"prompt": text})[2])["tokens"] for text in prompts]
    by_text = worker.complete(prompt=prompts, max_tokens=8, temperature=0)["choices"]
    by_ids = worker.complete(prompt=ids, max_tokens=8, temperature=0)["choices"]
    assert [choice["text"] for choice in by_text] == [choice["text"] for choice in by_ids]
    assert by_text[1]["text"] == worker.complete(prompt=ids[1], max_tokens=8, temperature=0)["choices"][0]["text"]


def test_errors_reach_official_client_as_its_exceptions(worker: Worker) -> None:
    with pytest.raises(openai.NotFoundError):
        worker.client.completions.create(model="other", prompt="hi")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        worker.client.completions.create(model="tiny", prompt="hi", temperature=9)


def test_metrics_state_memory_and_cost_of_scorer(worker: Worker) -> None:
    worker.complete(max_tokens=0, echo=True, logprobs=0)
    assert worker.gauge("lightship_engine_scorer_load_seconds") > 0
    assert worker.gauge("lightship_engine_peak_rss_bytes") > 50 * 2**20
    assert worker.process.peak_rss_bytes() == pytest.approx(worker.gauge("lightship_engine_peak_rss_bytes"), rel=0.2)


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


def test_folder_without_model_fails_with_reason(own_worker: Callable[..., Worker], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"openvino_model\.xml"):
        own_worker(folder=tmp_path)


# What only this engine would have to compute.
OWN_BAD_BODIES = {
    "hot": BadBody("/v1/chat/completions", {**CHAT, "temperature": 2.5}, 400, "temperature", None),
    "bad-token": BadBody("/v1/completions", {**TEXT, "prompt": [5, 10**9]}, 400, "prompt", None),
}


@pytest.mark.parametrize("case", {**BAD_BODIES, **OWN_BAD_BODIES}.values(), ids={**BAD_BODIES, **OWN_BAD_BODIES}.keys())
def test_bad_body_is_refused_by_name(worker: Worker, case: BadBody) -> None:
    assert_refused(worker, case)


def test_other_requests_get_error_objects(worker: Worker) -> None:
    assert_other_requests_get_error_objects(worker)


def test_drain_by_request_finishes_what_runs_and_refuses_what_comes(own_worker: Callable[..., Worker]) -> None:
    worker = own_worker()
    assert_drains_when_asked(worker)
    assert worker.loop.run_until_complete(worker.process.wait()) == 0
