"""Batches: which images a step sees, whoever asks for them, and what may be wrong with the data."""

import gc
import multiprocessing
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from autowu.trainer.data import ImageData, load_data
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import ConfigError, DataError
from tests.fake_data import write_cifar10, write_cifar100, write_image_folders, write_parquet

FILES = {"num_workers": 0, "augment": "none"}


def rank(number: int, world_size: int) -> Ranks:
    """One of several ranks, without a process group."""
    ranks = Ranks()
    ranks.rank, ranks.world_size = number, world_size
    return ranks


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 100, ranks=Ranks())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_image_folders(root)
    return root


def epoch_of(data: ImageData, epoch: int, first_step: int = 0) -> list[list[tuple[Tensor, Tensor]]]:
    return list(data.train_batches(epoch, first_step))


def step_of(data: ImageData, step: int) -> tuple[Tensor, Tensor]:
    """Images and labels of a step of epoch 1, micro-batches put together."""
    images, labels = zip(*epoch_of(data, 1)[step], strict=True)
    return torch.cat(images), torch.cat(labels)


def labels_of_epoch(data: ImageData, epoch: int) -> list[int]:
    return [int(label) for step in epoch_of(data, epoch) for _, labels in step for label in labels]


def test_digits_are_split_without_overlap_and_standardised(digits: ImageData) -> None:
    assert (len(digits.train), len(digits.test), digits.num_classes) == (1437, 360, 10)
    train = torch.arange(1437)
    pixels = digits.train.batch(train, 0)[0].float()
    assert float(digits.mean) == pytest.approx(float(pixels.mean()), rel=1e-6)
    assert float(digits.deviation) == pytest.approx(float(pixels.std()), rel=1e-3)
    images = torch.cat([images for step in epoch_of(digits, 0) for images, _ in step])
    assert images.shape == (1400, 1, 8, 8)
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01
    # Stratified: every class has its share, to within one image.
    counts = digits.train.labels.bincount(), digits.test.labels.bincount()
    assert ((counts[0] + counts[1]) * 0.2 - counts[1]).abs().max() <= 1


def test_an_epoch_sees_each_image_at_most_once_and_drops_the_short_batch() -> None:
    data = load_data("synthetic", 100, ranks=Ranks(), num_images=1050, num_classes=4, image_size=8)
    seen = torch.cat([images for step in epoch_of(data, 0) for images, _ in step])
    assert len(seen) == 1000 == data.steps_per_epoch * 100
    assert len(seen.flatten(1).unique(dim=0)) == 1000


def test_the_order_is_keyed_by_seed_and_epoch(digits: ImageData) -> None:
    other = load_data("digits", 100, ranks=Ranks(), seed=1)
    orders = {tuple(labels_of_epoch(data, epoch)) for data in (digits, other) for epoch in (0, 1)}
    assert len(orders) == 4
    assert labels_of_epoch(digits, 1) == labels_of_epoch(digits, 1)


def test_an_epoch_entered_in_the_middle_goes_on_as_it_would_have() -> None:
    data = load_data("digits", 50, ranks=Ranks(), augment="crop_flip")
    whole, rest = epoch_of(data, 3), epoch_of(data, 3, first_step=20)
    assert len(rest) == len(whole) - 20
    for expected, got in zip(whole[20:], rest, strict=True):
        assert torch.equal(expected[0][0], got[0][0])


@pytest.mark.parametrize("augment", ["none", "crop_flip", "cifar"])
def test_ranks_and_accumulation_share_the_images_of_a_step(augment: str) -> None:
    options = {"augment": augment, "num_images": 96, "num_classes": 4, "image_size": 16}
    whole = step_of(load_data("synthetic", 24, ranks=Ranks(), **options), 1)
    parts = [
        step_of(load_data("synthetic", 24, ranks=rank(r, 2), accumulate=3, **options), 1)
        for r in range(2)
    ]
    assert [len(labels) for _, labels in parts] == [12, 12]
    assert torch.equal(torch.cat([images for images, _ in parts]), whole[0])
    assert torch.equal(torch.cat([labels for _, labels in parts]), whole[1])


