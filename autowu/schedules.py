"""Learning-rate curves as pure functions of the step.

Every curve takes the number of optimizer steps done since it began, its length in steps and its
first learning rate, then what is its own, and returns the learning rate of the next step. Nothing
is accumulated and nothing is read back from an optimizer, so a curve can be evaluated at any step,
in any order, also between two steps (`step` is a real number). Before its beginning a curve has
its first value, after its end its last one.

    from autowu import CurveScheduler, schedules

    CurveScheduler(optimizer, lambda step: schedules.polynomial(step, 10_000, 1.0, power=2))
"""

from collections.abc import Callable

from autowu.curves.cooldowns import constant_cosine, wsd_linear, wsd_one_minus_sqrt
from autowu.curves.cycles import cosine_restarts, one_cycle
from autowu.curves.smooth import (
    constant,
    cosine,
    exponential,
    exponential_decay,
    gamma_decay,
    inverse_sqrt,
    linear,
    one_minus_sqrt,
    polynomial,
)
from autowu.curves.stepwise import multistep, step_decay
from autowu.curves.warmups import warmup

__all__ = [
    "DECAYS",
    "constant",
    "constant_cosine",
    "cosine",
    "cosine_restarts",
    "exponential",
    "exponential_decay",
    "gamma_decay",
    "inverse_sqrt",
    "linear",
    "multistep",
    "one_cycle",
    "one_minus_sqrt",
    "polynomial",
    "step_decay",
    "warmup",
    "wsd_linear",
    "wsd_one_minus_sqrt",
]

# What AutoWU can decay along, called as `curve(step, num_steps, start_lr)`; those of
# `autowu.settings.COOLDOWN_DECAYS` take `cooldown_steps` too. Other parameters keep their defaults.
DECAYS: dict[str, Callable[..., float]] = {
    "cosine": cosine,
    "constant_cosine": constant_cosine,
    "linear": linear,
    "polynomial": polynomial,
    "one_minus_sqrt": one_minus_sqrt,
    "wsd_linear": wsd_linear,
    "wsd_one_minus_sqrt": wsd_one_minus_sqrt,
    "constant": constant,
    "inverse_sqrt": inverse_sqrt,
    "exponential": exponential_decay,
    "step": step_decay,
    "multistep": multistep,
    "cosine_restarts": cosine_restarts,
}
