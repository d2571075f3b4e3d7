"""Reports built from made-up figures, and a parser that checks what a browser would be lenient about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest

from lightship.evaluation.candidates import build_candidates
from lightship.evaluation.comparison import TaskComparison
from lightship.evaluation.frontier import pareto_frontier
from lightship.evaluation.ladder import choose_ladder
from lightship.evaluation.report.data import GateEntry, ReportData, ReportHeader, report_data
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.ports.variants import FileEntry, Manifest, Recipe, RecipeStep, WeightFormat

TARGET = Target("openvino", "2026.4.1", "CPU", "amx", 2, {"kv_cache": "u8"})
HEADER = ReportHeader(
    model_name="storyteller",
    source="builtin:fairytales",
    machine="2 x Xeon, 8 GiB",
    command="lightship report --spec lightship.yaml",
    created_unix_s=1_800_000_000.0,
    reference_digest="sha256:fp16",
    concurrency=32,
    slo_ttft_ms=400,
    slo_tpot_ms=40,
    slo_attainment=0.97,
)
VOID_TAGS = {"meta"}
Row = tuple[str, float, float, float]
# name, quality, goodput, MiB
ROWS: Sequence[Row] = [
    ("fp16", 1.0, 20.123, 40.0),
    ("int8", 0.991, 26.77, 22.0),
    ("int4", 0.968, 34.09, 14.0),
    ("bad", 0.8, 50.5, 9.0),
]


def manifest(name: str, mebibytes: float) -> Manifest:
    return Manifest(
        digest=f"sha256:{name}",
        name=name,
        model_name="storyteller",
        weight_format=WeightFormat.OPENVINO_IR,
        parent_digest="sha256:source",
        recipe=Recipe(name, (RecipeStep("convert"), RecipeStep("quantize", {"bits": 8}))),
        build_key="k",
        tool_versions={},
        files=(FileEntry("openvino_model.bin", int(mebibytes * 2**20), "x"),),
        weight_bytes=int(mebibytes * 2**20) - 12_345,
        num_parameters=12_700_001,
        context_length=1024,
        created_unix_s=0.0,
        source="builtin:fairytales",
    )


def measurements(name: str, quality: float, goodput: float, mebibytes: float) -> Iterator[Measurement]:
    """Every figure of one variant, each different, with intervals."""
    loss = 1.3 / quality
    figures: list[tuple[Metric, int, float, float]] = [
        (Metric.QUALITY_RECOVERY, 0, quality, 0.004),
        (Metric.BITS_PER_BYTE, 0, loss, 0.02),
        (Metric.PERPLEXITY, 0, 2 ** (loss * 3.1), 0.3),
        (Metric.KL_NATS, 0, 0.0001 + (1 - quality) * 1.9, 0.00005),
        (Metric.TOP1_AGREEMENT, 0, 0.3 + 0.7 * quality, 0.01),
        (Metric.PEAK_RSS_BYTES, 0, (180 + 3 * mebibytes) * 2**20, 0.0),
        (Metric.STARTUP_S, 0, 0.4 + mebibytes / 50, 0.05),
    ]
    for users, share in ((1, 0.11), (8, 0.6), (32, 1.0)):
        figures += [
            (Metric.DECODE_TOKENS_PER_S, users, 32 * goodput * share * 1.05, 2 * goodput * share),
            (Metric.GOODPUT_REQUESTS_PER_S, users, goodput * share, 0.07 * goodput * share),
            (Metric.SLO_ATTAINMENT, users, 0.95 - users / 1000, 0.02),
            (Metric.TTFT_MS, users, 900 * users / goodput / 8, 5.0),
            (Metric.TPOT_MS, users, 1000 * share / goodput, 0.3),
        ]
    for metric, users, value, spread in figures:
        is_tail = metric in {Metric.TTFT_MS, Metric.TPOT_MS}
        yield Measurement(
            metric=metric,
            value=value,
            variant_digest=f"sha256:{name}",
            target=TARGET,
            protocol="closed-loop-1/quick" if users else "openvino-echo-512/top64",
            num_items=61 * users + 40,
            interval=Interval(max(0.0, value - spread), value + spread, 0.95) if spread else None,
            measured_unix_s=1_799_999_000.0 + users,
            machine="m1",
            concurrency=users,
            reference_digest="sha256:fp16" if metric is Metric.QUALITY_RECOVERY else None,
            details={"p95": value * 1.5, "p99": value * 1.9, "errors": 0.0} if is_tail else {"errors": 1.0},
        )


def open_loop(name: str, quality: float, goodput: float, mebibytes: float) -> Iterator[Measurement]:
    """Figures at two offered rates, one of them beyond what the variant can do."""
    del quality, mebibytes
    for share, attainment in ((0.5, 0.993), (1.5, 0.211)):
        rate = goodput * share
        figures = (
            (Metric.DECODE_TOKENS_PER_S, 31.7 * min(rate, goodput)),
            (Metric.GOODPUT_REQUESTS_PER_S, rate * attainment),
            (Metric.SLO_ATTAINMENT, attainment),
            (Metric.TTFT_MS, 83.0 * share),
            (Metric.TPOT_MS, 7.1 * share),
        )
        for metric, value in figures:
            yield Measurement(
                metric=metric,
                value=value,
                variant_digest=f"sha256:{name}",
                target=TARGET,
                protocol=f"open-loop-1/poisson/r{share:g}",
                num_items=777,
                interval=Interval(value * 0.93, value * 1.06, 0.95),
                measured_unix_s=1_799_999_500.0,
                machine="m1",
                details={"offered_requests_per_s": rate, "p95": value * 1.21, "p99": value * 1.37, "errors": 2.0},
            )


def resources(name: str, quality: float, goodput: float, mebibytes: float) -> Iterator[Measurement]:
    """Memory, cost on both bases, and energy."""
    del quality
    estimate = (200 + 4 * mebibytes) * 2**20
    details = {
        "usd_per_hour": 2.4,
        "utilisation": 0.35,
        "consumed_share": 0.25,
        "full_use_usd_per_1m_tokens": 11.7 / goodput,
        "break_even_tokens_per_month": 1_234_567.5,
        "break_even_utilisation": 0.125,
    }
    figures: list[tuple[Metric, float, int, str, dict[str, float]]] = [
        (Metric.WEIGHT_BITS_PER_PARAMETER, mebibytes / 3, 0, "weight-files-1", {}),
        (Metric.KV_BYTES_PER_TOKEN, 9216.0, 0, "kv-formula-1/u8", {}),
        (Metric.ESTIMATED_MEMORY_BYTES, estimate, 0, "memory-sum-1", {"residual_bytes": -(2**20) * mebibytes - 20}),
        (Metric.ENERGY_J_PER_OUTPUT_TOKEN, 3.21 / goodput, 32, "energy-1", {}),
    ]
    for basis, factor in (("usage", 1.0), ("allocation", 2.9)):
        costs = (
            (Metric.COST_USD_PER_1M_OUTPUT_TOKENS, 11.1),
            (Metric.COST_USD_PER_1M_GOOD_TOKENS, 13.3),
            (Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS, 1.7),
            (Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS, 9.9),
        )
        for metric, value in costs:
            figures.append((metric, value * factor / goodput, 32, f"cost-1/{basis}/usd-per-hour=2.4", details))
    for metric, value, users, protocol, found in figures:
        yield Measurement(
            metric=metric,
            value=value,
            variant_digest=f"sha256:{name}",
            target=TARGET,
            protocol=protocol,
            num_items=40,
            interval=Interval(value * 0.9, value * 1.2, 0.95) if users else None,
            measured_unix_s=1_799_999_600.0,
            machine="m1",
            concurrency=users,
            details=found,
        )


def build_report(
    rows: Sequence[Row] = ROWS,
    header: ReportHeader = HEADER,
    *,
    explicit: Sequence[str] | None = None,
    keeps: Callable[[Measurement], bool] = lambda one: True,
    changed: Callable[[Measurement], Measurement] = lambda one: one,
    kinds: Iterable[Callable[..., Iterator[Measurement]]] = (measurements,),
    comparisons: Iterable[TaskComparison] = (),
    gates: Iterable[GateEntry] = (),
) -> ReportData:
    """The report data of the given variants, with the figures that `keeps` lets through as `changed` makes them."""
    manifests = [manifest(name, mebibytes) for name, _, _, mebibytes in rows]
    found = [changed(one) for kind in kinds for row in rows for one in kind(*row) if keeps(one)]
    candidates = build_candidates(manifests, found, reference_digest="sha256:fp16", concurrency=32)
    return report_data(
        header,
        manifests=manifests,
        measurements=found,
        candidates=candidates,
        frontier=pareto_frontier(candidates.candidates),
        ladder=choose_ladder(candidates.candidates, quality_floor=0.95, explicit=explicit),
        comparisons=comparisons,
        gates=gates,
    )


class Page(HTMLParser):
    """Checks nesting and collects text, tags, attributes and `<data>` values."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.values: set[float] = set()
        self.words = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "data":
            self.values.add(float(dict(attrs)["value"] or "nan"))
        if tag not in VOID_TAGS and tag != "br":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.words += data


@pytest.fixture
def build() -> Callable[..., ReportData]:
    """`build_report`, since test modules cannot import this file."""
    return build_report


@pytest.fixture
def build_full() -> Callable[..., ReportData]:
    """`build_report` with open loops, memory, cost and energy."""

    def full(*args: Any, more: Iterable[Callable[..., Iterator[Measurement]]] = (), **options: Any) -> ReportData:
        return build_report(*args, kinds=(measurements, open_loop, resources, *more), **options)

    return full


@pytest.fixture
def read() -> Callable[[str], Any]:
    """The parser `Page`."""
    return Page


@pytest.fixture
def header() -> ReportHeader:
    """Of every report here."""
    return HEADER


@pytest.fixture
def rows() -> Sequence[Row]:
    """The variants of every report here."""
    return ROWS
