"""The data sets by name: where their files are, how they are read, and what may be wrong with them.

Each reader gives the two splits as `Split`s; nothing here knows batches, ranks or epochs.
"""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autowu.trainer.errors import ConfigError, DataError, some
from autowu.trainer.images import ArrowBytes, Paths, Sources

# Labels that are larger, and larger than there are training images, are ids: all of ImageNet has
# 21,841 classes, and few images of it may be of any of them.
MOST_CLASSES = 30_000


class Split(NamedTuple):
    labels: Tensor  # (num_images,) int64
    pixels: Tensor | None = None  # (num_images, channels, height, width) uint8, when decoded
    sources: Sources | None = None  # encoded images otherwise


class DataSet(NamedTuple):
    train: Split
    test: Split
    num_classes: int


def digits() -> DataSet:
    """scikit-learn's 1,797 scans of handwritten digits: 1,437 to train on, 360 to test on.

    8x8 pixels; their 17 levels are spread over 0 to 240, which is exact in bytes.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = 15 * bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    # The split is part of the task, not of the run: it never depends on the run's seed.
    split = train_test_split(pixels, labels, test_size=0.2, random_state=0, stratify=labels)
    train_pixels, test_pixels, train_labels, test_labels = map(torch.from_numpy, split)
    return DataSet(Split(train_labels, train_pixels), Split(test_labels, test_pixels), 10)


def synthetic(num_images: int, num_classes: int, image_size: int) -> DataSet:
    """Random pixels and labels, the same in every run."""
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        shape = (size, 3, image_size, image_size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        # In turn, so that even few images show every class.
        return Split(torch.arange(size) % num_classes, pixels)

    return DataSet(split(num_images), split(max(num_images // 4, 1)), num_classes)


class CifarFiles(NamedTuple):
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_key: bytes
    num_classes: int
    torchvision_name: str


CIFAR = {
    "cifar10": CifarFiles(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        label_key=b"labels",
        num_classes=10,
        torchvision_name="CIFAR10",
    ),
    "cifar100": CifarFiles(
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        label_key=b"fine_labels",
        num_classes=100,
        torchvision_name="CIFAR100",
    ),
}


def download_cifar(name: str, root: str) -> None:
    """Fetch the files, unless they are there and whole, through torchvision."""
    import torchvision

    try:
        getattr(torchvision.datasets, CIFAR[name].torchvision_name)(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"data.download=true: {name} into {root} failed: {error}") from None


def cifar(name: str, root: str) -> DataSet:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009) from the files that torchvision downloads."""
    files = CIFAR[name]
    folder = Path(root) / files.folder
    hint = f"data.root={root} must hold {files.folder}; data.download=true fetches it"
    for file in (*files.train, *files.test):
        if not (folder / file).is_file():
            raise ConfigError(f"{folder / file}: missing ({hint})")

    def split(names: Sequence[str]) -> Split:
        parts = [_read_cifar(folder / file, files) for file in names]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Split(torch.from_numpy(labels), torch.from_numpy(pixels))

    return DataSet(split(files.train), split(files.test), files.num_classes)


def _read_cifar(path: Path, files: CifarFiles) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3, 32, 32) uint8 and labels (n,) int64."""
    try:
        with open(path, "rb") as file:
            content = pickle.load(file, encoding="bytes")
        pixels = np.asarray(content[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(content[files.label_key], dtype=np.int64)
        if len(pixels) != len(labels):
            raise ValueError(f"{len(pixels)} images and {len(labels)} labels")
    # A truncated pickle fails in many ways.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{path}: not a file of {files.torchvision_name} ({reason}); fetch it anew"
        ) from None
    return pixels, labels


def image_folders(name: str, root: str) -> DataSet:
    """<root>/train/<class>/<image> and <root>/val/<class>/<image>; `folder` also takes test/."""
    train_folder = Path(root) / "train"
    test_names = ("val",) if name == "imagenet" else ("val", "test")
    test_folder = next(
        (Path(root) / each for each in test_names if (Path(root) / each).is_dir()), None
    )
    if test_folder is None or not train_folder.is_dir():
        raise ConfigError(
            f"data.root={root}: must hold the folders train and {' or '.join(test_names)}"
        )
    train_classes, test_classes = _find_classes(train_folder), _find_classes(test_folder)
    unknown = sorted(set(test_classes) - set(train_classes))
    if unknown:
        raise DataError(
            f"{test_folder}: has {some(unknown, most=3)}, of which {train_folder} has no images"
        )
    absent = sorted(set(train_classes) - set(test_classes))
    if absent and name == "imagenet":
        raise DataError(
            f"{test_folder}: has no images of {some(absent, most=3)}, which {train_folder} has:"
            " half of the data? (data.name=folder takes it as it is)"
        )
    numbers = {label: number for number, label in enumerate(train_classes)}
    return DataSet(
        train=_list_images(train_folder, numbers),
        test=_list_images(test_folder, {label: numbers[label] for label in test_classes}),
        num_classes=len(numbers),
    )


def _find_classes(folder: Path) -> list[str]:
    """The names of the class folders, in order."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes:
        raise DataError(f"{folder}: holds no class folders")
    return classes


