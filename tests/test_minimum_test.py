"""The test itself: the probability, the vote, the patience, what counts as evidence."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from autowu.loss_curve import LossCurve
from autowu.loss_gp import LossGP, Posterior
from autowu.minimum_test import (
    Evidence,
    MinimumTest,
    num_consecutive_positive,
    probability_of_earlier_minimum,
    probability_of_plateau,
    weigh_evidence,
)


def posterior(mean: list[float], difference_variance: list[float]) -> Posterior:
    as_tensor = [torch.tensor(v, dtype=torch.float64) for v in (mean, difference_variance)]
    return Posterior(as_tensor[0], torch.ones(len(mean)), as_tensor[1], 10.0)


def weigh(losses: Any, gp: LossGP | None = None, **changes: Any) -> Evidence:
    curve = LossCurve(len(losses))
    curve.extend(torch.as_tensor(losses, dtype=torch.float32))
    settings: dict[str, Any] = {
        "num_losses": len(losses),
        "num_tests": 5,
        "num_fit_samples": 100,
        "num_posterior_samples": 500,
        "rng": np.random.default_rng(0),
    }
    return weigh_evidence(curve, gp or LossGP(), **(settings | changes))


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def test_the_probability_is_that_of_eq_4() -> None:
    """z = (m(1) - m(x)) / sd: 1/1, 1.5/2, and nothing at x = 1."""
    given = posterior([1.0, 0.5, 2.0], [1.0, 4.0, 0.0])
    assert probability_of_earlier_minimum(given) == pytest.approx(normal_cdf(1.0))
    with_jitter = probability_of_earlier_minimum(given, jitter=3.0)
    assert with_jitter == pytest.approx(max(normal_cdf(1 / 2), normal_cdf(1.5 / 7**0.5)))
    with_margin = probability_of_earlier_minimum(given, margin=0.2)  # of a range of 1.5
    assert with_margin == pytest.approx(normal_cdf(1.0 - 0.3), rel=1e-6)


def test_the_newest_point_being_lowest_is_no_evidence() -> None:
    assert probability_of_earlier_minimum(posterior([2.0, 1.0, 0.0], [1.0, 1.0, 0.0])) < 0.5


def test_the_probability_of_a_plateau() -> None:
    """z = (m(1) - m(x) + 3 % of the range) / sd: (1 - 1.5 + 0.03) / 2 and (1 - 1 + 0.03) / 0.1."""
    given = posterior([2.0, 1.5, 1.0, 1.0], [9.0, 4.0, 0.01, 0.0])
    assert probability_of_plateau(given, 1) == pytest.approx(normal_cdf(-0.47 / 2))
    assert probability_of_plateau(given, 2) == pytest.approx(normal_cdf(0.3))
    assert probability_of_plateau(given, 2, jitter=0.08) == pytest.approx(normal_cdf(0.1))
    assert probability_of_plateau(given, 3) == 1.0


def test_a_small_fall_that_is_sure_is_no_plateau() -> None:
    for deviation, expected in ((0.02, normal_cdf(0.5)), (0.01, 0.0)):
        given = posterior([2.0, 1.02, 1.0], [1.0, deviation**2, 0.0])
        assert probability_of_plateau(given, 1) == pytest.approx(expected)


def test_a_loss_that_rests_is_evidence_where_it_is_asked_for() -> None:
    x = np.linspace(0, 1, 300)
    falling, resting = 2.0 - x, 2.0 - np.minimum(x, 0.5)
    for losses, sure in ((falling, False), (resting, True)):
        noisy = losses + 0.02 * noise(300)
        assert max(weigh(noisy).probabilities) < 0.95
        found = weigh(noisy, plateau_begin=0.65)
        assert (min(found.probabilities) > 0.95) is sure
        other = weigh(100.0 * noisy + 7.0, plateau_begin=0.65)
        assert other.probabilities == pytest.approx(found.probabilities, abs=1e-3)


def test_positive_tests_are_counted_from_the_newest_back() -> None:
    def tests(*positive: bool) -> list[MinimumTest]:
        return [MinimumTest(i, 0.1, (0.5,), p, 0.1) for i, p in enumerate(positive)]

    assert num_consecutive_positive(tests()) == 0
    assert num_consecutive_positive(tests(True, True, False)) == 0
    assert num_consecutive_positive(tests(True, False, True, True)) == 2


@pytest.mark.parametrize("losses", [[], [3.0, 2.0, 1.0, 2.0], [math.nan] * 9, [1.0] * 50,
                                    [math.nan] * 20 + [1.0, 2.0, 1.0, 3.0]])  # fmt: skip
def test_too_few_or_equal_losses_are_no_evidence(losses: list[float]) -> None:
    evidence = weigh(losses)
    assert evidence.probabilities == (0.0,) * 5
    finite = [loss for loss in losses if math.isfinite(loss)]
    lowest = losses.index(min(finite)) / len(losses) if finite else 0.0
    assert evidence.positions == (lowest,) * 5


@pytest.mark.parametrize("n", [30, 100, 400, 3_000])
def test_a_valley_is_seen_and_a_fall_is_not(n: int) -> None:
    u = np.arange(n) / n
    valley = weigh(np.abs(u - 0.6) + 0.03 * noise(n))
    assert min(valley.probabilities) > 0.99
    assert valley.positions == pytest.approx([0.6] * 5, abs=0.06)
    fall = weigh(1 - u + 0.03 * noise(n))
    assert max(fall.probabilities) < 0.95
    assert min(fall.positions) > 0.9


def test_noise_alone_is_rarely_evidence() -> None:
    positive = sum(weigh(noise(60, seed)).probabilities[0] > 0.95 for seed in range(60))
    assert positive <= 2


def test_a_rise_of_a_hundredth_of_the_range_is_no_minimum() -> None:
    u = np.arange(400) / 400
    curve = np.where(u < 0.6, (1 - u / 0.6) ** 2, 0.02 * (u - 0.6))
    assert max(weigh(curve + 1e-3 * noise(400)).probabilities) < 0.95
    assert min(weigh(curve + 1e-3 * noise(400), LossGP("adam")).probabilities) >= 0


@pytest.mark.parametrize("factor", [2.0, 10.0, 1e3])
def test_an_exploding_end_does_not_hide_the_minimum(factor: float) -> None:
    losses = np.concatenate([np.linspace(1, 0.2, 90), 0.4 * factor ** np.arange(10.0)])
    evidence = weigh(losses)
    assert min(evidence.probabilities) > 0.99
    assert evidence.positions == pytest.approx([0.87] * 5, abs=0.1)


@pytest.mark.parametrize("factor", [10.0, 1e3])
def test_an_exploding_end_does_not_hide_the_minimum_of_a_loss_that_is_exactly_zero(
    factor: float,
) -> None:
    """As a hinge loss is, where every sample has its margin."""
    rest, end = np.zeros(60), 0.2 * factor ** np.arange(10.0)
    evidence = weigh(np.concatenate([np.ones(15), np.linspace(1, 0, 15), rest, end]))
    assert min(evidence.probabilities) > 0.99
    assert max(evidence.positions) < 0.9


def test_many_losses_vote_by_different_subsets_and_few_by_all() -> None:
    curve = np.abs(np.arange(2_000) / 2_000 - 0.9) + noise(2_000)
    assert len(set(weigh(curve).probabilities)) == 5
    assert len(set(weigh(curve[:400]).probabilities)) == 1


def test_the_work_of_a_test_does_not_grow_with_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[int]] = {}
    original = LossGP.posterior
    for n in (1_000, 100_000):

        def posterior(self: LossGP, x: Any, losses: Any, values: Any, n: int = n) -> Posterior:
            seen.setdefault(n, []).append(len(x))
            return original(self, x, losses, values)

        monkeypatch.setattr(LossGP, "posterior", posterior)
        weigh(noise(n))
    assert seen[1_000] == seen[100_000] == [500] * 5


def test_global_random_states_are_left_alone() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    weigh(noise(1_000))
    weigh(noise(100), LossGP("adam"))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
