"""Other ways to skip the decades in which the loss does not move, tried and not kept.

Each takes the place of `AutoWU` in a trial. What they have in common is a sweep of pieces in each
of which the LR grows by the same factor every step. `Held` and `SetBack` are about the end of the
sweep instead, and some of their pieces are rests (`experiments/overshoot`).
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from autowu import AutoWU
from autowu.loss_gp import NUM_BEGINNING, Posterior, fenced, spike_ceiling
from autowu.minimum_test import MIN_GAIN, MIN_LOSSES
from autowu.settings import SchedulerSettings
from autowu.sweep import FAST, MAX_FAST_GROWTH, MAX_SLOW_GROWTH, PLATEAU_GROWTH, Piece, Sweep

BACK = 0.5  # of the fall so far: where a sweep with `set_back` begins again
LIKELY = 0.5  # of a minimum: where it is likelier than that, `Held` rests


@dataclass(frozen=True)
class Pace:
    """How fast the sweep is before the loss falls, and after it."""

    fast: float = FAST  # times the rate of the fixed sweep
    max_growth: float = MAX_FAST_GROWTH  # a step
    after: str = "rest"  # "rest": evenly to `max_lr` at `W`; "paper": as the fixed sweep
    set_back: bool = False  # begin again at the LR at which half of the fall was to come
    cap: float = MAX_SLOW_GROWTH  # most that the LR grows in a step after it, a factor
    slope: float = math.inf  # most that the LR grows in a step after it, in units of the LR then
    reach: float = 1.0  # but so much that the LR grows by this factor, at least, until `W`
    is_forgetful: bool = False  # drop the optimizer's moments when the loss is seen to fall


class PiecewiseSweep(Sweep):
    """A sweep of given pieces, the first of them fast."""

    def __init__(
        self, settings: SchedulerSettings, pieces: list[Piece], fall_step: int | None
    ) -> None:
        super().__init__(settings, None)
        self.fall_step = fall_step
        self._pieces = pieces
        self.slope = math.inf

    def plateau_begin(self, step: float) -> float | None:
        return None  # these were tried before there was such a test

    def lr(self, step: float) -> float:
        piece = next((p for p in reversed(self._pieces) if p.begin <= step), self._pieces[0])
        most = self._max_lr
        if piece.begin:
            most = min(most, piece.start_lr * (1.0 + self.slope * (step - piece.begin)))
        return min(most, self._lr_of(piece, step))


class Paced(AutoWU):
    """The adaptive sweep at another pace."""

    def __init__(
        self, optimizer: Optimizer, total_steps: int, steps_per_epoch: int, pace: Pace
    ) -> None:
        super().__init__(optimizer, total_steps, steps_per_epoch)
        self._pace = pace
        own = self.settings
        self._span = math.log(own.max_lr / own.min_lr)
        length = max(own.warmup_steps / pace.fast, self._span / math.log(pace.max_growth))
        fast = Piece(0, min(length, own.warmup_steps), own.min_lr)
        self._warmup.sweep = PiecewiseSweep(own, [fast], None)

    def _test(self, step: int) -> None:
        was_fast = self._warmup.sweep.is_fast
        before = self._warmup.sweep
        super()._test(step)
        if not was_fast or self._warmup.sweep.is_fast or self.switch_step is not None:
            return
        if self._warmup.sweep.slow_lr is not None:  # it had passed the minimum
            pieces = [*before._pieces, self._warmup.sweep._pieces[-1]]
            self._warmup.sweep = PiecewiseSweep(self.settings, pieces, step)
            return
        lr = before.lr(step)
        if self._pace.set_back:
            lr = before.lr(self._step_of_half_fall(step))
        longest = self.warmup_steps
        length: float = longest - step
        if self._pace.after == "paper":
            length = longest * math.log(self.settings.max_lr / lr) / self._span
        if self._pace.cap < math.inf:
            rate = max(math.log(self._pace.cap), math.log(self._pace.reach) / length)
            length = max(length, math.log(self.settings.max_lr / lr) / rate)
        if self._pace.is_forgetful:
            self.optimizer.state.clear()
        pieces = [*before._pieces, Piece(step, max(length, 1e-9), lr)]
        self._warmup.sweep = PiecewiseSweep(self.settings, pieces, step)
        self._warmup.sweep.slope = self._pace.slope

    def _step_of_half_fall(self, step: int) -> float:
        posterior = _posterior(self, step)
        if posterior is None:
            return step
        mean = posterior.mean
        level = mean[0] - BACK * (mean[0] - mean.min())
        above = (mean >= level).nonzero()
        return float(self._warmup.gp.grid[int(above[-1])]) * step if len(above) else step


class Unlatched(AutoWU):
    """Fast while the loss does not fall, slow while it does; changes as often as need be."""

    def _test(self, step: int) -> None:
        before = self._warmup.sweep
        super()._test(step)
        self._warmup.sweep = before
        if self.switch_step is not None:
            return
        posterior = _posterior(self, step)
        falls = posterior is not None and _falls_at_the_end(posterior, self.settings.confidence)
        is_slow = before.fall_step is not None
        if falls == is_slow:
            return
        own, lr = self.settings, before.lr(step)
        rate = math.log(own.max_lr / own.min_lr) / self._fast_length
        length = own.warmup_steps - step if falls else math.log(own.max_lr / lr) / rate
        pieces = [*before._pieces, Piece(step, max(length, 1e-9), lr)]
        self._warmup.sweep = PiecewiseSweep(own, pieces, step if falls else None)
        self._warmup.expect_next_test()

    @property
    def _fast_length(self) -> float:
        return Sweep(self.settings, None)._pieces[0].length


class HeldSweep(PiecewiseSweep):
    """A slow sweep that rests now and then, and grows on from there at the same rate."""

    def __init__(self, settings: SchedulerSettings, pieces: list[Piece], first: Piece) -> None:
        super().__init__(settings, pieces, int(first.begin))  # those of endless length are rests
        self._first = first  # of the slow ones
        self.rate = math.log(settings.max_lr / first.start_lr) / first.length  # a step
        self.is_held = math.isinf(pieces[-1].length)

    def plateau_begin(self, step: float) -> float | None:
        lr = self.lr(step) / PLATEAU_GROWTH
        return min(step, self.step_of(lr)) if lr >= self._first.start_lr else None

    def step_of(self, lr: float) -> float:
        """The last step that has an LR of `lr` or less."""
        end = math.inf
        for piece in reversed(self._pieces):
            if piece.start_lr <= lr:
                if math.isinf(piece.length) or piece.start_lr == self._max_lr:
                    return end
                share = math.log(lr / piece.start_lr) / math.log(self._max_lr / piece.start_lr)
                return min(end, piece.begin + piece.length * share)
            end = piece.begin
        return self._pieces[0].begin


class Held(AutoWU):
    """The slow sweep does not grow while its minimum lies likelier than not behind it."""

    goes_back = False  # to the LR at the minimum; or it rests where it is

    def _test(self, step: int) -> None:
        before = self._warmup.sweep
        super()._test(step)
        after = self._warmup.sweep
        if self.switch_step is not None or after.is_fast or after is not before:
            return
        pieces = after._pieces
        first = after._first if isinstance(after, HeldSweep) else pieces[-1]
        sweep = after if isinstance(after, HeldSweep) else HeldSweep(self.settings, pieces, first)
        test = self.tests[-1]
        is_behind = statistics.median(test.probabilities) > LIKELY
        if sweep.is_held == is_behind and not (is_behind and self.goes_back):
            return
        lr = sweep.lr(step)
        if is_behind and self.goes_back:
            lr = min(lr, test.lr_at_minimum)
        length = math.inf if is_behind else math.log(self.settings.max_lr / lr) / sweep.rate
        self._warmup.sweep = HeldSweep(self.settings, [*pieces, Piece(step, length, lr)], first)
        self._write_lrs()


class SetBack(Held):
    """And it goes back to the LR at that minimum meanwhile."""

    goes_back = True


def _posterior(scheduler: AutoWU, step: int) -> Posterior | None:
    """The GP of all losses so far, as the first vote of a test sees it."""
    curve, gp, own = scheduler._warmup.curve, scheduler._warmup.gp, scheduler.settings
    if curve.num_finite < MIN_LOSSES or curve.is_constant:
        return None
    with fenced():
        rng = np.random.default_rng((own.seed, step, 1))
        index, losses = curve.sample(own.num_fit_samples, len(curve), rng)
        if losses.min() == losses.max():
            return None
        ceiling = spike_ceiling(losses, curve.values[:NUM_BEGINNING].double())
        values = gp.fit(index / len(curve), losses.clamp(max=ceiling))
        index, losses = curve.sample(own.num_posterior_samples, len(curve), rng)
        return gp.posterior(index / len(curve), losses.clamp(max=ceiling), values)


def _falls_at_the_end(posterior: Posterior, confidence: float) -> bool:
    """Whether the loss has fallen over the last fifth of the steps."""
    earlier = int(0.8 * len(posterior.mean))
    fall = posterior.mean[earlier] - posterior.mean[-1]
    deviation = posterior.difference_variance[earlier].clamp_min(1e-300).sqrt()
    probability = float(torch.special.ndtr(fall / deviation))
    return probability > confidence and posterior.gain >= MIN_GAIN


def paced(**pace: Any) -> Callable[[Optimizer, int, int], AutoWU]:
    return partial(Paced, pace=Pace(**pace))


VARIANTS: dict[str, Callable[[Optimizer, int, int], AutoWU]] = {
    "adaptive": AutoWU,
    "fixed": partial(AutoWU, sweep="fixed"),
    "without the test of a plateau": paced(),
    "evenly to max_lr after the fall": paced(cap=math.inf),
    "at most 5 % a step after the fall": paced(cap=1.05),
    "at most 10 % a step after the fall": paced(cap=1.1),
    "paper's rate after the fall": paced(cap=math.inf, after="paper"),
    "a tenth of that LR a step": paced(cap=math.inf, slope=0.1),
    "set back to half of the fall": paced(cap=1.07, set_back=True),
    "8x as fast, 3x a step": paced(fast=8.0, max_growth=3.0),
    "slow only while it falls": Unlatched,
    "a factor of 3 at least after the fall": paced(reach=3.0),
    "moments dropped at the fall": paced(is_forgetful=True),
}
