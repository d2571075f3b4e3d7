from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.routing.config import OutlierConfig
from lightship.gateway.routing.outliers import EjectionReason, Showing, ShowingTally, choose_ejected

CONFIG = OutlierConfig(max_ejected_share=0.5, min_attempts=10, error_share_above_peers=0.3, slow_factor=3.0)


def ejected(showings: dict[str, Showing], *, num_out: int = 0, config: OutlierConfig = CONFIG) -> list[str]:
    return list(choose_ejected(showings, num_on_rung=len(showings) + num_out, num_out=num_out, config=config))


def test_outliers_slow_replica_is_compared_with_the_median_of_the_others() -> None:
    showings = {"a": Showing(10, 0, 0.010), "b": Showing(10, 0, 0.012), "c": Showing(10, 0, 0.033)}
    assert choose_ejected(showings, num_on_rung=3, num_out=0, config=CONFIG) == {"c": EjectionReason.SLOW}
    showings["c"] = Showing(10, 0, 0.032)  # 0.011 * 3 = 0.033
    assert ejected(showings) == []


def test_outliers_failing_everywhere_is_nobodys_fault() -> None:
    assert ejected({name: Showing(20, 12) for name in "abc"}) == []


def test_outliers_worst_first_and_never_more_than_the_share() -> None:
    showings = {
        "a": Showing(20, 0, 0.01),
        "b": Showing(20, 0, 0.01),
        "slow": Showing(20, 0, 0.09),
        "slower": Showing(20, 0, 0.5),
        "failing": Showing(20, 10, 0.01),
    }
    assert ejected(showings) == ["failing", "slower"]
    assert ejected(showings, num_out=1) == ["failing", "slower"]
    assert ejected(showings, num_out=3) == ["failing"]


def test_outliers_two_replicas_lose_one_at_most_and_one_never() -> None:
    showings = {"a": Showing(20, 0), "b": Showing(20, 20)}
    assert ejected(showings) == ["b"]
    assert ejected(showings, config=OutlierConfig(max_ejected_share=1.0)) == ["b"]
    assert ejected({"b": Showing(20, 20)}) == []
    assert ejected({"b": Showing(20, 20)}, num_out=1) == []
    assert ejected(showings, config=OutlierConfig(max_ejected_share=0.0)) == []


def test_outliers_few_attempts_are_no_evidence() -> None:
    assert ejected({"a": Showing(20, 0), "b": Showing(9, 9)}) == []
    assert ejected({"a": Showing(9, 0), "b": Showing(20, 20)}) == []  # no peer to compare with


@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=1),
        st.builds(
            Showing,
            num_attempts=st.integers(0, 40),
            num_failed=st.integers(0, 40),
            s_per_token=st.one_of(st.none(), st.floats(0, 10)),
        ),
        max_size=8,
    ),
    st.integers(0, 8),
    st.floats(0, 1),
)
def test_outliers_never_the_last_one_nor_beyond_the_share(
    showings: dict[str, Showing], num_out: int, share: float
) -> None:
    config = OutlierConfig(max_ejected_share=share, min_attempts=10)
    num_on_rung = len(showings) + num_out
    found = choose_ejected(showings, num_on_rung=num_on_rung, num_out=num_out, config=config)
    assert set(found) <= set(showings)
    if found:
        assert num_out + len(found) <= share * num_on_rung
        assert num_out + len(found) < num_on_rung


def test_tally_counts_begin_anew_after_each_look() -> None:
    tally = ShowingTally()
    for _ in range(4):
        tally.note_first_token(after_s=0.5, num_uncached_tokens=36)  # 100 with the base of 64
        tally.note_end(is_failed=False)
    tally.note_end(is_failed=True)
    showing = tally.take(min_timed=4)
    assert (showing.num_attempts, showing.num_failed) == (5, 1)
    assert showing.s_per_token == pytest.approx(0.005)
    assert tally.take(min_timed=1) == Showing(0, 0, None)


def test_tally_few_first_tokens_tell_no_time() -> None:
    tally = ShowingTally()
    tally.note_first_token(after_s=9, num_uncached_tokens=1)
    assert tally.take(min_timed=2).s_per_token is None
