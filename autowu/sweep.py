"""The sweep of the warmup: the learning rate while AutoWU looks for the minimum of the loss.

A sweep from 1e-5 spends its first decades where the loss does not move, and a short run has no
steps to spend; and where the loss moves, a short sweep is so steep that the LR has left the good
ones behind before the loss can answer. So an adaptive sweep (ours) grows fast until a test says
that the loss has begun to fall, and slowly from there:

    lr(t) = min_lr * (max_lr / min_lr) ** (t / F)    t < s: the fast piece, F <= W
    lr(t) = l * (max_lr / l) ** ((t - s) / S)        t >= s: the loss was seen to fall at s

`l` is the LR that the fast piece has at `s`. `S = W - s` takes it to `max_lr` at `W`, the longest
possible warmup, unless that were more than 3 % a step. Where the fast piece passes the minimum
before a fall is seen, the slow one begins at `s` too, from the LR at the minimum to `max_lr` at
`W`, at more than 3 % a step where little of `W` is left. `s = 0` with `S = W` and `l = min_lr` is
the fixed sweep, eq. (1) of arXiv:2107.05855. Both pieces are the same pure curve, so every LR is a
closed form of the step, `s` and `l`.

Where a probe (`probe.py`) has found before the first step that the loss falls at an LR `p`, there
is no fast piece: `s = 0`, and `S` is as above with 2 % in place of 3 %, but so short that the LR
grows by a factor of 3 in `W` steps at least, where these are so few that 2 % a step would not do
it. The longest warmup can be made shorter then, by `probed_warmup_fraction`: `V` steps, which is
`W` by default, and at least 90, a factor of 6 by 2 % a step, where `W` is as long. The sweep begins
at

    l = p * min(1, max(1 / 10, 6 / 1.02 ** V)),

so low that 2 % a step take it to `6 * p` in `V` steps: the longer the warmup, the more of it comes
before `p`, and a short run has no steps for that. (Where `max_lr` is near, and the sweep goes
evenly to it by less than 2 % a step, the longest warmup is as long as that takes, up to `W`.)

Where the fall that the probe saw is spread over many LRs, those 2 % a step may be too fast for a
network that learns nothing before some hundred steps, as a vision transformer does. There the
longest warmup is `W` still, and the sweep goes evenly to `12 * p` in it, if that is slower.
`12 * p` is the last LR before the loss of the probe rises. And then no test counts below `p`, where
the loss is still to fall. But a wide network learns its images by heart at LRs below `p`, and half
of the fall of its probe comes at an LR `h` far below. So after a spread fall the sweep begins, in
place of the above, at

    l = p * min(1, max(1 / 10, 6 / 1.02 ** W, (p / h) ** 1.5 / 10)).

And a loss may neither fall nor rise for a decade of LRs, which train nothing and ruin the weights.
Once an adaptive sweep is slow it can ask whether the loss goes on falling: while the LR grew by the
last factor of 3, all of it in the slow piece.
"""

import math
from typing import NamedTuple

from autowu import schedules
from autowu.probe import MAX_DISTANCE, Fall
from autowu.settings import SchedulerSettings, check_number, is_adaptive

FAST = 4.0  # ours: so many times faster the log of the LR grows before the loss falls
MAX_FAST_GROWTH = 2.0  # ours: but by at most this factor a step
MAX_SLOW_GROWTH = 1.03  # ours: most that the LR grows in a step once the loss falls
PROBED_GROWTH = 1.02  # ours: and after a probe
MIN_REACH = 3.0  # ours: but so much at least in the longest warmup
PROBE_REACH = 6.0  # ours: times the LR of the probe, which the longest warmup is to reach
MAX_RUN_UP = 10.0  # ours: but it begins at most so many times below the LR of the probe
# Ours: of p / h; where half of the fall lies 15 and 58 below the rise: from 0.14 and 1 times `p`.
SPREAD_POWER = 1.5
PLATEAU_GROWTH = 3.0  # ours: a loss that does not fall while the LR grows so much has had its fall


