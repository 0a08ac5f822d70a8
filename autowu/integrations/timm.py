"""AutoWU as a scheduler of timm, for timm's own train script and loops like it.

In `train.py` replace the call of `create_scheduler_v2` by

    lr_scheduler = AutoWUScheduler(
        optimizer, args.epochs, len(loader_train) / args.grad_accum_steps
    )
    num_epochs = args.epochs

`examples/timm_script.py` has the lines that save and load its state, which timm does not.
"""

import math
from numbers import Real
from typing import Any

from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from autowu.integrations.checks import check_keywords
from autowu.scheduler import AutoWU, Phase
from autowu.settings import check_integer

LENGTHS = ("total_steps", "steps_per_epoch")


class AutoWUScheduler(Scheduler):
    """Sets the LR at every update from the running mean of the epoch's loss that timm hands over.

    After `k` updates timm's `metric` is the mean over the batches of the epoch so far, so that
    with `n_k = min(k, updates_per_epoch)` windows behind it

        loss_k = (n_k * metric_k - n_(k-1) * metric_(k-1)) / (n_k - n_(k-1)).

    So the script must update its mean at every batch. Older copies of timm's do so without DDP
    alone (`if not args.distributed:` before `losses_m.update`): take that line out.
    A loss that is not finite makes timm's mean so for the rest of the epoch, and a whole interval
    between two tests without a finite loss counts as a divergence. A group with an `lr_scale` gets
    it times the LR, as from timm's own schedulers.

    Args:
        optimizer: any torch optimizer.
        num_epochs: of the whole run.
        updates_per_epoch: batches of an epoch over `grad_accum_steps`; with a fraction when the
            last window of an epoch is shorter than the others.
        **settings: other keywords of `AutoWU`.

    Attributes:
        scheduler: the `AutoWU`.

    Raises:
        TypeError, ValueError: a wrong number of epochs or updates, or setting of `AutoWU`.
    """

    def __init__(
        self, optimizer: Optimizer, num_epochs: int, updates_per_epoch: float, **settings: Any
    ) -> None:
        num_epochs = check_integer("num_epochs", num_epochs, 1)
        windows: Any = updates_per_epoch  # a number of NumPy's is fine
        is_number = isinstance(windows, Real)
        if not is_number or not 0 < windows < math.inf:
            raise ValueError(
                "updates_per_epoch must be a number above 0, len(loader_train) / "
                f"args.grad_accum_steps, got {windows!r}"
            )
        instead = {name: "it is made of num_epochs and updates_per_epoch" for name in LENGTHS}
        check_keywords("AutoWUScheduler", settings, instead)
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self._windows = updates_per_epoch
        self._updates = math.ceil(updates_per_epoch)
        self._mean = 0.0  # of the epoch up to the last update
        self.scheduler = AutoWU(optimizer, num_epochs * self._updates, self._updates, **settings)

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Only checks, when timm tells at which epoch a run resumes; the LR is set by updates."""
        if metric is None:
            self._check_position(epoch * self._updates)

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """One update further.

        Args:
            num_updates: done in the whole run.
            metric: mean training loss of the epoch so far, on this rank; None when timm tells
                at which update a run resumes.

        Raises:
            ValueError: no metric, or the first call, and the scheduler stands at another update.
        """
        if metric is None:
            self._check_position(num_updates)
            return
        if not self.scheduler.last_epoch:
            self._check_position(num_updates - 1)
        k = (num_updates - 1) % self._updates + 1  # updates of this epoch
        if self.scheduler.phase is Phase.WARMUP:
            now, before = min(k, self._windows), k - 1
            total_before = before * self._mean if before else 0.0  # it may be NaN
            self.scheduler.observe((now * metric - total_before) / (now - before))
        self._mean = metric
        self.scheduler.step()
        if k == self._updates:  # timm's rank 0 saves next, for all of them
            self.scheduler.synchronize()

    def state_dict(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler.state_dict(), "mean": self._mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict["scheduler"])
        self._mean = state_dict["mean"]

    def _get_lr(self, t: int) -> list[float]:
        """What the base class would multiply by each group's `lr_scale`."""
        return [self.scheduler.lr_at(t)] * len(self.optimizer.param_groups)

    def _check_position(self, num_updates: int) -> None:
        position = self.scheduler.last_epoch
        if num_updates != position:
            raise ValueError(
                f"timm is at update {num_updates} and AutoWUScheduler at update {position}: when a "
                "run resumes, load the state_dict that was saved with its checkpoint "
                "(examples/timm_script.py); in training call step_update(num_updates, "
                "metric=mean training loss of the epoch so far)"
            )
