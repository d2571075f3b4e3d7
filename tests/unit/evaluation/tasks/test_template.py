from __future__ import annotations

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.tasks.template import parse_template


def test_template_renders_text_and_numbers_and_braces() -> None:
    template = parse_template("{q}\n{{not a field}} {n} {x}")
    assert template.fields == ("q", "n", "x")
    assert template.render({"q": "Why {so}?", "n": 7, "x": 0.5, "other": []}) == "Why {so}?\n{not a field} 7 0.5"


@pytest.mark.parametrize(
    "text",
    ["{a.b}", "{a[0]}", "{}", "{0}", "{a!r}", "{a:>9}", "{a.__class__}", "{a b}", "{a:{b}}"],
)
def test_template_anything_but_a_plain_name_is_refused(text: str) -> None:
    with pytest.raises(MeasurementError, match="is not the name of a field"):
        parse_template(text)


@pytest.mark.parametrize("text", ["{a", "a}", "{a}}"])
def test_template_brace_without_partner_is_refused(text: str) -> None:
    with pytest.raises(MeasurementError, match="the template is not readable"):
        parse_template(text)


@pytest.mark.parametrize(
    ("value", "kind"), [(None, "null"), (True, "true or false"), (["x"], "a list"), ({"x": 1}, "an object")]
)
def test_template_value_that_is_no_text_is_refused_with_its_kind(value: object, kind: str) -> None:
    with pytest.raises(MeasurementError, match=f"the field 'a' is {kind}"):
        parse_template("{a}").render({"a": value})


def test_template_missing_field_is_named_with_those_there() -> None:
    with pytest.raises(MeasurementError, match=r"no field 'question'.* It has query, id"):
        parse_template("{question}").render({"query": "?", "id": 1})
