"""The digits: what is trained and tested on, and in which order."""

import pytest
import torch

from autowu.trainer.data import ImageData, load_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 100, CPU)


def labels_of_epoch(digits: ImageData, seed: int, epoch: int) -> list[int]:
    return [int(label) for _, labels in digits.train_batches(seed, epoch) for label in labels]


def test_digits_are_split_without_overlap_and_standardised(digits: ImageData) -> None:
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.num_classes == 10
    assert abs(float(digits.train_images.mean())) < 1e-4
    assert abs(float(digits.train_images.std()) - 1) < 1e-3
    # Stratified: every class has its share, to within one image.
    train, test = digits.train_labels.bincount(), digits.test_labels.bincount()
    assert ((train + test) * 0.2 - test).abs().max() <= 1


def test_an_epoch_sees_each_image_at_most_once_and_drops_the_short_batch(digits: ImageData) -> None:
    seen = torch.cat([images for images, _ in digits.train_batches(0, 0)])
    assert len(seen) == 1400 == digits.steps_per_epoch * 100
    everything = digits.train_images.flatten(1).unique(dim=0, return_counts=True)
    epoch = seen.flatten(1).unique(dim=0, return_counts=True)
    assert len(epoch[0]) >= 1400 - (everything[1] - 1).sum()


def test_the_order_is_keyed_by_seed_and_epoch(digits: ImageData) -> None:
    orders = {tuple(labels_of_epoch(digits, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert labels_of_epoch(digits, 1, 1) == labels_of_epoch(digits, 1, 1)


def test_evaluation_counts_each_test_image_once(digits: ImageData) -> None:
    seen = torch.cat([images for images, _ in digits.test_batches(batch_size=64)])
    assert torch.equal(seen, digits.test_images)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=1438: must be at most 1437"):
        load_data("digits", 1438, CPU)
