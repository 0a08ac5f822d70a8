"""Data sets as tensors that live on the training device, and the order in which they are seen.

Small images are kept decoded in memory: a batch is an index into a tensor, and no worker process
stands between the data and the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]  # images (batch, channels, height, width) float32, labels (batch,)


@dataclass(frozen=True)
class ImageData:
    train_images: Tensor  # (num_train, channels, height, width) float32, standardised
    train_labels: Tensor  # (num_train,) int64
    test_images: Tensor  # (num_test, channels, height, width) float32, standardised
    test_labels: Tensor  # (num_test,) int64
    num_classes: int
    batch_size: int  # images per optimizer step

    @property
    def num_channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last short batch is dropped in training."""
        return len(self.train_images) // self.batch_size

    def train_batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, in an order that (seed, epoch) alone determine.

        Every epoch drops the images that its last, short batch would have held; the next epoch
        is shuffled anew, so no image is left out for good.
        """
        order = np.random.default_rng((seed, epoch)).permutation(len(self.train_images))
        indices = torch.from_numpy(order).to(self.train_images.device)
        for batch in indices.split(self.batch_size)[: self.steps_per_epoch]:
            yield self.train_images[batch], self.train_labels[batch]

    def test_batches(self, batch_size: int = 1024) -> Iterator[Batch]:
        """Every test image once, in order."""
        yield from zip(
            self.test_images.split(batch_size), self.test_labels.split(batch_size), strict=True
        )


def load_data(name: str, batch_size: int, device: torch.device) -> ImageData:
    """Load a data set by name, split and standardised the same way in every run.

    Raises:
        ValueError: for an unknown name, or a batch larger than the training split.
    """
    loaders = {"digits": _digits}
    if name not in loaders:
        raise ValueError(f"data.name={name}: must be one of {', '.join(loaders)}")
    train_images, test_images, train_labels, test_labels = (
        torch.from_numpy(array).to(device) for array in loaders[name]()
    )
    if batch_size > len(train_images):
        raise ValueError(
            f"data.batch_size={batch_size}: must be at most {len(train_images)},"
            f" the training images of {name}"
        )
    num_classes = int(train_labels.max()) + 1
    return ImageData(train_images, train_labels, test_images, test_labels, num_classes, batch_size)


def _digits() -> list[np.ndarray]:
    """scikit-learn's 1,797 scans of handwritten digits: 1,437 to train on, 360 to test on.

    Returns:
        train images (1437, 1, 8, 8), test images (360, 1, 8, 8), both float32 of mean 0 and
        deviation 1 over the training pixels; train labels (1437,), test labels (360,), int64.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    # The split is part of the task, not of the run: it never depends on the run's seed.
    split = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    mean, deviation = split[0].mean(), split[0].std()
    return [(split[0] - mean) / deviation, (split[1] - mean) / deviation, split[2], split[3]]
