"""Every setting of train.py: its name, type, default, meaning and limits, and nothing else.

Frozen dataclasses hold the settings; `autowu.trainer.config` reads YAML files and `key=value`
arguments into them, and `--help` shows the meanings. A setting exists only when it acts, so that
nothing a user writes is ignored. Torch is not imported, so that a config can be checked in a blink.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autowu.trainer.limits import setting
from autowu.trainer.optimizer_settings import OPTIMIZERS, AdamPSettings, OptimizerSettings
from autowu.trainer.schedule_settings import SCHEDULES, AutoWUSettings, ScheduleSettings


@dataclass(frozen=True)
class DataSettings:
    """What every data set has; its own settings stand beside the name, flat."""

    name: str = setting("", "data set")
    batch_size: int = setting(32, "images per optimizer step, over all ranks", at_least=1)
    num_workers: int | None = setting(
        None,
        "loader processes of a rank; null: as the cores allow, at most 8, and none for images in"
        " memory on a CPU",
        at_least=0,
    )
    mixup: float = setting(0.0, "alpha of timm's Mixup; 0: off", at_least=0)
    cutmix: float = setting(
        0.0, "alpha of timm's CutMix; 0: off; beside mixup either at even odds", at_least=0
    )


MemoryAugment = Literal["none", "crop_flip", "cifar"]  # of images that lie decoded in memory
FileAugment = Literal["imagenet", "deit"]  # of images that are decoded as they are read, by timm
AnyAugment = Literal[MemoryAugment, FileAugment]

_MEMORY_AUGMENT = (
    "crop_flip: pad by an eighth, crop and flip at random; cifar: then AutoAugment's CIFAR-10"
    " policy and Cutout of half the size"
)
_ANY_AUGMENT = (
    "imagenet: crop and flip at random; deit: RandAugment and random erasing, too; crop_flip and"
    " cifar in their place with image_size=null"
)


@dataclass(frozen=True)
class DigitsSettings(DataSettings):
    """scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels, not downloaded."""

    name: Literal["digits"] = "digits"
    augment: MemoryAugment = setting("none", _MEMORY_AUGMENT)


@dataclass(frozen=True)
class CifarSettings(DataSettings):
    root: str = setting("data", "folder that holds cifar-10-batches-py or cifar-100-python")
    download: bool = setting(False, "fetch them into root when they are not there")
    augment: MemoryAugment = setting("cifar", _MEMORY_AUGMENT)


@dataclass(frozen=True)
class Cifar10Settings(CifarSettings):
    """60,000 images of 32x32 pixels, 10 classes."""

    name: Literal["cifar10"] = "cifar10"


@dataclass(frozen=True)
class Cifar100Settings(CifarSettings):
    """60,000 images of 32x32 pixels, 100 classes."""

    name: Literal["cifar100"] = "cifar100"


@dataclass(frozen=True)
class ImageFileSettings(DataSettings):
    root: str = setting("data", "folder that holds the images")
    image_size: int | None = setting(
        224,
        "pixels of a side of the square crop; null: the images have one size, and lie decoded in"
        " memory",
        at_least=1,
    )
    augment: AnyAugment = setting("imagenet", _ANY_AUGMENT)


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
    image_size: int | None = setting(None, at_least=1)
    augment: AnyAugment = "none"
    label_column: str | None = setting(
        None, "column of the labels; null: label, or the only one that ends with label or labels"
    )


@dataclass(frozen=True)
class SyntheticSettings(DataSettings):
    """Random pixels and labels, for measurements and for trying a setup out."""

    name: Literal["synthetic"] = "synthetic"
    num_images: int = setting(1024, "images to train on; a quarter more to test on", at_least=1)
    num_classes: int = setting(10, "classes", at_least=2)
    image_size: int = setting(32, "pixels of a side", at_least=1)
    augment: MemoryAugment = setting("none", _MEMORY_AUGMENT)


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
    name: str = setting(
        "small_cnn",
        "network: small_cnn, cifar_resnet18, wide_resnet28_10, or a name that timm knows",
    )
    drop_path: float = setting(
        0.0, "rate of stochastic depth; of timm's networks alone", at_least=0, below=1
    )


WandbMode = Literal["disabled", "offline", "online"]


@dataclass(frozen=True)
class TrackingSettings:
    wandb: WandbMode = setting(
        "disabled", "Weights & Biases; the project is WANDB_PROJECT of the environment, or autowu"
    )
    tensorboard: bool = setting(False, "event files of TensorBoard in the run directory")


@dataclass(frozen=True)
class Settings:
    data: DataSettings = field(default_factory=DigitsSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimizer: OptimizerSettings = field(default_factory=AdamPSettings)
    schedule: ScheduleSettings = field(default_factory=AutoWUSettings)
    epochs: int = setting(30, "passes over the training images", at_least=1)
    accumulate: int = setting(1, "forward passes of a rank per optimizer step", at_least=1)
    clip_grad_norm: float | None = setting(
        None, "largest L2 norm of the gradient; null: no limit", above=0
    )
    clip_grad_value: float | None = setting(
        None, "largest absolute value in the gradient; null: no limit", above=0
    )
    ema_decay: float | None = setting(
        None,
        "decay a step, at most, of an exponential moving average of the weights (timm's), which is"
        " tested beside them; it grows as 1 - step^(-2/3); null: none",
        above=0,
        below=1,
    )
    label_smoothing: float = setting(
        0.0, "share of each training label that goes to all classes alike", at_least=0, below=1
    )
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", "of the forward pass; weights stay fp32"
    )
    compile: bool = setting(False, "torch.compile the network")
    channels_last: bool = setting(False, "memory format of the images; faster on GPUs")
    sync_batchnorm: bool = setting(False, "batch statistics over all ranks; GPUs only")
    deterministic: bool = setting(
        True, "on GPUs: the same bits every time, not the fastest kernels"
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:<index>; auto: cuda where there is one")
    seed: int = setting(0, "of weights, order and augmentation", at_least=0, below=2**63)
    checkpoint_every: int | str = setting(
        "epoch", 'how often to save: epoch, "<n> epochs", or a number of steps', at_least=1
    )
    log_every: int = setting(
        20,
        "steps between two looks at the losses: they are averaged over the ranks and written then,"
        " and several ranks answer a signal; these look more often where so many steps take over"
        " 5 seconds",
        at_least=1,
    )
    layer_norms: bool = setting(
        False, "L2 norms of each parameter and its gradient in metrics.jsonl"
    )
    check_finite: bool = setting(
        False, "stop at the first value that is not finite, and name its layer; slow"
    )
    output_dir: str = setting("runs", "folder of the run directories")
    name: str | None = setting(None, "of the run directory; null: made of the settings")
    resume: str = setting(
        "auto",
        "auto: go on with a run that was interrupted, show one that is finished; never: begin anew;"
        " or the path of a checkpoint or a run directory to go on from",
    )
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


SECTIONS = ("data", "model", "optimizer", "schedule", "tracking")  # the nested fields of Settings
# Sections whose `name` decides which other settings they have.
VARIANTS: dict[str, Mapping[str, type]] = {
    "data": DATA_SETS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}
