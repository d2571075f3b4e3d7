from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import MeasurementError, NetworkError
from lightship.evaluation.tasks.asking import sample_seed
from lightship.evaluation.tasks.journal import open_journal
from lightship.evaluation.tasks.loading import load_task
from lightship.evaluation.tasks.results import TaskRun
from lightship.evaluation.tasks.run import run_task
from lightship.evaluation.tasks.scorer import Item
from lightship.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from tests.unit.evaluation.tasks.conftest import TaskServer

WriteTask = Callable[..., Path]

CHOICE = """\
version: 1
name: sky
kind: multiple_choice
items: items.jsonl
prompt: "Q: {question}\\nA:"
choices: choices
answer: answer
"""
WORDS = """\
version: 1
name: words
kind: words
items: items.jsonl
prompt: "{question}"
"""
SKY = ['{"id": "sky", "question": "Sky?", "choices": ["green", "pale blue"], "answer": 1}']


class WordsScorer:
    """1 where any sample is the item's `right`."""

    kind = "words"
    metrics: tuple[str, ...] = ("exact",)
    binary_metrics: tuple[str, ...] = ("exact",)
    details = ""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.min_samples = options.get("samples", 1)

    def check(self, item: Item) -> None:
        assert "right" in item.fields

    def prompt(self, item: Item) -> None:
        del item

    def target(self, item: Item) -> str:
        return str(item.fields["right"])

    async def score(self, item: Item, texts: Sequence[str]) -> dict[str, float]:
        return {"exact": float(item.fields["right"] in texts)}


def words_task(write_task: WriteTask, *, num_items: int = 5, more: str = "") -> Task:
    items = [json.dumps({"id": f"i{n}", "question": f"{n}?", "right": str(n % 2)}) for n in range(num_items)]
    return load_task(write_task(WORDS + more, items), scorers={"words": WordsScorer})


def even_or_odd(prompt: str) -> str:
    """The answers of a server that is right about every item of `words_task` but the first."""
    number = int(prompt.removesuffix("?"))
    return "1" if number == 0 else str(number % 2)


def run(server: TaskServer, task: Task, **options: Any) -> TaskRun:
    async def main() -> TaskRun:
        async with server.endpoint() as endpoint:
            return await run_task(endpoint, task, **{"subject": "int8@here", **options})

    return asyncio.run(main())


@pytest.mark.parametrize("has_tokenize", [True, False])
@pytest.mark.parametrize("has_bos", [True, False])
def test_run_choice_hand_calculated_log_likelihoods(
    has_tokenize: bool, has_bos: bool, task_server: type[TaskServer], write_task: WriteTask
) -> None:
    # " green" -3.5; " pale" -1.25 and " blue" -2.75 make -4. By sum green wins; per character -3.5/5 = -0.7 loses
    # against -4/9 = -0.44.
    server = task_server(
        logprobs={" green": -3.5, " pale": -1.25, " blue": -2.75}, has_tokenize=has_tokenize, has_bos=has_bos
    )
    result = run(server, load_task(write_task(CHOICE, SKY)))
    assert result.items[0].scores == {"acc": 0.0, "acc_norm": 1.0}
    assert result.items[0].answer == "> -3.5000 green\n  -4.0000 pale blue"
    assert (result.items[0].prompt, result.items[0].target) == ("Q: Sky?\nA:", "pale blue")
    assert result.details == {"num_joined_choices": 0.0}


def test_run_choice_asks_each_choice_once_with_one_alternative(
    task_server: type[TaskServer], write_task: WriteTask
) -> None:
    server = task_server()
    run(server, load_task(write_task(CHOICE, SKY)))
    assert server.prompts() == ["Q: Sky?\nA: green", "Q: Sky?\nA: pale blue"]
    assert {body["logprobs"] for _, body in server.requests if "echo" in body} == {1}


def test_run_choice_white_space_after_the_prompt_is_scored_with_the_choice(
    task_server: type[TaskServer], write_task: WriteTask
) -> None:
    definition = CHOICE.replace('A:"', 'A: "') + 'choice_prefix: ""\n'
    server = task_server(logprobs={" green": -3.5, " pale": -1.25, " blue": -2.75})
    result = run(server, load_task(write_task(definition, SKY)))
    # As one token the space belongs to the choice; counted with the prompt it would be lost to "green" alone (-5).
    assert result.items[0].answer == "> -3.5000 green\n  -4.0000 pale blue"