def _list_images(folder: Path, numbers: dict[str, int]) -> Split:
    """The image files of the class folders; DataError when one of them holds none."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    try:
        samples = make_dataset(str(folder), numbers, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}") from None
    paths, labels = zip(*samples, strict=True)
    return Split(torch.tensor(labels), sources=Paths(paths))


def parquet(root: str, label_column: str | None) -> DataSet:
    """Hugging Face's layout: files whose name, or folder, begins with the name of the split.

    `train`; `test` or, where there is none, `validation` or `val`. A column of structs of `bytes`
    (an encoded image) and one of integer labels.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigError("data.name=parquet: needs `pip install pyarrow`") from None
    folder = Path(root)
    files = sorted(folder.rglob("*.parquet")) if folder.is_dir() else []
    if folder.is_file():
        raise ConfigError(f"data.root={root}: is a file, must be its folder, {folder.parent}")
    if not files:
        raise ConfigError(f"data.root={root}: holds no .parquet files")
    train_files = _of_split(folder, files, "train")
    named = (_of_split(folder, files, name) for name in ("test", "validation", "val"))
    test_files = next((found for found in named if found), [])
    if not train_files or not test_files:
        raise ConfigError(
            f"data.root={root}: needs train*.parquet and test*.parquet (or validation, val),"
            f" has {some([file.name for file in files], most=3)}"
        )
    train = _read_parquet(train_files, label_column)
    test = _read_parquet(test_files, label_column, num_train=len(train.labels))
    num_classes = int(train.labels.max()) + 1 if len(train.labels) else 0
    return DataSet(train, test, num_classes)


def _of_split(root: Path, files: list[Path], split: str) -> list[Path]:
    def belongs(file: Path) -> bool:
        return any(part.startswith(split) for part in file.relative_to(root).parts)

    return [file for file in files if belongs(file)]


def _read_parquet(files: list[Path], label_column: str | None, num_train: int = 0) -> Split:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    images: list[Any] = []
    labels: list[np.ndarray] = []
    columns: list[str] = []
    for file in files:
        try:
            schema = pq.read_schema(file)
            image_column = _image_column(schema)
            label = _label_column(file, schema, label_column)
            table = pq.read_table(file, columns=[image_column, label])
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: not a readable Parquet file ({error})") from None
        except LookupError as error:
            raise DataError(f"{file}: {error.args[0]}") from None
        rows = pc.struct_field(table.column(image_column), "bytes")
        numbers = table.column(label).to_numpy()
        if rows.null_count:
            row = pc.index(rows.is_null(), True).as_py()
            raise DataError(f"{file}: row {row} holds no image (the file has only paths?)")
        if len(numbers) and (numbers.dtype.kind not in "iu" or int(numbers.min()) < 0):
            raise DataError(f"{file}: {label} must hold the numbers of the classes, from 0 on")
        images += rows.chunks
        labels.append(numbers)
        columns.append(label)
    most = max(MOST_CLASSES, num_train or sum(map(len, labels)))
    for file, label, numbers in zip(files, columns, labels, strict=True):
        if len(numbers) and int(numbers.max()) >= most:
            raise DataError(
                f"{file}: {label} holds {numbers.max()}, an id? It must hold the numbers of the"
                " classes, from 0 on"
            )
    # One type for all files, whichever of Arrow's they have.
    column = pa.chunked_array([chunk.cast("large_binary") for chunk in images], "large_binary")
    sources = ArrowBytes(column, files, [len(each) for each in labels])
    classes = np.concatenate(labels, dtype=np.int64, casting="unsafe")  # unsigned ones, too
    return Split(torch.from_numpy(classes), sources=sources)


def _image_column(schema: Any) -> str:
    import pyarrow as pa

    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return field.name
    raise LookupError("has no column of images, structs with `bytes`")


def _label_column(file: Path, schema: Any, chosen: str | None) -> str:
    names = list(schema.names)
    if chosen is not None:
        if chosen not in names:
            raise ConfigError(
                f"data.label_column={chosen}: {file} has the columns {', '.join(names)}"
            )
        return chosen
    found = ["label"] if "label" in names else [n for n in names if n.endswith(("label", "labels"))]
    if len(found) != 1:
        raise ConfigError(
            f"data.label_column=null: which of {', '.join(names)} in {file} holds the labels?"
        )
    return found[0]


def decode_all(split: Split) -> Split:
    """The images of a split decoded into memory; they must have one size."""
    assert split.sources is not None
    pixels = None
    for index in range(len(split.sources)):
        image = np.asarray(split.sources.decode(index)).transpose(2, 0, 1)
        if pixels is None:
            pixels = np.empty((len(split.sources), *image.shape), dtype=np.uint8)
        if image.shape != pixels.shape[1:]:
            raise DataError(
                f"{split.sources.name(index)}: has {image.shape[2]}x{image.shape[1]} pixels where"
                f" the first image has {pixels.shape[3]}x{pixels.shape[2]}"
                " (set data.image_size to crop them)"
            )
        pixels[index] = image
    assert pixels is not None
    return Split(split.labels, torch.from_numpy(pixels))
