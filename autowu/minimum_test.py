"""The minimum test: has the smoothed loss stopped falling?

Section 2.1.2 of arXiv:2107.05855: eq. (4), the vote over random subsets, the patience, and the
position of the minimum, eq. (5); ours: the loss that neither falls nor rises. All pure functions;
the losses come from `loss_curve.py`, the posterior from `loss_gp.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from autowu.loss_curve import LossCurve
from autowu.loss_gp import (
    ADAM_JITTER,
    NUM_BEGINNING,
    FitError,
    LossGP,
    Posterior,
    fenced,
    spike_ceiling,
)

MARGIN = 0.03  # ours, of the range of the smoothed loss: a smaller rise is no minimum
SURE = 0.95  # ours, a probability: a loss that is so sure to have fallen does not rest
MIN_GAIN = 4.0  # ours, nats: below that the losses are as well explained by a constant
NUM_LEVELS = 1_000  # ours: so many losses, at least, tell what losses are usual
MIN_LOSSES = 5  # ours: fewer finite losses say nothing about a minimum


@dataclass(frozen=True)
class MinimumTest:
    """One test of the warmup, as `AutoWU.tests` lists it."""

    step: int  # optimizer steps done when it was made
    lr: float  # the sweep's learning rate at that step
    # (num_tests,), eq. (4), or that of a plateau where it is larger; all 0 without enough losses,
    # and where no test counts (`sweep.py`).
    probabilities: tuple[float, ...]
    positive: bool  # the majority of the probabilities exceeds the confidence
    lr_at_minimum: float  # eq. (5)


class Evidence(NamedTuple):
    """What the posteriors of one test say."""

    probabilities: tuple[float, ...]  # (num_tests,)
    positions: tuple[float, ...]  # (num_tests,) where each posterior mean is lowest, in [0, 1]
    fall_probabilities: tuple[float, ...]  # (num_tests,) that the loss lies below its beginning


def probability_of_earlier_minimum(
    posterior: Posterior, *, margin: float = 0.0, jitter: float = 0.0
) -> float:
    """`max over x of P(f(x) + margin < f(1))`; without a margin the lower bound of eq. (4).

    `P(f(x) + d < f(1)) = Phi((m(1) - m(x) - d) / sqrt(var(f(1) - f(x)) + jitter))`; where the
    variance is 0, as at x = 1 itself, it is 0.

    Args:
        posterior: `f` on a grid that ends at x = 1.
        margin: by how much the loss must have risen, in units of the range of the posterior mean.
        jitter: added to the variance, loss units squared; the published code has 1e-4.
    """
    mean = posterior.mean
    rise = margin * (mean.max() - mean.min())
    variance = posterior.difference_variance + jitter
    z = (mean[-1] - mean - rise) / variance.clamp_min(1e-300).sqrt()
    return float(torch.where(variance > 0, torch.special.ndtr(z), 0.0).max())


def probability_of_plateau(posterior: Posterior, begin: int, *, jitter: float = 0.0) -> float:
    """`P(f(x) < f(1) + d)`: that the loss has not fallen by `d` since `x` (ours).

    0 where it has surely fallen, if by less than `d`: after a great fall a small one counts too.

    Args:
        posterior, jitter: as for `probability_of_earlier_minimum`.
        begin: index of `x` in the grid. `d` is 3 % of the range of the posterior mean.
    """
    mean = posterior.mean
    deviation = (posterior.difference_variance[begin] + jitter).clamp_min(1e-300).sqrt()
    rise = mean[-1] - mean[begin]
    if float(torch.special.ndtr(-rise / deviation)) > SURE:
        return 0.0
    return float(torch.special.ndtr((rise + MARGIN * (mean.max() - mean.min())) / deviation))


def probability_of_fall(posterior: Posterior, *, jitter: float = 0.0) -> float:
    """`P(f(1) < f(0))`: that the loss has fallen since the sweep began (ours).

    Args:
        posterior, jitter: as for `probability_of_earlier_minimum`.
    """
    fall = posterior.mean[0] - posterior.mean[-1]
    variance = posterior.difference_variance[0] + jitter
    return float(torch.special.ndtr(fall / variance.clamp_min(1e-300).sqrt()))


def has_exploded(curve: LossCurve) -> bool:
    """Whether the two newest losses lie above the `spike_ceiling` of those before (ours).

    Of 2,000 and more those before are 1,000 to 1,999 that lie evenly.
    """
    earlier, newest = curve.values[:-2], curve.values[-2:]
    evenly = earlier[:: max(1, len(earlier) // NUM_LEVELS)].double()
    evenly = evenly[evenly.isfinite()]
    if len(evenly) < 3:
        return False
    ceiling = spike_ceiling(evenly, earlier[:NUM_BEGINNING].double())
    return bool((newest > ceiling).all())


def is_positive(probabilities: Sequence[float], confidence: float) -> bool:
    """Whether more than half of the probabilities exceed the confidence.

    >>> is_positive([0.99, 0.97, 0.96, 0.2, 0.1], 0.95)
    True
    >>> is_positive([0.99, 0.97, 0.95, 0.2, 0.1], 0.95)
    False
    """
    return 2 * sum(p > confidence for p in probabilities) > len(probabilities)


def num_consecutive_positive(tests: Sequence[MinimumTest]) -> int:
    """How many tests in a row, counted from the newest back, were positive."""
    count = 0
    for test in reversed(tests):
        if not test.positive:
            break
        count += 1
    return count


def weigh_evidence(
    curve: LossCurve,
    gp: LossGP,
    *,
    num_losses: int,
    num_tests: int,
    num_fit_samples: int,
    num_posterior_samples: int,
    rng: np.random.Generator,
    plateau_begin: float | None = None,
) -> Evidence:
    """Fit the GP to one random subset of the losses and condition it on `num_tests` others.

    Args:
        curve: the losses of the sweep.
        gp: the model, with its way of fitting.
        num_losses: length of the window, counted from the curve's beginning: x = i / num_losses.
        num_tests: number of posteriors; 5 (paper).
        num_fit_samples: largest subset to fit; 100 (paper).
        num_posterior_samples: largest subset to condition on; 500 (paper).
        rng: draws the subsets.
        plateau_begin: x since which the loss has to have fallen, too; None: it need not (paper).

    With `fit="mle"` (all ours) losses above `spike_ceiling` count as that ceiling; a posterior
    that explains the losses hardly better than a constant has the probability 0, or one sweep of
    60 steps in eight would end where the LR is still too small to move the loss; and the loss
    must have risen by 3 % of its range, or every fourth plateau would pass for a minimum.

    Returns:
        Probabilities and positions. With fewer than 5 finite losses, or all of them equal, or
        when the published fit fails on them, the probabilities are 0 and the positions that of
        the lowest loss seen (0 if there is none).
    """
    with fenced():
        if curve.num_finite < MIN_LOSSES or curve.is_constant:
            return _no_evidence(curve, num_losses, num_tests)
        indices, losses = curve.sample(num_fit_samples, num_losses, rng)
        if losses.min() == losses.max():  # the few that differ were not drawn
            return _no_evidence(curve, num_losses, num_tests)
        published = gp.mode == "adam"
        margin, jitter, min_gain = (
            (0.0, ADAM_JITTER, -math.inf) if published else (MARGIN, 0.0, MIN_GAIN)
        )
        beginning = curve.values[:NUM_BEGINNING].double()
        ceiling = math.inf if published else spike_ceiling(losses, beginning)
        try:
            values = gp.fit(indices / num_losses, losses.clamp(max=ceiling), mean=curve.finite_mean)
        except FitError:
            return _no_evidence(curve, num_losses, num_tests)
        probabilities: list[float] = []
        positions: list[float] = []
        falls: list[float] = []
        for _ in range(num_tests):
            # Subsets that hold every loss are all the same: one posterior speaks for all.
            if not probabilities or curve.num_finite > num_posterior_samples:
                indices, losses = curve.sample(num_posterior_samples, num_losses, rng)
                losses = losses.clamp(max=ceiling)
                posterior = gp.posterior(indices / num_losses, losses, values)
                probability = probability_of_earlier_minimum(
                    posterior, margin=margin, jitter=jitter
                )
                if plateau_begin is not None:
                    begin = int(plateau_begin * (len(gp.grid) - 1))
                    plateau = probability_of_plateau(posterior, begin, jitter=jitter)
                    probability = max(probability, plateau)
                position = float(gp.grid[posterior.mean.argmin()])
                fall = probability_of_fall(posterior, jitter=jitter)
            explains = posterior.gain >= min_gain
            probabilities.append(probability if explains else 0.0)
            positions.append(position)
            falls.append(fall if explains else 0.0)
        return Evidence(tuple(probabilities), tuple(positions), tuple(falls))


def _no_evidence(curve: LossCurve, num_losses: int, num_tests: int) -> Evidence:
    position = curve.index_of_lowest / max(num_losses, 1)  # no losses: the beginning
    return Evidence((0.0,) * num_tests, (position,) * num_tests, (0.0,) * num_tests)
