"""The settings of each schedule of train.py, by name. Torch is not imported here.

Whatever can be said about a schedule from its settings alone is checked here, once: `train.py`
asks `check`, and `autowu.trainer.schedules.create` asks `check_values`.
"""

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from autowu.curves.cycles import Anneal, Wave
from autowu.curves.warmups import Warmup
from autowu.settings import COOLDOWN_DECAYS, AtCap, Decay, Fit, Growth, SweepKind, is_adaptive
from autowu.trainer.composite import read_pieces
from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import closest, setting, squash
from autowu.trainer.lr_scaling import ScaleLR

if TYPE_CHECKING:
    from autowu.trainer.settings import Settings


_OF_A_DROP = "factor of a drop"  # what settings of several schedules mean


def refuse(key: str, value: Any, reason: str) -> NoReturn:
    """Raise ConfigError: `schedule.key=value: reason`."""
    shown = "null" if value is None else value
    raise ConfigError(f"schedule.{key}={shown}: {reason}")


@dataclass(frozen=True)
class ScheduleSettings:
    """What every schedule has; its own settings stand beside the name, flat."""

    name: str = setting("", "schedule of the LR")

    def check(self, settings: "Settings") -> None:
        """Raise ConfigError for settings that are right one by one but not together."""
        if settings.optimizer.lr is None:
            # Learning-rate-free optimizers multiply their own estimate with it.
            finds_lr = settings.optimizer.name.startswith(("dadapt", "prodigy"))
            raise ConfigError(
                f"optimizer.lr=null: schedule.name={self.name} needs the peak LR,"
                f" for example optimizer.lr={'1' if finds_lr else '0.001'}"
            )
        self.check_values(settings.epochs)

    def check_values(self, epochs: int) -> None:
        """The same for what the schedule's own settings and the length of the run decide."""


@dataclass(frozen=True)
class FindsLRSettings(ScheduleSettings):
    """A schedule that looks for the LR itself, and so refuses one."""

    min_lr: float = setting(
        1e-5, "LR of the first step; after a probe the least it can be", above=0
    )
    max_lr: float = setting(1.0, "highest LR; an adaptive sweep may end below it", above=0)

    def check(self, settings: "Settings") -> None:
        if settings.optimizer.lr is not None:
            raise ConfigError(
                f"optimizer.lr={settings.optimizer.lr}: schedule.name={self.name} finds the LR"
                " itself (set schedule.min_lr and schedule.max_lr, or optimizer.lr=null)"
            )
        self.check_values(settings.epochs)

    def check_values(self, epochs: int) -> None:
        if self.min_lr >= self.max_lr:
            refuse("min_lr", self.min_lr, f"must be below schedule.max_lr={self.max_lr}")