@pytest.mark.parametrize("augment", ["imagenet", "deit"])
def test_loader_processes_change_nothing(augment: str, folder: Path) -> None:
    options: dict[str, Any] = {"root": str(folder), "image_size": 32, "augment": augment}
    states = torch.get_rng_state()
    inline = load_data("imagenet", 6, ranks=Ranks(), num_workers=0, **options)
    two = load_data("imagenet", 6, ranks=Ranks(), num_workers=2, **options)
    for epoch in (0, 1):
        for (expected,), (got,) in zip(epoch_of(inline, epoch), epoch_of(two, epoch), strict=True):
            assert torch.equal(expected[0], got[0])
            assert torch.equal(expected[1], got[1])
    assert not torch.equal(step_of(inline, 0)[0], next(iter(epoch_of(inline, 0)))[0][0])
    assert torch.equal(torch.get_rng_state(), states)  # the global random state is left alone


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("epochs", [None, 2])
def test_loading_ahead_changes_nothing(num_workers: int, epochs: int | None) -> None:
    options = {"num_images": 40, "num_classes": 2, "image_size": 8, "augment": "crop_flip"}
    inline = load_data("synthetic", 12, ranks=Ranks(), accumulate=2, num_workers=0, **options)
    ahead = load_data(
        "synthetic",
        12,
        ranks=Ranks(),
        accumulate=2,
        num_workers=num_workers,
        epochs=epochs,
        **options,
    )

    def check(epoch: int, first_step: int, num_steps: int) -> None:
        expected = epoch_of(inline, epoch, first_step)[:num_steps]
        got = list(islice(ahead.train_batches(epoch, first_step), num_steps))
        assert len(got) == len(expected) == num_steps
        for step, expected_step in zip(got, expected, strict=True):
            for (images, labels), (expected_images, expected_labels) in zip(
                step, expected_step, strict=True
            ):
                assert torch.equal(images, expected_images)
                assert torch.equal(labels, expected_labels)

    check(0, 0, 3)  # a whole epoch
    check(1, 0, 2)  # left in its middle
    beside = list(ahead.first_batches(0, 2))
    assert torch.equal(beside[1][0][0], epoch_of(inline, 0)[1][0][0])
    check(1, 2, 1)  # gone on with, up to the last epoch of the run
    check(2, 0, 3)  # one more, as a range test may take
    check(3, 0, 3)
    check(0, 1, 2)  # from the beginning


def test_only_the_run_is_loaded_ahead() -> None:
    data = load_data("digits", 400, ranks=Ranks(), num_workers=0, epochs=2)
    assert len(list(data._load_from(0, 1))) == 2 + 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_that_is_given_up_is_gone_at_once(num_workers: int) -> None:
    """Loader processes that are left to the garbage collector hold it up for 20 seconds."""
    data = load_data("digits", 400, ranks=Ranks(), num_workers=num_workers)
    batches = data.train_batches(0)
    next(batches)
    gone = weakref.ref(data)
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        del batches, data
        assert gone() is None
    finally:
        gc.enable()
    assert len(set(multiprocessing.active_children()) & before) == len(before) - num_workers


def test_two_passes_over_the_training_batches_do_not_mix() -> None:
    data = load_data("digits", 400, ranks=Ranks(), num_workers=0)
    expected = epoch_of(data, 0, 1)
    next(data.train_batches(0))
    assert list(data.train_batches(0, 3)) == []
    again = epoch_of(data, 0, 1)
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(again, expected, strict=True))
    first = data.train_batches(0)
    next(first)
    next(data.train_batches(1))
    with pytest.raises(AssertionError, match="other batches"):
        next(first)


def test_the_first_images_are_those_of_the_first_step_on_every_rank(digits: ImageData) -> None:
    ((images, labels),) = digits.first_images(32)
    whole = epoch_of(digits, 0)[0][0]
    assert torch.equal(images, whole[0][:32])
    assert torch.equal(labels, whole[1][:32])
    assert sum(len(part) for _, part in digits.first_images(1000)) == 100  # no more than a batch
    for number in range(4):
        data = load_data("digits", 100, ranks=rank(number, 4), num_workers=0)
        parts = data.first_images(32)
        assert [len(part) for _, part in parts] == [16, 16]  # micro-batches are of 25
        assert torch.equal(torch.cat([part for part, _ in parts]), images)


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_evaluation_counts_each_test_image_once(world_size: int) -> None:
    labels = []
    options = {"num_images": 1000, "num_classes": 250, "image_size": 4}
    for r in range(world_size):
        data = load_data("synthetic", 14, ranks=rank(r, world_size), **options)
        labels += [label for _, part in data.test_batches() for label in part.tolist()]
    assert sorted(labels) == list(range(250))


def test_more_ranks_than_test_images_leave_some_without(folder: Path) -> None:
    options = {"num_images": 8, "num_classes": 2, "image_size": 4}  # two test images
    data = load_data("synthetic", 4, ranks=rank(3, 4), **options)
    assert list(data.test_batches()) == []


