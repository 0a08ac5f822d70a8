"""From a data set to batches on the device: order, shares of the ranks, loader processes.

The order of an epoch is a permutation keyed by (seed, epoch). A step takes the next `batch_size`
of it; rank r of R works on the r-th of R equal parts, cut further into `accumulate` micro-batches.
So the images of a step, and what augmentation makes of them, do not depend on the number of ranks
or loader processes, and an epoch can be entered at any step.
"""

import atexit
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autowu.random_state import keyed_states
from autowu.trainer import data_sets
from autowu.trainer.augment import file_transform
from autowu.trainer.data_sets import DataSet, Split
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import ConfigError, DataError, some
from autowu.trainer.images import EncodedImages, Images, MemoryImages, normalise
from autowu.trainer.signals import HANGUP
from autowu.trainer.stdout import say

Batch = tuple[Tensor, Tensor]  # images (batch, channels, height, width) float32, labels (batch,)
EVALUATION_BATCH = 256  # images of a forward pass of the evaluation, unless training takes more
MANY_IMAGES = 10_000  # whose decoding takes seconds, and is said
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class Request(NamedTuple):
    """What a loader process is asked for."""

    epoch: int
    indices: Tensor


@dataclass(frozen=True)
class Order:
    """Which images a rank works on, step by step; of plain numbers alone.

    Loader processes are asked by it for the rest of the run. If it held the `ImageData` that holds
    them, they would outlive an abandoned run until the garbage collector comes by, for which each
    of them then makes it wait.
    """

    num_images: int
    batch_size: int  # images per optimizer step, over all ranks
    micro_batch_size: int
    accumulate: int
    rank: int
    seed: int

    def requests(self, epoch: int, first_step: int = 0) -> Iterator[Request]:
        """One for each micro-batch of the rank in an epoch, from a step of it on."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
        indices = torch.from_numpy(order)
        share = self.micro_batch_size * self.accumulate
        for step in range(first_step, self.num_images // self.batch_size):
            start = step * self.batch_size + self.rank * share
            for micro_batch in indices[start : start + share].split(self.micro_batch_size):
                yield Request(epoch, micro_batch)

    def endless(self, epoch: int, first_step: int, epochs: int | None) -> Iterator[Request]:
        """The same, and those of the epochs after it up to `epochs`; None: of all."""
        yield from self.requests(epoch, first_step)
        for later in count(epoch + 1) if epochs is None else range(epoch + 1, epochs):
            yield from self.requests(later)


@dataclass
class ImageData:
    train: Images
    test: Images
    num_classes: int
    num_channels: int
    image_size: int  # pixels
    mean: Tensor  # (channels, 1, 1) float32 on the device, in units of a pixel
    deviation: Tensor
    batch_size: int  # images per optimizer step, over all ranks
    accumulate: int  # micro-batches that a rank's part is cut into
    seed: int
    ranks: Ranks
    num_workers: int
    channels_last: bool = False
    mix: Callable[[Tensor, Tensor], Batch] | None = None  # timm's Mixup and CutMix
    epochs: int | None = None  # of the run, after which there is nothing to load ahead
    wait_seconds: float = 0.0  # spent waiting for data since the start
    _loader: "Loader | None" = field(default=None, repr=False)
    _stream: Iterator[tuple[Tensor, Tensor]] = field(default=iter(()), repr=False)
    _stream_at: tuple[int, int] | None = None  # epoch and step that come out of it next

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last short batch is dropped in training."""
        return len(self.train) // self.batch_size

    @property
    def micro_batch_size(self) -> int:
        return self.batch_size // (self.ranks.world_size * self.accumulate)

    @property
    def micro_batch_shape(self) -> tuple[int, ...]:
        """(batch, channels, height, width) of a rank's forward pass in training."""
        return (self.micro_batch_size, self.num_channels, self.image_size, self.image_size)

    def train_batches(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """The rank's micro-batches of each step of an epoch, from step `first_step` of it on.

        Every epoch drops the images that its last, short batch would have held; the next epoch
        is shuffled anew, so no image is left out for good. Loader processes go on with the epoch
        after this one while the caller evaluates.
        """
        if self._stream_at != (epoch, first_step):
            self._stream = self._load_from(epoch, first_step)
            self._stream_at = (epoch, first_step)
        for step in range(first_step, self.steps_per_epoch):
            assert self._stream_at == (epoch, step), "other batches were asked for meanwhile"
            self._stream_at = None  # in case that loading fails
            started = time.perf_counter()
            raw = [next(self._stream) for _ in range(self.accumulate)]
            self.wait_seconds += time.perf_counter() - started
            if step + 1 < self.steps_per_epoch:
                self._stream_at = (epoch, step + 1)
            elif self.epochs is None or epoch + 1 < self.epochs:
                self._stream_at = (epoch + 1, 0)
            yield [self._mixed(*self._to_device(*each), epoch, step) for each in raw]

    def first_batches(self, epoch: int, num_steps: int) -> Iterator[list[Batch]]:
        """The first steps of an epoch, beside and without disturbing `train_batches`."""
        requests = islice(self._order.requests(epoch), num_steps * self.accumulate)
        loader = Loader(self.train, self._num_side_workers(self.train), self.ranks.device, False)
        loaded = loader(requests)
        for step in range(min(num_steps, self.steps_per_epoch)):
            raw = [next(loaded) for _ in range(self.accumulate)]
            yield [self._mixed(*self._to_device(*each), epoch, step) for each in raw]

    def first_images(self, count: int) -> list[Batch]:
        """The first images of the run, at most a batch, unmixed; the same on all ranks.

        In equal parts, or nearly so, none of them larger than a micro-batch.
        """
        whole = replace(self._order, rank=0, micro_batch_size=self.batch_size, accumulate=1)
        request = next(whole.requests(epoch=0))
        indices = request.indices[:count]
        parts = indices.chunk(math.ceil(len(indices) / self.micro_batch_size))
        return [self._to_device(*self.train.batch(part, request.epoch)) for part in parts]

    def _load_from(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Micro-batches of this rank, from a step of an epoch to the end of the run."""
        if self._loader is None:
            self._loader = Loader(self.train, self.num_workers, self.ranks.device, True)
        return self._loader(self._order.endless(epoch, first_step, self.epochs))

    @property
    def _order(self) -> Order:
        return Order(
            num_images=len(self.train),
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            accumulate=self.accumulate,
            rank=self.ranks.rank,
            seed=self.seed,
        )

    def _num_side_workers(self, images: Images) -> int:
        """Of a pass beside the training: decoded images are there sooner than a process is."""
        return 0 if isinstance(images, MemoryImages) else self.num_workers

    @property
    def num_test_batches(self) -> int:
        """Those that every rank has; some have one more."""
        return math.ceil(len(self.test) // self.ranks.world_size / self._test_batch_size)

    @property
    def _test_batch_size(self) -> int:
        return max(EVALUATION_BATCH, self.micro_batch_size)

    def test_batches(self) -> Iterator[Batch]:
        """This rank's share of the test images, each once over all ranks."""
        share = torch.arange(len(self.test))[self.ranks.rank :: self.ranks.world_size]
        parts = share.split(self._test_batch_size) if len(share) else ()
        requests = [Request(0, part) for part in parts]
        loader = Loader(self.test, self._num_side_workers(self.test), self.ranks.device, False)
        for images, labels in loader(requests):
            yield self._to_device(images, labels)

    def _to_device(self, images: Tensor, labels: Tensor) -> Batch:
        device = self.ranks.device
        images = normalise(images.to(device, non_blocking=True), self.mean, self.deviation)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels.to(device, non_blocking=True)

    def _mixed(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> Batch:
        """Each image mixed with its neighbour in the order of the epoch, by numbers of the step.

        Neighbours never lie in different micro-batches, and the numbers hold for the whole batch,
        so ranks and accumulation change nothing. timm pairs the first image with the last, the
        second with the last but one: the neighbours are put there, and taken back.
        """
        if self.mix is None:
            return images, labels
        size = len(labels)
        order = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2).flip(0)])
        with keyed_states() as key:
            key(self.seed, epoch, step)
            mixed, targets = self.mix(images[order], labels[order])
        back = order.argsort()
        return mixed[back], targets[back]


