"""Images and their labels, in one of two states: decoded in memory, or encoded until they are read.

Both answer `batch(indices, epoch)` with what the training or the evaluation gets to see; which
process asks, and how the indices were put together, changes nothing.
"""

import io
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
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


class Sources(ABC):
    """Encoded images without a Python object for each, whose reference counts would be written.

    A million objects in a loader process are soon a million copies: touching one copies the page of
    memory that it lies on.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Path | bytes:
        """The path of an image, or its bytes."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls an image: its file, and where it lies in a file of many."""

    def decode(self, index: int) -> Any:
        """A PIL image in RGB; DataError, with its name, when it cannot be read."""
        from PIL import Image

        source = self[index]
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return image.convert("RGB")
        except Image.UnidentifiedImageError:  # its message names a path again, or an address
            reason = "no format that Pillow knows"
        # Damaged files raise one of these, depending on the format and on where they are damaged.
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            reason = str(error)
        raise DataError(f"{self.name(index)}: not a readable image ({reason})")


class Paths(Sources):
    """Each image in a file of its own."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._names = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Path:
        return Path(os.fsdecode(bytes(self._names[index])))

    def name(self, index: int) -> str:
        return str(self[index])


class ArrowBytes(Sources):
    """A column of bytes in Arrow's memory.

    Args:
        column: pyarrow.ChunkedArray of the rows of all files.
        files: those that the rows come from, in turn.
        num_rows: of each file.
    """

    def __init__(self, column: Any, files: Sequence[Path], num_rows: Sequence[int]) -> None:
        self._column = column
        self._files = files
        self._ends = list(accumulate(num_rows))

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: int) -> bytes:
        return self._column[index].as_py()

    def name(self, index: int) -> str:
        number = bisect_right(self._ends, index)
        begin = self._ends[number - 1] if number else 0
        return f"{self._files[number]}: row {index - begin}"


class EncodedImages:
    """Images that are decoded and transformed one by one as they are read.

    Args:
        sources: the images.
        labels: (num_images,) int64.
        transform: of a PIL image in RGB; it may draw from the global random states of the CPU,
            which are keyed by (seed, epoch, index) for it.
        seed: of those.
    """

    def __init__(
        self,
        sources: Sources,
        labels: Tensor,
        transform: Callable[[Any], Tensor],
        seed: int = 0,
    ):
        self.sources = sources
        self.labels = labels
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        images = []
        with keyed_states() as key:
            for index in indices.tolist():
                key(self.seed, epoch, index)
                images.append(self.transform(self.sources.decode(index)))
        return torch.stack(images), self.labels[indices]


def normalise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 pixels as float32 of mean 0 and deviation 1; float32 is normalised already.

    Args:
        images: (batch, channels, height, width).
        mean, deviation: (channels, 1, 1) float32 in units of a pixel, 0 to 255.
    """
    return images if images.is_floating_point() else (images - mean) / deviation
