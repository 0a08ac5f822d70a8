"""What a test decides: whether the warmup ends, at which LR decay starts, when the sweep is slow.

Rank 0 decides, and the others hear of it: a decision is a message of numbers, too. Pure functions
of the losses, the sweep and the tests before; what follows from a decision is in `warmup.py`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autowu.loss_curve import LossCurve
from autowu.loss_gp import LossGP
from autowu.minimum_test import (
    Evidence,
    MinimumTest,
    has_exploded,
    is_positive,
    num_consecutive_positive,
    weigh_evidence,
)
from autowu.settings import SchedulerSettings
from autowu.sweep import Sweep


class Decision(NamedTuple):
    """Of one test."""

    ended: bool  # the warmup
    start_lr: float  # where decay starts, if it has
    slow_lr: float  # where a sweep that is fast is to be slow; infinity: at its LR; NaN: not yet
    test: MinimumTest


def decide(
    step: int,
    *,
    settings: SchedulerSettings,
    sweep: Sweep,
    curve: LossCurve,
    gp: LossGP,
    tests: Sequence[MinimumTest],
    first_step: int,
    diverged: bool,
) -> Decision:
    """Test the losses after `step` optimizer steps.

    Args:
        step: up to the end of the longest warmup.
        settings: of the scheduler.
        sweep: as it was up to now.
        curve: all losses of the warmup, over all ranks.
        gp: fits them; fitted anew.
        tests: those before.
        first_step: the step of the first loss.
        diverged: the newest losses are not finite.
    """
    # After a divergence the curve ends with its last finite loss.
    window = curve.end_of_finite if diverged else len(curve)
    plateau_begin = sweep.plateau_begin(window)  # its first step is 0
    evidence = weigh_evidence(
        curve,
        gp,
        num_losses=window,
        num_tests=settings.num_tests,
        num_fit_samples=settings.num_fit_samples,
        num_posterior_samples=settings.num_posterior_samples,
        rng=np.random.default_rng((settings.seed, step)),
        plateau_begin=None if plateau_begin is None else plateau_begin / window,
    )
    # Eq. (5): a point x of the window stands for the LR of step x * n, a real number.
    lrs = [sweep.lr(first_step + x * window) for x in evidence.positions]
    # Rounding may take the mean of equal LRs out of the bounds, where a state is refused.
    mean_lr = math.fsum(lrs) / len(lrs)
    lr_at_minimum = min(max(mean_lr, settings.min_lr), settings.max_lr)
    counts = sweep.lr(step) >= sweep.least_lr
    probabilities = evidence.probabilities if counts else [0.0] * settings.num_tests
    test = _test(step, sweep, settings, probabilities, lr_at_minimum)
    found = num_consecutive_positive([*tests, test]) >= settings.patience
    at_cap = step >= sweep.warmup_steps
    start_lr = test.lr_at_minimum
    if at_cap and not found and not diverged:
        start_lr = lr_at_cap(settings, sweep, start_lr)
    slow_lr = _slow_lr(test, evidence, settings, curve) if sweep.is_fast else math.nan
    return Decision(found or diverged or at_cap, start_lr, slow_lr, test)


def lr_at_cap(settings: SchedulerSettings, sweep: Sweep, lr_at_minimum: float) -> float:
    """Where decay starts when no minimum was found in the longest warmup."""
    if settings.at_cap == "minimum":
        return lr_at_minimum
    return sweep.lr(sweep.warmup_steps - 1)


def no_message(settings: SchedulerSettings) -> Tensor:
    """NaN in the place of a decision, as long as one: float64 (4 + num_tests,) on the CPU."""
    return torch.full((4 + settings.num_tests,), math.nan, dtype=torch.float64, device="cpu")


def to_message(decision: Decision) -> Tensor:
    """All that a rank with the same sweep needs to know of a decision."""
    ended, start_lr, slow_lr, test = decision
    numbers = [ended, start_lr, slow_lr, test.lr_at_minimum, *test.probabilities]
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def from_message(
    message: Tensor, step: int, settings: SchedulerSettings, sweep: Sweep
) -> Decision | None:
    """The decision that was sent; None: there was none."""
    ended, start_lr, slow_lr, lr_at_minimum, *probabilities = message.tolist()
    if math.isnan(ended):
        return None
    test = _test(step, sweep, settings, probabilities, lr_at_minimum)
    return Decision(bool(ended), start_lr, slow_lr, test)


def _slow_lr(
    test: MinimumTest, evidence: Evidence, settings: SchedulerSettings, curve: LossCurve
) -> float:
    if test.positive or has_exploded(curve):  # it has passed the minimum
        return test.lr_at_minimum
    falls = is_positive(evidence.fall_probabilities, settings.confidence)
    return math.inf if falls else math.nan


def _test(
    step: int,
    sweep: Sweep,
    settings: SchedulerSettings,
    probabilities: Sequence[float],
    lr_at_minimum: float,
) -> MinimumTest:
    return MinimumTest(
        step=step,
        lr=sweep.lr(step),
        probabilities=tuple(probabilities),
        positive=is_positive(probabilities, settings.confidence),
        lr_at_minimum=lr_at_minimum,
    )