@dataclass(frozen=True)
class AutoWUSettings(FindsLRSettings):
    """Finds the peak LR and the length of the warmup as it trains; `help(AutoWU)` says more.

    The keywords of `autowu.AutoWU`, with the same defaults, and `probe`.
    """

    name: Literal["autowu"] = "autowu"
    max_warmup_fraction: float = setting(
        0.5, "longest warmup, as a fraction of all steps", above=0, at_most=1
    )
    probed_warmup_fraction: float = setting(
        1.0,
        "the same after a probe whose fall is not spread, if it is less, but 90 steps at least;"
        " 0.3 can gain in runs of some hundred steps, and goes too high in fine-tuning",
        above=0,
        at_most=1,
    )
    growth: Growth = setting("exponential", "of the LR in the sweep")
    sweep: SweepKind = setting(
        "adaptive",
        "adaptive: fast until the loss begins to fall, then slow, but as fixed with growth=linear;"
        " fixed: evenly from min_lr to max_lr, as published",
    )
    probe: int = setting(
        32,
        "images for the few steps before the run, taken back, that find where an adaptive sweep"
        " begins: the first of the run, at most a whole batch; 0: it begins at min_lr",
        at_least=0,
    )
    decay: Decay = setting("cosine", "of the LR after the warmup")
    cooldown_fraction: float = setting(
        0.2,
        "how long the LR falls, as a fraction of all steps; with decay=constant_cosine, wsd_linear"
        " and wsd_one_minus_sqrt alone",
        above=0,
        at_most=1,
    )
    patience: int = setting(3, "positive tests in a row that end the warmup", at_least=1)
    confidence: float = setting(
        0.95,
        "probability that the loss has stopped falling, above which a test is positive",
        above=0,
        below=1,
    )
    num_tests: int = setting(5, "random subsets of the losses that vote in one test", at_least=1)
    test_interval: int | str = setting(
        "auto",
        "auto: so often that the LR grows by at most 1.2x between two tests, if possible at ends of"
        " epochs; epoch: at each of them; or optimizer steps",
        at_least=1,
    )
    fit: Fit = setting(
        "mle",
        "of the Gaussian process; mle: maximum likelihood, the same for losses of any scale; adam:"
        " 100 steps of Adam, as published",
    )
    at_cap: AtCap = setting(
        "minimum",
        "where the decay starts when the longest warmup found nothing; minimum: from the LR at the"
        " lowest smoothed loss; current: from the LR reached, as published",
    )
    num_fit_samples: int = setting(100, "losses, at most, that a fit looks at", at_least=5)
    num_posterior_samples: int = setting(500, "losses, at most, that a vote looks at", at_least=5)
    grid_size: int = setting(500, "points at which the fitted curve is looked at", at_least=2)
    seed: int = setting(0, "of the random subsets", at_least=0)

    @property
    def begins_with_probe(self) -> bool:
        return is_adaptive(self.sweep, self.growth) and self.probe > 0

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        interval = self.test_interval
        if isinstance(interval, str) and interval not in ("auto", "epoch"):
            near = closest(interval, ["auto", "epoch"])
            refuse("test_interval", interval, f"must be auto, epoch or an integer (steps){near}")
        if not self.begins_with_probe and self.probe not in (0, AutoWUSettings.probe):
            refuse(
                "probe",
                self.probe,
                "acts only with schedule.sweep=adaptive and schedule.growth=exponential, not with"
                f" {self.sweep} and {self.growth}",
            )
        ignored = self.cooldown_fraction != AutoWUSettings.cooldown_fraction
        if ignored and self.decay not in COOLDOWN_DECAYS:
            refuse(
                "cooldown_fraction",
                self.cooldown_fraction,
                f"acts only with schedule.decay={' or '.join(COOLDOWN_DECAYS)},"
                f" not with {self.decay}",
            )


@dataclass(frozen=True)
class PeakSettings(ScheduleSettings):
    """What every schedule has whose peak is `optimizer.lr`."""

    update: Literal["step", "epoch"] = setting("step", "when the LR changes")
    scale_lr: ScaleLR = setting(
        "none",
        "scale the LR with data.batch_size / base_batch_size; linear: by it; sqrt: by its root",
    )
    base_batch_size: int = setting(
        256, "images per optimizer step that optimizer.lr is meant for", at_least=1
    )

    def check_values(self, epochs: int) -> None:
        ignored = self.base_batch_size != PeakSettings.base_batch_size
        if ignored and self.scale_lr == "none":
            refuse(
                "base_batch_size",
                self.base_batch_size,
                "acts only with schedule.scale_lr=linear or sqrt, not with none",
            )


@dataclass(frozen=True)
class WarmupSettings(PeakSettings):
    """What every schedule has that may begin with a warmup; it ends where the curve is by then."""

    warmup_epochs: float | None = setting(
        0.0, "length of the warmup in epochs; null: min(5, 10 % of epochs)", at_least=0
    )
    warmup: Warmup = setting("linear", "shape of the warmup")
    warmup_start_ratio: float | None = setting(
        None,
        "first LR over that at the end of the warmup; null: 1 / (its steps + 1), or its epochs with"
        " update=epoch; exponential 0.01",
        at_least=0,
        at_most=1,
    )

    def warmup_length(self, epochs: int) -> float:
        """Epochs of warmup, whole ones where the LR changes every epoch."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs
        length = min(5, 0.1 * epochs)
        return round(length) if self.update == "epoch" else length

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        length = self.warmup_epochs
        if length is not None and length >= epochs:
            refuse("warmup_epochs", f"{length:g}", f"must be below epochs={epochs}")
        if length is not None and self.update == "epoch" and length != int(length):
            refuse("warmup_epochs", length, "must be a whole number with schedule.update=epoch")
        for key, default in (("warmup", "linear"), ("warmup_start_ratio", None)):
            value = getattr(self, key)
            if length == 0 and value != default:
                refuse(key, value, f"acts only with a warmup, and schedule.warmup_epochs={length}")
        if self.warmup == "exponential" and self.warmup_start_ratio == 0:
            refuse("warmup_start_ratio", 0, "must be above 0 with schedule.warmup=exponential")


@dataclass(frozen=True)
class FallsToEndSettings(WarmupSettings):
    """A curve that spans what is left after the warmup, and goes to an end."""

    end_lr_ratio: float = setting(0.0, "LR at the end over the peak LR", at_least=0, at_most=1)


@dataclass(frozen=True)
class WarmupCosineSettings(FallsToEndSettings):
    """The paper's baseline: a linear warmup to the peak LR, then a cosine."""

    name: Literal["warmup_cosine"] = "warmup_cosine"
    warmup_epochs: float | None = setting(None, at_least=0)


