"""An epoch of training and one of evaluation."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

from autowu import probe
from autowu.trainer.checkpoint import Checkpoints
from autowu.trainer.data import Batch, ImageData
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import Interrupted, TrainingDiverged
from autowu.trainer.journal import Journal
from autowu.trainer.progress import Progress
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.run_state import RunState
from autowu.trainer.signals import Pace, StopSignals
from autowu.trainer.step import OptimizerStep, forward, missing_gradients

T = TypeVar("T")
# Skipped steps in a row: after so many it is not the scale of the loss, and they count as steps, so
# that AutoWU gets to see losses that are lost. `replay` counts alike.
SCALER_STEPS = probe.MOST_SKIPPED
MOST_SKIPPED = 200  # the run ends


def train_epoch(
    state: RunState,
    take_step: OptimizerStep,
    images: ImageData,
    batches: Iterable[Sequence[Batch]],
    journal: Journal,
    checkpoints: Checkpoints,
    say: Callable[[str], None] = print,
) -> bool:
    """Take one optimizer step for each item of `batches`, up to the end of the epoch.

    Args:
        state: what the steps change; saved where `checkpoints` says so.
        take_step: forward, backward and update.
        images: whose epoch it is.
        batches: the micro-batches of each step that is left of it.
        journal: writes the steps down, and knows when to look at them.
        checkpoints: when and where to save.
        say: tells the user of a divergence.

    Returns:
        Whether the run shall stop now that the epoch is over.

    Raises:
        Interrupted: it shall stop in the middle; everything is saved.
    """
    scheduler = state.scheduler
    take_step.replica.train()
    journal.start_epoch(images)
    warned = state.progress.step > 0
    num_left = images.steps_per_epoch - state.progress.epoch_step
    for micro_batches in batches:
        num_left -= 1
        lr = state.lr
        sweeps = state.is_sweeping
        step = state.progress.step + journal.num_unseen
        loss = take_step(micro_batches, measure_gradient=num_left == 0, step=step)
        state.evaluated = None  # the weights are others now
        state.progress.count(take_step.skipped)
        check_skipped(state.progress, journal.run)
        if take_step.skipped and state.progress.skipped_in_a_row <= SCALER_STEPS:
            scheduler.observe(loss)  # averaged into the loss of the next step
        else:
            scheduler.step(loss)
        if not warned and take_step.without_gradient:
            say(missing_gradients(take_step.without_gradient))
        warned = True
        restored = state.guard.after_step()
        state.update_average(step + 1, restart=restored, skipped=take_step.skipped)
        if restored:
            state.progress.skipped_in_a_row = 0
            say(
                f"diverged at step {scheduler.switch_step}: going on from the weights of step"
                f" {state.guard.restored_step} with LR {scheduler.start_lr:.3g}"
            )
        journal.record(lr, loss, must_be_finite=not (sweeps or take_step.skipped))
        if num_left == 0:
            continue
        save = checkpoints.is_due(state.progress.step + journal.num_unseen)
        stop = journal.look(images, scheduler) if save or journal.is_due else False
        if save or stop:
            checkpoints.save(state)
        if stop:
            raise Interrupted(journal.stop.number)
    return journal.look(images, scheduler)


def check_skipped(progress: Progress, run: RunDirectory) -> None:
    """Raise TrainingDiverged when the scaler has left out every step for long."""
    if progress.skipped_in_a_row > MOST_SKIPPED:
        raise TrainingDiverged(
            f"precision=fp16: the last {progress.skipped_in_a_row} gradients were not finite,"
            f" whatever the scale of the loss; {run.last_save('them or among them')}"
        )


def watched(batches: Iterable[T], num_shared: int, ranks: Ranks, stop: StopSignals) -> Iterator[T]:
    """The same batches, between two of which all ranks stop when one was asked to.

    Args:
        batches: of this rank.
        num_shared: so many of them every rank has.
        ranks: those that stop together; every few seconds they ask each other.
        stop: the signals of this rank.

    Raises:
        Interrupted: on all ranks.
    """
    pace, num_unseen, asked_at = Pace(most=100), 0, time.perf_counter()
    batch_seconds = 0.0  # before the last question, the wait for the device included; 0: not known
    for number, batch in enumerate(batches):
        if ranks.world_size == 1:
            if number > 0 and stop.received is not None:
                raise Interrupted(stop.number)
        elif 0 < number < num_shared and num_unseen >= pace.steps:
            told = [float(stop.received is not None), batch_seconds]
            sums = ranks.sum(torch.tensor(told, device=ranks.device)).tolist()
            if sums[0] > 0:
                raise Interrupted(stop.number)
            if sums[1] > 0:
                pace.took(sums[1] / ranks.world_size)
            now = time.perf_counter()
            batch_seconds = (now - asked_at) / num_unseen
            num_unseen, asked_at = 0, now
        yield batch
        num_unseen += 1


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], ranks: Ranks, precision: str = "fp32"
) -> float:
    """The share of images that the model classifies correctly, in %, over all ranks.

    Args:
        model: the network itself, not its DistributedDataParallel.
        batches: those of this rank; each image belongs to one rank.
        ranks: those that share the images.
        precision: of the forward pass.
    """
    ranks.share_buffers(model)
    model.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=ranks.device)  # correct, all
    for images, labels in batches:
        correct = (forward(model, images, precision).argmax(dim=1) == labels).sum()
        counts[0] += correct
        counts[1] += len(labels)
    num_correct, num_images = ranks.sum(counts).tolist()
    return 100.0 * num_correct / num_images
