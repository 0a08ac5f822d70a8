"""The scheduler over a recorded loss curve: no model, no training."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from autowu.scheduler import AutoWU


def replay(
    losses: Iterable[float] | Tensor,
    total_steps: int,
    steps_per_epoch: int | None = None,
    *,
    first_lr: float | None = None,
    **settings: Any,
) -> AutoWU:
    """Run AutoWU over recorded losses: when, and at which LR, would the warmup have ended?

    The answer means something when the LR behind the losses grew as the sweep does. Recorded
    losses cannot answer to a sweep that changes its pace, so it is a fixed one here, unless
    `sweep="adaptive"` or `first_lr` says that they come from a run with such a sweep.

    Args:
        losses: (n,), one for each optimizer step from the first on, floats or integers, NaN and
            infinity allowed; those after `total_steps` are ignored. With fewer than `total_steps`
            the scheduler is left where they end.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of an epoch.
        first_lr: where a probe let the sweep of that run begin, the LR of its first step; None:
            there was no probe.
        settings: keywords of `AutoWU`; `**autowu.settings.PAPER` for the published behaviour.

    Returns:
        The scheduler, with `phase`, `switch_step`, `start_lr`, `tests`, `losses`.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range; a loss that is no
            number; `first_lr` with a fixed sweep.

    >>> import math
    >>> curve = [2.0 + abs(math.log10(10 ** (-5 + t / 40)) + 2) for t in range(200)]
    >>> scheduler = replay(curve, total_steps=400)  # lowest at step 120, LR 1e-2
    >>> scheduler.switch_step, round(scheduler.start_lr, 3)
    (132, 0.01)
    """
    values = losses.detach().cpu().flatten().tolist() if isinstance(losses, Tensor) else losses
    parameter = torch.zeros(1, requires_grad=True, device="cpu")
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    sweep = {"sweep": "fixed" if first_lr is None else "adaptive"}
    scheduler = AutoWU(optimizer, total_steps, steps_per_epoch, **(sweep | settings))
    if first_lr is not None:
        scheduler.begin_at(first_lr)
    optimizer.step()
    for index, loss in enumerate(values):
        if index >= total_steps:
            break
        try:
            number = float(loss)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"losses[{index}] must be a number, got {loss!r}") from None
        scheduler.step(number)
    return scheduler