def test_run_choice_token_across_the_boundary_is_counted(task_server: type[TaskServer], write_task: WriteTask) -> None:
    definition = CHOICE + 'choice_prefix: ""\n'  # "A:" and "green" become the one token "A:green"
    server = task_server(logprobs={"\nA:pale": -2.0, " blue": -1.0, "\nA:green": -2.0})
    with pytest.raises(MeasurementError, match=r"item 'sky': the choice adds no token to the 4 of its prompt"):
        run(server, load_task(write_task(definition, SKY)))
    items = ['{"id": "sky", "question": "Sky?", "choices": ["deep blue", "pale blue"], "answer": 1}']
    result = run(server, load_task(write_task(definition, items)))
    assert result.items[0].answer == "> -1.0000 deep blue\n  -1.0000 pale blue"
    assert result.details == {"num_joined_choices": 2.0}


def test_run_choice_number_that_is_missing_names_the_item(task_server: type[TaskServer], write_task: WriteTask) -> None:
    with pytest.raises(MeasurementError, match=r"item 'sky': .* position 5 is not a finite number") as refusal:
        run(task_server(logprobs={" blue": None}), load_task(write_task(CHOICE, SKY)))
    assert "must not be served" in str(refusal.value.hint)


def test_run_choice_endpoint_that_ignores_echo_is_refused_before_any_item(
    task_server: type[TaskServer], write_task: WriteTask
) -> None:
    server = task_server()
    server._scored = lambda prompt: {"choices": [{"text": prompt}], "usage": {"prompt_tokens": 1}}  # type: ignore[method-assign]
    with pytest.raises(MeasurementError, match="does not return real prompt log-probabilities"):
        run(server, load_task(write_task(CHOICE, SKY)))
    assert server.prompts() == []


def test_run_choice_tokenizer_path_of_another_kind_is_not_trusted(
    task_server: type[TaskServer], write_task: WriteTask
) -> None:
    server = task_server(logprobs={" green": -3.5, " pale": -1.25, " blue": -2.75})
    right_tokens = server.tokens
    server._id("x")

    async def without_special(request: Any) -> Any:
        from aiohttp import web

        text = (await request.json())["prompt"]
        return web.json_response({"tokens": [server._id(token) for token in right_tokens(text)[1:]]})

    server._tokenize = without_special  # type: ignore[method-assign]
    assert run(server, load_task(write_task(CHOICE, SKY))).items[0].answer.startswith("> -3.5000 green")
    assert "Q: Sky?\nA:" in server.prompts()  # the context was scored to count its tokens


def test_run_generation_scores_in_the_order_of_the_file(task_server: type[TaskServer], write_task: WriteTask) -> None:
    result = run(task_server(answer=even_or_odd), words_task(write_task), concurrency=3)
    assert [item.item_id for item in result.items] == ["i0", "i1", "i2", "i3", "i4"]
    assert result.values("exact") == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert (result.task, result.kind, result.metrics, result.seed) == ("words", "words", ("exact",), 0)
    assert result.details == {
        "num_completion_tokens": 10.0, "num_cut_answers": 0.0, "num_empty_answers": 0.0, "num_prompt_tokens": 15.0
    }  # fmt: skip


def test_run_generation_sends_what_the_task_says(task_server: type[TaskServer], write_task: WriteTask) -> None:
    server = task_server()
    more = 'seed: 3\ngeneration: {max_tokens: 9, stop: ["\\n"], temperature: 0.5, top_p: 0.9}\nscore: {samples: 2}\n'
    run(server, words_task(write_task, num_items=1, more=more))
    expected = {
        "model": "m", "prompt": "0?", "max_tokens": 9, "temperature": 0.5, "stop": ["\n"], "top_p": 0.9
    }  # fmt: skip
    assert [body for _, body in server.requests] == [
        {**expected, "seed": sample_seed(3, "i0", 0)},
        {**expected, "seed": sample_seed(3, "i0", 1)},
    ]


def test_run_greedy_generation_leaves_out_what_asks_for_nothing(
    task_server: type[TaskServer], write_task: WriteTask
) -> None:
    server = task_server()
    run(server, words_task(write_task, num_items=1))
    assert server.requests == [
        ("/v1/completions", {"model": "m", "prompt": "0?", "max_tokens": 256, "temperature": 0.0})
    ]


