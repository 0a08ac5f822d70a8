"""Which curve a schedule's settings mean, as a function of the units done since the run began.

A unit is an optimizer step, or an epoch where the LR changes once an epoch. Curves that go to an
end span what the warmup leaves of the run; drops are counted from the start of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from autowu import schedules
from autowu.settings import Growth
from autowu.trainer import schedule_settings as kinds

Curve = Callable[[float], float]


@dataclass(frozen=True)
class After:
    """A curve that begins `delay` units after the run."""

    curve: Curve
    delay: int

    def __call__(self, units: float) -> float:
        return self.curve(units - self.delay)


def sweep_lr(step: int, num_steps: int, min_lr: float, max_lr: float, growth: Growth) -> float:
    """The LR of a step of the test, so that the first has `min_lr` and the last `max_lr`.

    >>> [round(sweep_lr(step, 5, 1e-4, 1.0, "exponential"), 6) for step in range(5)]
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    >>> sweep_lr(0, 1, 0.5, 1.0, "linear")
    0.5
    """
    if num_steps == 1:
        return min_lr
    curve = schedules.linear if growth == "linear" else schedules.exponential
    return curve(step, num_steps - 1, min_lr, max_lr)


def named_curve(
    chosen: kinds.WarmupSettings, peak: float, rise: int, num_units: int, units_per_epoch: int
) -> Curve:
    """The curve that `chosen` describes, without its warmup.

    Args:
        chosen: settings of a schedule that may begin with a warmup.
        peak: value at the peak, a multiple of the base LR.
        rise: units of the warmup.
        num_units: units of the run.
        units_per_epoch: 1 where a unit is an epoch.
    """
    left = num_units - rise

    def whole(curve: Callable[..., float], **keywords: object) -> Curve:
        return partial(curve, num_steps=num_units, start_lr=peak, **keywords)

    def rest(curve: Callable[..., float], **keywords: object) -> Curve:
        return After(partial(curve, num_steps=left, start_lr=peak, **keywords), rise)

    def units(epochs: float | None) -> float | None:
        return None if epochs is None else epochs * units_per_epoch

    match chosen:
        case kinds.ConstantSettings() | kinds.PlateauSettings():
            return whole(schedules.constant)
        case kinds.MultistepSettings():
            milestones = tuple(each * units_per_epoch for each in chosen.milestones) or None
            factors = chosen.factors or None
            return whole(
                schedules.multistep, milestones=milestones, gamma=chosen.gamma, factors=factors
            )
        case kinds.StepSettings():
            size = units(chosen.step_epochs)
            return whole(schedules.step_decay, step_size=size, gamma=chosen.gamma)
        case kinds.ExponentialSettings(gamma=float() | int()):
            return rest(schedules.gamma_decay, gamma=chosen.gamma, period=units_per_epoch)
        case kinds.ExponentialSettings():
            ratio = 1e-3 if chosen.end_lr_ratio is None else chosen.end_lr_ratio
            return rest(schedules.exponential_decay, end_ratio=ratio)
        case kinds.InverseSqrtSettings():
            timescale = units(chosen.timescale_epochs) or rise or None
            return rest(schedules.inverse_sqrt, timescale=timescale)
        case kinds.OneCycleSettings():
            cycle = partial(schedules.one_cycle, num_steps=left, peak_lr=peak)
            return After(partial(cycle, **chosen.shape_keywords()), rise)
    assert isinstance(chosen, kinds.FallsToEndSettings)
    end_lr = peak * chosen.end_lr_ratio
    match chosen:
        case kinds.WarmupCosineSettings() | kinds.CosineSettings():
            return rest(schedules.cosine, end_lr=end_lr)
        case kinds.LinearSettings():
            return rest(schedules.linear, end_lr=end_lr)
        case kinds.PolynomialSettings():
            return rest(schedules.polynomial, end_lr=end_lr, power=chosen.power)
        case kinds.CosineRestartsSettings():
            return rest(
                schedules.cosine_restarts,
                end_lr=end_lr,
                cycle_steps=units(chosen.cycle_epochs),
                num_cycles=chosen.num_cycles,
                cycle_mult=chosen.cycle_mult,
                wave=chosen.wave,
            )
        case kinds.WSDSettings():
            curve = schedules.DECAYS[f"wsd_{chosen.shape}"]
            return rest(curve, cooldown_steps=chosen.cooldown_fraction * num_units, end_lr=end_lr)
    raise AssertionError(f"no curve for {type(chosen).__name__}")