class Loader:
    """Answers requests in order, in this process or ahead of time in others."""

    def __init__(
        self, images: Images, num_workers: int, device: torch.device, persistent: bool
    ) -> None:
        self.images = _Answers(images)
        self.requests = _Requests()
        self.workers: DataLoader[Any] | None = None
        if num_workers:
            self.workers = DataLoader(
                self.images,
                batch_size=None,
                sampler=self.requests,
                num_workers=num_workers,
                pin_memory=device.type == "cuda",
                persistent_workers=persistent,
                prefetch_factor=4,
                worker_init_fn=partial(_outlive_signals, _closing()),
                generator=torch.Generator(),  # or each pass would draw from the global one
            )

    def __call__(self, requests: Iterable[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """The answers; a new call ends the one before it."""
        self.requests.waiting = iter(requests)
        answers: Iterator[Any] = map(self.images.__getitem__, self.requests)
        if self.workers is not None:
            answers = iter(self.workers)
        for answer in answers:
            if isinstance(answer, DataError):
                # A new one: raised itself it would hold this frame, which holds it, and loader
                # processes that the garbage collector frees take 20 seconds to end.
                raise DataError(str(answer))
            yield answer


class _Requests:
    """The sampler of a DataLoader, which iterates over it anew in each pass."""

    waiting: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.waiting


class _Answers(Dataset[Any]):
    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor] | DataError:
        try:
            return self.images.batch(request.indices, request.epoch)
        except DataError as error:
            return error  # raised in a loader process it would come with that one's traceback


@cache
def _closing() -> Any:
    """An event that is set when this process ends, before it ends its loader processes."""
    closing = multiprocessing.Event()
    atexit.register(closing.set)
    return closing


def _outlive_signals(closing: Any, worker: int) -> None:
    """Ctrl-C, Slurm's SIGTERM and a terminal's SIGHUP reach loader processes too.

    The rank saves first, and ends them; by SIGTERM as well, but once `closing` is set.
    """

    def on_terminate(number: int, frame: object) -> None:
        if closing.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_terminate)


