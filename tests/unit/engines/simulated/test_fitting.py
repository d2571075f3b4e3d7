"""The fit against costs that are known, with and without noise, and against data that cannot tell them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lightship.engines.simulated.cost_model import work_duration_s
from lightship.engines.simulated.fitting import fit_costs, medians_of_repeats, non_negative_least_squares, own_share
from lightship.errors import MeasurementError
from lightship.ports.engine_profile import EngineWork, StepCosts, StepObservation

TRUE = StepCosts(
    step_s=0.002,
    batch_change_s=0.0025,
    prefill_token_s=0.0002,
    prefill_pair_s=4e-7,
    decode_token_s=0.0004,
    context_token_s=5e-7,
    new_request_s=0.003,
    request_latency_s=0.004,
)


def designed_works() -> list[tuple[str, EngineWork]]:
    """What a calibration sees: prompts alone, decoding together, and mixtures."""
    works = [
        (
            "ttft",
            EngineWork(
                num_steps=-(-tokens // 256),
                num_batch_changes=min(2, -(-tokens // 256)),
                num_prefill_tokens=tokens,
                num_prefill_pairs=tokens * (tokens + 1) / 2,
                num_new_requests=1,
                num_request_latencies=1,
            ),
        )
        for tokens in (16, 64, 160, 320, 480, 640, 800)
    ]
    for users in (1, 2, 4, 8, 16, 32, 64):
        for context in (32, 500):
            work = EngineWork(
                num_steps=40,
                num_decode_tokens=40 * users,
                num_context_tokens=40 * users * context,
            )
            works.append(("decode", work))
    rng = random.Random(3)
    for users in (4, 16, 48):
        for _ in range(10):
            new = rng.uniform(0.2, 1.0) * users
            tokens = new * rng.uniform(60, 300)
            work = EngineWork(
                num_steps=60,
                num_batch_changes=min(60.0, 2 * new * rng.uniform(0.5, 1.0)),
                num_prefill_tokens=tokens,
                num_prefill_pairs=tokens * rng.uniform(50, 200),
                num_decode_tokens=60 * users,
                num_context_tokens=60 * users * rng.uniform(80, 300),
                num_new_requests=new,
            )
            works.append(("mixed", work))
    return works


def observe(costs: StepCosts, *, noise: float, repeats: int = 1, seed: int = 0) -> list[StepObservation]:
    rng = random.Random(seed)
    return [
        StepObservation(kind=kind, work=work, duration_s=work_duration_s(costs, work) * rng.lognormvariate(0, noise))
        for kind, work in designed_works()
        for _ in range(repeats)
    ]


def test_fit_without_noise_recovers_every_cost() -> None:
    costs, fit = fit_costs(observe(TRUE, noise=0.0))
    for name in StepCosts.__struct_fields__:
        assert getattr(costs, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name
    assert fit.p90_error == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_fit_with_noise_predicts_within_it(seed: int) -> None:
    costs, fit = fit_costs(observe(TRUE, noise=0.08, repeats=5, seed=seed))
    for name in ("prefill_token_s", "decode_token_s"):
        assert getattr(costs, name) == pytest.approx(getattr(TRUE, name), rel=0.2), name
    for kind, work in designed_works():
        predicted, true = work_duration_s(costs, work), work_duration_s(TRUE, work)
        assert predicted == pytest.approx(true, rel=0.1), kind
    assert 0.01 < fit.median_error < 0.08
    assert set(fit.median_errors) == {"ttft", "decode", "mixed"}


def test_fit_is_not_moved_by_a_few_disturbed_observations() -> None:
    observations = observe(TRUE, noise=0.02, seed=1)
    disturbed = [
        StepObservation(kind=one.kind, work=one.work, duration_s=one.duration_s * (4.0 if index % 8 == 3 else 1.0))
        for index, one in enumerate(observations)
    ]
    costs, _ = fit_costs(disturbed)
    errors = sorted(abs(work_duration_s(costs, work) / work_duration_s(TRUE, work) - 1) for _, work in designed_works())
    assert errors[len(errors) // 2] < 0.05


def test_fit_follows_the_mean_of_times_not_their_quickest() -> None:
    # times are skewed: mostly quick, sometimes half as long again, and queues feel the sum
    rng = random.Random(4)
    observations = [
        StepObservation(
            kind=kind,
            work=work,
            duration_s=work_duration_s(TRUE, work) * rng.choice([0.8, 0.8, 0.8, 1.0, 1.0, 1.2, 1.4]),
        )
        for _ in range(20)
        for kind, work in perturbed(designed_works(), rng)
    ]
    costs, _ = fit_costs(observations)
    predicted = sum(work_duration_s(costs, one.work) for one in observations)
    assert predicted == pytest.approx(sum(one.duration_s for one in observations), rel=0.03)


def perturbed(works: list[tuple[str, EngineWork]], rng: random.Random) -> list[tuple[str, EngineWork]]:
    """The same works a little larger or smaller, so that none is a repeat of another."""
    found = []
    for kind, work in works:
        factor = rng.uniform(0.95, 1.05)
        counts = {name: factor * getattr(work, name) for name in EngineWork.__struct_fields__}
        found.append((kind, EngineWork(**counts)))
    return found


def test_fit_observation_that_took_no_time_hides_no_cost() -> None:
    # tokens that a client read all at once: next to nothing as a time, everything as a relative error
    burst = StepObservation(kind="decode", work=EngineWork(num_steps=15, num_decode_tokens=15), duration_s=3e-5)
    costs, _ = fit_costs([*observe(TRUE, noise=0.0), burst])
    assert costs.step_s == pytest.approx(TRUE.step_s, rel=0.1)
    assert costs.decode_token_s == pytest.approx(TRUE.decode_token_s, rel=0.1)


def test_fit_cost_that_is_zero_stays_zero_and_never_negative() -> None:
    true = StepCosts(step_s=0.002, prefill_token_s=0.0002, decode_token_s=0.0004)
    costs, _ = fit_costs(observe(true, noise=0.05, repeats=3))
    assert all(getattr(costs, name) >= 0 for name in StepCosts.__struct_fields__)
    assert costs.prefill_pair_s * 800 < 0.1 * costs.prefill_token_s


def test_fit_without_any_mixed_load_cannot_tell_a_request_from_its_latency() -> None:
    alone = [one for one in observe(TRUE, noise=0.0) if one.kind != "mixed"]
    with pytest.raises(MeasurementError, match="cannot tell new_request_s"):
        fit_costs(alone)
    costs, fit = fit_costs(alone, assumed_zero=["new_request_s"])
    assert costs.request_latency_s == pytest.approx(TRUE.request_latency_s + TRUE.new_request_s)
    assert fit.assumed_zero == ("new_request_s",)


def test_fit_one_prompt_length_only_cannot_tell_a_token_from_a_step() -> None:
    works = [(kind, work) for kind, work in designed_works() if kind == "decode" or work.num_prefill_tokens == 64]
    observations = [
        StepObservation(kind=kind, work=work, duration_s=work_duration_s(TRUE, work)) for kind, work in works
    ]
    with pytest.raises(MeasurementError, match="cannot tell"):
        fit_costs(observations)


def test_fit_too_few_observations_are_refused() -> None:
    with pytest.raises(MeasurementError, match="cannot give 8 costs"):
        fit_costs(observe(TRUE, noise=0.0)[:3])


def test_fit_unknown_cost_is_refused_with_the_known() -> None:
    with pytest.raises(MeasurementError, match="no such cost: steps"):
        fit_costs(observe(TRUE, noise=0.0), assumed_zero=["steps"])


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan"), float("inf")])
def test_fit_time_that_is_none_is_refused(duration_s: float) -> None:
    with pytest.raises(MeasurementError, match="took"):
        medians_of_repeats([StepObservation(kind="ttft", work=EngineWork(num_steps=1), duration_s=duration_s)])


def test_repeats_count_once_with_their_median() -> None:
    work = EngineWork(num_steps=1)
    observations = [StepObservation(kind="ttft", work=work, duration_s=value) for value in (0.1, 0.9, 0.2)]
    assert medians_of_repeats(observations) == [StepObservation(kind="ttft", work=work, duration_s=0.2)]


@pytest.mark.parametrize("seed", range(20))
def test_least_squares_meets_the_conditions_of_an_optimum(seed: int) -> None:
    # Karush-Kuhn-Tucker: x >= 0; the gradient is >= 0, and 0 where x > 0. They hold at the optimum and nowhere else.
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 5))
    targets = rng.normal(size=30)
    solution = np.array(non_negative_least_squares(rows.tolist(), targets.tolist()))
    gradient = rows.T @ (rows @ solution - targets)
    assert solution.min() >= 0
    assert gradient.min() > -1e-9
    assert np.abs(gradient * solution).max() < 1e-9


def test_own_share_agrees_with_projection_by_another_library() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 4))
    others = np.delete(rows, 2, axis=1)
    rest = rows[:, 2] - others @ np.linalg.lstsq(others, rows[:, 2], rcond=None)[0]
    expected = np.linalg.norm(rest) / np.linalg.norm(rows[:, 2])
    assert own_share(rows.tolist(), 2) == pytest.approx(expected)
