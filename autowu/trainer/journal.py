"""The steps as they are written down: every so often, and for all ranks together.

Losses stay on the device until then. One look costs one all-reduce, which also tells whether a
rank was asked to stop, and one wait for the device.
"""

import math
import time

import torch
from torch import Tensor

from autowu.trainer.data import ImageData
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import TrainingDiverged
from autowu.trainer.progress import Progress
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.schedules import Schedule
from autowu.trainer.signals import Pace, StopSignals


class Journal:
    """Takes down the LR and the loss of each step and writes them to steps.csv.

    Args:
        run: where the first rank writes.
        ranks: those that share the losses.
        progress: is kept up to date.
        stop: the signals of this rank.
        every: steps between two looks; several ranks look more often where steps take seconds.
    """

    def __init__(
        self, run: RunDirectory, ranks: Ranks, progress: Progress, stop: StopSignals, every: int
    ) -> None:
        self.run = run
        self.ranks = ranks
        self.progress = progress
        self.stop = stop
        self.every = every
        self._pace = Pace(every)
        self._step_seconds = 0.0  # before the last look; 0: not known yet
        self._lrs: list[float] = []
        self._losses: list[Tensor] = []
        self._matters: list[bool] = []
        self._looked_at = time.perf_counter()
        self._waited = 0.0

    def start_epoch(self, images: ImageData) -> None:
        self._looked_at = time.perf_counter()
        self._waited = images.wait_seconds

    def record(self, lr: float, loss: Tensor, must_be_finite: bool) -> None:
        """Take down a step.

        Args:
            lr: that it used.
            loss: of this rank, before the step.
            must_be_finite: False where AutoWU, or the scaler of fp16, deals with one that is not.
        """
        self._lrs.append(lr)
        self._losses.append(loss)
        self._matters.append(must_be_finite)

    @property
    def num_unseen(self) -> int:
        """Steps since the last look."""
        return len(self._lrs)

    @property
    def is_due(self) -> bool:
        """Whether all ranks look now; a rank that is alone also does when it shall stop."""
        if (self.progress.step + self.num_unseen) % self.every == 0:
            return True
        if self.ranks.world_size == 1:
            return self.stop.received is not None
        return self.num_unseen >= self._pace.steps

    def look(self, images: ImageData, scheduler: Schedule) -> bool:
        """Average the losses over the ranks and write them down; True when the run shall stop.

        Raises:
            TrainingDiverged: a loss that must be finite is not.
        """
        progress = self.progress
        told = [float(self.stop.received is not None), self._step_seconds]
        values = [*self._losses, *torch.tensor(told, device=self.ranks.device)]
        # In float64 the order of the ranks, which depends on the number of values, is no matter.
        *losses, num_stopped, step_seconds = (
            self.ranks.sum(torch.stack(values).double()) / self.ranks.world_size
        ).tolist()
        if step_seconds:
            self._pace.took(step_seconds)
        now = time.perf_counter()
        elapsed = now - self._looked_at
        progress.epoch_seconds += elapsed
        progress.train_seconds += elapsed
        progress.seconds += elapsed
        progress.epoch_wait_seconds += images.wait_seconds - self._waited
        self._looked_at, self._waited = now, images.wait_seconds

        first_step = progress.step
        if self._lrs:
            self._step_seconds = elapsed / len(self._lrs)
            if self.ranks.is_main:
                self.run.append_steps(first_step, self._lrs, losses)
            progress.step += len(losses)
            progress.epoch_losses += losses
            progress.last_lr = self._lrs[-1]
        matters = self._matters
        self._lrs, self._losses, self._matters = [], [], []
        check_finite(losses, matters, first_step, scheduler, self.run)
        return num_stopped > 0


def check_finite(
    losses: list[float],
    matters: list[bool],
    first_step: int,
    scheduler: Schedule,
    run: RunDirectory,
) -> None:
    """Raise TrainingDiverged for a loss that is not finite and that nobody deals with.

    Args:
        losses: of consecutive steps.
        matters: which of them must be finite.
        first_step: steps done before the first of them.
        scheduler, run: for the message.
    """
    for step, (loss, must_be_finite) in enumerate(zip(losses, matters, strict=True), first_step):
        if must_be_finite and not math.isfinite(loss):
            begin, lr = scheduler.switch_step, scheduler.start_lr
            where = "in the warmup"
            if begin is not None and step >= begin:  # the warmup may have ended since
                where = f"in the decay that began at step {begin}"
                where += "" if lr is None else f" with LR {lr:.3g}"
            raise TrainingDiverged(
                f"the training loss became {loss:g} at step {step}, {where}; {run.last_save('it')}"
            )
