"""The quality budget: never overspent at the moment of a decision, and usable from the first minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.dispatch.config import QualityBudgetConfig
from lightship.gateway.dispatch.quality_budget import QualityBudget


def config(*, degraded_share: float = 0.1, mean_loss: float | None = None, expected: int = 0) -> QualityBudgetConfig:
    return QualityBudgetConfig(
        degraded_share=degraded_share, mean_loss=mean_loss, window_s=4800.0, expected_requests=expected
    )


def test_budget_expected_requests_allow_the_first_answers_to_be_degraded() -> None:
    budget = QualityBudget(config(expected=30))
    spent = 0
    while budget.may_spend(0.01, 0.0):
        budget.note_request(0.0)
        budget.spend(0.01, 0.0)
        spent += 1
    assert spent == 3  # a tenth of thirty


def test_budget_mean_loss_counts_every_answer() -> None:
    budget = QualityBudget(config(degraded_share=1.0, mean_loss=0.01))
    for _ in range(9):
        budget.note_request(0.0)
    # ten answers of which one loses 0.1 lose 0.01 on average
    assert budget.may_spend(0.1, 0.0)
    assert not budget.may_spend(0.11, 0.0)


def test_budget_window_over_can_be_spent_again() -> None:
    budget = QualityBudget(config(expected=10))
    budget.note_request(0.0)
    budget.spend(0.0, 0.0)
    assert not budget.may_spend(0.0, 4700.0)
    assert budget.may_spend(0.0, 4900.0)  # 4,800 s and one slice later
    assert (budget.num_degraded, budget.num_requests) == (0, 0)


def test_budget_given_back_can_be_spent_again() -> None:
    budget = QualityBudget(config(expected=10))
    budget.note_request(0.0)
    budget.spend(0.02, 0.0)
    budget.give_back(0.02, 10.0)
    assert budget.may_spend(0.0, 10.0)
    assert budget.loss == 0


@given(
    steps=st.lists(st.tuples(st.floats(0, 600), st.booleans(), st.floats(0, 0.2)), max_size=200),
    share=st.floats(0, 1),
    mean_loss=st.none() | st.floats(0, 0.1),
    expected=st.integers(0, 50),
)
def test_budget_any_history_is_within_bounds_whenever_it_was_spent(
    steps: list[tuple[float, bool, float]], share: float, mean_loss: float | None, expected: int
) -> None:
    budget = QualityBudget(config(degraded_share=share, mean_loss=mean_loss, expected=expected))
    now_s = 0.0
    for pause_s, wants_less, loss in steps:
        now_s += pause_s
        spends = wants_less and budget.may_spend(loss, now_s)
        budget.note_request(now_s)
        if spends:
            budget.spend(loss, now_s)
            num = max(budget.num_requests, expected)
            assert budget.num_degraded <= share * num + 1e-6
            assert mean_loss is None or budget.loss <= mean_loss * num + 1e-6
