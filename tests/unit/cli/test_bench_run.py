"""`lightship bench` against a small real server, and its table."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from lightship.cli.bench import add_bench_command
from lightship.cli.bench_table import print_bench
from lightship.errors import MeasurementError
from lightship.evaluation.performance.closed_loop import LoadRun
from lightship.evaluation.performance.load_files import LoadRecord
from lightship.evaluation.performance.load_result import summarize_load
from lightship.evaluation.performance.records import NO_SLO, ErrorKind, RequestRecord, Slo
from lightship.evaluation.performance.search import SearchPlan, SearchResult, Trial, next_step

KEYS: list[str] = []


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A token for every four characters of prompt, all output at once."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            KEYS.append(headers.get("authorization", ""))
            asked = json.loads(await reader.readexactly(int(headers["content-length"])))
            usage = {"prompt_tokens": len(asked["prompt"]) // 4, "completion_tokens": asked["max_tokens"]}
            documents = [{"choices": [{"text": "x"}]}] * asked["max_tokens"] + [{"choices": [], "usage": usage}]
            events = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in documents)
            body = events + b"data: [DONE]\n\n"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


@pytest.fixture
def url() -> Iterator[str]:
    """A server in a thread of its own: the command runs its own event loop."""
    started = threading.Event()
    found: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        stop = asyncio.Event()
        found.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        started.set()
        async with server:
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    port, loop, stop = found[0]
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def bench(*flags: str) -> int:
    parser = argparse.ArgumentParser()
    add_bench_command(parser.add_subparsers(dest="topic"))
    args = parser.parse_args(["bench", *flags])
    code: int = args.run(args)
    return code


def test_bench_closed_loop_writes_both_files_and_prints_json(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_KEY", "k3y")
    KEYS.clear()
    ours, vllms = tmp_path / "r.json", tmp_path / "v.json"
    flags = ("--concurrency", "2", "--duration", "0.05", "--prompt-tokens", "16", "--output-tokens", "3")
    files = ("-o", str(ours), "--vllm-json", str(vllms), "--json", "--api-key-env", "BENCH_KEY")
    assert bench(url, "--model", "m", *flags, *files, "--slo-ttft-ms", "60000") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document == json.loads(ours.read_text())
    assert document["figures"]["attainment"] == 1.0
    assert document["lengths"]["achieved_prompt_tokens"] == pytest.approx(16, abs=1)
    assert json.loads(vllms.read_text())["max_concurrency"] == 2
    assert set(KEYS) == {"Bearer k3y"}
    assert "k3y" not in printed.out + printed.err


def test_bench_open_loop_prints_a_table(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    # one request in the window: a single late one is allowed, so that a busy machine does not fail this
    flags = ("--arrivals", "constant", "--rate", "20", "--duration", "0.05", "--warmup", "0", "--output-tokens", "3")
    assert bench(url, "--model", "m", *flags, "--seed", "0") == 0
    out = capsys.readouterr().out
    assert "open-loop-1/constant/p64-o3/r20/0.05s/seed0" in out
    assert "offered requests/s" in out


def test_bench_nobody_there_is_a_measurement_error(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(MeasurementError, match=r"a trial request failed \(connect\)"):
        bench("http://127.0.0.1:9", "--model", "m", "--rate", "1", "-o", str(path))
    assert list(tmp_path.iterdir()) == []


def answered(sent_s: float, *token_times_s: float) -> RequestRecord:
    return RequestRecord(sent_s, sent_s, token_times_s, token_times_s[-1], 10, len(token_times_s))


def recorded(slo: Slo) -> LoadRecord:
    failed = RequestRecord(3.0, 3.0, (), 3.5, error=ErrorKind.STATUS)
    cut_off = RequestRecord(9.9, 9.9, (), 9.95, error=ErrorKind.CUT_OFF)
    run = LoadRun(0, (answered(1.0, 1.1, 1.2), answered(2.0, 2.3, 2.4), failed, cut_off), (), 0.0, 10.0)
    return LoadRecord(
        model="m",
        url="http://x",
        protocol="open-loop-1/p",
        slo=slo,
        load=summarize_load(run, slo),
        has_fixed_length=False,
        measured_unix_s=0.0,
        machine="",
        settings={"trace_changes": {"num_answers_cut": 7, "num_prompts_cut": 0}},
        lengths={
            "wanted_prompt_tokens": 20.0,
            "achieved_prompt_tokens": 10.0,
            "wanted_output_tokens": 2.0,
            "achieved_output_tokens": 2.0,
        },
        client_cpu_share=0.93,
    )


def printed(record: LoadRecord, search: SearchResult | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_bench(record, search, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table_says_what_a_reader_must_know_to_judge_it() -> None:
    text = printed(recorded(Slo(ttft_ms=200, tpot_ms=1000)))
    for wanted in (
        "goodput requests/s (slo-ttft200ms-tpot1000ms)",
        "errors: 1 status",
        "cut off by the end of the run, not judged: 1 requests",
        "mean prompt tokens: 10.0 where 20.0 were wanted",
        "trace: answers cut: 7",
        "refuses ignore_eos",
        "the client took 93% of a core",
    ):
        assert wanted in text
    assert "prompts cut" not in text
    assert "mean output tokens" not in text


def test_table_without_an_slo_has_no_goodput() -> None:
    text = printed(recorded(NO_SLO))
    assert "goodput" not in text
    assert "attainment" not in text


def test_table_of_a_search_names_the_load_and_the_reason() -> None:
    plan = SearchPlan(attainment=0.9, first=4, lowest=1, highest=100, duration_s=10, max_runs=3)
    trials = [Trial(4, 200, 200, 10), Trial(8, 10, 200, 10), Trial(5.66, 0, 0, 10, failure="gone")]
    search = next_step(trials, plan)
    assert isinstance(search, SearchResult)
    text = printed(recorded(Slo(200, 1000)), search)
    assert "highest load: 4 requests/s (the limit of 3 runs was reached)" in text
    assert "missed: gone" in text