def test_mixing_is_the_same_for_any_number_of_ranks_and_micro_batches() -> None:
    options = {"num_images": 64, "num_classes": 4, "image_size": 8, "mixup": 0.8, "cutmix": 1.0}
    whole = load_data("synthetic", 16, ranks=Ranks(), **options)
    parts = [load_data("synthetic", 16, ranks=rank(r, 2), accumulate=2, **options) for r in (0, 1)]
    for step in range(4):
        images, targets = step_of(whole, step)
        shared = [step_of(part, step) for part in parts]
        assert torch.equal(torch.cat([part for part, _ in shared]), images)
        assert torch.equal(torch.cat([part for _, part in shared]), targets)


def test_mixing_pairs_neighbours_by_numbers_keyed_by_the_step() -> None:
    options = {"num_images": 64, "num_classes": 4, "image_size": 8, "mixup": 0.8, "cutmix": 1.0}
    data = load_data("synthetic", 16, ranks=Ranks(), **options)
    images, targets = step_of(data, 2)
    again, _ = step_of(data, 2)
    assert torch.equal(images, again)
    assert targets.shape == (16, 4)
    assert torch.allclose(targets.sum(dim=1), torch.ones(16))
    assert ((targets > 0).sum(dim=1) == 2).any()
    # An image and its neighbour are mixed of the same two.
    assert torch.equal(targets[0] > 0, targets[1] > 0)


def test_cifar_files_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR10

    write_cifar10(tmp_path, num_train=50, num_test=20)
    data = load_data("cifar10", 10, ranks=Ranks(), root=str(tmp_path), download=False)
    pixels, labels = data.train.batch(torch.arange(50), 0)

    class Unchecked(CIFAR10):
        def _check_integrity(self) -> bool:  # the sums of the real files
            return True

        def _load_meta(self) -> None:
            pass

    expected = Unchecked(str(tmp_path))
    assert torch.equal(pixels, torch.from_numpy(expected.data).permute(0, 3, 1, 2))
    assert labels.tolist() == expected.targets


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    write_cifar100(tmp_path, num_train=200, num_test=100)
    data = load_data("cifar100", 10, ranks=Ranks(), root=str(tmp_path), download=False)
    assert data.num_classes == 100
    assert int(data.train.labels.max()) > 19  # beyond the 20 coarse ones


def test_parquet_holds_the_images_decoded_or_crops_them(tmp_path: Path) -> None:
    write_parquet(tmp_path, num_train=64, num_test=32, size=32)
    options = {"root": str(tmp_path), "label_column": None, **FILES}
    whole = load_data("parquet", 16, ranks=Ranks(), image_size=None, **options)
    cropped = load_data("parquet", 16, ranks=Ranks(), image_size=24, **options)
    assert step_of(whole, 0)[0].shape == (16, 3, 32, 32)
    assert step_of(cropped, 0)[0].shape == (16, 3, 24, 24)
    assert len(whole.test) == 32


def test_images_that_are_not_rgb_are_read_too(folder: Path) -> None:
    data = load_data("folder", 8, ranks=Ranks(), root=str(folder), image_size=16, **FILES)
    for step in epoch_of(data, 0):
        assert step[0][0].shape == (8, 3, 16, 16)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_is_named(num_workers: int, tmp_path: Path) -> None:
    write_image_folders(tmp_path)
    damaged = next((tmp_path / "train").rglob("*.JPEG"))
    damaged.write_bytes(damaged.read_bytes()[:200])
    options = {"image_size": 16, "augment": "imagenet", "num_workers": num_workers}
    data = load_data("imagenet", 8, ranks=Ranks(), root=str(tmp_path), **options)
    with pytest.raises(DataError, match=f"{damaged}: not a readable image"):
        epoch_of(data, 0)


def test_a_parquet_file_in_place_of_its_folder_is_told(tmp_path: Path) -> None:
    write_parquet(tmp_path, num_train=24, num_test=8)
    file = next(tmp_path.rglob("train*.parquet"))
    with pytest.raises(ConfigError, match=f"is a file, must be its folder, {file.parent}$"):
        load_data("parquet", 8, ranks=Ranks(), root=str(file), label_column=None, **FILES)


@pytest.mark.parametrize(("image_size", "augment"), [(None, "none"), (16, "imagenet")])
def test_a_damaged_image_in_a_parquet_file_is_named_by_its_row(
    image_size: int | None, augment: str, tmp_path: Path
) -> None:
    write_parquet(tmp_path, num_train=24, num_test=8)
    (first,) = tmp_path.rglob("train*.parquet")
    second = first.with_name("train-00001.parquet")
    table = pq.read_table(first)
    rows = table.to_pylist()
    rows[5]["img"]["bytes"] = b"no image"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), second)
    options = {"num_workers": 0, "image_size": image_size, "label_column": None}
    with pytest.raises(DataError) as error:
        data = load_data(
            "parquet", 48, ranks=Ranks(), root=str(tmp_path), augment=augment, **options
        )
        epoch_of(data, 0)
    expected = f"{second}: row 5: not a readable image (no format that Pillow knows)"
    assert str(error.value) == expected


