"""Curves as schedules of the trainer: they know their warmup and their peak."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from autowu import MinimumTest, Phase
from autowu.curve_scheduler import CurveScheduler
from autowu.curves.warmups import Warmup, warmup
from autowu.schedules import one_cycle


@dataclass(frozen=True)
class WarmedUp:
    """A curve of the steps (or epochs) of the run, with a warmup in place of its beginning.

    The warmup ends at the value that the curve has there.
    """

    curve: Callable[[float], float]  # of the units done since the run began
    warmup_units: int = 0  # units of the warmup
    shape: Warmup = "linear"
    start_ratio: float | None = None  # first value over that at the end of the warmup
    steps_per_unit: int = 1  # optimizer steps of a unit, during which the LR stays

    def __call__(self, step: int) -> float:
        units = step // self.steps_per_unit
        if units >= self.warmup_units:
            return self.curve(units)
        peak = self.curve(self.warmup_units)
        return warmup(units, self.warmup_units, peak, self.shape, self.start_ratio)


class PhasedCurve(CurveScheduler):
    """A curve with a warmup and a decay, as the trainer's schedule; it does not look at the loss.

    Args:
        optimizer: its LRs are what the curve multiplies.
        curve: the optimizer steps done -> a multiple of the base LR.
        warmup_steps: optimizer steps up to the peak; 0: it starts there.
        peak: value of the curve at the peak.
        absolute: as for `CurveScheduler`.
    """

    tests: Sequence[MinimumTest] = ()
    diverged = False

    def __init__(
        self,
        optimizer: Optimizer,
        curve: Callable[[int], float],
        *,
        warmup_steps: int = 0,
        peak: float = 1.0,
        absolute: bool = False,
    ) -> None:
        self.warmup_steps = warmup_steps
        self.peak = peak
        super().__init__(optimizer, curve, absolute=absolute)

    @property
    def phase(self) -> Phase:
        return Phase.WARMUP if self.last_epoch < self.warmup_steps else Phase.DECAY

    @property
    def switch_step(self) -> int | None:
        """Optimizer steps up to the peak; None before."""
        return self.warmup_steps if self.phase is Phase.DECAY else None

    @property
    def start_lr(self) -> float | None:
        """The LR at the peak, of the reference group; None before."""
        if self.phase is Phase.WARMUP:
            return None
        return self.peak if self.absolute else self.reference_lr * self.peak

    def observe(self, loss: object) -> None:
        """Nothing: the loss is not looked at."""

    def step(self, loss: object = None) -> None:
        """One step further; the loss is taken, and not looked at, so that schedules are alike."""
        super().step()


class LateOneCycle(PhasedCurve):
    """A one-cycle whose peak is found by a range test after it is built.

    Until `set_peak` the groups keep the LRs they have, and `step` is refused.

    Args:
        optimizer: its groups keep the ratios of their LRs.
        num_steps: optimizer steps of the cycle.
        **keywords: of `autowu.schedules.one_cycle`.
    """

    def __init__(self, optimizer: Optimizer, num_steps: int, **keywords: Any) -> None:
        self.peak_lr: float | None = None
        self._num_steps = num_steps
        self._keywords = keywords
        rise = one_cycle_rise(num_steps, keywords.get("pct_start", 0.3))
        super().__init__(optimizer, _no_curve, warmup_steps=rise, absolute=True)

    @property
    def peak_is_known(self) -> bool:
        return self.peak_lr is not None

    @property
    def start_lr(self) -> float | None:
        """The LR at the peak, of the reference group; None before."""
        return self.peak_lr if self.phase is Phase.DECAY else None

    def set_peak(self, lr: float) -> None:
        """Set the LR of the peak, and write the LR of the present step into the groups.

        Args:
            lr: positive, of the reference group.
        """
        if not 0.0 < lr < math.inf:
            raise ValueError(f"the peak LR must be positive and finite, got {lr}")
        self._take_peak(float(lr))
        self._write_lrs()

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each group at `last_epoch`; as it is while the peak is not known."""
        if self.peak_lr is None:
            self._adopt_groups()
            return [group["lr"] for group in self.optimizer.param_groups]
        return super().get_lr()

    def step(self, loss: object = None) -> None:
        # `last_epoch` is -1 in the step that the base class takes when it is built.
        if self.peak_lr is None and self.last_epoch >= 0:
            raise ValueError("the peak LR is not known yet: call set_peak(lr) before step()")
        super().step(loss)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"peak_lr": self.peak_lr}

    def _load(self, state_dict: dict[str, Any]) -> None:
        super()._load(state_dict)
        self._take_peak(state_dict["peak_lr"])

    def _take_peak(self, lr: float | None) -> None:
        self.peak_lr = lr
        if lr is not None:
            self.curve = partial(one_cycle, num_steps=self._num_steps, peak_lr=lr, **self._keywords)


def one_cycle_rise(num_steps: int, pct_start: float) -> int:
    """The first whole step at or after the peak of a one-cycle.

    >>> one_cycle_rise(99, 0.3), one_cycle_rise(99, 0.0), one_cycle_rise(10, 0.3)
    (29, 0, 3)
    """
    peak = pct_start * (num_steps + 1) - 1  # as in `autowu.schedules.one_cycle`
    return max(0, math.ceil(peak - 1e-9 * num_steps))


def _no_curve(step: int) -> float:
    raise AssertionError("a one-cycle without a peak was asked for its curve")
