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
`W`. `s = 0` with `S = W` is the fixed sweep, eq. (1) of arXiv:2107.05855. Both pieces are the same
pure curve, so every LR is a closed form of the step, `s` and `l`.

And a loss may neither fall nor rise for a decade of LRs, which train nothing and ruin the weights.
Once an adaptive sweep is slow it can ask whether the loss goes on falling: while the LR grew by the
last factor of 3, all of it in the slow piece.
"""

import math
from typing import NamedTuple

from autowu import schedules
from autowu.settings import SchedulerSettings

FAST = 4.0  # ours: so many times faster the log of the LR grows before the loss falls
MAX_FAST_GROWTH = 2.0  # ours: but by at most this factor a step
MAX_SLOW_GROWTH = 1.03  # ours: most that the LR grows in a step once the loss falls
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
            asked for, the sweep is fixed.
        slow_lr: where the slow piece begins, below the LR that the fast one reached, which was
            too much; None: where the fast one ends.
    """

    def __init__(
        self, settings: SchedulerSettings, fall_step: int | None, slow_lr: float | None = None
    ) -> None:
        self.fall_step = fall_step
        self.slow_lr = slow_lr
        self._max_lr = settings.max_lr
        is_linear = settings.growth == "linear"
        self._curve = schedules.linear if is_linear else schedules.exponential
        whole = Piece(0, settings.warmup_steps, settings.min_lr)
        fast = whole if fall_step == 0 else whole._replace(length=fast_steps(settings))
        self._pieces = [fast]
        if fall_step:
            length: float = settings.warmup_steps - fall_step
            if slow_lr is None:
                slow_lr = self._lr_of(fast, fall_step)
                span = math.log(settings.max_lr / slow_lr)
                length = max(length, span / math.log(MAX_SLOW_GROWTH))
            self._pieces.append(Piece(fall_step, length, slow_lr))

    @property
    def is_fast(self) -> bool:
        """Whether it waits for the loss to fall."""
        return self.fall_step is None

    def lr(self, step: float) -> float:
        """The learning rate after `step` steps, a real number; at most `max_lr`."""
        piece = self._pieces[-1]
        return self._lr_of(piece if step >= piece.begin else self._pieces[0], step)

    def step_of(self, lr: float) -> float:
        """The step, a real number, at which it has the learning rate `lr`."""
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
        if not self.fall_step or step < self.fall_step:  # a divergence hides the newest losses
            return None
        lr = self.lr(step) / PLATEAU_GROWTH
        return self.step_of(lr) if lr >= self._pieces[-1].start_lr else None

    def _lr_of(self, piece: Piece, step: float) -> float:
        return self._curve(step - piece.begin, piece.length, piece.start_lr, self._max_lr)


def first_fall_step(settings: SchedulerSettings) -> int | None:
    """`fall_step` of a sweep that begins: None where it is adaptive.

    A linear sweep is always fixed: its first step leaves the slow decades behind.
    """
    is_adaptive = settings.sweep == "adaptive" and settings.growth == "exponential"
    return None if is_adaptive else 0


def fast_steps(settings: SchedulerSettings) -> float:
    """`F`: steps that the fast piece would take from `min_lr` to `max_lr`, a real number.

    `min(W, max(W / 4, log2(max_lr / min_lr)))`: where a quarter of `W` is so short that the LR
    would more than double in a step, it doubles.
    """
    doublings = math.log(settings.max_lr / settings.min_lr) / math.log(MAX_FAST_GROWTH)
    return min(settings.warmup_steps, max(settings.warmup_steps / FAST, doublings))
