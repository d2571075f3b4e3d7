"""The decision record, as a person reads it."""

from __future__ import annotations

import json

from tests.unit.compression.search.world import REFERENCE, Truth, drive, outcome_of, proposal, setup

from lightship.compression.search.record import render_record, render_record_json
from lightship.compression.search.records import Tier
from lightship.compression.search.search import next_actions, record, start

INT8, INT4 = "int8@openvino", "int4@openvino"
PROPOSALS = (
    proposal(REFERENCE),
    proposal(INT8, steps=[("int8", 5.0)]),
    proposal(INT4, steps=[("int4", 5.0)]),
    proposal("int4-awq@openvino", tier=Tier.CALIBRATED, grows_from=[INT4], steps=[("awq", 60.0)]),
)
TRUTHS = {
    REFERENCE: Truth(num_bytes=2**20, goodput=2.0),
    INT8: Truth(num_bytes=2**19, recovery=0.999, goodput=1.8, kl=0.001),
    INT4: Truth(num_bytes=2**18, recovery=0.975, spread=0.01, goodput=2.2, kl=0.1),
}


def test_record_of_a_finished_search_reads_from_result_to_advice() -> None:
    text = render_record(drive(setup(PROPOSALS, time_s=25.0, rate_per_s=1.5), TRUTHS))
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Search for the best variants of fairytales",
        "## Asked for",
        "## Figures",
        "## Why each one lived or died",
        "### Kept",
        "### Rejected",
        "### Not reached",
        "## What to do next",
    ]
    assert "**Kept 2 of 4 candidates**, best quality first:" in text
    assert f"- `{INT8}`: recovery 99.90% on text, 512 KiB, 1.8 good requests/s" in text
    assert "| quality floor | 97.00% of the reference's, by the lower bound |" in text
    assert "| load | 32 requests at once, 1.5 requests/s wanted |" in text
    row = f"| `{INT8}` | kept | 512 KiB | 99.90% | 0.001 | 100.0% | - | 1.8 | 10 | 5 | - |"
    assert row in text.splitlines()


def test_record_advice_names_who_carries_the_rate_what_needs_time_and_what_needs_items() -> None:
    text = render_record(drive(setup(PROPOSALS, time_s=25.0, rate_per_s=1.5), TRUTHS))
    advice = text[text.index("## What to do next") :].splitlines()[2:]
    assert advice == [
        f"- Serve `{REFERENCE}`: of those that carry 1.5 requests/s on one replica it keeps most quality.",
        "- Give the search more time: it did not reach `int4-awq@openvino`. What was found so far is kept.",
        f"- Evaluate more items: `{INT4}` may reach the floor, and the items so far cannot tell.",
    ]


def test_record_of_a_rate_that_nothing_carries_counts_replicas() -> None:
    text = render_record(drive(setup(PROPOSALS[:2], rate_per_s=5.0), TRUTHS))
    assert f"No variant carries 5 requests/s on one replica; `{REFERENCE}`, the fastest, would need 3 of them." in text


def test_record_of_a_search_under_way_says_where_it_stands_and_gives_no_advice() -> None:
    state = start(setup(PROPOSALS))
    text = render_record(record(state, outcome_of(next_actions(state)[0], TRUTHS)))
    assert "Not finished: 0 of 4 candidates are decided, the search is at stage *quality*" in text
    assert "What to do next" not in text


def test_record_where_nothing_is_kept_says_so_and_what_to_change() -> None:
    truths = {name: Truth(num_bytes=900, goodput=0.0) for name in TRUTHS}
    text = render_record(drive(setup(PROPOSALS), truths))
    assert "**Nothing was kept.**" in text
    assert "Allow more bytes, a lower floor or a slower promise" in text


def test_record_as_json_holds_the_journal_from_which_all_of_it_follows() -> None:
    state = drive(setup(PROPOSALS), TRUTHS)
    data = json.loads(render_record_json(state))
    assert data["schema"] == "lightship-search-record/1"
    assert set(data["frontier"]) == {REFERENCE, INT8, "int4-awq@openvino"}
    assert len(data["journal"]) == len(state.journal)
    assert data["hypervolume"]["frontier"] > data["hypervolume"]["best_single"] > 0
    by_name = {one["name"]: one for one in data["candidates"]}
    assert by_name[INT4]["decision"]["remedy"] == "items"
    assert by_name[INT8]["figures"]["num_bytes"] == 2**19
