from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.evaluation.tasks.scorers.numeric import last_number, whole_text_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 18.", 18),
        ("#### 72", 72),
        ("that makes $1,234.50 in all", Fraction(2469, 2)),
        ("1234.5", Fraction(2469, 2)),
        ("so **-3**", -3),
        ("so \u22127 degrees", -7),
        ("a loss of -$4", -4),
        ("a loss of $-4", -4),
        ("12% of them", 12),
        ("half, .5", Fraction(1, 2)),
        ("3/4 of a cup.", Fraction(3, 4)),
        ("1.5e3", 1500),
        ("1e-2", Fraction(1, 100)),
        ("- 5 apples", 5),
        ("10-3", 3),
        ("pre-3", 3),
        ("3,4,5", 5),
        ("1,2345", 2345),
        ("1,234,56", 56),
        ("the answer is...18", 18),
        ("18 apples, x1 and x2", 18),
        (r"\boxed{42}", 42),
        ("10:30", 30),
        ("1/0", None),
        ("", None),
        ("twelve", None),
        ("x1 y2", None),
    ],
)
def test_last_number_forms_people_write_are_read_exactly(text: str, expected: Fraction | int | None) -> None:
    assert last_number(text) == expected


def test_last_number_of_very_many_digits_is_no_number() -> None:
    assert last_number("1" * 100_000) is None


@given(st.integers(-(10**12), 10**12), st.booleans())
def test_last_number_whole_numbers_come_back_with_and_without_commas(number: int, has_commas: bool) -> None:
    written = f"{number:,}" if has_commas else str(number)
    assert last_number(f"In total, it is {written}.") == number


@pytest.mark.parametrize(
    ("text", "expected"), [("5", 5), (" 1,000 ", 1000), ("70%", 70), ("5 apples", None), ("", None)]
)
def test_whole_text_number_reads_a_number_and_nothing_else(text: str, expected: int | None) -> None:
    assert whole_text_number(text) == expected
