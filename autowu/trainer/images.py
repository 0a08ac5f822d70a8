"""Images and their labels, in one of two states: decoded in memory, or encoded until they are read.

Both answer `batch(indices, epoch)` with what the training or the evaluation gets to see; which
process asks, and how the indices were put together, changes nothing.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from autowu.random_state import keyed_states
from autowu.trainer.augment import UniformTable, augment_batch
from autowu.trainer.errors import DataError


class Images(Protocol):
    labels: Tensor  # (num_images,) int64

    def __len__(self) -> int: ...
    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """(batch, channels, height, width), uint8 or normalised float32, and labels (batch,)."""
        ...


class MemoryImages:
    """Images of one size that lie decoded in memory.

    Args:
        pixels: (num_images, channels, height, width) uint8.
        labels: (num_images,) int64.
        augment: as `augment_batch` takes it.
        seed: of the augmentation.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, augment: str = "none", seed: int = 0):
        self.pixels = pixels
        self.labels = labels
        self.augment = augment
        self._uniforms = UniformTable(len(labels), seed)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        images, labels = self.pixels[indices], self.labels[indices]
        if self.augment != "none":
            images = augment_batch(images, self._uniforms(epoch, indices), self.augment)
        return images, labels


class Paths(Sequence[Path]):
    """Many paths without an object for each, whose reference counts would have to be written.

    A million Python objects in a loader process are soon a million copies: touching one copies the
    page of memory that it lies on.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._names = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        return Path(os.fsdecode(bytes(self._names[index])))


class ArrowBytes(Sequence[bytes]):
    """A column of bytes in Arrow's memory, for the same reason."""

    def __init__(self, column: Any) -> None:
        self._column = column  # pyarrow.ChunkedArray

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        return self._column[index].as_py()


class EncodedImages:
    """Images that are decoded and transformed one by one as they are read.

    Args:
        sources: a path, or the bytes of an encoded image, for each.
        labels: (num_images,) int64.
        transform: of a PIL image in RGB; it may draw from the global random states of the CPU,
            which are keyed by (seed, epoch, index) for it.
        seed: of those.
        name: what a message calls an image that has no path.
    """

    def __init__(
        self,
        sources: Sequence[Path | bytes],
        labels: Tensor,
        transform: Callable[[Any], Tensor],
        seed: int = 0,
        name: str = "image",
    ):
        self.sources = sources
        self.labels = labels
        self.transform = transform
        self.seed = seed
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        images = []
        with keyed_states() as key:
            for index in indices.tolist():
                key(self.seed, epoch, index)
                images.append(self.transform(self.decode(index)))
        return torch.stack(images), self.labels[indices]

    def decode(self, index: int) -> Any:
        source = self.sources[index]
        return decode_image(source, name_image(source, f"{self.name} {index}"))


def name_image(source: Path | bytes, otherwise: str) -> str:
    """What a message calls an image: its path, or something else where it has none."""
    return str(source) if isinstance(source, Path) else otherwise


def decode_image(source: Path | bytes, where: str) -> Any:
    """A PIL image in RGB; DataError, naming it as `where`, when it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("RGB")
    # Damaged files raise one of these, depending on the format and on where they are damaged.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable image ({error})") from None


def normalise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 pixels as float32 of mean 0 and deviation 1; float32 is normalised already.

    Args:
        images: (batch, channels, height, width).
        mean, deviation: (channels, 1, 1) float32 in units of a pixel, 0 to 255.
    """
    return images if images.is_floating_point() else (images - mean) / deviation
