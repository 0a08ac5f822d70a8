"""Augmentation of small images, against torchvision's own and against what it must keep."""

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from autowu.trainer import augment as module
from autowu.trainer.augment import NUM_UNIFORMS, UniformTable, augment_batch

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8, generator=GENERATOR)
UNIFORMS = UniformTable(300, seed=0)(0, torch.arange(300))


def test_none_leaves_the_images_alone() -> None:
    assert augment_batch(IMAGES, UNIFORMS, "none") is IMAGES


def test_a_crop_is_a_window_of_the_padded_image_flipped_or_not() -> None:
    augmented = augment_batch(IMAGES, UNIFORMS, "crop_flip")
    flips = 0
    tops, lefts = set(), set()
    for image, result, numbers in zip(IMAGES, augmented, UNIFORMS, strict=True):
        padded = torch.zeros(3, 40, 40, dtype=torch.uint8)
        padded[:, 4:36, 4:36] = image
        top, left = int(9 * numbers[module.CROP_Y]), int(9 * numbers[module.CROP_X])
        window = padded[:, top : top + 32, left : left + 32]
        is_flipped = bool(numbers[module.FLIP] < 0.5)
        assert torch.equal(result, window.flip(2) if is_flipped else window)
        flips += is_flipped
        tops.add(top)
        lefts.add(left)
    assert 110 < flips < 190  # half of 300, to within 4.6 deviations
    assert tops == lefts == set(range(9))


def test_auto_augment_does_to_each_image_what_torchvision_does_to_it_alone() -> None:
    together = module._auto_augment(IMAGES, UNIFORMS)
    policy = module._GivenPolicy(AutoAugmentPolicy.CIFAR10, fill=[128] * 3)
    for image, result, numbers in zip(IMAGES, together, UNIFORMS, strict=True):
        signs = (numbers[module.SIGN] < 0.5).long()
        policy.choice = int(25 * numbers[module.POLICY]), numbers[module.APPLY], signs
        assert torch.equal(result, policy(image))


def test_the_choices_of_auto_augment_are_as_frequent_as_torchvisions() -> None:
    num_images = 20_000
    table = UniformTable(num_images, seed=1)(0, torch.arange(num_images))
    policies = (25 * table[:, module.POLICY]).long().bincount(minlength=25)
    assert len(AutoAugment(AutoAugmentPolicy.CIFAR10).policies) == 25
    assert (policies - num_images / 25).abs().max() < 5 * (num_images / 25) ** 0.5


def test_cutout_grays_a_square_of_half_the_size_around_any_pixel() -> None:
    black = torch.zeros(300, 3, 32, 32, dtype=torch.uint8)
    cut = module._cutout(black, UNIFORMS)
    assert set(cut.unique().tolist()) == {0, 128}
    sizes = (cut[:, 0] == 128).sum(dim=(1, 2))
    assert int(sizes.max()) == 16 * 16
    assert int(sizes.min()) >= 8 * 8  # at a corner a quarter of it is inside
    rows = (cut[:, 0] == 128).any(dim=2)
    expected = (32 * UNIFORMS[:, module.CUT_Y]).long()
    for row, centre in zip(rows, expected.tolist(), strict=True):
        inside = set(range(max(centre - 8, 0), min(centre + 8, 32)))
        assert set(row.nonzero().flatten().tolist()) == inside


def test_an_image_is_augmented_the_same_in_any_company() -> None:
    whole = augment_batch(IMAGES, UNIFORMS, "cifar")
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))

    def part(indices: Tensor) -> Tensor:
        return augment_batch(IMAGES[indices], UNIFORMS[indices], "cifar")

    assert torch.equal(part(order), whole[order])
    assert torch.equal(torch.cat([part(order[:7]), part(order[7:])]), whole[order])
    assert not torch.equal(whole, IMAGES)


def test_random_numbers_are_keyed_by_seed_epoch_and_index() -> None:
    indices = torch.tensor([5, 3])
    table = UniformTable(10, seed=0)
    first = table(0, indices)
    assert first.shape == (2, NUM_UNIFORMS)
    assert not torch.equal(first, table(1, indices))
    assert torch.equal(first, table(0, indices))
    assert torch.equal(first.flip(0), UniformTable(10, seed=0)(0, indices.flip(0)))
    assert not torch.equal(first, UniformTable(10, seed=1)(0, indices))


def test_every_operation_of_deit_takes_every_magnitude() -> None:
    """Pillow refuses to posterise to no bits at all, which timm asks for at the strongest."""
    from PIL import Image
    from timm.data.auto_augment import RandAugment

    transform = module.file_transform("deit", 32, is_training=True)
    (randaugment,) = [t for t in transform.transforms if isinstance(t, RandAugment)]  # type: ignore[attr-defined]
    image = Image.new("RGB", (40, 40), (10, 100, 200))
    assert len(randaugment.ops) == 15
    for operation in randaugment.ops:
        operation.prob, operation.magnitude_std = 1.0, 0.0
        for operation.magnitude in (0, 5, 9, 10):
            assert operation(image).size == (40, 40)


def test_gray_images_of_any_size_can_be_augmented() -> None:
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=GENERATOR)
    assert augment_batch(images, UNIFORMS[:40], "cifar").shape == images.shape
