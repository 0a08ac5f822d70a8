"""Reduce the learning rate when the training loss stops falling: PyTorch's ReduceLROnPlateau."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from autowu.trainer.phased_curve import PhasedCurve


class PlateauSchedule(PhasedCurve):
    """Multiplies the LR by `factor` after more than `patience` epochs without an improvement.

    An epoch's mean training loss improves when it is below `best * (1 - threshold)`. After a drop
    `cooldown` epochs are not counted. With the number of drops so far,

    `lr = max(initial_lr * warmup(t) * factor ** drops, min_lr)`

    so that nothing is multiplied up. Epochs that end in the warmup are not looked at. A group whose
    LR is below `min_lr` from the start keeps it.

    Args:
        optimizer: its LRs times `peak` are those at the start.
        warmup: the curve of the rise to `peak`, and `peak` after it.
        warmup_steps: optimizer steps of the rise.
        peak: what the base LRs are multiplied with after the warmup.
        factor: of a drop, in [0, 1); 0.1 (PyTorch).
        patience: epochs without an improvement that change nothing; 10 (PyTorch).
        threshold: fraction of the best loss that an improvement must exceed; 1e-4 (PyTorch).
        cooldown: epochs after a drop that are not counted; 0 (PyTorch).
        min_lr: what no drop goes below, in every group; 0 (PyTorch).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: Callable[[int], float],
        *,
        warmup_steps: int = 0,
        peak: float = 1.0,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.factor, self.patience, self.threshold = factor, patience, threshold
        self.cooldown, self.min_lr = cooldown, min_lr
        self.best = math.inf
        self.num_drops = 0
        self.num_bad_epochs = 0
        self.cooldown_left = 0  # epochs
        super().__init__(optimizer, warmup, warmup_steps=warmup_steps, peak=peak)

    def get_lr(self) -> list[float | Tensor]:
        lrs = super().get_lr()
        if not self.num_drops:
            return lrs
        return [min(lr, max(lr * self.factor**self.num_drops, self.min_lr)) for lr in lrs]

    def end_epoch(self, train_loss: float) -> None:
        """Judge the epoch that has just ended, and drop the LR if it is time.

        Args:
            train_loss: mean training loss of the epoch, the same on every rank. One that is not a
                number is no improvement.
        """
        if self.last_epoch <= self.warmup_steps and self.warmup_steps:
            return
        if train_loss < self.best * (1.0 - self.threshold):
            self.best = train_loss
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.num_drops += 1
            self.cooldown_left = self.cooldown
            self.num_bad_epochs = 0
            self._write_lrs()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "best": self.best,
            "num_drops": self.num_drops,
            "num_bad_epochs": self.num_bad_epochs,
            "cooldown_left": self.cooldown_left,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._check_state(state_dict)
        self.best = state_dict["best"]
        self.num_drops = state_dict["num_drops"]
        self.num_bad_epochs = state_dict["num_bad_epochs"]
        self.cooldown_left = state_dict["cooldown_left"]
        super().load_state_dict(state_dict)
