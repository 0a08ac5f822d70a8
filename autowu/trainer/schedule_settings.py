"""The settings of each schedule of train.py, by name. Torch is not imported here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import closest, limited

if TYPE_CHECKING:
    from autowu.trainer.settings import Settings


@dataclass(frozen=True)
class ScheduleSettings:
    """What every schedule has; its own settings stand beside the name, flat."""

    name: str = ""

    def check(self, settings: "Settings") -> None:
        """Raise ConfigError for settings that are right one by one but not together."""


@dataclass(frozen=True)
class AutoWUSettings(ScheduleSettings):
    """The keywords of `autowu.AutoWU`, where each is explained, with the same defaults."""

    name: Literal["autowu"] = "autowu"
    min_lr: float = limited(1e-5, above=0)  # LR at step 0
    max_lr: float = limited(1.0, above=0)  # LR that the sweep would reach at its last step
    max_warmup_fraction: float = limited(0.5, above=0, at_most=1)  # of all steps
    growth: Literal["exponential", "linear"] = "exponential"
    decay: Literal["cosine", "constant_cosine"] = "cosine"
    cooldown_fraction: float = limited(
        0.2, above=0, at_most=1
    )  # of all steps, constant_cosine only
    patience: int = limited(3, at_least=1)  # positive tests in a row that end the warmup
    confidence: float = limited(0.95, above=0, below=1)  # a probability
    num_tests: int = limited(5, at_least=1)  # random subsets of the losses that vote in one test
    test_interval: int | str = limited("auto", at_least=1)  # "auto", "epoch", or optimizer steps
    fit: Literal["mle", "adam"] = "mle"
    at_cap: Literal["minimum", "current"] = "minimum"
    num_fit_samples: int = limited(100, at_least=5)  # losses, at most, that a fit looks at
    num_posterior_samples: int = limited(500, at_least=5)  # losses, at most, that a vote looks at
    grid_size: int = limited(500, at_least=2)  # points at which the fitted curve is looked at
    seed: int = limited(0, at_least=0)  # of the random subsets

    def check(self, settings: "Settings") -> None:
        if settings.optimizer.lr is not None:
            raise ConfigError(
                f"optimizer.lr={settings.optimizer.lr}: schedule.name=autowu finds the LR itself"
                " (set schedule.min_lr and schedule.max_lr, or optimizer.lr=null)"
            )
        if self.min_lr >= self.max_lr:
            raise ConfigError(
                f"schedule.min_lr={self.min_lr}: must be below schedule.max_lr={self.max_lr}"
            )
        interval = self.test_interval
        if isinstance(interval, str) and interval not in ("auto", "epoch"):
            raise ConfigError(
                f"schedule.test_interval={interval}: must be auto, epoch or an integer (steps)"
                f"{closest(interval, ['auto', 'epoch'])}"
            )
        ignored = self.cooldown_fraction != AutoWUSettings.cooldown_fraction
        if ignored and self.decay != "constant_cosine":
            raise ConfigError(
                f"schedule.cooldown_fraction={self.cooldown_fraction}: acts only with"
                f" schedule.decay=constant_cosine, not with {self.decay}"
            )


@dataclass(frozen=True)
class WarmupCosineSettings(ScheduleSettings):
    """The paper's baseline: a linear warmup to the peak LR, then a cosine."""

    name: Literal["warmup_cosine"] = "warmup_cosine"
    warmup_epochs: float | None = limited(None, at_least=0)  # null: min(5, 10 % of epochs)
    end_lr_ratio: float = limited(0.0, at_least=0, at_most=1)  # LR at the end over the peak LR
    scale_lr: Literal["none", "linear", "sqrt"] = "none"  # with batch_size / base_batch_size
    base_batch_size: int = limited(
        256, at_least=1
    )  # images per step that optimizer.lr is meant for

    def check(self, settings: "Settings") -> None:
        if settings.optimizer.lr is None:
            raise ConfigError(
                "optimizer.lr=null: schedule.name=warmup_cosine needs the peak LR,"
                " for example optimizer.lr=0.001"
            )
        if self.warmup_epochs is not None and self.warmup_epochs >= settings.epochs:
            raise ConfigError(
                f"schedule.warmup_epochs={self.warmup_epochs:g}: must be below"
                f" epochs={settings.epochs}"
            )
        ignored = self.base_batch_size != WarmupCosineSettings.base_batch_size
        if ignored and self.scale_lr == "none":
            raise ConfigError(
                f"schedule.base_batch_size={self.base_batch_size}: acts only with"
                " schedule.scale_lr=linear or sqrt, not with none"
            )


SCHEDULES: dict[str, type[ScheduleSettings]] = {
    "autowu": AutoWUSettings,
    "warmup_cosine": WarmupCosineSettings,
}