@dataclass(frozen=True)
class CosineSettings(FallsToEndSettings):
    """Half a cosine wave."""

    name: Literal["cosine"] = "cosine"


@dataclass(frozen=True)
class ConstantSettings(WarmupSettings):
    """The peak LR to the end."""

    name: Literal["constant"] = "constant"


@dataclass(frozen=True)
class MultistepSettings(WarmupSettings):
    """Drops at milestones, which are counted from the start of the run, warmup included."""

    name: Literal["multistep"] = "multistep"
    milestones: tuple[float, ...] = setting(
        (), "epochs, ascending; none: half and three quarters of the run", above=0
    )
    gamma: float = setting(0.1, _OF_A_DROP, at_least=0, at_most=10)
    factors: tuple[float, ...] = setting(
        (),
        "LR after each milestone over the peak LR, in place of gamma; none: gamma decides",
        at_least=0,
    )

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        milestones = list(self.milestones)
        if any(first >= second for first, second in pairwise(milestones)):
            refuse("milestones", milestones, "must be in ascending order, none of them twice")
        if milestones and milestones[-1] >= epochs:
            refuse("milestones", milestones, f"must be below epochs={epochs}")
        warmup = self.warmup_length(epochs)
        first = milestones[0] if milestones else epochs / 2
        if warmup and first < warmup:
            refuse("milestones", milestones, f"must be after the {warmup:g} epochs of warmup")
        num_drops = len(milestones or (1, 2))
        if self.factors and len(self.factors) != num_drops:
            reason = f"must be {num_drops} numbers, one for each of schedule.milestones"
            refuse("factors", list(self.factors), reason)
        if self.factors and self.gamma != MultistepSettings.gamma:
            refuse("gamma", self.gamma, "does not act beside schedule.factors")


@dataclass(frozen=True)
class StepSettings(WarmupSettings):
    """Drops by one factor after equal times, counted from the start of the run."""

    name: Literal["step"] = "step"
    step_epochs: float | None = setting(
        None, "epochs between two drops; null: a third of the run", above=0
    )
    gamma: float = setting(0.1, _OF_A_DROP, at_least=0, at_most=10)

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        if self.step_epochs is not None and self.step_epochs >= epochs:
            refuse("step_epochs", f"{self.step_epochs:g}", f"must be below epochs={epochs}")
        warmup = self.warmup_length(epochs)
        length = self.step_epochs or epochs / 3
        if warmup and length < warmup:
            reason = f"must not be below the {warmup:g} epochs of warmup, or it drops in them"
            refuse("step_epochs", f"{length:g}", reason)


@dataclass(frozen=True)
class ExponentialSettings(WarmupSettings):
    """The same factor every step, over what is left after the warmup."""

    name: Literal["exponential"] = "exponential"
    gamma: float | None = setting(
        None, "factor of an epoch; null: end_lr_ratio decides", above=0, at_most=10
    )
    end_lr_ratio: float | None = setting(
        None, "LR at the end over the peak LR; null: gamma decides; both null: 0.001", above=0
    )

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        if self.gamma is not None and self.end_lr_ratio is not None:
            refuse("end_lr_ratio", self.end_lr_ratio, "does not act beside schedule.gamma")


@dataclass(frozen=True)
class LinearSettings(FallsToEndSettings):
    """The LR falls by the same amount every step."""

    name: Literal["linear"] = "linear"


