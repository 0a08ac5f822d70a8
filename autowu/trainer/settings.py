"""Every setting of train.py: its name, type, unit, default and limits, and nothing else.

Frozen dataclasses hold the settings; `autowu.trainer.config` reads YAML files and `key=value`
arguments into them. A setting exists only when it acts, so that nothing a user writes is ignored.
Torch is not imported, so that a config can be checked in a blink.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autowu.trainer.limits import limited
from autowu.trainer.optimizer_settings import OPTIMIZERS, AdamPSettings, OptimizerSettings
from autowu.trainer.schedule_settings import SCHEDULES, AutoWUSettings, ScheduleSettings


@dataclass(frozen=True)
class DataSettings:
    """What every data set has; its own settings stand beside the name, flat."""

    name: str = ""
    batch_size: int = limited(32, at_least=1)  # images per optimizer step, over all ranks
    num_workers: int | None = limited(None, at_least=0)  # loader processes of a rank; null: chosen
    mixup: float = limited(0.0, at_least=0)  # alpha of timm's Mixup; 0: off
    cutmix: float = limited(0.0, at_least=0)  # alpha of timm's CutMix; 0: off


# Of images that lie decoded in memory: crop_flip pads by an eighth, crops and flips; cifar adds
# AutoAugment's CIFAR-10 policy and Cutout of half the size.
MemoryAugment = Literal["none", "crop_flip", "cifar"]
# Of images that are decoded as they are read: imagenet crops at random and flips; deit adds
# RandAugment and random erasing. Both through timm.
FileAugment = Literal["imagenet", "deit"]
AnyAugment = Literal[MemoryAugment, FileAugment]


@dataclass(frozen=True)
class DigitsSettings(DataSettings):
    """scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels, not downloaded."""

    name: Literal["digits"] = "digits"
    augment: MemoryAugment = "none"


@dataclass(frozen=True)
class CifarSettings(DataSettings):
    root: str = "data"  # folder that holds cifar-10-batches-py or cifar-100-python
    download: bool = False  # fetch them into root when they are not there
    augment: MemoryAugment = "cifar"


@dataclass(frozen=True)
class Cifar10Settings(CifarSettings):
    name: Literal["cifar10"] = "cifar10"


@dataclass(frozen=True)
class Cifar100Settings(CifarSettings):
    name: Literal["cifar100"] = "cifar100"


@dataclass(frozen=True)
class ImageFileSettings(DataSettings):
    root: str = "data"
    # Pixels of the square crop; null: the images have one size, and lie decoded in memory.
    image_size: int | None = limited(224, at_least=1)
    augment: AnyAugment = "imagenet"


@dataclass(frozen=True)
class ImageNetSettings(ImageFileSettings):
    """<root>/train/<class>/<image> and <root>/val/<class>/<image>, the same classes in both."""

    name: Literal["imagenet"] = "imagenet"


@dataclass(frozen=True)
class FolderSettings(ImageFileSettings):
    """As imagenet; the second folder may also be called test, and have fewer classes."""

    name: Literal["folder"] = "folder"


@dataclass(frozen=True)
class ParquetSettings(ImageFileSettings):
    """Parquet files with encoded images, as Hugging Face lays image data sets out."""

    name: Literal["parquet"] = "parquet"
    image_size: int | None = limited(None, at_least=1)
    augment: AnyAugment = "none"
    label_column: str | None = None  # null: label, or the only column whose name ends with it


@dataclass(frozen=True)
class SyntheticSettings(DataSettings):
    """Random pixels and labels, for measurements and for trying a setup out."""

    name: Literal["synthetic"] = "synthetic"
    num_images: int = limited(1024, at_least=1)  # to train on; a quarter more to test on
    num_classes: int = limited(10, at_least=2)
    image_size: int = limited(32, at_least=1)  # pixels
    augment: MemoryAugment = "none"


DATA_SETS: dict[str, type[DataSettings]] = {
    "digits": DigitsSettings,
    "cifar10": Cifar10Settings,
    "cifar100": Cifar100Settings,
    "imagenet": ImageNetSettings,
    "folder": FolderSettings,
    "parquet": ParquetSettings,
    "synthetic": SyntheticSettings,
}


@dataclass(frozen=True)
class ModelSettings:
    # small_cnn, cifar_resnet18, wide_resnet28_10, or a name that timm knows
    name: str = "small_cnn"
    drop_path: float = limited(0.0, at_least=0, below=1)  # rate of stochastic depth, timm's models


WandbMode = Literal["disabled", "offline", "online"]


@dataclass(frozen=True)
class TrackingSettings:
    wandb: WandbMode = "disabled"  # project: WANDB_PROJECT or autowu
    tensorboard: bool = False  # event files in the run directory


@dataclass(frozen=True)
class Settings:
    data: DataSettings = field(default_factory=DigitsSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimizer: OptimizerSettings = field(default_factory=AdamPSettings)
    schedule: ScheduleSettings = field(default_factory=AutoWUSettings)
    epochs: int = limited(30, at_least=1)  # passes over the training images
    accumulate: int = limited(1, at_least=1)  # forward passes of a rank per optimizer step
    clip_grad_norm: float | None = limited(None, above=0)  # largest L2 norm of the gradient
    clip_grad_value: float | None = limited(None, above=0)  # largest absolute value in the gradient
    # Decay of an exponential moving average of the weights (timm's), which is tested beside them.
    ema_decay: float | None = limited(None, above=0, below=1)
    label_smoothing: float = limited(0.0, at_least=0, below=1)  # of the training loss
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the forward pass; weights stay fp32
    compile: bool = False  # torch.compile the network
    channels_last: bool = False  # memory format of the images; faster on GPUs
    sync_batchnorm: bool = False  # batch statistics over all ranks; GPUs only
    deterministic: bool = True  # on GPUs: the same bits every time, not the fastest kernels
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto: cuda where there is one
    seed: int = limited(0, at_least=0, below=2**63)  # of weights, order and augmentation
    checkpoint_every: int | str = limited("epoch", at_least=1)  # "epoch", "<n> epochs", or steps
    # Steps between two looks at the losses: they are averaged over the ranks and written then, and
    # a signal is answered. Several ranks look more often where so many steps take over 5 seconds.
    log_every: int = limited(20, at_least=1)
    layer_norms: bool = False  # L2 norms of each parameter and its gradient in metrics.jsonl
    check_finite: bool = False  # stop at the first value that is not finite, with its layer; slow
    output_dir: str = "runs"  # folder of the run directories
    name: str | None = None  # of the run directory; null: made of the settings
    resume: str = "auto"  # auto, never, or the path of a checkpoint or a run directory
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


SECTIONS = ("data", "model", "optimizer", "schedule", "tracking")  # the nested fields of Settings
# Sections whose `name` decides which other settings they have.
VARIANTS: dict[str, Mapping[str, type]] = {
    "data": DATA_SETS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
