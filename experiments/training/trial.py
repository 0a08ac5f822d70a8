"""One training run: a task, an optimizer and a schedule by their names in `train.py`."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from autowu import AutoWU
from autowu.probe import probe_lrs
from autowu.trainer import optimizers, schedules
from autowu.trainer.range_test import lr_range_test
from experiments.training.tasks import Task

Disturb = Callable[[int, Tensor], Tensor]  # (optimizer steps done, loss) -> the loss in its place


@dataclass(frozen=True)
class Recipe:
    """What trains a task, apart from its data."""

    optimizer: str = "adamp"
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict)
    # By its name, or called with (optimizer, total_steps, steps_per_epoch) in its place: what it
    # returns has `step(loss)` and `get_last_lr()`.
    schedule: str | Callable[[Optimizer, int, int], Any] = "autowu"
    schedule_settings: Mapping[str, Any] = field(default_factory=dict)
    # Of the first batch, for the steps with which AutoWU's adaptive sweep finds where to begin;
    # 0: it begins at its `min_lr`.
    num_probe_images: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    test_accuracy: float  # %, of the final weights; of a lost network that of a guess
    # The same by the statistics that batch norms kept while they trained; None where
    # `test_accuracy` is that already, or there are none for the weights that are tested.
    kept_statistics_accuracy: float | None
    train_loss: float  # mean of the last tenth of the steps
    switch_step: int | None
    start_lr: float | None
    diverged: bool
    total_steps: int
    extra_steps: int  # of a range test or a probe before the run
    seconds: float
    losses: tuple[float, ...]  # (total_steps,) before each step, as the schedule saw them
    lrs: tuple[float, ...]

    def columns(self) -> dict[str, str]:
        """What a row says of it."""
        return {
            "test_accuracy": f"{self.test_accuracy:.3f}",
            "train_loss": f"{self.train_loss:.6g}",
            "switch_step": "" if self.switch_step is None else str(self.switch_step),
            "start_lr": "" if self.start_lr is None else f"{self.start_lr:.6g}",
            "diverged": str(int(self.diverged)),
            "total_steps": str(self.total_steps),
            "extra_steps": str(self.extra_steps),
            "seconds": f"{self.seconds:.2f}",
        }


def train(
    task: Task,
    recipe: Recipe,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    disturb: Disturb | None = None,
    steps_off: int = 0,
    fresh_statistics: bool = False,
) -> Outcome:
    """Train from the weights and the order of images of a seed; test once, at the end.

    Args:
        task: what to train.
        recipe: with what.
        batch_size: images a step.
        epochs: passes over the images.
        seed: of weights, order and augmentation.
        disturb: makes of each loss that of which the gradient is taken, and that the schedule sees;
            the steps of a probe have numbers below 0.
        steps_off: so many optimizer steps fewer than `epochs` make.
        fresh_statistics: whether the statistics of batch norms are measured anew before the test,
            on the batches of one epoch. With Schedule-Free, whose averaged weights have none, they
            always are.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    network = task.network()
    optimizer = optimizers.build(network, recipe.optimizer, **recipe.optimizer_settings)
    steps_per_epoch = task.steps_per_epoch(batch_size)
    total_steps = epochs * steps_per_epoch - steps_off
    scheduler = _scheduler(recipe, optimizer, total_steps, steps_per_epoch, batch_size)
    extra_steps = _search_lr(task, network, scheduler, recipe, batch_size, seed, disturb)
    losses: list[Tensor] = []
    lrs = []
    for step, (images, labels) in enumerate(islice(task.batches(batch_size, seed), total_steps)):
        loss = F.cross_entropy(network(images), labels)
        if disturb is not None:
            loss = disturb(step, loss)
        lrs.append(float(scheduler.get_last_lr()[0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
        losses.append(loss.detach())
    kept_statistics_accuracy = None
    averaged = optimizers.has_modes(optimizer)
    if averaged:  # Schedule-Free is tested with an average of its weights
        optimizer.eval()  # type: ignore[attr-defined]
    elif fresh_statistics:
        kept_statistics_accuracy = task.test_accuracy(network)
    if averaged or fresh_statistics:
        again = islice(task.batches(batch_size, seed), steps_per_epoch)
        update_bn((images for images, _ in again), network)
    curve = torch.stack(losses).tolist()
    last = curve[-max(1, total_steps // 10) :]
    found = scheduler if isinstance(scheduler, AutoWU) else None
    return Outcome(
        test_accuracy=task.test_accuracy(network),
        kept_statistics_accuracy=kept_statistics_accuracy,
        train_loss=math.fsum(last) / len(last),
        switch_step=found.switch_step if found else None,
        start_lr=found.start_lr if found else None,
        diverged=bool(found and found.diverged),
        total_steps=total_steps,
        extra_steps=extra_steps,
        seconds=time.perf_counter() - start,
        losses=tuple(curve),
        lrs=tuple(lrs),
    )


def _scheduler(
    recipe: Recipe, optimizer: Optimizer, total_steps: int, steps_per_epoch: int, batch_size: int
) -> Any:
    if not isinstance(recipe.schedule, str):
        return recipe.schedule(optimizer, total_steps, steps_per_epoch)
    epochs, left = divmod(total_steps, steps_per_epoch)
    assert left == 0, "a schedule by its name is as long as the epochs"
    return schedules.create(
        recipe.schedule,
        optimizer,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        **recipe.schedule_settings,
    )


def _search_lr(
    task: Task,
    network: nn.Module,
    scheduler: Any,
    recipe: Recipe,
    batch_size: int,
    seed: int,
    disturb: Disturb | None,
) -> int:
    """Make the range test or the probe before a run; returns how many steps it took."""
    num_steps = 0
    if isinstance(scheduler, schedules.LateOneCycle):
        num_steps = _search_peak(task, network, scheduler, recipe, batch_size, seed)
    if recipe.num_probe_images:
        images, labels = next(task.batches(batch_size, seed))
        few = images[: recipe.num_probe_images], labels[: recipe.num_probe_images]
        num_steps = len(probe_lrs(scheduler.settings.min_lr, scheduler.settings.max_lr))
        probe(scheduler, network, few, disturb, -num_steps)
    return num_steps


def probe(
    scheduler: AutoWU,
    network: nn.Module,
    few: tuple[Tensor, Tensor],
    disturb: Disturb | None = None,
    first_step: int = 0,
) -> float | None:
    """Let the sweep begin where a few images say that the loss falls; returns that LR."""
    steps = count(first_step)

    def take_step() -> Tensor:
        loss = F.cross_entropy(network(few[0]), few[1])
        if disturb is not None:
            loss = disturb(next(steps), loss)
        scheduler.optimizer.zero_grad()
        loss.backward()
        scheduler.optimizer.step()
        return loss

    return scheduler.probe(network, take_step)


def _search_peak(
    task: Task,
    network: nn.Module,
    scheduler: "schedules.LateOneCycle",
    recipe: Recipe,
    batch_size: int,
    seed: int,
) -> int:
    """Set the peak of a one-cycle by a range test of 100 steps; returns how many it took."""

    def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    num_steps = recipe.schedule_settings.get("num_steps", 100)
    batches = list(islice(task.batches(batch_size, seed), num_steps))
    result = lr_range_test(network, scheduler.optimizer, batches, loss_of, num_steps=num_steps)
    scheduler.set_peak(result.suggestion or 1e-3)
    return len(result.lrs)
