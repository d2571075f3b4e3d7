from __future__ import annotations

import asyncio
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lightship.artifacts.texts import Document, TextSet
from lightship.errors import MeasurementError, NetworkError
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.evaluation.quality.protocol import (
    PAIRED_METRICS,
    SELF_METRICS,
    Figure,
    QualityProtocol,
    QualityResult,
    measure_quality,
    quality_measurements,
)
from lightship.evaluation.quality.scoring import DocumentScores
from lightship.evaluation.quality.stored_scores import decode_scores, encode_scores
from lightship.ports.measurements import Metric, Target

if TYPE_CHECKING:
    from tests.unit.evaluation.conftest import BigramServer

PROTOCOL = QualityProtocol(window_tokens=2000, num_documents=6, bootstrap_resamples=400)
TALES = TextSet("tales", tuple(Document(d.document_id, d.text[:200]) for d in builtin_texts().documents))
TARGET = Target("fake", "1", "CPU", "avx2", 1)


class RecordingTask:
    """Remembers what progress was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float | None]] = []

    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        del note
        self.steps.append((done, total))


def measure(
    server: BigramServer,
    *,
    reference: DocumentScores | None = None,
    protocol: QualityProtocol = PROTOCOL,
    texts: TextSet | None = None,
    task: RecordingTask | None = None,
) -> QualityResult:
    async def run() -> QualityResult:
        async with server.endpoint() as endpoint:
            return await measure_quality(
                endpoint, protocol=protocol, texts=texts or TALES, reference=reference, task=task
            )

    return asyncio.run(run())


def figure(result: QualityResult, metric: Metric) -> Figure:
    return next(figure for figure in result.figures if figure.metric is metric)


def test_measure_quality_alone_gives_the_tables_bits_per_byte_and_perplexity(
    bigram_server: type[BigramServer],
) -> None:
    server, task = bigram_server(), RecordingTask()
    result = measure(server, task=task)
    tales = [tale.scored_text for tale in TALES.documents[:6]]
    nats, num_bytes = math.fsum(map(server.sum_nats, tales)), sum(map(len, tales))
    assert [figure.metric for figure in result.figures] == list(SELF_METRICS)
    bits = figure(result, Metric.BITS_PER_BYTE)
    assert bits.value == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-12)
    assert figure(result, Metric.PERPLEXITY).value == pytest.approx(math.exp(nats / num_bytes), rel=1e-12)
    assert bits.interval is not None
    assert bits.interval.low < bits.value < bits.interval.high
    assert (bits.num_items, bits.details["num_scored_bytes"], bits.details["num_cut_documents"]) == (6, num_bytes, 0)
    assert sorted(task.steps) == [(done, 6) for done in range(1, 7)]


def test_measure_quality_against_a_stored_reference_gives_paired_figures(bigram_server: type[BigramServer]) -> None:
    first, second = bigram_server(), bigram_server(noise=0.5)
    reference = decode_scores(encode_scores(measure(first).scores))
    result = measure(second, reference=reference)
    tales = [tale.scored_text for tale in TALES.documents[:6]]
    recovery = figure(result, Metric.QUALITY_RECOVERY)
    assert recovery.value == pytest.approx(
        math.fsum(map(first.sum_nats, tales)) / math.fsum(map(second.sum_nats, tales)), rel=1e-12
    )
    rows = [np.array(first.token_ids(tale)[:-1]) for tale in tales]
    kl_by_row = (np.exp(first.log_table) * (first.log_table - second.log_table)).sum(axis=1)
    kl = figure(result, Metric.KL_NATS)
    exact = float(np.mean([kl_by_row[row].mean() for row in rows]))
    assert 0.8 * exact < kl.value <= exact  # 64 of the 97 tokens are reported: a lower bound
    agrees = first.log_table.argmax(axis=1) == second.log_table.argmax(axis=1)
    agreement = figure(result, Metric.TOP1_AGREEMENT)
    assert agreement.value == pytest.approx(float(np.mean([agrees[row].mean() for row in rows])), abs=1e-12)
    assert len(result.divergences) == 6
    assert all(f.interval and f.interval.low <= f.value <= f.interval.high for f in result.figures)


def test_measure_quality_of_the_reference_itself_loses_nothing(bigram_server: type[BigramServer]) -> None:
    result = measure(bigram_server(), reference=measure(bigram_server()).scores)
    values = {metric: figure(result, metric) for metric in PAIRED_METRICS}
    assert [values[metric].value for metric in PAIRED_METRICS] == [1.0, 0.0, 1.0]
    recovery = values[Metric.QUALITY_RECOVERY].interval
    assert recovery is not None
    assert (recovery.low, recovery.high) == (1.0, 1.0)


def test_measure_quality_asks_for_each_document_once_two_at_a_time(bigram_server: type[BigramServer]) -> None:
    server = bigram_server(pairs=asyncio.Barrier(2))
    measure(server)
    assert len(server.prompts) == len(set(server.prompts)) == 6 + 2  # the documents and the probe's two texts
    assert server.max_in_flight == 2


def test_measure_quality_two_runs_are_equal(bigram_server: type[BigramServer]) -> None:
    assert measure(bigram_server()).figures == measure(bigram_server()).figures


def test_measure_quality_nan_names_the_document(bigram_server: type[BigramServer]) -> None:
    third = TALES.documents[2]

    def break_third(body: dict[str, Any]) -> None:
        if body["choices"][0]["text"] == third.scored_text:
            body["choices"][0]["logprobs"]["top_logprobs"][9]["token_id:1"] = None

    with pytest.raises(MeasurementError, match=f"document '{third.document_id}': .*position 9 is not a finite number"):
        measure(bigram_server(mangle=break_third))


def test_measure_quality_busy_server_keeps_its_own_kind_of_error(bigram_server: type[BigramServer]) -> None:
    busy = [(503, {"retry-after": "0"})] * 10
    with pytest.raises(NetworkError, match="stayed busy"):
        measure(bigram_server(answers_first=busy))


def test_measure_quality_window_over_the_context_is_refused(bigram_server: type[BigramServer]) -> None:
    with pytest.raises(MeasurementError, match="window of 2000 tokens does not fit a context of 2000"):
        measure(bigram_server(context_length=2000))


def test_measure_quality_reference_of_another_protocol_is_refused_before_any_request(
    bigram_server: type[BigramServer],
) -> None:
    reference = measure(bigram_server()).scores
    others = [
        dataclasses.replace(PROTOCOL, window_tokens=1000),
        dataclasses.replace(PROTOCOL, top_k=8),
        dataclasses.replace(PROTOCOL, num_documents=5),
    ]
    server = bigram_server()
    for protocol in others:
        with pytest.raises(MeasurementError, match="Measure the reference again"):
            measure(server, reference=reference, protocol=protocol)
    assert server.prompts == []


def test_measure_quality_another_tokenizer_is_refused(bigram_server: type[BigramServer]) -> None:
    reference = measure(bigram_server()).scores
    with pytest.raises(MeasurementError, match="different tokens of it, first at position 0"):
        measure(bigram_server(has_bos=False), reference=reference)


def test_measure_quality_one_document_has_no_interval(bigram_server: type[BigramServer]) -> None:
    texts = TextSet("mine", (Document("only", "An owl asked the miller for the time."),))
    result = measure(bigram_server(), texts=texts, protocol=dataclasses.replace(PROTOCOL, num_documents=1))
    assert [(f.num_items, f.interval) for f in result.figures] == [(1, None), (1, None)]


def test_protocol_name_tells_procedure_window_and_text() -> None:
    names = [QualityProtocol().name(metric, builtin_texts()) for metric in (*SELF_METRICS, *PAIRED_METRICS)]
    text = builtin_texts().first(24).label
    assert names == [
        f"bits-per-byte/echo/window=1023/documents=24/text={text}",
        f"perplexity/echo/window=1023/documents=24/text={text}",
        f"bits-per-byte-recovery/echo/window=1023/documents=24/text={text}",
        f"kl-divergence/echo/top=64/window=1023/documents=24/text={text}",
        f"top1-agreement/echo/top=64/window=1023/documents=24/text={text}",
    ]


@dataclass(frozen=True)
class OutOfBounds:
    field: str
    value: float


OUT_OF_BOUNDS = [
    OutOfBounds("window_tokens", 15),
    OutOfBounds("top_k", 65),
    OutOfBounds("top_k", 0),
    OutOfBounds("num_documents", 0),
    OutOfBounds("bootstrap_resamples", 99),
    OutOfBounds("seed", -1),
    OutOfBounds("confidence", 1.0),
    OutOfBounds("confidence", 0.05),
]


@pytest.mark.parametrize("case", OUT_OF_BOUNDS, ids=str)
def test_protocol_value_out_of_bounds_is_refused(case: OutOfBounds) -> None:
    with pytest.raises(MeasurementError, match=f"{case.field} must be"):
        dataclasses.replace(PROTOCOL, **{case.field: case.value})  # type: ignore[arg-type]


def test_quality_measurements_carry_what_they_belong_to(bigram_server: type[BigramServer]) -> None:
    result = measure(bigram_server(), reference=measure(bigram_server()).scores)
    records = quality_measurements(
        result, variant_digest="sha256:v", target=TARGET, machine="m", measured_unix_s=5.0, reference_digest="sha256:r"
    )
    assert {record.metric: record.reference_digest for record in records} == {
        Metric.BITS_PER_BYTE: None,
        Metric.PERPLEXITY: None,
        Metric.QUALITY_RECOVERY: "sha256:r",
        Metric.KL_NATS: "sha256:r",
        Metric.TOP1_AGREEMENT: "sha256:r",
    }
    for record, source in zip(records, result.figures, strict=True):
        assert (record.value, record.interval, record.protocol) == (source.value, source.interval, source.protocol)
        assert (record.variant_digest, record.target, record.num_items) == ("sha256:v", TARGET, 6)
        assert (record.machine, record.measured_unix_s, record.concurrency) == ("m", 5.0, 0)


def test_quality_measurements_paired_without_a_reference_digest_are_refused(
    bigram_server: type[BigramServer],
) -> None:
    result = measure(bigram_server(), reference=measure(bigram_server()).scores)
    with pytest.raises(MeasurementError, match="need the digest of the reference"):
        quality_measurements(result, variant_digest="v", target=TARGET, machine="m", measured_unix_s=5.0)
