"""The settings of the scheduler, checked once, before anything starts.

A message names the keyword, the value received and what would be right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Literal, get_args

Growth = Literal["exponential", "linear"]
SweepKind = Literal["adaptive", "fixed"]
Decay = Literal[
    "cosine",
    "constant_cosine",
    "linear",
    "polynomial",
    "one_minus_sqrt",
    "wsd_linear",
    "wsd_one_minus_sqrt",
    "constant",
    "inverse_sqrt",
    "exponential",
    "step",
    "multistep",
    "cosine_restarts",
]
Fit = Literal["mle", "adam"]
AtCap = Literal["minimum", "current"]

# Decays that stay constant and fall in the last `cooldown_fraction` of the run.
COOLDOWN_DECAYS = ("constant_cosine", "wsd_linear", "wsd_one_minus_sqrt")
DEFAULT_COOLDOWN_FRACTION = 0.2  # paper

# What `AutoWU.paper` sets: the behaviour as published.
PAPER: dict[str, Any] = {
    "sweep": "fixed",
    "fit": "adam",
    "test_interval": "epoch",
    "at_cap": "current",
}


DEFAULT_PROBED_WARMUP_FRACTION = 1.0
# Ours: of the longest warmup after a probe, if `W` has them: by 2 % a step the LR grows sixfold in
# them, and where it could not grow so much the decay would begin too low.
LEAST_PROBED_STEPS = 90


@dataclass(frozen=True)
class SchedulerSettings:
    """What a scheduler does, in plain Python values; `AutoWU` says what each setting means.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value out of range, or settings that exclude each other.
    """

    total_steps: int  # optimizer steps of the whole run
    steps_per_epoch: int | None  # optimizer steps of an epoch; None: there are no epochs
    min_lr: float
    max_lr: float
    max_warmup_fraction: float  # of total_steps
    probed_warmup_fraction: float  # of total_steps, after a probe
    growth: Growth
    sweep: SweepKind  # adaptive: with exponential growth alone
    decay: Decay
    cooldown_fraction: float  # of total_steps; of COOLDOWN_DECAYS only
    patience: int  # positive tests in a row
    confidence: float  # probability
    num_tests: int  # posteriors of a test
    test_interval: int | str  # "auto", "epoch" or optimizer steps
    fit: Fit
    at_cap: AtCap
    num_fit_samples: int  # losses, at most
    num_posterior_samples: int  # losses, at most
    grid_size: int  # points of [0, 1]
    seed: int

    def __post_init__(self) -> None:
        for name, least in (
            ("total_steps", 2),
            ("patience", 1),
            ("num_tests", 1),
            ("num_fit_samples", 5),
            ("num_posterior_samples", 5),
            ("grid_size", 2),
            ("seed", 0),
        ):
            self._set(name, check_integer(name, getattr(self, name), least))
        if self.steps_per_epoch is not None:
            self._set("steps_per_epoch", check_integer("steps_per_epoch", self.steps_per_epoch, 1))
        for name, most in (
            ("min_lr", math.inf),
            ("max_lr", math.inf),
            ("max_warmup_fraction", 1.0),
            ("probed_warmup_fraction", 1.0),
            ("cooldown_fraction", 1.0),
            ("confidence", 1.0),
        ):
            self._set(name, _positive(name, getattr(self, name), most))
        if self.confidence == 1.0:
            raise ValueError("confidence must be below 1, got 1.0: no probability exceeds 1")
        if self.min_lr >= self.max_lr:
            raise ValueError(f"min_lr must be below max_lr={self.max_lr}, got {self.min_lr}")
        if not math.isfinite(self.max_lr / self.min_lr):
            raise ValueError(
                f"max_lr / min_lr must be finite, got max_lr={self.max_lr}, min_lr={self.min_lr}"
            )
        _choice("growth", self.growth, get_args(Growth))
        _choice("sweep", self.sweep, get_args(SweepKind))
        _choice("decay", self.decay, get_args(Decay))
        self._check_cooldown()
        _choice("fit", self.fit, get_args(Fit))
        _choice("at_cap", self.at_cap, get_args(AtCap))
        if isinstance(self.test_interval, str):
            choices = ("auto", "epoch")
            _choice("test_interval", self.test_interval, choices, "or a number of optimizer steps")
        else:
            self._set("test_interval", check_integer("test_interval", self.test_interval, 1))
        if self.test_interval == "epoch" and self.steps_per_epoch is None:
            raise ValueError(
                'test_interval="epoch" needs steps_per_epoch, got None: pass the optimizer steps '
                'of an epoch, or test_interval="auto"'
            )

    @property
    def warmup_steps(self) -> int:
        """`W`, the longest possible warmup in optimizer steps."""
        return max(1, self._steps_of(self.max_warmup_fraction))

    @property
    def probed_warmup_steps(self) -> int:
        """The longest one after a probe whose fall is not spread; at most `W`."""
        steps = max(LEAST_PROBED_STEPS, self._steps_of(self.probed_warmup_fraction))
        return min(self.warmup_steps, steps)

    def as_dict(self) -> dict[str, Any]:
        """Name and value of each setting."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _steps_of(self, fraction: float) -> int:
        return math.floor(fraction * self.total_steps * (1.0 + 1e-12))  # 0.29 * 100 is below 29

    def _check_cooldown(self) -> None:
        ignored = self.cooldown_fraction != DEFAULT_COOLDOWN_FRACTION
        if ignored and self.decay not in COOLDOWN_DECAYS:
            raise ValueError(
                f"cooldown_fraction={self.cooldown_fraction:g} acts only with a decay that has a "
                f"cooldown ({', '.join(COOLDOWN_DECAYS)}), got decay={self.decay!r}"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def is_adaptive(sweep: str, growth: str) -> bool:
    """A linear sweep is always fixed: its first step leaves the slow decades behind."""
    return sweep == "adaptive" and growth == "exponential"


def check_integer(name: str, value: object, least: int) -> int:
    """The value as a plain int; TypeError or ValueError, naming it, for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_number(name: str, value: object) -> float:
    """The value as a float; TypeError, naming it, for anything but a number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _positive(name: str, value: object, most: float) -> float:
    number = check_number(name, value)
    if not (0.0 < number <= most and math.isfinite(number)):
        bound = "positive and finite" if most == math.inf else f"in (0, {most:g}]"
        raise ValueError(f"{name} must be {bound}, got {value}")
    return number


def _choice(name: str, value: object, choices: Sequence[str], otherwise: str = "") -> None:
    if value in choices:
        return
    near = get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    named = " or ".join(repr(choice) for choice in choices)
    raise ValueError(
        f"{name} must be {named}{f' {otherwise}' * bool(otherwise)}, got {value!r}{hint}"
    )
