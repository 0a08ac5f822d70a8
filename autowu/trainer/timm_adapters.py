"""Optimizers of timm that need a little to be like the rest: each says what and why."""

from typing import Any

import timm.optim
import torch
from torch.optim import Optimizer

from autowu.optimizer_wrapper import OptimizerWrapper


class Lookahead(OptimizerWrapper, timm.optim.Lookahead):
    """Every `k` steps the weights go `alpha` of the way from where they were `k` steps before.

    The first time is after `2 k` steps: timm takes the slow weights at step `k`.

    Zhang et al. 2019, "Lookahead Optimizer: k steps forward, 1 step back", arXiv:1907.08610.

    timm's leaves out what torch sets up for hooks, so that those on its steps are never called,
    and those on its state_dict cannot be registered. State, groups and checkpoints are timm's:
    the slow weights lie in the state of the base optimizer.

    Args:
        base_optimizer: any optimizer.
        alpha: of the slow weights' step; 0.5 (paper).
        k: steps between two of them; 6 (timm; the paper has 5 and 10).
    """

    def __init__(self, base_optimizer: Optimizer, alpha: float = 0.5, k: int = 6) -> None:
        if not isinstance(base_optimizer, Optimizer):
            kind = type(base_optimizer).__name__
            raise TypeError(f"base_optimizer must be a torch Optimizer, got {kind}")
        super().__init__(base_optimizer, alpha, k)
        self.__setstate__({})  # the hooks

    @property
    def base_optimizer(self) -> Optimizer:  # type: ignore[override]  # timm's is the private one
        return self._base_optimizer

    def __getstate__(self) -> dict[str, Any]:
        return {"_base_optimizer": self._base_optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_base_optimizer" in state:  # a copy: what is shared with the base stays shared
            base = state["_base_optimizer"]
            state = state | {
                "param_groups": base.param_groups,
                "defaults": base.defaults,
                "state": {},
            }
        super().__setstate__(state)


class Adahessian(timm.optim.Adahessian):
    """Saves the generator of its random vectors, without which a resumed run draws others."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if "generator" in state_dict:
            device = self.param_groups[0]["params"][0].device
            self.generator = torch.Generator(device)
            self.generator.set_state(state_dict["generator"].cpu())
