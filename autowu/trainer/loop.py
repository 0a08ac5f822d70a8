"""One epoch of training and one of evaluation: plain functions, no files, no settings object.

Nothing here waits for the device: losses stay where they are computed until the epoch is over.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autowu.trainer.build_schedule import Schedule
from autowu.trainer.data import Batch
from autowu.trainer.errors import TrainingDiverged

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class EpochTrace(NamedTuple):
    lrs: list[float]  # (steps,) the LR that each step used
    losses: list[float]  # (steps,) the training loss before each step
    seconds: float  # that the steps took


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device; ValueError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={name}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Schedule,
    batches: Iterable[Batch],
    num_steps: int,
    *,
    accumulate: int = 1,
    clip_grad_norm: float | None = None,
    precision: str = "fp32",
) -> EpochTrace:
    """Take one optimizer step for each batch.

    Args:
        batches: (images, labels) on the model's device.
        num_steps: how many batches there are.
        accumulate: equal parts that a batch is processed in, one after the other.
        clip_grad_norm: largest L2 norm of the gradient of all parameters; None: no limit.
        precision: `fp32`, or `bf16` for a forward pass under autocast.
    """
    started = time.perf_counter()
    model.train()
    device = next(model.parameters()).device
    lrs: list[float] = []
    losses = torch.empty(num_steps, device=device)
    for step, (images, labels) in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=device)
        parts = zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True)
        for part_images, part_labels in parts:
            part_loss = _loss(model, part_images, part_labels, precision) / accumulate
            part_loss.backward()
            loss += part_loss.detach()
        if clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
        lrs.append(float(scheduler.get_last_lr()[0]))
        losses[step] = loss
        optimizer.step()
        scheduler.step(loss)
    # The only wait for the device, which also makes the time that of the finished work.
    return EpochTrace(lrs, losses.tolist(), time.perf_counter() - started)


def _loss(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Tensor:
    return F.cross_entropy(_logits(model, images, precision), labels)


def _logits(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """The logits in float32, whatever the precision of the forward pass."""
    dtype = PRECISIONS[precision]
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        logits = model(images)
    return logits.float()


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], precision: str = "fp32") -> float:
    """The share of images in `batches` that the model classifies correctly, in %."""
    model.eval()
    correct: Tensor | int = 0
    total = 0
    for images, labels in batches:
        correct = correct + (_logits(model, images, precision).argmax(dim=1) == labels).sum()
        total += len(labels)
    return 100.0 * int(correct) / total


def check_finite(losses: list[float], first_step: int, scheduler: Schedule) -> None:
    """Raise TrainingDiverged for a loss that is not finite in the decay.

    In the warmup AutoWU itself deals with such losses; in the decay nothing is left to be found.

    Args:
        losses: of consecutive steps.
        first_step: optimizer steps done before the first of them.
    """
    if scheduler.switch_step is None:
        return
    decay_starts = max(scheduler.switch_step - first_step, 0)
    decay_losses = torch.tensor(losses[decay_starts:])
    bad = (~decay_losses.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise TrainingDiverged(
            f"the training loss became {decay_losses[bad[0]]:g} at step"
            f" {first_step + decay_starts + bad[0]}, in the decay that began at step"
            f" {scheduler.switch_step} with LR {scheduler.start_lr:.3g}"
        )
