"""Every setting of train.py: its name, type, unit, default and limits, and nothing else.

Frozen dataclasses hold the settings; `autowu.trainer.config` reads YAML files and `key=value`
arguments into them. A setting exists only when it acts, so that nothing a user writes is ignored.
Torch is not imported, so that a config can be checked in a blink.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


def limited(default: Any, **limits: float) -> Any:
    """A field whose value must keep to `limits`: at_least, above, at_most and below."""
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class DataSettings:
    name: Literal["digits"] = "digits"  # scikit-learn's 1,797 scans of 8x8 pixels, not downloaded
    batch_size: int = limited(32, at_least=1)  # images per optimizer step, over all ranks


@dataclass(frozen=True)
class ModelSettings:
    name: Literal["small_cnn"] = "small_cnn"  # for small images, about 56 thousand parameters


@dataclass(frozen=True)
class OptimizerSettings:
    name: Literal["adamp", "adamw", "sgd"] = "adamp"
    lr: float | None = limited(
        None, above=0
    )  # peak LR of every schedule but autowu, which finds it
    weight_decay: float = limited(0.01, at_least=0)  # decoupled in adamp and adamw: times the LR


@dataclass(frozen=True)
class ScheduleSettings:
    """What every schedule has; its own settings stand beside the name, flat."""

    name: str = ""


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


SCHEDULES: dict[str, type[ScheduleSettings]] = {
    "autowu": AutoWUSettings,
    "warmup_cosine": WarmupCosineSettings,
}


@dataclass(frozen=True)
class TrackingSettings:
    wandb: Literal["disabled", "offline", "online"] = "disabled"  # project: WANDB_PROJECT or autowu


@dataclass(frozen=True)
class Settings:
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=AutoWUSettings)
    epochs: int = limited(30, at_least=1)  # passes over the training images
    accumulate: int = limited(1, at_least=1)  # forward passes per optimizer step
    clip_grad_norm: float | None = limited(None, above=0)  # largest L2 norm of the gradient
    precision: Literal["fp32", "bf16"] = "fp32"  # of the forward pass; weights stay fp32
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto: cuda where there is one
    seed: int = limited(0, at_least=0, below=2**63)  # of the weights and the order of the images
    output_dir: str = "runs"  # folder of the run directories
    name: str | None = None  # of the run directory; null: made of the settings
    resume: str = "auto"  # auto, never, or the path of a checkpoint or a run directory
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


SECTIONS = ("data", "model", "optimizer", "schedule", "tracking")  # the nested fields of Settings


def run_name(settings: Settings) -> str:
    """The run's folder below `output_dir`: its `name`, or one made of the main settings."""
    return settings.name or "-".join(
        [
            settings.data.name,
            settings.model.name,
            settings.optimizer.name,
            settings.schedule.name,
            f"batch{settings.data.batch_size}",
            f"epochs{settings.epochs}",
            f"seed{settings.seed}",
        ]
    )