def test_run_chat_sends_one_user_message_and_counts_cut_answers(
    task_server: type[TaskServer], write_task: WriteTask
) -> None:
    server = task_server(answer=even_or_odd)
    task = words_task(write_task, num_items=2, more="chat: true\n")
    result = run(server, task)
    assert "/chat=yes/" in result.protocol
    assert sorted(str(messages) for messages in server.prompts()) == [
        "[{'role': 'user', 'content': '0?'}]", "[{'role': 'user', 'content': '1?'}]"
    ]  # fmt: skip
    assert (result.values("exact"), result.details["num_cut_answers"]) == ([0.0, 1.0], 2.0)


def test_run_limit_takes_the_first_items(task_server: type[TaskServer], write_task: WriteTask) -> None:
    result = run(task_server(answer=even_or_odd), words_task(write_task), limit=2)
    assert [item.item_id for item in result.items] == ["i0", "i1"]
    assert "/items=2/" in result.protocol


def test_run_endpoint_that_fails_keeps_what_is_done_and_goes_on(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> None:
    task, journal = words_task(write_task), tmp_path / "runs" / "words.jsonl"
    with pytest.raises(MeasurementError, match="answered 500: out of memory; 3 of 5 items are done") as failure:
        run(task_server(answer=even_or_odd, fails_from=4), task, journal=journal, concurrency=1)
    assert failure.value.hint == "Run the same command again to go on."
    server = task_server(answer=even_or_odd)
    resumed = run(server, task, journal=journal)
    assert server.prompts() == ["3?", "4?"]
    assert resumed == run(task_server(answer=even_or_odd), task)


def test_run_endpoint_that_hangs_ends_at_the_time_limit_and_says_so(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> None:
    task = words_task(write_task)
    with pytest.raises(NetworkError, match=r"item 'i2': no answer within .*; 2 of 5 items are done") as failure:
        run(task_server(is_stuck_from=3, limit_s=0.2), task, journal=tmp_path / "j", concurrency=1)
    assert failure.value.hint == "Run the same command again to go on."


def test_run_without_a_journal_promises_no_resumption(task_server: type[TaskServer], write_task: WriteTask) -> None:
    with pytest.raises(MeasurementError, match="1 of 5 items are done") as failure:
        run(task_server(fails_from=2), words_task(write_task), concurrency=1)
    assert failure.value.hint is None


def test_run_complete_journal_asks_nothing(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> None:
    task, journal = load_task(write_task(CHOICE, SKY)), tmp_path / "j"
    first = run(task_server(), task, journal=journal)
    server = task_server()
    assert run(server, task, journal=journal) == first
    assert server.requests == []


def test_run_model_that_changes_is_refused_with_both_names(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> None:
    server = task_server(served=lambda number: "sha256:one" if number < 3 else "sha256:two")
    with pytest.raises(MeasurementError, match="as 'sha256:one' and then as 'sha256:two'") as refusal:
        run(server, words_task(write_task), journal=tmp_path / "j", concurrency=1)
    assert "model@variant" in str(refusal.value.hint)
    assert len((tmp_path / "j").read_text().splitlines()) == 1 + 2


def test_run_model_that_changes_between_the_choices_of_an_item_is_refused(
    task_server: type[TaskServer], write_task: WriteTask
) -> None:
    server = task_server()
    server.served = lambda number: "two" if "pale" in str(server.requests[-1]) else "one"
    with pytest.raises(MeasurementError, match="as 'one' and then as 'two'"):
        run(server, load_task(write_task(CHOICE, SKY)))


def test_run_other_model_at_resumption_is_refused(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> None:
    task = words_task(write_task)
    with pytest.raises(MeasurementError, match="500"):
        run(task_server(fails_from=3), task, journal=tmp_path / "j", concurrency=1)
    with pytest.raises(MeasurementError, match="as 'sha256:one' and then as 'sha256:two'"):
        run(task_server(served=lambda number: "sha256:two"), task, journal=tmp_path / "j")


def test_run_without_header_the_system_fingerprint_tells_models_apart(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> None:
    task = words_task(write_task)
    server = task_server(served=lambda number: "", system_fingerprint="fp_a", fails_from=2)
    with pytest.raises(MeasurementError, match="500"):
        run(server, task, journal=tmp_path / "j", concurrency=1)
    with pytest.raises(MeasurementError, match="as 'fp_a' and then as 'fp_b'"):
        run(task_server(served=lambda number: "", system_fingerprint="fp_b"), task, journal=tmp_path / "j")


@pytest.mark.parametrize("concurrency", [0, 257])
def test_run_concurrency_out_of_bounds_is_refused(
    concurrency: int, task_server: type[TaskServer], write_task: WriteTask
) -> None:
    with pytest.raises(MeasurementError, match=r"1\.\.256"):
        run(task_server(), words_task(write_task), concurrency=concurrency)


@pytest.fixture
def complete_journal(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> tuple[Task, TaskRun, bytes, Path]:
    """A task, its result, the bytes of its journal, and a file to put parts of them into."""
    task = words_task(write_task)
    result = run(task_server(answer=even_or_odd), task, journal=tmp_path / "whole")
    return task, result, (tmp_path / "whole").read_bytes(), tmp_path / "cut"


def test_run_journal_cut_anywhere_is_gone_on_with(
    complete_journal: tuple[Task, TaskRun, bytes, Path], task_server: type[TaskServer]
) -> None:
    task, result, content, path = complete_journal

    @settings(max_examples=25, deadline=None)
    @given(num_bytes=st.integers(0, len(content)))
    def check(num_bytes: int) -> None:
        path.write_bytes(content[:num_bytes])
        num_whole_lines = content[:num_bytes].count(b"\n")
        server = task_server(answer=even_or_odd)
        assert run(server, task, journal=path) == result
        assert len(server.requests) == 5 - max(0, num_whole_lines - 1)
        lines = path.read_bytes().splitlines()
        assert sorted(lines) == sorted(content.splitlines())

    check()


def damaged(content: bytes, line: int, change: Callable[[bytes], bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    lines[line] = change(lines[line])
    return b"".join(lines)


REFUSALS: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("line_damaged", lambda c: damaged(c, 2, lambda line: line[:9] + b"\n"), r":3: the line is damaged"),
    ("item_twice", lambda c: c + c.splitlines(keepends=True)[1], r":7: the item 'i\d' is there twice"),
    ("other_protocol", lambda c: damaged(c, 0, lambda line: line.replace(b"task-1", b"task-0")), "its protocol is"),
    (
        "other_subject",
        lambda c: damaged(c, 0, lambda line: line.replace(b"int8", b"int4")),
        "its subject is 'int4@here'",
    ),
    ("other_format", lambda c: damaged(c, 0, lambda line: line.replace(b"nal/1", b"nal/9")), "its format is"),
    ("no_journal", lambda c: b"some other file\n", "not a journal of task results"),
    ("no_journal_no_line_end", lambda c: b"some other file", "not a journal of task results"),
    ("item_of_another", lambda c: c.replace(b'"item_id":"i1"', b'"item_id":"zz"'), "'zz' that is not the task's"),
    ("item_changed", lambda c: damaged(c, 1, lambda line: line.replace(b'hash":"', b'hash":"0')), "is not the task's"),
]


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_run_journal_of_something_else_is_refused_and_left_alone(
    change: Callable[[bytes], bytes],
    says: str,
    complete_journal: tuple[Task, TaskRun, bytes, Path],
    task_server: type[TaskServer],
) -> None:
    task, _, content, path = complete_journal
    path.write_bytes(change(content))
    with pytest.raises(MeasurementError, match=says):
        run(task_server(), task, journal=path)
    assert path.read_bytes() == change(content)


def test_run_journal_in_use_is_refused(
    complete_journal: tuple[Task, TaskRun, bytes, Path], task_server: type[TaskServer]
) -> None:
    task, _, _, path = complete_journal
    with (
        open_journal(path, protocol=task.protocol, subject="int8@here"),
        pytest.raises(MeasurementError, match="another process is writing this journal"),
    ):
        run(task_server(), task, journal=path)


def test_run_journal_that_cannot_be_written_is_refused_before_any_request(
    task_server: type[TaskServer], write_task: WriteTask, tmp_path: Path
) -> None:
    server = task_server()
    with pytest.raises(MeasurementError, match="cannot keep a journal: Is a directory"):
        run(server, words_task(write_task), journal=tmp_path)
    assert server.requests == []
