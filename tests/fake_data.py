"""Tiny data sets in the formats of the real ones: each class has a mean colour, each pixel noise.

The seed is fixed, so the same call writes the same images.
"""

import io
import json
import pickle
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CIFAR10_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def make_labels(num_images: int, num_classes: int) -> list[int]:
    """0, 1, ..., num_classes - 1, 0, ...: all occur as soon as there are as many images."""
    return [index % num_classes for index in range(num_images)]


def make_image(label: int, index: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: the colour of the class plus noise that `index` decides."""
    colour = np.random.default_rng((0, label)).uniform(50, 205, size=3)
    noise = np.random.default_rng((1, index)).normal(0, 20, size=(height, width, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


def write_cifar10(root: Path, num_train: int = 50, num_test: int = 20) -> None:
    """cifar-10-batches-py with its five training batches; `num_train` images over all of them."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    train = _cifar_images(num_train, 10, first_index=0)
    test = _cifar_images(num_test, 10, first_index=num_train)
    limits = [num_train * part // 5 for part in range(6)]
    for part, (start, stop) in enumerate(pairwise(limits), start=1):
        batch = {key: values[start:stop] for key, values in train.items()}
        batch[b"batch_label"] = f"training batch {part} of 5".encode()
        _write_pickle(folder / f"data_batch_{part}", batch)
    _write_pickle(folder / "test_batch", test | {b"batch_label": b"testing batch 1 of 1"})
    meta = {
        b"num_cases_per_batch": limits[1],
        b"label_names": [name.encode() for name in CIFAR10_NAMES],
        b"num_vis": 3072,
    }
    _write_pickle(folder / "batches.meta", meta)


def write_cifar100(root: Path, num_train: int = 100, num_test: int = 20) -> None:
    """cifar-100-python: one file a split, fine and coarse labels."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, num_images, first_index in (("train", num_train, 0), ("test", num_test, num_train)):
        split = _cifar_images(num_images, 100, first_index)
        split[b"fine_labels"] = split.pop(b"labels")
        split[b"coarse_labels"] = [label // 5 for label in split[b"fine_labels"]]
        split[b"batch_label"] = f"{name}ing batch 1 of 1".encode()
        _write_pickle(folder / name, split)
    meta = {
        b"fine_label_names": [f"fine_{label}".encode() for label in range(100)],
        b"coarse_label_names": [f"coarse_{label}".encode() for label in range(20)],
    }
    _write_pickle(folder / "meta", meta)


def write_image_folders(
    root: Path,
    num_classes: int = 4,
    per_class: int = 6,
    size: tuple[int, int] = (48, 40),  # width and height of the smallest image, pixels
    train: str = "train",
    test: str = "val",
    extension: str = "JPEG",
) -> None:
    """<root>/<split>/<class>/<image>, sizes differ; a grey image and, in JPEG, a CMYK one a split.

    The test split has half as many images a class, at least one.
    """
    is_jpeg = extension.lower() in ("jpeg", "jpg")
    for split, count in ((train, per_class), (test, max(1, per_class // 2))):
        for label in range(num_classes):
            name = f"n{1440764 + label:08d}"
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                width, height = size[0] + 5 * (index % 3), size[1] + 7 * (index % 2)
                pixels = make_image(label, index + 1000 * (split == test), height, width)
                image = Image.fromarray(pixels)
                if (label, index) == (0, 0):
                    image = image.convert("L")
                elif (label, index) == (num_classes - 1, count - 1) and is_jpeg:
                    image = image.convert("CMYK")
                image.save(folder / f"{name}_{index}.{extension}")


def write_parquet(
    root: Path,
    num_train: int = 64,
    num_test: int = 32,
    size: int = 32,
    num_classes: int = 10,
    image_column: str = "img",
    label_column: str = "label",
) -> None:
    """Square PNG images and labels, one file a split, as Hugging Face lays image data sets out."""
    root.mkdir(parents=True, exist_ok=True)
    features = {
        image_column: {"_type": "Image"},
        label_column: {"names": [f"class_{i}" for i in range(num_classes)], "_type": "ClassLabel"},
    }
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [(image_column, image_type), (label_column, pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split, count, first_index in (("train", num_train, 0), ("test", num_test, num_train)):
        labels = make_labels(count, num_classes)
        images = []
        for index, label in enumerate(labels):
            buffer = io.BytesIO()
            Image.fromarray(make_image(label, first_index + index, size, size)).save(buffer, "PNG")
            images.append({"bytes": buffer.getvalue(), "path": f"{split}_{index}.png"})
        table = pa.table({image_column: images, label_column: labels}, schema=schema)
        pq.write_table(table, root / f"{split}-00000-of-00001.parquet")


def _cifar_images(num_images: int, num_classes: int, first_index: int) -> dict[bytes, Any]:
    """What a CIFAR file holds; a row of b"data" is the red plane, the green one, the blue one."""
    labels = make_labels(num_images, num_classes)
    images = [make_image(label, first_index + i, 32, 32) for i, label in enumerate(labels)]
    return {
        b"data": np.array([image.transpose(2, 0, 1).reshape(3072) for image in images]),
        b"labels": labels,
        b"filenames": [f"image_{first_index + i}.png".encode() for i in range(num_images)],
    }


# The pickler in Python; the one in C decides itself how bytes are written.
_Pickler: Any = pickle._Pickler


class _Python2Pickler(_Pickler):
    """Writes bytes as Python 2 wrote its strings: the original CIFAR files come from there.

    Read with encoding="latin1" they turn to text, with encoding="bytes" they stay bytes.
    """

    def save_python2_string(self, value: bytes) -> None:
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch = _Pickler.dispatch | {bytes: save_python2_string}


def _write_pickle(file: Path, content: dict[bytes, Any]) -> None:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    # Where NumPy kept its arrays' constructor when the originals were written.
    old_numpy = buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    file.write_bytes(old_numpy)
