from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from lightship.cli.assess import Assessment
from lightship.cli.ladder_table import ladder_notes, print_ladder
from lightship.cli.prepare import BuiltVariants
from lightship.evaluation.candidates import build_candidates
from lightship.evaluation.frontier import pareto_frontier
from lightship.evaluation.ladder import choose_ladder
from lightship.evaluation.report.data import ReportHeader, report_data
from lightship.ports.measurements import Interval, Measurement, Metric, Target
from lightship.ports.variants import FileEntry, Manifest, Recipe, Variant, WeightFormat

TARGET = Target("openvino", "2026.4.1", "CPU", "amx", 2)
# name, quality recovery, goodput at 32 users; size is given by the position
ROWS = (("fp16", 1.0, 20.0), ("int8", 0.99, 30.0), ("int4", 0.7, 90.0), ("slow", 0.98, 5.0))
MEBIBYTE = 2**20


def manifest(name: str, size_bytes: int) -> Manifest:
    return Manifest(
        digest=f"sha256:{name}",
        name=name,
        model_name="storyteller",
        weight_format=WeightFormat.OPENVINO_IR,
        parent_digest="sha256:source",
        recipe=Recipe(name, ()),
        build_key="k",
        tool_versions={},
        files=(FileEntry("openvino_model.bin", size_bytes, "x"),),
        weight_bytes=1,
        num_parameters=1,
        context_length=1024,
        created_unix_s=0.0,
        source="s",
    )


def figures(name: str, quality: float, goodput: float) -> Iterator[Measurement]:
    values = [
        (Metric.BITS_PER_BYTE, 0, 1.25 / quality),
        (Metric.PEAK_RSS_BYTES, 0, 250.0 * MEBIBYTE),
        (Metric.STARTUP_S, 0, 0.9),
        (Metric.DECODE_TOKENS_PER_S, 1, 10 * goodput),
        (Metric.DECODE_TOKENS_PER_S, 32, 32 * goodput),
        (Metric.GOODPUT_REQUESTS_PER_S, 1, goodput / 8),
        (Metric.GOODPUT_REQUESTS_PER_S, 32, goodput),
        (Metric.TTFT_MS, 32, 1234.0 / goodput),
    ]
    if name != "fp16":
        values.append((Metric.QUALITY_RECOVERY, 0, quality))
    for metric, users, value in values:
        yield Measurement(
            metric=metric,
            value=value,
            variant_digest=f"sha256:{name}",
            target=TARGET,
            protocol="p",
            num_items=5,
            interval=Interval(value - 0.001, value + 0.001, 0.95),
            measured_unix_s=1.0,
            machine="m",
            concurrency=users,
            reference_digest="sha256:fp16" if metric is Metric.QUALITY_RECOVERY else None,
        )


def assessment(*, without: Metric | None = None) -> tuple[Assessment, BuiltVariants]:
    manifests = [manifest(name, (40 - 10 * position) * MEBIBYTE) for position, (name, _, _) in enumerate(ROWS)]
    found = [one for row in ROWS for one in figures(*row) if one.metric is not without]
    candidates = build_candidates(manifests, found, reference_digest="sha256:fp16", concurrency=32)
    ladder = choose_ladder(candidates.candidates, quality_floor=0.95)
    header = ReportHeader("storyteller", "s", "2 x Xeon", "lightship up", 1.0, "sha256:fp16", 32, 400, 40)
    report = report_data(
        header,
        manifests=manifests,
        measurements=found,
        candidates=candidates,
        frontier=pareto_frontier(candidates.candidates),
        ladder=ladder,
    )
    variants = tuple(Variant(one, Path("/store") / one.name) for one in manifests)
    return Assessment(candidates, ladder, report), BuiltVariants(variants, variants[0])


def printed(found: tuple[Assessment, BuiltVariants], *, width: int = 200) -> str:
    shown = io.StringIO()
    print_ladder(Console(file=shown, width=width, color_system=None), *found)
    return shown.getvalue()


def rows_of(text: str) -> list[list[str]]:
    """Cells of the table's lines."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_print_ladder_rungs_come_first_in_order_then_what_was_left_out() -> None:
    rows = rows_of(printed(assessment()))
    assert [row[:2] for row in rows] == [
        ["1", "fp16@openvino"],
        ["2", "int8@openvino"],
        ["-", "slow@openvino"],
        ["-", "int4@openvino"],
    ]


def test_print_ladder_row_has_every_figure_in_its_unit() -> None:
    text = printed(assessment())
    row = rows_of(text)[1]
    # 1.25 / 0.99 bits; 10 and 32 times 30 tokens/s; 1234 / 30 ms
    assert row[2:] == ["99.0%", "1.263", "300/960", "41 ms", "30.0/s", "250 MiB", "30.0 MiB", "900 ms"]
    for title in ("storyteller on 2 x Xeon", "tok/s x1/x32", "TTFT p50 x32", "goodput x32"):
        assert title in text


def test_print_ladder_figure_that_was_not_measured_is_a_dash() -> None:
    row = rows_of(printed(assessment(without=Metric.TTFT_MS)))[0]
    assert row[5] == "-"


def test_ladder_notes_give_a_reason_for_each_variant_left_out() -> None:
    notes = ladder_notes(*assessment())
    assert len(notes) == 3
    assert re.match(r"slow@openvino: .*0\.17 times the goodput", notes[0])
    assert re.match(r"int4@openvino: .*does not reach the floor of 95%", notes[1])
    assert notes[-1] == "Recovery is relative to fp16."


def test_ladder_notes_variant_without_figures_says_what_is_not_measured() -> None:
    notes = ladder_notes(*assessment(without=Metric.QUALITY_RECOVERY))
    assert [note for note in notes if "Not measured yet" in note and note.startswith("int8")]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_print_ladder_narrow_terminal_loses_no_figure(width: int) -> None:
    text = printed(assessment(), width=width)
    for figure in ("99.0%", "1.263", "300/960", "30.0/s", "900 ms", "int4@openvino: "):
        assert figure in text