def load_folder(root: Path, name: str = "imagenet") -> ImageData:
    return load_data(name, 4, ranks=Ranks(), root=str(root), image_size=16, **FILES)


def test_folders_that_lack_something_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must hold the folders train and val"):
        load_folder(tmp_path)
    write_image_folders(tmp_path)
    class_folder = sorted((tmp_path / "val").iterdir())[-1]
    files = list(class_folder.iterdir())
    for file in files:
        file.unlink()
    with pytest.raises(DataError, match=f"val: .* the classes {class_folder.name}"):
        load_folder(tmp_path)
    class_folder.rmdir()
    with pytest.raises(DataError, match=f"has no images of {class_folder.name}"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, "folder").num_classes == 4


def test_classes_that_are_tested_without_training_are_refused(tmp_path: Path) -> None:
    write_image_folders(tmp_path)
    new = tmp_path / "val" / "n99999999"
    sorted((tmp_path / "val").iterdir())[0].rename(new)
    with pytest.raises(DataError, match=r"n99999999, of which .* has no images"):
        load_folder(tmp_path, "folder")
    write_parquet(tmp_path / "rows")
    file = next((tmp_path / "rows").rglob("test*.parquet"))
    table = pq.read_table(file)
    labels = pa.array([77] * len(table))
    pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), file)
    with pytest.raises(DataError, match="classes without training: 77"):
        load_parquet(tmp_path / "rows")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [2**64 - 1, 2**40, 30_000])
def test_labels_that_are_ids_are_refused_by_name(label: int, split: str, tmp_path: Path) -> None:
    write_parquet(tmp_path, num_train=8, num_test=8)
    (file,) = tmp_path.glob(f"{split}*.parquet")
    table = pq.read_table(file)
    labels = pa.array([0] * 7 + [label], pa.uint64())
    pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), file)
    with pytest.raises(DataError, match=rf"{file.name}: label holds {label}, an id\?"):
        load_parquet(tmp_path)


def test_few_images_may_be_of_many_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path, num_train=8, num_test=8)
    for file in tmp_path.glob("*.parquet"):
        table = pq.read_table(file)
        labels = pa.array([0] * 7 + [21_840], pa.uint16())
        pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), file)
    assert load_parquet(tmp_path).num_classes == 21_841


def load_parquet(root: Path, label_column: str | None = None) -> ImageData:
    options = {"image_size": None, "label_column": label_column, **FILES}
    return load_data("parquet", 4, ranks=Ranks(), root=str(root), **options)


def test_cifar_files_that_are_missing_or_cut_off_are_named(tmp_path: Path) -> None:
    def load() -> ImageData:
        return load_data("cifar10", 4, ranks=Ranks(), root=str(tmp_path), download=False)

    with pytest.raises(ConfigError, match=r"data_batch_1: missing .*data\.download=true"):
        load()
    write_cifar10(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    batch.write_bytes(batch.read_bytes()[:5000])
    with pytest.raises(DataError, match="data_batch_4: not a file of CIFAR10"):
        load()
    batch.unlink()
    with pytest.raises(ConfigError, match="data_batch_4: missing"):
        load()


def test_parquet_files_that_lack_something_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \.parquet files"):
        load_parquet(tmp_path)
    write_parquet(tmp_path)
    with pytest.raises(
        ConfigError, match=r"data\.label_column=kind: .* has the columns img, label"
    ):
        load_parquet(tmp_path, "kind")
    train, test = sorted(tmp_path.rglob("*.parquet"), reverse=True)
    content = test.read_bytes()
    test.unlink()
    with pytest.raises(ConfigError, match=r"needs train\*\.parquet and test\*\.parquet"):
        load_parquet(tmp_path)
    test.write_bytes(content[:100])
    with pytest.raises(DataError, match=f"{test.name}: not a readable Parquet file"):
        load_parquet(tmp_path)
    test.write_bytes(content)
    table = pq.read_table(train)
    pq.write_table(table.slice(0, 0), train)
    with pytest.raises(DataError, match="no training images"):
        load_parquet(tmp_path)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size=1438: must be at most 1437"):
        load_data("digits", 1438, ranks=Ranks())