@dataclass(frozen=True)
class PolynomialSettings(FallsToEndSettings):
    """The LR falls as a power of what is left of the run."""

    name: Literal["polynomial"] = "polynomial"
    power: float = setting(2.0, "1: linear; 2: the large-batch recipe of LARS", above=0)


@dataclass(frozen=True)
class InverseSqrtSettings(WarmupSettings):
    """The LR falls as 1 / sqrt(time), as for the Transformer (arXiv:1706.03762)."""

    name: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale_epochs: float | None = setting(
        None,
        "epochs after which the LR has fallen by a factor of sqrt(2); null: the length of the"
        " warmup, without one a hundredth of the run",
        above=0,
    )


@dataclass(frozen=True)
class OneCycleShape(ScheduleSettings):
    """The keywords of PyTorch's OneCycleLR that say how it rises and falls."""

    div_factor: float = setting(25.0, "peak over the first LR", above=0)
    final_div_factor: float = setting(1e4, "first over the last LR", above=0)
    pct_start: float = setting(0.3, "fraction of the cycle that rises", at_least=0, at_most=1)
    anneal: Anneal = setting("cos", "shape of rise and fall; cos: half a cosine wave")
    three_phase: bool = setting(False, "fall to the first LR in as many steps as the rise, then on")

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        if self.three_phase and self.pct_start > 0.5:
            refuse("pct_start", self.pct_start, "must be at most 0.5 with schedule.three_phase")

    def shape_keywords(self) -> dict[str, Any]:
        """Those of `autowu.schedules.one_cycle`."""
        own = fields(OneCycleShape)
        return {each.name: getattr(self, each.name) for each in own if each.name != "name"}


@dataclass(frozen=True)
class OneCycleSettings(OneCycleShape, WarmupSettings):
    """Up to the peak and down, far below the start: PyTorch's OneCycleLR and its keywords."""

    name: Literal["onecycle"] = "onecycle"


