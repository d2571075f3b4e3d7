"""The report's sections: frontier pairs, load curves, tasks, memory and cost; with and without data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from lightship.evaluation.comparison import Flip, TaskComparison
from lightship.evaluation.cost.from_measurements import NO_PRICE_NOTE
from lightship.evaluation.report.data import ReportData, ReportHeader, report_json
from lightship.evaluation.report.page import render_report
from lightship.evaluation.report.task_section import MAX_FLIPS, marked_difference
from lightship.evaluation.statistics.bootstrap import Estimate
from lightship.ports.measurements import Interval, Measurement, Metric

Build = Callable[..., ReportData]
Read = Callable[[str], Any]


def estimate(value: float, spread: float = 0.011) -> Estimate:
    return Estimate(value, Interval(value - spread, value + spread, 0.9), 1000)


def flip(number: int, *, is_loss: bool = True, answer: str = "The answer is 41.") -> Flip:
    scores = (1.0, 0.0) if is_loss else (0.0, 1.0)
    return Flip(f"item-{number}", f"What is {number}?", "42", "The answer is 42.", answer, *scores)


def comparison(*, difference: float = -0.0313, flips: tuple[Flip, ...] = (), **changes: Any) -> TaskComparison:
    one = TaskComparison(
        task="arithmetic",
        metric="exact_match",
        protocol="arithmetic-1/n=1000",
        reference_name="fp16@openvino",
        candidate_name="int4@openvino",
        num_items=1013,
        num_clusters=507,
        reference=estimate(0.7421),
        candidate=estimate(0.7421 + difference),
        difference=estimate(difference, 0.012),
        recovery=estimate(0.9578),
        num_lost=44,
        num_gained=13,
        p_value=0.00123,
        method="paired bootstrap by document",
        flips=flips,
    )
    return replace(one, **changes)


def captions(html: str) -> list[str]:
    return [part.split("</figcaption>")[0] for part in html.split("<figcaption>")[1:]]


def test_frontier_every_pair_that_has_figures_is_drawn(build_full: Build, build: Build) -> None:
    assert [words for words in captions(render_report(build_full())) if " against offered" not in words][:9] == [
        "Quality against memory",
        "Quality against cost",
        "Quality against size",
        "Speed against memory",
        "Speed against cost",
        "Speed against size",
        "Memory against cost",
        "Memory against size",
        "Cost against size",
    ]
    without_cost = [words for words in captions(render_report(build())) if "throughput" not in words]
    assert without_cost == [
        "Quality against memory",
        "Quality against size",
        "Speed against memory",
        "Speed against size",
        "Memory against size",
    ]


def test_frontier_without_memory_leaves_its_pairs_out(build: Build) -> None:
    html = render_report(build(keeps=lambda one: one.metric is not Metric.PEAK_RSS_BYTES))
    assert [words for words in captions(html) if "throughput" not in words] == [
        "Quality against size",
        "Speed against size",
    ]


def test_frontier_cost_has_the_interval_of_the_basis_that_competes(build_full: Build) -> None:
    data = build_full()
    entry = data.variants[0]
    assert entry.candidate is not None
    # the newest, that on allocation: 13.3 * 2.9 / 20.123
    assert entry.candidate.cost_usd_per_1m_tokens == pytest.approx(1.9167, abs=1e-4)
    plot = render_report(data).split("<figcaption>Quality against cost</figcaption>")[1].split("</svg>")[0]
    start, end = map(float, re.findall(r'class="bar" d="M([\d.]+) [\d.]+H([\d.]+)', plot)[0])
    x = float(re.findall(r'class="rung" cx="([\d.]+)"', plot)[-1])  # the first rung is drawn last
    assert (x - start) / (end - x) == pytest.approx(0.5, abs=0.01)  # the interval is 0.9 to 1.2 of the value


def test_frontier_large_memory_is_in_gib(build: Build, read: Read) -> None:
    rows = [("fp16", 1.0, 20.1, 30_000.0), ("int8", 0.99, 27.0, 16_000.0)]
    words = read(render_report(build(rows))).words
    assert "← Size, GiB" in words
    assert "← Size, MiB" not in words


def test_load_curves_closed_loop_only_says_what_is_missing(build: Build, read: Read) -> None:
    html = render_report(build())
    assert [words for words in captions(html) if "throughput" in words] == [
        "TTFT p50 against throughput",
        "TTFT p99 against throughput",
        "TPOT p50 against throughput",
        "TPOT p99 against throughput",
    ]
    words = read(html).words
    assert "No open-loop figures yet" in words
    assert "lightship bench" in words
    assert "fp16, 8 concurrent: 406 tokens/s, 44.7 ms" in words  # 32 * 20.123 * 0.6 * 1.05; 900 / 20.123


def test_load_curves_open_loop_shows_goodput_and_target(build_full: Build, read: Read) -> None:
    html = render_report(build_full())
    assert "Goodput against offered rate" in captions(html)
    words = read(html).words
    assert "fp16, 10.1 requests/s offered: 9.99 good requests/s" in words  # 20.123 * 0.5 * 0.993
    assert "fp16, 30.2 requests/s offered: 21.1% within the SLO" in words
    assert "target 97%" in words
    assert "No open-loop figures yet" not in words


def test_load_curves_variant_without_open_loop_is_named(build_full: Build, read: Read) -> None:
    def keeps(one: Measurement) -> bool:
        return one.variant_digest != "sha256:int4" or "offered_requests_per_s" not in one.details

    assert "Without open-loop figures: int4@openvino." in read(render_report(build_full(keeps=keeps))).words


def test_load_curves_no_tails_draw_no_tail_plots(build: Build) -> None:
    html = render_report(build(changed=lambda one: replace(one, details={})))
    assert [words for words in captions(html) if "throughput" in words] == [
        "TTFT p50 against throughput",
        "TPOT p50 against throughput",
    ]


def test_report_open_loop_does_not_hide_closed_loop_figures(build_full: Build) -> None:
    # an open loop has no concurrency; once it stood where figures without load stand
    entry = build_full().variants[0]
    assert entry.figure(Metric.TTFT_MS) is None
    assert entry.figure(Metric.TTFT_MS, 32) is not None
    assert [one.offered_requests_per_s for one in entry.open_loop] == [20.123 * 0.5, 20.123 * 1.5]


def test_report_open_loop_measured_again_replaces_the_earlier_run(build_full: Build) -> None:
    # the rate that was offered is measured too, so the second run's differs a little
    def later(one: Measurement) -> Measurement:
        details = {**one.details, "offered_requests_per_s": one.details["offered_requests_per_s"] * 1.003}
        return replace(one, details=details, measured_unix_s=one.measured_unix_s + 60)

    def twice(*row: Any) -> Iterator[Measurement]:
        for one in open_loop_of(row):
            yield from (later(one), one)

    def open_loop_of(row: Any) -> list[Measurement]:
        entry = next(entry for entry in build_full().variants if entry.name == f"{row[0]}@openvino")
        return [one for load in entry.open_loop for one in load.figures]

    entry = build_full(more=(twice,)).variants[0]
    rates = [one.offered_requests_per_s for one in entry.open_loop]
    assert rates == pytest.approx([20.123 * 0.5 * 1.003, 20.123 * 1.5 * 1.003])


def test_tasks_table_has_every_value(build: Build, read: Read) -> None:
    one = comparison()
    page = read(render_report(build(comparisons=[one])))
    assert one.recovery is not None
    for part in (one.reference, one.candidate, one.difference, one.recovery):
        assert part.interval is not None
        assert {part.value, part.interval.low, part.interval.high} <= page.values
    assert {1013, 507, 44, 13, 0.00123} <= page.values
    for words in ("arithmetic · exact_match", "arithmetic-1/n=1000", "paired bootstrap by document", "90% confidence"):
        assert words in page.words


@pytest.mark.parametrize(
    ("difference", "words"),
    [(-0.0313, "▼ worse"), (0.0313, "▲ better"), (-0.0119, "no difference shown")],
)
def test_tasks_difference_is_one_only_where_its_interval_says_so(
    build: Build, read: Read, difference: float, words: str
) -> None:
    page = read(render_report(build(comparisons=[comparison(difference=difference)])))
    found = [one for one in ("▼ worse", "▲ better", "no difference shown") if one in page.words]
    assert found == [words]


def test_tasks_without_recovery_p_value_and_intervals_show_dashes(build: Build, read: Read) -> None:
    bare = Estimate(0.0, None, 1)
    one = replace(comparison(), recovery=None, p_value=None, reference=bare, candidate=bare, difference=bare)
    page = read(render_report(build(comparisons=[one])))
    assert "no difference shown" not in page.words  # nothing was tested
    assert "arithmetic" in page.words


def test_tasks_flips_show_losses_first_and_at_most_ten(build: Build, read: Read) -> None:
    flips = tuple(flip(number, is_loss=number % 2 == 0) for number in range(24))
    data = build(comparisons=[comparison(flips=flips)])
    page = read(render_report(data))
    shown = [int(part.split()[0].split("·")[0]) for part in page.words.split("item-")[1:]]
    assert shown == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert len(shown) == MAX_FLIPS
    assert "44 lost, 13 gained, the first 10 here and all in the JSON report" in page.words
    document = msgspec.json.decode(report_json(data))
    assert len(document["tasks"][0]["flips"]) == 24


def test_tasks_flips_show_texts_escaped_with_the_change_marked(build: Build, read: Read) -> None:
    evil = flip(1, answer="The answer is </dd><script>41</script>.")
    html = render_report(build(comparisons=[comparison(flips=(evil,))]))
    page = read(html)
    assert "What is 1?" in page.words
    assert "The answer is </dd><script>41</script>." in page.words
    assert "script" not in page.tags
    assert "<mark>42</mark>" in html


def test_tasks_hostile_names_are_escaped(build: Build, read: Read) -> None:
    evil = "<img src=x>&"
    one = comparison(task=evil, metric=evil, protocol=evil, method=evil, candidate_name=evil, reference_name=evil)
    page = read(render_report(build(comparisons=[one])))
    assert "img" not in page.tags
    assert page.words.count(evil) >= 6


def test_tasks_without_flips_tell_apart_none_and_not_kept(build: Build, read: Read) -> None:
    none = comparison(num_lost=0, num_gained=0)
    words = read(render_report(build(comparisons=[none, comparison(task="other")]))).words
    assert "int4@openvino: no item changed." in words
    assert "int4@openvino: 44 lost and 13 gained, of which no example was kept." in words


def test_tasks_order_does_not_depend_on_the_input(build: Build) -> None:
    found = [comparison(candidate_name=name, task=task) for task in ("b", "a") for name in ("y", "x")]
    assert render_report(build(comparisons=found)) == render_report(build(comparisons=found[::-1]))
    assert [(one.task, one.candidate_name) for one in build(comparisons=found).tasks] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "x"),
        ("b", "y"),
    ]


def test_tasks_absent_leave_no_section(build: Build, read: Read) -> None:
    assert "Tasks" not in read(render_report(build())).words


def test_marked_difference_marks_each_changed_word() -> None:
    reference, candidate = marked_difference("48 + 24 = 72, so the answer is 72.", "48 + 24 = 62, so the answer is 62.")
    assert reference == "48 + 24 = <mark>72</mark>, so the answer is <mark>72</mark>."
    assert candidate == "48 + 24 = <mark>62</mark>, so the answer is <mark>62</mark>."


def test_marked_difference_of_unlike_answers_marks_nothing() -> None:
    assert marked_difference("Yes.", "I < cannot & will not say") == ("Yes.", "I &lt; cannot &amp; will not say")
    assert marked_difference("", "") == ("", "")


def test_costs_stand_on_both_bases(build_full: Build, read: Read, header: ReportHeader) -> None:
    notes = ("aws:m7i at $2.4 per hour.",)
    page = read(render_report(build_full(header=replace(header, resource_notes=notes))))
    assert "Allocation, 32 concurrent requests" in page.words
    assert "Usage, 32 concurrent requests" in page.words
    assert "aws:m7i at $2.4 per hour." in page.words
    assert "No price given" not in page.words
    assert {13.3 / 20.123, 13.3 * 2.9 / 20.123, 11.7 / 20.123} <= page.values


def test_costs_absent_say_how_to_add_them(build: Build, read: Read, header: ReportHeader) -> None:
    notes = (NO_PRICE_NOTE, "No memory estimate of int8: no config.json.")
    words = read(render_report(build(header=replace(header, resource_notes=notes)))).words
    assert "No price given: add cost: to the spec" in words
    assert "No memory estimate of int8" in words
    assert NO_PRICE_NOTE not in words  # said once
    assert "No energy figures" in words


def test_energy_without_price_has_a_table_of_its_own(build_full: Build, read: Read) -> None:
    page = read(render_report(build_full(keeps=lambda one: not one.protocol.startswith("cost"))))
    assert "Energy, 32 concurrent requests" in page.words
    assert 3.21 / 20.123 in page.values
    assert "No price given" in page.words


def test_memory_residual_has_its_sign(build_full: Build, read: Read) -> None:
    page = read(render_report(build_full()))
    assert "−40.0 MiB" in page.words
    assert -(2**20) * 40.0 - 20 in page.values


def test_costs_of_open_loops_share_one_table(build_full: Build, read: Read) -> None:
    def changed(one: Measurement) -> Measurement:
        if not one.protocol.startswith("cost"):
            return one
        return replace(one, concurrency=0, details={**one.details, "offered_requests_per_s": one.value * 3})

    words = read(render_report(build_full(changed=changed))).words
    assert words.count("Allocation, open loop") == 1
    assert "Allocation, 32" not in words
