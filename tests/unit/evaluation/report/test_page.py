"""The report: complete, safe, parseable, the same for the same data."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lightship.evaluation.report.data import GateEntry, ReportData, ReportHeader, report_json
from lightship.evaluation.report.page import render_report
from lightship.ports.measurements import Measurement, Metric

Build = Callable[..., ReportData]
Read = Callable[[str], Any]
Rows = Sequence[tuple[str, float, float, float]]


def test_report_page_is_balanced_and_loads_nothing(build_full: Build, read: Read) -> None:
    html = render_report(build_full())
    page = read(html)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in {"src", "href", "srcset", "action"} or name[:2] == "on"]
    assert re.findall(r"https?://|//[a-z]|url\(|@import", html) == []


def test_report_page_shows_every_figure_of_every_variant(build_full: Build, read: Read, header: ReportHeader) -> None:
    data = build_full()
    values = read(render_report(data)).values
    for variant in data.variants:
        assert variant.size_bytes in values
        assert variant.weight_bytes in values
        loads = [one for load in variant.open_loop for one in load.figures]
        assert len(loads) == 10
        for one in (*variant.figures, *loads):
            if one.metric is Metric.QUALITY_RECOVERY and variant.digest == header.reference_digest:
                continue  # 1 by definition
            shown = {one.value} | ({one.interval.low, one.interval.high} if one.interval else set())
            if one.metric in {Metric.TTFT_MS, Metric.TPOT_MS}:
                shown |= {one.details["p95"], one.details["p99"]}
            assert shown <= values, one
    assert {2.4, 0.35, 0.25, 1_234_567.5, 0.125} <= values  # price, utilisation, share and break-even


def numbers_in(document: Any) -> set[float]:
    """Every number anywhere in a JSON document."""
    if isinstance(document, dict):
        return set().union(*(numbers_in(value) for value in document.values())) if document else set()
    if isinstance(document, list):
        return set().union(*(numbers_in(value) for value in document)) if document else set()
    is_number = isinstance(document, int | float) and not isinstance(document, bool)
    return {float(document)} if is_number else set()


def test_report_json_has_the_same_numbers_as_the_page(build_full: Build, read: Read) -> None:
    data = build_full()
    document = msgspec.json.decode(report_json(data))
    assert document["schema"] == "lightship-report-2"
    assert read(render_report(data)).values <= numbers_in(document)
    assert [rung["name"] for rung in document["rungs"]] == ["fp16@openvino", "int8@openvino", "int4@openvino"]
    int8 = document["variants"][1]
    goodput = [
        one["value"] for one in int8["figures"] if (one["metric"], one["concurrency"]) == ("goodput_requests_per_s", 32)
    ]
    assert goodput == [26.77]
    assert [one["offered_requests_per_s"] for one in int8["open_loop"]] == [26.77 * 0.5, 26.77 * 1.5]


def test_report_page_explains_ladder_and_rejections(build: Build, read: Read) -> None:
    words = read(render_report(build())).words
    assert "2 x Xeon, 8 GiB" in words
    assert "lightship report --spec lightship.yaml" in words
    assert "1.33 times the goodput (26.8 against 20.1 requests/s) of rung 1" in words
    assert "Quality 80% (at least 79.6%) does not reach the floor of 95%" in words
    assert "openvino 2026.4.1 on CPU (amx), 2 threads, kv_cache=u8" in words
    assert "closed-loop-1/quick" in words
    assert "convert, quantize bits=8" in words
    assert "2027-01-15 08:00 UTC" in words  # date -u -d @1800000000


def test_report_gates_show_verdict_and_sentence(build: Build, read: Read) -> None:
    gates = [
        GateEntry("arithmetic", "fail", "Lost 3 points."),
        GateEntry("speed", "pass", "Kept."),
        GateEntry("x", "later", "?"),
    ]
    words = read(render_report(build(gates=gates))).words
    assert "✗ failarithmeticLost 3 points." in words
    assert "✓ passspeedKept." in words
    assert "laterx?" in words  # a verdict that is not known is shown as it is
    assert "Gates" not in read(render_report(build())).words


def test_report_hostile_texts_are_escaped(build: Build, read: Read, header: ReportHeader) -> None:
    evil = '<script>alert("1")</script>&$title'
    rows = [("fp16", 1.0, 20.0, 40.0), (evil, 0.97, 30.0, 20.0), (evil + "'", 0.7, 30.0, 20.0)]
    header = replace(header, model_name=evil, machine=evil, command=evil, source=evil, resource_notes=(evil,))
    html = render_report(build(rows, header, gates=[GateEntry(evil, evil, evil)]))
    page = read(html)
    assert "script" not in page.tags
    assert evil in page.words
    assert "<script" not in html


def test_report_same_data_same_bytes(build_full: Build, rows: Rows) -> None:
    assert render_report(build_full()) == render_report(build_full(list(reversed(rows))))
    assert report_json(build_full()) == report_json(build_full(list(reversed(rows))))


def test_report_single_variant_renders(build: Build, read: Read, rows: Rows) -> None:
    page = read(render_report(build(rows[:1])))
    assert "Every measured variant is on the ladder." in page.words
    assert "1 rung" in page.words


def test_report_unmeasured_variant_is_listed_with_reason(build: Build, read: Read, rows: Rows) -> None:
    def keeps(one: Measurement) -> bool:
        return one.variant_digest != "sha256:new" or one.metric is not Metric.GOODPUT_REQUESTS_PER_S

    page = read(render_report(build([*rows[:2], ("new", 0.97, 30.0, 10.0)], keeps=keeps)))
    assert "Not measured yet at 32 concurrent requests: goodput." in page.words
    assert "new@openvino" in page.words


def test_report_explicit_ladder_shows_its_warnings(build: Build, read: Read) -> None:
    words = read(render_report(build(explicit=["int4@openvino", "fp16@openvino"]))).words
    assert "Warning: Only 0.59 times the goodput" in words


def test_report_no_goodput_shows_tokens_and_the_note(build: Build, read: Read) -> None:
    def changed(one: Measurement) -> Measurement:
        return replace(one, value=0.0, interval=None) if one.metric is Metric.GOODPUT_REQUESTS_PER_S else one

    words = read(render_report(build(changed=changed))).words
    assert "No variant had a single request within the SLO" in words
    assert "Tokens at 32 concurrent requests, tokens/s →" in words


def test_report_tables_and_figures_are_accessible(build_full: Build, read: Read) -> None:
    html = render_report(build_full())
    assert re.findall(r"<th(?! scope=)[ >]", html) == []
    for svg in re.findall(r"<svg[^>]*>", html):
        assert 'aria-hidden="true"' in svg or ('role="img"' in svg and 'aria-label="' in svg)
    assert len(re.findall("<table>", html)) == len(
        re.findall(r'<div class="scroll"[^>]*aria-label="[^"]+"><table>', html)
    )


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


PAIRS = [("text", "surface"), ("muted", "surface"), ("muted", "page"), ("accent", "surface"), ("accent", "page")]
PAIRS += [("on-accent", "accent"), ("warn", "warn-soft"), ("warn", "surface"), ("rule", "surface")]
PAIRS += [("good", "surface"), ("bad", "surface"), ("text", "mark"), ("text", "page")]
PAIRS += [(f"s{style}", "surface") for style in range(8)]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_report_colours_have_enough_contrast(theme: int) -> None:
    css = (Path(render_report.__code__.co_filename).parent / "page.css").read_text("utf-8")
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", re.findall(r":root \{([^}]*)\}", css)[theme]))
    for front, back in PAIRS:
        bright, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (front, back)
