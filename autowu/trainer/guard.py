"""Divergence guard: a run whose sweep diverged goes on from weights that still worked.

AutoWU notices a divergence at a test, when the newest losses are not finite any more, and knows
the LR to decay from; the weights are beyond repair by then. So at every test a snapshot of the
network and the optimizer is put aside in host memory, and the last good one comes back. The same
when the warmup ends otherwise, and the weights or the last loss are not finite.
"""

from typing import Any

import torch
from torch import Tensor, nn

from autowu import AutoWU, Phase
from autowu.trainer.schedules import Schedule

Snapshot = dict[str, Any]  # step: int; network, optimizer, scaler: state dicts in host memory


class DivergenceGuard:
    """Keeps two snapshots while AutoWU sweeps: one that is good, and a newer one on trial.

    A snapshot on trial becomes the good one at the next test if the losses since then are finite
    and, on average, not above the first losses of the run; so weights that are lost already, while
    their loss is still a number, do not pass. The good one at the beginning is the untrained
    network. Schedules other than AutoWU never report a divergence, and nothing is kept for them.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        scheduler: Schedule,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.scaler = scaler
        self.scheduler = scheduler
        self.restored_step: int | None = None  # optimizer steps done at the snapshot that came back
        self._is_over = not isinstance(scheduler, AutoWU)
        self._num_tests = 0
        self._good = None if self._is_over else self._take(0)
        self._trial = self._good

    def after_step(self) -> bool:
        """Look at the scheduler after its step; True when a snapshot was put back."""
        if self._is_over:
            return False
        scheduler = self.scheduler
        assert isinstance(scheduler, AutoWU)
        if scheduler.phase is Phase.DECAY:
            # With at_cap="current" the decay starts from the very LR that the weights were lost at.
            at_cap = scheduler.switch_step == scheduler.warmup_steps
            keeps_lr = at_cap and scheduler.settings.at_cap == "current" and not scheduler.diverged
            lost = scheduler.diverged or (not keeps_lr and self._is_lost())
            restored = self._good if lost else None
            self._is_over, self._good, self._trial = True, None, None
            if restored is None:
                return False
            self._put_back(restored)
            return True
        tests = scheduler.tests
        if len(tests) > self._num_tests:
            self._num_tests = len(tests)
            self._judge(scheduler.losses, tests[0].step)
            self._trial = self._take(scheduler.last_epoch)
        return False

    def _is_lost(self) -> bool:
        """Whether the warmup ended well by its losses, but the weights are gone all the same.

        AutoWU speaks of a divergence when no loss since the last test is finite; the weights may
        have been lost between that test and this one. Looked at once in a run.
        """
        assert isinstance(self.scheduler, AutoWU)
        return not (bool(self.scheduler.losses[-1].isfinite()) and is_finite(self.network))

    def state_dict(self) -> dict[str, Any]:
        return {
            "restored_step": self.restored_step,
            "is_over": self._is_over,
            "num_tests": self._num_tests,
            "good": self._good,
            "trial": self._trial,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restored_step = state["restored_step"]
        self._is_over = state["is_over"]
        self._num_tests = state["num_tests"]
        self._good, self._trial = state["good"], state["trial"]

    def _judge(self, losses: Tensor, first_test: int) -> None:
        """Let the snapshot on trial pass if the losses since then allow it."""
        assert self._trial is not None
        since = losses[self._trial["step"] :]
        first = losses[:first_test]
        highest = first[first.isfinite()].max() if first.isfinite().any() else torch.inf
        weights = self._trial["network"].values()
        if (
            since.isfinite().all()
            and since.mean() <= highest
            # Running statistics can be lost while the losses, which never read them, go on.
            and all(bool(weight.isfinite().all()) for weight in weights)
        ):
            self._good = self._trial

    def _take(self, step: int) -> Snapshot:
        return {
            "step": step,
            "network": to_host(self.network.state_dict()),
            "optimizer": to_host(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
        }

    def _put_back(self, snapshot: Snapshot) -> None:
        schedule = self.scheduler.state_dict()
        self.network.load_state_dict(snapshot["network"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        self.scaler.load_state_dict(snapshot["scaler"])
        # The optimizer's state brought the LR of that time back; loading a state writes the LR.
        self.scheduler.load_state_dict(schedule)
        self.restored_step = snapshot["step"]


def is_finite(network: nn.Module) -> bool:
    """Whether all parameters and buffers are; one wait for the device."""
    tensors = [*network.parameters(), *network.buffers()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def to_host(state: Any) -> Any:
    """A copy of nested dicts, lists and tensors in host memory, sharing nothing with them."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: to_host(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(to_host(value) for value in state)
    return state