def load_data(
    name: str,
    batch_size: int,
    *,
    ranks: Ranks,
    seed: int = 0,
    accumulate: int = 1,
    epochs: int | None = None,
    num_workers: int | None = None,
    augment: str = "none",
    mixup: float = 0.0,
    cutmix: float = 0.0,
    channels_last: bool = False,
    **settings: Any,
) -> ImageData:
    """Load a data set by name.

    Args:
        name, batch_size, num_workers, augment, mixup, cutmix, settings: as in
            `autowu.trainer.settings`.
        ranks: those that share each batch.
        seed: of order and augmentation.
        accumulate: micro-batches of a rank's share of a batch.
        epochs: of the run; loader processes work ahead until then (None: for ever).
        channels_last: the memory format of the images.

    Raises:
        ConfigError, DataError: for files that are missing, damaged or do not fit together; a batch
            larger than the training split.
    """
    data_set, image_size = read_data_set(name, ranks, settings)
    num_train = len(data_set.train.labels)
    if batch_size > num_train:
        raise ConfigError(
            f"data.batch_size={batch_size}: must be at most {num_train},"
            f" the training images of {name}"
        )
    in_memory = data_set.train.pixels is not None
    train = _to_images(data_set.train, augment, image_size, seed, is_training=True)
    test = _to_images(data_set.test, "none", image_size, seed, is_training=False)
    mean, deviation = _statistics(data_set.train)
    num_channels = len(mean)
    return ImageData(
        train=train,
        test=test,
        num_classes=data_set.num_classes,
        num_channels=num_channels,
        image_size=image_size,
        mean=mean.view(-1, 1, 1).to(ranks.device),
        deviation=deviation.view(-1, 1, 1).to(ranks.device),
        batch_size=batch_size,
        accumulate=accumulate,
        seed=seed,
        ranks=ranks,
        num_workers=default_num_workers(ranks, in_memory) if num_workers is None else num_workers,
        channels_last=channels_last,
        epochs=epochs,
        mix=_mixer(mixup, cutmix, data_set.num_classes) if mixup or cutmix else None,
    )


