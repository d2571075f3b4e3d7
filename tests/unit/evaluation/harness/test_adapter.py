from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lightship.errors import MeasurementError, UsageError
from lightship.evaluation.harness import adapter
from lightship.evaluation.harness.adapter import backend_of, harness_model_class, lightship_lm
from lightship.evaluation.harness.backend import HarnessSettings
from lightship.evaluation.harness.windows import rolling_windows

if TYPE_CHECKING:
    from tests.unit.evaluation.harness.conftest import TokenServer

WITHOUT_HARNESS = "NOT TESTED: lm-evaluation-harness is not installed (pip install 'lm-eval>=0.4.13,<0.5')"
GIVEN = {"base_url": "http://127.0.0.1:9", "model": "m"}


def test_backend_of_settings_arrive_and_the_harness_own_are_without_effect() -> None:
    backend = backend_of(
        {**GIVEN, "concurrency": 2, "truncate_context": True, "batch_size": 8, "max_batch_size": None, "device": "cpu"}
    )
    assert (backend.base_url, backend.model) == ("http://127.0.0.1:9", "m")
    assert backend.settings == HarnessSettings(concurrency=2, truncate_context=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"concurency": 2}, "unknown model argument 'concurency'. Did you mean 'concurrency'"),
        ({"pretrained": "x"}, "unknown model argument 'pretrained'. Known: base_url"),
        ({"model": ""}, "model is missing"),
        ({"base_url": None}, "base_url is missing"),
        ({"concurrency": "many"}, "concurrency must be a whole number, got 'many'"),
        ({"concurrency": None}, "concurrency must be a whole number, got None"),
        ({"truncate_context": 1}, "truncate_context must be True or False, got 1"),
        ({"total_timeout_s": 0}, "total_timeout_s must be a number above 0"),
    ],
)
def test_backend_of_argument_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        backend_of({**GIVEN, **changes})
    assert says in str(refusal.value)


@pytest.mark.parametrize("version", [None, "0.4.12", "0.4.9.1", "0.5.0", "1.0"])
def test_lightship_lm_harness_missing_or_unknown_says_how_to_install_it(
    version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)
    harness_model_class.cache_clear()
    with pytest.raises(UsageError, match=r"pip install 'lm-eval>=0\.4\.13,<0\.5'"):
        lightship_lm(**GIVEN)


TASK = """
task: kings
dataset_path: json
dataset_kwargs: {data_files: {test: ITEMS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.mark.filterwarnings("default")  # the harness and what it imports warn of their own affairs
def test_harness_run_through_an_endpoint_gives_the_tables_choices(
    token_server: type[TokenServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason=WITHOUT_HARNESS)
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    harness_model_class.cache_clear()
    choices = ["ab", " king", "z"]
    # questions as they are sent, and the white space that goes to the choices
    questions = [("the", ""), ("a", " "), ("b.", "")]
    items = [{"question": text + space, "choices": choices, "answer": 1} for text, space in questions]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "kings.yaml").write_text(TASK.replace("ITEMS", json.dumps(str(tmp_path / "items.jsonl"))))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with token_server().running() as server:
        results = lm_eval.simple_evaluate(
            model=lightship_lm(server.url, model="m"), tasks=["kings"], task_manager=manager, bootstrap_iters=0
        )
        samples = sorted(results["samples"]["kings"], key=lambda sample: sample["doc_id"])
        for (text, space), sample in zip(questions, samples, strict=True):
            context = server.tokens(text)
            scored = [server.tokens(text + space + choice)[len(context) :] for choice in choices]
            expected = [server.nats([*context, *ids], len(ids)) for ids in scored]
            assert [nats for nats, _ in sample["filtered_resps"]] == pytest.approx(expected)
            assert sample["acc"] == float(expected.index(max(expected)) == 1)
    assert results["config"]["model_variant_digest"] == "sha256:ab"


@pytest.mark.filterwarnings("default")
def test_rolling_windows_equal_the_harness_own() -> None:
    pytest.importorskip("lm_eval", reason=WITHOUT_HARNESS)
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for num_tokens in range(1, 40):
        tokens = list(range(num_tokens))
        theirs = [
            make_disjoint_window(pair)
            for pair in get_rolling_token_windows(tokens, prefix_token=99, max_seq_len=7, context_len=1)
        ]
        ours = rolling_windows(tuple(tokens), prefix_token_id=99, context_length=8)
        assert [(*context, *scored) for context, scored in theirs] == [window.token_ids for window in ours]
        assert [len(scored) for _, scored in theirs] == [window.num_scored for window in ours]


@pytest.mark.filterwarnings("default")
def test_chat_template_is_refused_with_the_reason() -> None:
    pytest.importorskip("lm_eval", reason=WITHOUT_HARNESS)
    harness_model_class.cache_clear()
    model = lightship_lm(**GIVEN)
    with pytest.raises(MeasurementError, match="no chat template"):
        model.chat_template(True)
    with pytest.raises(MeasurementError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "Hi"}])


@pytest.mark.filterwarnings("default")
def test_register_lightship_model_makes_the_name_known() -> None:
    pytest.importorskip("lm_eval", reason=WITHOUT_HARNESS)
    from lm_eval.api.registry import get_model

    harness_model_class.cache_clear()
    adapter.register_lightship_model()
    adapter.register_lightship_model()
    assert get_model("lightship").__name__ == "LightshipLM"
