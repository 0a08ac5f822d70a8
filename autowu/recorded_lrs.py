"""The LRs of a recorded run, and which of its rows are steps that a GradScaler skipped.

Such a row has the LR of the next one, as train.py's steps.csv has it: the scheduler did not step
in between. But rows also have the same LR where the sweep rests at `max_lr`, where few digits hide
that it moves, and where a decay begins with the LR that the sweep ended with.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from autowu.probe import MOST_SKIPPED
from autowu.scheduler import AutoWU


class RecordedLRs(NamedTuple):
    """What is known of the rows without a sweep; `RecordedLRs.of(lrs)` finds it."""

    lrs: list[float]  # (n,)
    repeated: list[bool]  # (n,) the next row has the same LR, but at most 24 times in a row
    resolution: float  # largest relative difference that the digits of the record can hide

    @classmethod
    def of(cls, lrs: list[float]) -> "RecordedLRs":
        repeated: list[bool] = []
        num_repeated = 0
        for lr, following in pairwise(lrs):
            # train.py takes what is skipped after these for steps.
            is_repeated = lr == following and num_repeated < MOST_SKIPPED
            num_repeated = num_repeated + 1 if is_repeated else 0
            repeated.append(is_repeated)
        return cls(lrs, [*repeated, False], _resolution(lrs))

    def was_skipped(self, row: int, scheduler: AutoWU, step: int) -> bool:
        """Whether the row is no step of the scheduler, whose sweep stands at `step` there."""
        if not self.repeated[row]:
            return False
        if step + 1 == scheduler.warmup_steps and scheduler.settings.at_cap == "current":
            return False
        return scheduler.lr_at(step + 1) > scheduler.lr_at(step) * (1.0 + self.resolution)


def _resolution(lrs: Sequence[float]) -> float:
    """What two LRs can differ by, relatively, and be the same number with as many digits as these.

    >>> _resolution([0.001, 0.00102, 0.00104])
    0.01
    """
    finite = [lr for lr in lrs if math.isfinite(lr)]
    for digits in range(1, 17):
        if all(float(f"{lr:.{digits}g}") == lr for lr in finite):
            return 10.0 ** (1 - digits)
    return 0.0
