"""Small image tasks that train in seconds on one core, all of their data in memory."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autowu.trainer.augment import NUM_UNIFORMS, augment_batch
from autowu.trainer.data_sets import digits as load_digits
from autowu.trainer.models import SmallCNN, begin_with_all_pixels


@dataclass(frozen=True)
class Task:
    """Images, labels and the network for them."""

    name: str
    images: Tensor  # (n, channels, height, width) uint8
    labels: Tensor  # (n,) int64
    test_images: Tensor  # (m, channels, height, width) uint8
    test_labels: Tensor  # (m,) int64
    mean: Tensor  # (channels, 1, 1) of the training images
    std: Tensor
    augment: str  # as in autowu.trainer.augment
    network: Callable[[], nn.Module]  # of random weights

    def steps_per_epoch(self, batch_size: int) -> int:
        """What is left of an epoch after its full batches is passed over."""
        return len(self.images) // batch_size

    def batches(self, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised batches without end, shuffled anew in each epoch."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.images), generator=generator)
            for step in range(self.steps_per_epoch(batch_size)):
                chosen = order[step * batch_size : (step + 1) * batch_size]
                pixels = self.images[chosen]
                if self.augment != "none":
                    shape = (len(chosen), NUM_UNIFORMS)
                    uniforms = torch.rand(shape, generator=generator, dtype=torch.float64)
                    pixels = augment_batch(pixels, uniforms, self.augment)
                yield self.normalise(pixels), self.labels[chosen]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Channels last, with which convolutions on a CPU take a fifth less time."""
        values = pixels.to(torch.float32, memory_format=torch.channels_last)
        return (values - self.mean) / self.std

    @torch.no_grad()
    def test_accuracy(self, network: nn.Module) -> float:
        """In percent, of the weights as they are."""
        network.eval()
        inputs = self.normalise(self.test_images)
        logits = torch.cat([network(part) for part in inputs.split(500)])
        network.train()
        return 100 * (logits.argmax(1) == self.test_labels).float().mean().item()


def task_of(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    augment: str,
    network: Callable[[], nn.Module],
) -> Task:
    """With the mean and deviation of the training images; `train`, `test`: images and labels."""
    values = train[0].float()
    mean = values.mean((0, 2, 3))[:, None, None]
    std = values.std((0, 2, 3))[:, None, None]
    return Task(name, *train, *test, mean, std, augment, network)


@cache
def digits() -> Task:
    """scikit-learn's 1,797 digits, 1,437 to train on; the network of `train.py`'s default."""
    data = load_digits()
    train, test = ((split.pixels, split.labels) for split in (data.train, data.test))
    return task_of("digits", train, test, "none", lambda: SmallCNN(1, 10))  # type: ignore[arg-type]


def digits_vit() -> Task:
    """As `digits`, with a vision transformer."""
    return replace(digits(), name="digits_vit", network=lambda: digits_transformer(10))


def digits_transformer(num_classes: int) -> nn.Module:
    """For digits: 16 patches, 4 blocks of width 48, 3 heads."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=48,
        depth=4,
        num_heads=3,
        mlp_ratio=2,
    )


@cache
def cifar10(root: Path, num_train: int = 10_000, num_test: int = 3_000) -> Task:
    """The first images of CIFAR-10 (JPEG copy); a residual network, crops and flips."""
    train = read_parquet(root, "train", num_train)
    test = read_parquet(root, "test", num_test)
    return task_of("cifar10", train, test, "crop_flip", SmallResNet)


@cache
def cifar10_cnn(root: Path, num_train: int = 10_240, num_test: int = 3_000) -> Task:
    """As `cifar10`, with the small CNN and without augmentation."""
    train = read_parquet(root, "train", num_train)
    test = read_parquet(root, "test", num_test)
    return task_of("cifar10_cnn", train, test, "none", lambda: SmallCNN(3, 10))


@cache
def cifar10_wide(root: Path, num_train: int = 5_760, num_test: int = 3_000) -> Task:
    """As `cifar10`, at 16x16 pixels with a ResNet-18 of half the width, without augmentation.

    2.8 million weights where the others have 0.1: it falls at LRs ten times lower.
    """
    train, test = (
        (halved(pixels), labels)
        for pixels, labels in (
            read_parquet(root, "train", num_train),
            read_parquet(root, "test", num_test),
        )
    )
    return task_of("cifar10_wide", train, test, "none", half_resnet18)  # type: ignore[arg-type]


def cifar10_vgg(root: Path) -> Task:
    """As `cifar10_wide`, with a VGG-11 of half the width: 2.3 million weights, no residuals."""
    return replace(cifar10_wide(root), name="cifar10_vgg", network=half_vgg11)


def cifar10_wide_more(root: Path) -> Task:
    """As `cifar10_wide`, with three times the images."""
    return replace(cifar10_wide(root, num_train=17_280), name="cifar10_wide_more")


def halved(pixels: Tensor) -> Tensor:
    """(n, channels, height, width) uint8 -> of half the height and width, each the mean of four."""
    return F.avg_pool2d(pixels.float(), 2).round().to(torch.uint8)


def half_resnet18() -> nn.Module:
    """`cifar_resnet18` with half of its channels."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class Narrow(ResNet):
        def _make_layer(self, block: Any, planes: int, *args: Any, **settings: Any) -> Any:
            if self.inplanes == 64 and planes == 64:
                self.inplanes = 32
            return super()._make_layer(block, planes // 2, *args, **settings)

    network = Narrow(BasicBlock, [2, 2, 2, 2], num_classes=10)
    begin_with_all_pixels(network, 3, 32)
    network.bn1 = nn.BatchNorm2d(32)
    network.fc = nn.Linear(256, 10)
    return network


def half_vgg11() -> nn.Module:
    """VGG-11 with batch norms and half of its channels, for 16x16 pixels, one linear layer."""
    from torchvision.models.vgg import make_layers

    layers = [32, "M", 64, "M", 128, 128, "M", 256, 256, "M", 256, 256]
    return nn.Sequential(make_layers(layers, batch_norm=True), nn.Flatten(), nn.Linear(256, 10))


def named(name: str, root: Path) -> Task:
    """A function of this module that makes a task; CIFAR lies in `root`."""
    if name == "digits":
        return digits()
    if name == "digits_vit":
        return digits_vit()
    on_cifar10 = (cifar10, cifar10_cnn, cifar10_wide, cifar10_vgg, cifar10_wide_more)
    return {make.__name__: make for make in on_cifar10}[name](root)


def read_parquet(root: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images (count, 3, 32, 32) and labels (count,) of a split."""
    import pyarrow.parquet
    from PIL import Image

    files = sorted(root.glob(f"{split}*.parquet"))
    if not files:
        raise SystemExit(f"--data-root {root}: has no file {split}*.parquet of CIFAR-10 as JPEG")
    table = pyarrow.parquet.read_table(files[0]).slice(0, count)
    pixels = [
        np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"))
        for image in table.column("img").to_pylist()
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(table.column("label").to_pylist())


class SmallResNet(nn.Module):
    """Three residual blocks of 16, 32 and 64 channels on 16, 8 and 4 pixels: 6 MFLOP an image."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        )
        self.blocks = nn.Sequential(_Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 32, 32) -> logits (batch, num_classes)."""
        return self.classifier(self.blocks(F.relu(self.stem(images))).mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.residual(images) + self.shortcut(images))
