"""Variants that may not compete although they are measured."""

from __future__ import annotations

from tests.unit.evaluation.test_candidates_cost import manifest, quality, speeds

from lightship.evaluation.candidates import build_candidates

FIGURES = [*speeds("fp16", 4.0), *speeds("drafted", 3.0), quality("drafted")]
REASON = "The draft is not worth serving; not faster."


def test_build_candidates_refused_variant_is_unranked_with_the_reason() -> None:
    found = build_candidates(
        [manifest("fp16"), manifest("drafted")],
        FIGURES,
        reference_digest="sha256:fp16",
        concurrency=32,
        refusals={"sha256:drafted": REASON},
    )
    assert [one.name for one in found.candidates] == ["fp16@openvino"]
    assert [(one.name, one.reason) for one in found.unranked] == [("drafted@openvino", REASON)]


def test_build_candidates_reference_competes_whatever_is_said_of_it() -> None:
    found = build_candidates(
        [manifest("fp16"), manifest("drafted")],
        FIGURES,
        reference_digest="sha256:fp16",
        concurrency=32,
        refusals={"sha256:fp16": REASON},
    )
    assert {one.name for one in found.candidates} == {"fp16@openvino", "drafted@openvino"}
