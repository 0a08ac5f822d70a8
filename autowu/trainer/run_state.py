"""All that changes while a run goes on, gathered from and given back to every rank."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autowu import AutoWU, Phase
from autowu.random_state import get_random_state, set_random_state
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import WAY_OUT, CheckpointError
from autowu.trainer.guard import DivergenceGuard
from autowu.trainer.progress import Progress
from autowu.trainer.schedules import Schedule

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3


@dataclass
class RunState:
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Schedule
    scaler: torch.amp.GradScaler
    guard: DivergenceGuard
    progress: Progress
    average: "ModelEmaV3 | None" = None  # moving average of the weights
    # The weights that the last evaluation saw, on the CPU, where training goes on from others.
    evaluated: dict[str, Any] | None = None

    @property
    def is_sweeping(self) -> bool:
        """Whether AutoWU still looks for the LR, and deals with losses that are not finite."""
        return isinstance(self.scheduler, AutoWU) and self.scheduler.phase is Phase.WARMUP

    @property
    def lr(self) -> float:
        """The LR of the next step: AutoWU's own, which groups multiply; else the first group's."""
        if isinstance(self.scheduler, AutoWU):
            return self.scheduler.lr_at(self.scheduler.last_epoch)
        return float(self.scheduler.get_last_lr()[0])

    @property
    def model(self) -> dict[str, Any]:
        """The weights that whoever loads them wants: those that were evaluated, if others train."""
        return self.network.state_dict() if self.evaluated is None else self.evaluated

    def update_average(self, step: int, restart: bool, skipped: bool) -> None:
        """Let the average follow the weights, or start it again from weights that came back.

        Its decay grows to what was asked for as `1 - (1 + step) ** (-2 / 3)`, timm's warmup, so
        that a short run does not end with the weights that it began with.
        """
        if self.average is None or (skipped and not restart):
            return
        if restart:
            self.average.set(self.network)
        else:
            self.average.update(self.network, step)

    def gather(self, ranks: Ranks) -> dict[str, Any]:
        """The whole state, of plain values and tensors; complete on the first rank alone.

        Weights and moments are the same on all ranks. What differs is gathered: the random states,
        and the losses that the scheduler has not averaged over the ranks yet.
        """
        own = {
            "scheduler": self.scheduler.state_dict(),
            "random_state": get_random_state(ranks.device),
        }
        return {
            "progress": asdict(self.progress),
            "model": self.model,
            "training_model": None if self.evaluated is None else self.network.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": own["scheduler"],
            "scaler": self.scaler.state_dict(),
            "guard": self.guard.state_dict(),
            "ranks": ranks.gather(own),
        }

    def restore(self, path: Path, saved: dict[str, Any], ranks: Ranks) -> None:
        """Put a gathered state back.

        With another number of ranks than it was gathered from, every rank takes the scheduler of
        the first, and random numbers of its own: the run goes on, but not bit for bit.

        Raises:
            CheckpointError: naming `path`, for a state that does not fit.
        """
        same_ranks = len(saved["ranks"]) == ranks.world_size
        own = saved["ranks"][ranks.rank if same_ranks else 0]
        try:
            trained = saved.get("training_model")  # those of earlier versions have none
            self.network.load_state_dict(saved["model"] if trained is None else trained)
            self.evaluated = None if trained is None else saved["model"]
            if self.average is not None:
                self.average.module.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.guard.load_state_dict(saved["guard"])
            self.scheduler.load_state_dict(own["scheduler"])  # writes its LR into the optimizer
            self.progress = Progress.from_dict(saved["progress"])
            if same_ranks:
                set_random_state(own["random_state"], ranks.device)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"{path}: does not fit the network or the optimizer of this version ({reason});"
                f" {WAY_OUT}"
            ) from error
