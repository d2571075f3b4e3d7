"""The report: complete, safe, parseable, the same for the same data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.evaluation.candidates import build_candidates
from lightship.evaluation.frontier import pareto_frontier
from lightship.evaluation.ladder import choose_ladder
from lightship.evaluation.report.data import ReportData, ReportHeader, report_data, report_json
from lightship.evaluation.report.labels import Box, LabelRequest, place_labels
from lightship.evaluation.report.page import render_report
from lightship.evaluation.report.plot import ticks
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
)
VOID_TAGS = {"meta"}
# name, quality, goodput, MiB
ROWS = [
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
        weight_bytes=1,
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


def sample(
    rows: Sequence[tuple[str, float, float, float]] = ROWS,
    header: ReportHeader = HEADER,
    *,
    explicit: Sequence[str] | None = None,
    without: frozenset[Metric] = frozenset(),
) -> ReportData:
    """The report data of the given variants."""
    manifests = [manifest(name, mebibytes) for name, _, _, mebibytes in rows]
    found = [one for row in rows for one in measurements(*row) if one.metric not in without]
    candidates = build_candidates(manifests, found, reference_digest="sha256:fp16", concurrency=32)
    return report_data(
        header,
        manifests=manifests,
        measurements=found,
        candidates=candidates,
        frontier=pareto_frontier(candidates.candidates),
        ladder=choose_ladder(candidates.candidates, quality_floor=0.95, explicit=explicit),
    )


class _Page(HTMLParser):
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


def test_report_page_is_balanced_and_loads_nothing() -> None:
    html = render_report(sample())
    page = _Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in {"src", "href", "srcset", "action"} or name[:2] == "on"]
    assert re.findall(r"https?://|//[a-z]|url\(|@import", html) == []
    assert page.tags.count("svg") >= 4


def test_report_page_shows_every_figure_of_every_variant() -> None:
    data = sample()
    values = _Page(render_report(data)).values
    for variant in data.variants:
        assert variant.size_bytes in values
        for one in variant.figures:
            if one.metric is Metric.QUALITY_RECOVERY and variant.digest == HEADER.reference_digest:
                continue  # 1 by definition
            shown = {one.value} | ({one.interval.low, one.interval.high} if one.interval else set())
            shown |= {one.details[key] for key in ("p95", "p99") if key in one.details}
            assert shown <= values, one


def numbers_in(document: Any) -> set[float]:
    """Every number anywhere in a JSON document."""
    if isinstance(document, dict):
        return set().union(*(numbers_in(value) for value in document.values())) if document else set()
    if isinstance(document, list):
        return set().union(*(numbers_in(value) for value in document)) if document else set()
    is_number = isinstance(document, int | float) and not isinstance(document, bool)
    return {float(document)} if is_number else set()


def test_report_json_has_the_same_numbers_as_the_page() -> None:
    data = sample()
    document = msgspec.json.decode(report_json(data))
    assert document["schema"] == "lightship-report-1"
    assert _Page(render_report(data)).values <= numbers_in(document)
    assert [rung["name"] for rung in document["rungs"]] == ["fp16@openvino", "int8@openvino", "int4@openvino"]
    figures = document["variants"][1]["figures"]
    goodput = [one["value"] for one in figures if (one["metric"], one["concurrency"]) == ("goodput_requests_per_s", 32)]
    assert goodput == [26.77]


def test_report_page_explains_ladder_and_rejections() -> None:
    words = _Page(render_report(sample())).words
    assert "2 x Xeon, 8 GiB" in words
    assert "lightship report --spec lightship.yaml" in words
    assert "1.33 times the goodput (26.8 against 20.1 requests/s) of rung 1" in words
    assert "Quality 80% (at least 79.6%) does not reach the floor of 95%" in words
    assert "openvino 2026.4.1 on CPU (amx), 2 threads, kv_cache=u8" in words
    assert "closed-loop-1/quick" in words
    assert "convert, quantize bits=8" in words
    assert "2027-01-15 08:00 UTC" in words  # date -u -d @1800000000


def test_report_hostile_texts_are_escaped() -> None:
    evil = '<script>alert("1")</script>&$title'
    rows = [("fp16", 1.0, 20.0, 40.0), (evil, 0.97, 30.0, 20.0), (evil + "'", 0.7, 30.0, 20.0)]
    header = replace(HEADER, model_name=evil, machine=evil, command=evil, source=evil)
    html = render_report(sample(rows, header))
    page = _Page(html)
    assert "script" not in page.tags
    assert evil in page.words
    assert "<script" not in html


def test_report_same_data_same_bytes() -> None:
    assert render_report(sample()) == render_report(sample(list(reversed(ROWS))))
    assert report_json(sample()) == report_json(sample(list(reversed(ROWS))))


def test_report_single_variant_renders() -> None:
    page = _Page(render_report(sample(ROWS[:1])))
    assert "Every measured variant is on the ladder." in page.words
    assert "1 rung" in page.words


def test_report_without_memory_plots_size_instead() -> None:
    assert "Quality against memory" in _Page(render_report(sample())).words
    assert "Quality against size" in _Page(render_report(sample(without=frozenset({Metric.PEAK_RSS_BYTES})))).words


def test_report_unmeasured_variant_is_listed_with_reason() -> None:
    rows = [*ROWS[:2], ("new", 0.97, 30.0, 10.0)]
    manifests = [manifest(name, mebibytes) for name, _, _, mebibytes in rows]
    found = [
        one
        for row in rows
        for one in measurements(*row)
        if row[0] != "new" or one.metric is not Metric.GOODPUT_REQUESTS_PER_S
    ]
    candidates = build_candidates(manifests, found, reference_digest="sha256:fp16", concurrency=32)
    data = report_data(
        HEADER,
        manifests=manifests,
        measurements=found,
        candidates=candidates,
        frontier=pareto_frontier(candidates.candidates),
        ladder=choose_ladder(candidates.candidates, quality_floor=0.95),
    )
    page = _Page(render_report(data))
    assert "Not measured yet at 32 concurrent requests: goodput." in page.words
    assert "new@openvino" in page.words


def test_report_explicit_ladder_shows_its_warnings() -> None:
    words = _Page(render_report(sample(explicit=["int4@openvino", "fp16@openvino"]))).words
    assert "Warning: Only 0.59 times the goodput" in words


def test_report_no_goodput_shows_tokens_and_the_note() -> None:
    rows = [(name, quality, 1e-12, size) for name, quality, _, size in ROWS]
    manifests = [manifest(name, size) for name, _, _, size in rows]
    found = [
        replace(one, value=0.0, interval=None) if one.metric is Metric.GOODPUT_REQUESTS_PER_S else one
        for row in ROWS
        for one in measurements(*row)
    ]
    candidates = build_candidates(manifests, found, reference_digest="sha256:fp16", concurrency=32)
    data = report_data(
        HEADER,
        manifests=manifests,
        measurements=found,
        candidates=candidates,
        frontier=pareto_frontier(candidates.candidates),
        ladder=choose_ladder(candidates.candidates, quality_floor=0.95),
    )
    words = _Page(render_report(data)).words
    assert "No variant had a single request within the SLO" in words
    assert "Tokens at 32 concurrent requests, tokens/s →" in words


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


PAIRS = [("text", "surface"), ("muted", "surface"), ("muted", "page"), ("accent", "surface"), ("accent", "page")]
PAIRS += [("on-accent", "accent"), ("warn", "warn-soft"), ("rule", "surface")]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_report_colours_have_enough_contrast(theme: int) -> None:
    css = (Path(render_report.__code__.co_filename).parent / "page.css").read_text("utf-8")
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", re.findall(r":root \{([^}]*)\}", css)[theme]))
    for front, back in PAIRS:
        bright, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (front, back)


@given(st.lists(st.tuples(st.floats(60, 940), st.floats(40, 400)), min_size=1, max_size=12))
def test_place_labels_stay_inside_and_apart(places: list[tuple[float, float]]) -> None:
    area = Box(0, 0, 1000, 440)
    requests = [LabelRequest(x, y, 80, 16) for x, y in places]
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    boxes = place_labels(requests, area=area, solid=marks)
    for index, box in enumerate(boxes):
        assert area.contains(box)
        assert all(box.overlap(other) == 0 for other in [*marks, *boxes[:index]])


@pytest.mark.parametrize(
    ("low", "high", "max_ticks", "expected"),
    [
        (0.0, 54.5, 8, [0, 10, 20, 30, 40, 50]),
        (0.786, 1.014, 6, [0.8, 0.85, 0.9, 0.95, 1.0]),
        (0.9949, 1.0004, 6, [0.995, 0.996, 0.997, 0.998, 0.999, 1.0]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, max_ticks: int, expected: list[float]) -> None:
    assert ticks(low, high, max_ticks=max_ticks) == pytest.approx(expected)
