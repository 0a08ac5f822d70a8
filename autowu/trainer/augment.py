"""Augmentation: of images in memory by the batch, of image files one by one.

Every image's random numbers are keyed by (seed, epoch, index of the image), so the number of
loader processes, the number of ranks and a resumption in the middle of an epoch change nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

NUM_UNIFORMS = 10  # random numbers of an image, one for each decision below
FLIP, CROP_Y, CROP_X, POLICY, APPLY, SIGN, CUT_Y, CUT_X = 0, 1, 2, 3, slice(4, 6), slice(6, 8), 8, 9
GRAY = 128  # what AutoAugment moves in from outside of the image, as in Cubuk et al. 2018


def augment_batch(images: Tensor, uniforms: Tensor, augment: str) -> Tensor:
    """Augment a batch of small images.

    Args:
        images: (batch, channels, height, width) uint8.
        uniforms: (batch, NUM_UNIFORMS) float64 in [0, 1).
        augment: `none`; `crop_flip`: random crop after padding an eighth with black, random flip
            (He et al. 2016); `cifar`: those, then AutoAugment's CIFAR-10 policy (Cubuk et al.
            2018), then Cutout of half the size (DeVries and Taylor 2017), as section 3 of
            arXiv:2107.05855 trains CIFAR.

    Returns:
        (batch, channels, height, width) uint8.
    """
    if augment == "none":
        return images
    images = _flip(_crop(images, uniforms), uniforms)
    if augment == "cifar":
        images = _cutout(_auto_augment(images, uniforms), uniforms)
    return images


def _crop(images: Tensor, uniforms: Tensor) -> Tensor:
    height, width = images.shape[2:]
    pad_y, pad_x = height // 8, width // 8
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    top = (uniforms[:, CROP_Y] * (2 * pad_y + 1)).long()
    left = (uniforms[:, CROP_X] * (2 * pad_x + 1)).long()
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view
    return windows[torch.arange(len(images)), :, top, left]


def _flip(images: Tensor, uniforms: Tensor) -> Tensor:
    flipped = uniforms[:, FLIP] < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


class _GivenPolicy(AutoAugment):
    """torchvision's AutoAugment with the random choices made by the caller."""

    choice: tuple[int, Tensor, Tensor]

    def get_params(self, transform_num: int) -> tuple[int, Tensor, Tensor]:
        return self.choice


def _auto_augment(images: Tensor, uniforms: Tensor) -> Tensor:
    """One of 25 pairs of operations an image; images that got the same go through it together."""
    policy = _GivenPolicy(AutoAugmentPolicy.CIFAR10, fill=[GRAY] * images.shape[1])
    num_policies = len(policy.policies)
    chosen = (uniforms[:, POLICY] * num_policies).long()
    probabilities = torch.tensor([[operation[1] for operation in p] for p in policy.policies])
    applied = uniforms[:, APPLY] <= probabilities[chosen]
    signs = (uniforms[:, SIGN] < 0.5) & applied
    choices = torch.cat([chosen[:, None], applied, signs], dim=1)
    _, groups = choices.unique(dim=0, return_inverse=True)
    augmented = images.clone()
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        first = members[0]
        if not applied[first].any():
            continue
        # AutoAugment applies an operation where its number is at most the operation's probability.
        numbers = torch.where(applied[first], 0.0, 2.0)
        policy.choice = int(chosen[first]), numbers, signs[first].long()
        augmented[members] = policy(images[members])
    return augmented


def _cutout(images: Tensor, uniforms: Tensor) -> Tensor:
    """Overwrite a square of half the size, which may lie partly outside, with gray."""
    height, width = images.shape[2:]
    row = torch.arange(height)[None, :, None] - (uniforms[:, CUT_Y] * height).long()[:, None, None]
    column = torch.arange(width)[None, None, :] - (uniforms[:, CUT_X] * width).long()[:, None, None]
    inside = (row >= -(height // 4)) & (row < height // 4)
    inside = inside & (column >= -(width // 4)) & (column < width // 4)
    return images.masked_fill(inside[:, None], GRAY)


def file_transform(augment: str, image_size: int, is_training: bool) -> Callable[[Any], Tensor]:
    """What makes a tensor of a decoded image, through timm.

    Args:
        augment: `none`: the centre crop of the evaluation; `imagenet`: a crop of random size and
            place, and a flip (Szegedy et al. 2015, as ResNets are trained); `deit`: in addition
            RandAugment and random erasing as in Touvron et al. 2020, arXiv:2012.12877.
        image_size: pixels of the square that comes out.
        is_training: False: the centre crop whatever `augment` says.

    Returns:
        A function of a PIL image: (3, image_size, image_size), uint8; float32 and normalised for
        the training images of `deit`. It draws from the global random states.
    """
    from timm.data import create_transform

    if not is_training or augment == "none":
        return create_transform(
            image_size, interpolation="bicubic", crop_pct=0.875, normalize=False
        )
    if augment == "imagenet":
        return create_transform(
            image_size,
            is_training=True,
            color_jitter=None,  # type: ignore[arg-type]
            interpolation="bicubic",
            normalize=False,
        )
    transform = create_transform(
        image_size,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    _keep_one_bit(transform)
    return transform


def _keep_one_bit(transform: Any) -> None:
    """Let RandAugment's posterising leave at least one bit, as Pillow from 13 on demands.

    At the strongest magnitudes timm asks it for none, a black image.
    """
    from timm.data.auto_augment import RandAugment

    for randaugment in (each for each in transform.transforms if isinstance(each, RandAugment)):
        for operation in randaugment.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = partial(_posterize, operation.aug_fn)


def _posterize(function: Callable[..., Any], image: Any, bits: int, **options: Any) -> Any:
    return function(image, max(bits, 1), **options)


class UniformTable:
    """The random numbers of every image in an epoch: NUM_UNIFORMS each, made once an epoch."""

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images = num_images
        self.seed = seed
        self._epoch = -1
        self._table = torch.empty(0)

    def __call__(self, epoch: int, indices: Tensor) -> Tensor:
        """(len(indices), NUM_UNIFORMS) float64 in [0, 1)."""
        if epoch != self._epoch:
            # The 1 sets this sequence apart from that of the order, which has the other key.
            rng = np.random.default_rng((self.seed, epoch, 1))
            self._table = torch.from_numpy(rng.random((self.num_images, NUM_UNIFORMS)))
            self._epoch = epoch
        return self._table[indices]