def read_data_set(name: str, ranks: Ranks, settings: dict[str, Any]) -> tuple[DataSet, int]:
    """The two splits, and the size of their images in pixels once they are decoded."""
    if name == "digits":
        data_set = data_sets.digits()
    elif name == "synthetic":
        data_set = data_sets.synthetic(**settings)
    elif name in data_sets.CIFAR:
        if settings["download"]:
            ranks.on_main(lambda: data_sets.download_cifar(name, settings["root"]))
        data_set = data_sets.cifar(name, settings["root"])
    elif name == "parquet":
        data_set = data_sets.parquet(settings["root"], settings["label_column"])
    else:
        data_set = data_sets.image_folders(name, settings["root"])
    check_labels(name, data_set)
    if data_set.train.pixels is None:
        if settings["image_size"] is not None:
            return data_set, settings["image_size"]
        num_images = len(data_set.train.labels) + len(data_set.test.labels)
        if ranks.is_main and num_images >= MANY_IMAGES:
            say(f"decoding {num_images:,} images of {name} into memory")
        data_set = data_set._replace(
            train=data_sets.decode_all(data_set.train),
            test=data_sets.decode_all(data_set.test),
        )
    assert data_set.train.pixels is not None
    assert data_set.test.pixels is not None
    if data_set.train.pixels.shape[1:] != data_set.test.pixels.shape[1:]:
        raise DataError(f"data.name={name}: the images to train and to test on differ in size")
    height, width = data_set.train.pixels.shape[2:]
    if height != width:
        raise DataError(
            f"data.name={name}: the images have {width}x{height} pixels and must be square"
            " (data.image_size crops them)"
        )
    return data_set, width


def check_labels(name: str, data_set: DataSet) -> None:
    """Raise DataError for a split without images, or classes that are only tested."""
    for kind, split in (("training", data_set.train), ("test", data_set.test)):
        if len(split.labels) == 0:
            raise DataError(f"data.name={name}: there are no {kind} images")
    trained = set(data_set.train.labels.unique().tolist())
    unknown = sorted(set(data_set.test.labels.unique().tolist()) - trained)
    if unknown:
        named = some([str(label) for label in unknown], most=5)
        raise DataError(f"data.name={name}: the test images have classes without training: {named}")


def default_num_workers(ranks: Ranks, in_memory: bool) -> int:
    """Loader processes of a rank: none where the device is the CPU that would have to run them."""
    if ranks.device.type == "cpu" and in_memory:
        return 0
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(0, min(8, (num_cores or 1) // ranks.local_size - 1))


def _to_images(split: Split, augment: str, image_size: int, seed: int, is_training: bool) -> Images:
    if split.pixels is not None:
        return MemoryImages(split.pixels, split.labels, augment, seed)
    transform = file_transform(augment, image_size, is_training)
    assert split.sources is not None
    return EncodedImages(split.sources, split.labels, transform, seed)


def _statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, (channels,): of the pixels, or those of ImageNet."""
    if split.pixels is None:
        return 255 * torch.tensor(IMAGENET_MEAN), 255 * torch.tensor(IMAGENET_DEVIATION)
    # Exact and without a float copy of the data: from the histogram of each channel.
    values = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in split.pixels.unbind(1):
        counts = channel.flatten().bincount(minlength=256).double()
        mean = (counts * values).sum() / counts.sum()
        means.append(mean)
        deviations.append(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt())
    deviation = torch.stack(deviations).float()
    return torch.stack(means).float(), deviation.where(deviation > 0, 1.0)


def _mixer(mixup: float, cutmix: float, num_classes: int) -> Callable[[Tensor, Tensor], Batch]:
    """timm's Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), either at even odds.

    The labels become probabilities (batch, classes); label smoothing is left to the loss.
    """
    from timm.data import Mixup

    return Mixup(
        mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=num_classes
    )
