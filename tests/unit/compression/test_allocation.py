"""The allocator against all combinations tried one by one."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.compression import allocation
from lightship.compression.allocation import Choice, Group, allocate
from lightship.errors import SpecError

NAMES = ("a", "b", "c", "d")
# Divergences are multiples of 1/64, whose sums are exact in floating point.
CHOICES = st.builds(
    Choice,
    format=st.sampled_from(("w4a16", "w8a8", "bf16")),
    num_bytes=st.integers(1, 40),
    divergence=st.integers(0, 64).map(lambda value: value / 64),
)
GROUPS = st.lists(st.lists(CHOICES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6).map(
    lambda choices: [Group(f"layer {index}", one) for index, one in enumerate(choices)]
)


def by_brute_force(groups: list[Group], budget_bytes: int) -> tuple[float, int] | None:
    """Least divergence within the budget and the fewest bytes it takes, or None when nothing fits."""
    found = [
        (sum(one.divergence for one in combination), sum(one.num_bytes for one in combination))
        for combination in product(*(group.choices for group in groups))
    ]
    return min((one for one in found if one[1] <= budget_bytes), default=None)


@given(groups=GROUPS, budget_bytes=st.integers(1, 160))
def test_allocate_any_groups_gives_the_best_of_all_combinations(groups: list[Group], budget_bytes: int) -> None:
    expected = by_brute_force(groups, budget_bytes)
    if expected is None:
        with pytest.raises(SpecError, match="less than the smallest formats take"):
            allocate(groups, budget_bytes)
        return
    found = allocate(groups, budget_bytes)
    assert (found.divergence, found.num_bytes) == expected
    assert sum(choice.num_bytes for choice in found.choices.values()) == found.num_bytes
    assert [found.choices[group.name] in group.choices for group in groups] == [True] * len(groups)


@given(groups=GROUPS, budget_bytes=st.integers(1, 160), max_states=st.integers(2, 4))
def test_allocate_more_states_than_are_kept_still_keeps_the_budget(
    groups: list[Group], budget_bytes: int, max_states: int
) -> None:
    expected = by_brute_force(groups, budget_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "MAX_STATES", max_states)
        if expected is None:
            with pytest.raises(SpecError):
                allocate(groups, budget_bytes)
            return
        found = allocate(groups, budget_bytes)
    assert found.num_bytes <= budget_bytes
    assert found.divergence >= expected[0]


THREE = (Choice("w4a16", 4, 0.5), Choice("w8a8", 8, 0.125), Choice("bf16", 16, 0.0))


def test_allocate_sensitive_group_keeps_more_bits_and_says_why() -> None:
    robust = (Choice("w4a16", 4, 0.001), Choice("w8a8", 8, 0.0005), Choice("bf16", 16, 0.0))
    found = allocate([Group("robust", robust), Group("sensitive", THREE)], 12)
    assert {name: choice.format for name, choice in found.choices.items()} == {"robust": "w4a16", "sensitive": "w8a8"}
    assert found.reasons["sensitive"] == (
        "w8a8: w4a16 would free 4 B and cost 0.38 nats more; bf16 would take 8 B more and gain 0.12 nats"
    )
    assert found.reasons["robust"] == "w4a16: w8a8 would take 4 B more and gain 0.0005 nats"


def test_allocate_ample_budget_leaves_everything_as_it_is() -> None:
    found = allocate([Group(name, THREE) for name in NAMES], 64)
    assert {choice.format for choice in found.choices.values()} == {"bf16"}
    assert (found.num_bytes, found.divergence) == (64, 0.0)


def test_allocate_equal_losses_take_fewer_bytes() -> None:
    found = allocate([Group("one", (Choice("w8a8", 8, 0.0), Choice("bf16", 16, 0.0)))], 100)
    assert found.choices["one"].format == "w8a8"


@pytest.mark.parametrize(
    ("groups", "words"),
    [([Group("one", THREE), Group("one", THREE)], "named twice"), ([Group("one", ())], "has no format")],
    ids=["twice", "empty"],
)
def test_allocate_groups_that_make_no_sense_are_refused(groups: list[Group], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        allocate(groups, 1000)