@dataclass(frozen=True)
class CosineRestartsSettings(FallsToEndSettings):
    """Cosine waves one after the other (SGDR, arXiv:1608.03983)."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    end_lr_ratio: float = setting(
        0.0, "lowest LR of each cycle over the peak LR", at_least=0, at_most=1
    )
    cycle_epochs: float | None = setting(
        None, "length of the first cycle in epochs; null: num_cycles decides", above=0
    )
    num_cycles: int | None = setting(
        None, "cycles of the run; null: cycle_epochs decides; both null: 3", at_least=1
    )
    cycle_mult: float = setting(
        1.0, "length of a cycle over that of the one before", at_least=1, at_most=1e6
    )
    wave: Wave = setting("half", "of each cycle; full: comes up again without a jump")

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        if self.cycle_epochs is not None and self.num_cycles is not None:
            refuse("num_cycles", self.num_cycles, "does not act beside schedule.cycle_epochs")
        num_cycles = self.num_cycles or (3 if self.cycle_epochs is None else 1)
        if (num_cycles - 1) * math.log(self.cycle_mult) > math.log(1e9):
            reason = f"must be fewer: with schedule.cycle_mult={self.cycle_mult:g} the first of"
            refuse("num_cycles", num_cycles, f"{reason} them would be no step long")


@dataclass(frozen=True)
class PlateauSettings(WarmupSettings):
    """PyTorch's ReduceLROnPlateau on the mean training loss of each epoch.

    `update` concerns its warmup alone: the rest changes at ends of epochs.
    """

    name: Literal["plateau"] = "plateau"
    update: Literal["step", "epoch"] = setting("step", "when the LR of its warmup changes")
    factor: float = setting(0.1, _OF_A_DROP, at_least=0, below=1)
    patience: int = setting(10, "epochs without an improvement that change nothing", at_least=0)
    threshold: float = setting(
        1e-4, "fraction of the best loss that an improvement exceeds", at_least=0, below=1
    )
    cooldown: int = setting(0, "epochs after a drop that are not counted", at_least=0)
    min_lr: float = setting(0.0, "LR that no drop goes below", at_least=0)


@dataclass(frozen=True)
class CompositeSettings(PeakSettings):
    """Curves one after the other; `autowu.trainer.composite` says what an entry may hold."""

    name: Literal["composite"] = "composite"
    curves: list[Any] = setting(
        [],
        "{name, length, interval: rescaled or fixed, start, end, keywords of the curve} of each;"
        " length: a fraction of the run; start and end: times the peak LR",
    )

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        read_pieces(self.curves)


@dataclass(frozen=True)
class WSDSettings(FallsToEndSettings):
    """Warmup, stable, decay."""

    name: Literal["wsd"] = "wsd"
    warmup_epochs: float | None = setting(None, at_least=0)
    cooldown_fraction: float = setting(
        0.2, "length of the decay, as a fraction of the run", above=0, at_most=1
    )
    shape: Literal["linear", "one_minus_sqrt"] = setting("one_minus_sqrt", "of the decay")

    def check_values(self, epochs: int) -> None:
        super().check_values(epochs)
        left = 1 - self.warmup_length(epochs) / epochs
        if self.cooldown_fraction > left + 1e-9:
            reason = f"must be at most {left:g}, what the warmup leaves of the run"
            refuse("cooldown_fraction", self.cooldown_fraction, reason)
        if self.update == "epoch" and self.cooldown_fraction * epochs <= 1:
            reason = f"with schedule.update=epoch must be above {1 / epochs:g}, an epoch"
            refuse("cooldown_fraction", self.cooldown_fraction, reason)


@dataclass(frozen=True)
class RangeTestSettings(FindsLRSettings):
    """What both range tests have."""

    min_lr: float = setting(1e-7, "LR of the first step", above=0)
    max_lr: float = setting(10.0, "LR of the last step", above=0)
    # Ours: the smoothed loss trails by some ten steps, so of the 100 that are common practice the
    # suggestion comes half a decade late.
    num_steps: int = setting(300, "optimizer steps of the test, at most", at_least=5)
    growth: Growth = setting("exponential", "of the LR in the test")
    stop_factor: float = setting(
        4.0, "smoothed loss over the lowest one, at which the test is over", above=1
    )
    smoothing: float = setting(0.9, "weight of the past in the smoothed loss", at_least=0, below=1)


@dataclass(frozen=True)
class LRRangeTestSettings(RangeTestSettings):
    """A short sweep that trains nothing and suggests an LR (Smith 2017, arXiv:1506.01186)."""

    name: Literal["lr_range_test"] = "lr_range_test"


@dataclass(frozen=True)
class RangeTestOneCycleSettings(OneCycleShape, RangeTestSettings):
    """A range test, then a one-cycle with the LR that it suggests as its peak."""

    name: Literal["range_test_onecycle"] = "range_test_onecycle"
    suggestion: Literal["steepest", "valley"] = setting(
        "valley",
        "LR that becomes the peak; steepest: where the loss falls fastest; valley: within its"
        " longest fall",
    )


SCHEDULES: dict[str, type[ScheduleSettings]] = {
    "autowu": AutoWUSettings,
    "warmup_cosine": WarmupCosineSettings,
    "cosine": CosineSettings,
    "constant": ConstantSettings,
    "multistep": MultistepSettings,
    "step": StepSettings,
    "exponential": ExponentialSettings,
    "linear": LinearSettings,
    "polynomial": PolynomialSettings,
    "inverse_sqrt": InverseSqrtSettings,
    "onecycle": OneCycleSettings,
    "cosine_restarts": CosineRestartsSettings,
    "plateau": PlateauSettings,
    "composite": CompositeSettings,
    "wsd": WSDSettings,
    "lr_range_test": LRRangeTestSettings,
    "range_test_onecycle": RangeTestOneCycleSettings,
}


def canonical(name: str) -> str:
    """The usual spelling of a schedule's name, in which case, `-` and `_` do not matter.

    Raises:
        ValueError: no schedule is called so; with the nearest names.

    >>> canonical("One-Cycle"), canonical("warmupCosine")
    ('onecycle', 'warmup_cosine')
    """
    usual = {squash(known): known for known in SCHEDULES}
    name = name if isinstance(name, str) else repr(name)
    if squash(name) in usual:
        return usual[squash(name)]
    near = get_close_matches(squash(name), usual, n=3, cutoff=0.4)
    hint = f" (did you mean {' or '.join(usual[each] for each in near)}?)" if near else ""
    raise ValueError(f"schedule.name={name}: must be one of {', '.join(SCHEDULES)}{hint}")