class Piece(NamedTuple):
    """A part of the sweep: from `start_lr` at step `begin` it would take `length` to `max_lr`."""

    begin: float
    length: float  # steps
    start_lr: float


class Sweep:
    """The LR of the warmup, as far as it is known: that it goes on as it does.

    Args:
        settings: of the scheduler.
        fall_step: optimizer steps done when the loss was seen to fall; None: not yet; 0: it is not
            asked for; the sweep is fixed, or slow from its first step on.
        slow_lr: where the slow piece begins: with `fall_step` 0 the LR of the first step, or else
            one below that which the fast piece reached, which was too much. None: where the fast
            one ends; with `fall_step` 0 the sweep is fixed.
        probed_growth: most that the LR grows in a step after a probe; None: 2 %. More: of a sweep
            that an earlier version began; less: the fall was spread.
        warmup_steps: the longest warmup; None: `W`, that of the settings.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        fall_step: int | None,
        slow_lr: float | None = None,
        probed_growth: float | None = None,
        warmup_steps: int | None = None,
    ) -> None:
        self.warmup_steps = settings.warmup_steps if warmup_steps is None else warmup_steps
        self.fall_step = fall_step
        self.slow_lr = slow_lr
        self.probed_growth: float | None = None
        self.least_lr = 0.0  # below it no test counts
        self._max_lr = settings.max_lr
        is_linear = settings.growth == "linear"
        self._curve = schedules.linear if is_linear else schedules.exponential
        self._is_fixed = fall_step == 0 and slow_lr is None
        longest = settings.warmup_steps
        first = Piece(0, longest, settings.min_lr)
        if fall_step == 0 and slow_lr is not None:
            span = math.log(settings.max_lr / slow_lr)
            growth = PROBED_GROWTH if probed_growth is None else probed_growth
            self.probed_growth = growth
            slowest = min(span / math.log(growth), longest * span / math.log(MIN_REACH))
            first = Piece(0, max(longest, slowest), slow_lr)
            # Less than 2 % is of a fall that is spread (no version had less for the others), and
            # leads to 12 times the LR of its probe: so states need not hold that LR.
            if growth < PROBED_GROWTH and slowest > longest:
                self.least_lr = slow_lr * growth**longest / MAX_DISTANCE
        elif fall_step != 0:
            first = first._replace(length=fast_steps(settings))
        self._pieces = [first]
        if fall_step:
            length: float = longest - fall_step
            if slow_lr is None:
                slow_lr = self._lr_of(first, fall_step)
                span = math.log(settings.max_lr / slow_lr)
                length = max(length, span / math.log(MAX_SLOW_GROWTH))
            self._pieces.append(Piece(fall_step, length, slow_lr))

    @property
    def is_fast(self) -> bool:
        """Whether it waits for the loss to fall."""
        return self.fall_step is None

    @property
    def growth(self) -> float:
        """What the log of the LR grows by in a step from now on; of an exponential sweep."""
        _, length, start_lr = self._pieces[-1]
        return math.log(self._max_lr / start_lr) / length if start_lr < self._max_lr else 0.0

    def lr(self, step: float) -> float:
        """The learning rate after `step` steps, a real number; at most `max_lr`."""
        piece = self._pieces[-1]
        return self._lr_of(piece if step >= piece.begin else self._pieces[0], step)

    def step_of(self, lr: float) -> float:
        """The step, a real number, at which it has the learning rate `lr`; below 0 for less."""
        begin, length, start_lr = next(
            (piece for piece in reversed(self._pieces) if piece.start_lr <= lr), self._pieces[0]
        )
        if start_lr == self._max_lr:
            return begin
        if self._curve is schedules.linear:
            return begin + length * (lr - start_lr) / (self._max_lr - start_lr)
        return begin + length * math.log(lr / start_lr) / math.log(self._max_lr / start_lr)

    def plateau_begin(self, step: float) -> float | None:
        """The step, a real number, at which the LR was 3 times smaller than after `step` steps.

        None where the loss had not been seen to fall by then, or where that is not asked for.
        """
        # A divergence hides the newest losses, and `step` may lie before the fall.
        if self._is_fixed or self.fall_step is None or step < self.fall_step:
            return None
        lr, first = self.lr(step) / PLATEAU_GROWTH, self._pieces[-1].start_lr
        if lr < first * (1.0 - 1e-9):  # where it grows by just that factor in `W` steps, it is one
            return None
        return self.step_of(max(lr, first))

    def _lr_of(self, piece: Piece, step: float) -> float:
        return self._curve(step - piece.begin, piece.length, piece.start_lr, self._max_lr)


def first_fall_step(settings: SchedulerSettings) -> int | None:
    """`fall_step` of a sweep that begins: None where it is adaptive."""
    return None if is_adaptive(settings.sweep, settings.growth) else 0


def first_lr(settings: SchedulerSettings, fall: Fall) -> float:
    """Where a sweep begins after a probe."""
    steps = settings.warmup_steps if fall.is_spread else settings.probed_warmup_steps
    growth = PROBED_GROWTH ** min(steps, 1_000)  # beyond that it is too much
    share = max(1.0 / MAX_RUN_UP, PROBE_REACH / growth)
    if fall.is_spread:
        spread = min(fall.lr / fall.half_lr, MAX_RUN_UP)  # beyond that it is too much, too
        share = max(share, spread**SPREAD_POWER / MAX_RUN_UP)
    return max(settings.min_lr, min(1.0, share) * fall.lr)


def sweep_begun_at(settings: SchedulerSettings, lr: float, spread_lr: float | None) -> Sweep:
    """The sweep from an LR near which the loss is known to fall; as for `AutoWU.begin_at`.

    Raises:
        TypeError: no number.
        ValueError: an LR out of [`min_lr`, `max_lr`), or `spread_lr` out of [`lr`, `max_lr`).
    """
    first = check_number("lr of begin_at", lr)
    if not settings.min_lr <= first < settings.max_lr:
        raise ValueError(
            f"begin_at takes an LR from min_lr={settings.min_lr:g} to below "
            f"max_lr={settings.max_lr:g}, got {lr}"
        )
    if spread_lr is not None:
        spread = check_number("spread_lr of begin_at", spread_lr)
        if not first <= spread < settings.max_lr:
            raise ValueError(
                f"spread_lr of begin_at must be an LR from the first one, {first}, to below "
                f"max_lr={settings.max_lr:g}, got {spread_lr}"
            )
        growth = growth_where_spread(settings.warmup_steps, first, spread)
        return Sweep(settings, 0, first, growth)
    steps = settings.probed_warmup_steps
    reach = min(PROBED_GROWTH ** min(steps, 1_000), MAX_RUN_UP * PROBE_REACH)
    # Where it goes evenly to `max_lr`, by less than 2 % a step, it is to come as far all the same.
    reached = Sweep(settings, 0, first).step_of(min(reach * first, settings.max_lr))
    steps = max(steps, math.ceil(reached * (1.0 - 1e-12)))
    return Sweep(settings, 0, first, warmup_steps=min(steps, settings.warmup_steps))


def growth_where_spread(warmup_steps: int, lr: float, spread_lr: float) -> float:
    """Most that the LR grows in a step from `lr` on, after a probe whose fall is spread.

    Args:
        warmup_steps: `W`.
        lr: of the first step.
        spread_lr: that of the probe, `lr` or more.

    >>> growth_where_spread(200, 1e-4, 1e-3), round(growth_where_spread(440, 1e-4, 1e-3), 4)
    (1.02, 1.0109)
    """
    return min(PROBED_GROWTH, (MAX_DISTANCE * spread_lr / lr) ** (1.0 / warmup_steps))


def fast_steps(settings: SchedulerSettings) -> float:
    """`F`: steps that the fast piece would take from `min_lr` to `max_lr`, a real number.

    `min(W, max(W / 4, log2(max_lr / min_lr)))`: where a quarter of `W` is so short that the LR
    would more than double in a step, it doubles.
    """
    doublings = math.log(settings.max_lr / settings.min_lr) / math.log(MAX_FAST_GROWTH)
    return min(settings.warmup_steps, max(settings.warmup_steps / FAST, doublings))
