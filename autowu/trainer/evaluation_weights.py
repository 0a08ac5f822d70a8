"""The weights that an optimizer wants evaluated, where those are not the ones that it trains.

Schedule-Free (Defazio et al. 2024, arXiv:2405.15682) takes gradients at `y` and evaluates at the
average `x`; its `train()` and `eval()` exchange the two. Running statistics of batch norm belong
to `y` then, and are measured anew at `x`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from autowu.trainer.data import ImageData
from autowu.trainer.optimizers import has_modes
from autowu.trainer.step import autocast

STATISTICS_STEPS = 100  # training steps, at most, whose images the statistics are measured on


@contextmanager
def weights_to_evaluate(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: ImageData,
    epoch: int,
    precision: str = "fp32",
    watch: Callable[[Iterator[Tensor], int], Iterable[Tensor]] = lambda batches, _: batches,
) -> Iterator[bool]:
    """A block in which the network has the weights to evaluate; afterwards it is as it was.

    Args:
        network: of the optimizer; not its DistributedDataParallel.
        optimizer: one with `train()` and `eval()`, or any other, with which nothing happens.
        images: for running statistics, from the beginning of `epoch`.
        epoch: epochs done when this one began.
        precision: of the forward passes.
        watch: is given the images of these passes and their number, the same on all ranks, and
            may interrupt them.

    Yields:
        Whether the weights in the block are others than those in training.
    """
    if not has_modes(optimizer):
        yield False
        return
    tensors = [*network.parameters(), *network.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        devices = [tensors[0].device] if tensors[0].is_cuda else []
        with torch.random.fork_rng(devices), autocast(tensors[0].device, precision):
            num_batches = min(STATISTICS_STEPS, images.steps_per_epoch) * images.accumulate
            update_bn(watch(_inputs(images, epoch), num_batches), network)
        yield True
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        # Going there and back rounds; training goes on from the very same bits.
        with torch.no_grad():
            for tensor, copied in zip(tensors, copies, strict=True):
                tensor.copy_(copied)


def _inputs(images: ImageData, epoch: int) -> Iterator[Tensor]:
    for micro_batches in images.first_batches(epoch, STATISTICS_STEPS):
        for inputs, _ in micro_batches:
            yield inputs
