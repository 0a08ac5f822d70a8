"""Curves that are constant but for a few drops."""

import math
from bisect import bisect_right
from collections.abc import Sequence

# A drop that lies on a whole step must be met there, whatever `0.07 * 100` comes to.
_ROUNDING = 1.0 + 1e-12


def step_decay(
    step: float,
    num_steps: float,
    start_lr: float,
    step_size: float | None = None,
    gamma: float = 0.1,
) -> float:
    """Multiply by `gamma` every `step_size` steps: PyTorch's StepLR.

    `lr(t) = start_lr * gamma ** floor(t / step_size)`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: after this step nothing drops any more.
        start_lr: learning rate at step 0.
        step_size: steps between two drops, real, positive; None: a third of `num_steps`, as in
            the 30, 60, 90 epochs of He et al. 2016, arXiv:1512.03385 (the last drop is then at
            `num_steps`, after the last step that trains).
        gamma: factor of a drop, at least 0.

    >>> [round(step_decay(t, 7, 1.0, step_size=2), 6) for t in range(9)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001]
    >>> [round(step_decay(t, 6, 1.0), 6) for t in range(6)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    done = min(max(step, 0.0), num_steps)
    if step_size is None:
        step_size = num_steps / 3
    return start_lr * gamma ** math.floor(done / step_size * _ROUNDING) if done else start_lr


def multistep(
    step: float,
    num_steps: float,
    start_lr: float,
    milestones: Sequence[float] | None = None,
    gamma: float = 0.1,
    factors: Sequence[float] | None = None,
) -> float:
    """Multiply by `gamma` at each milestone (PyTorch's MultiStepLR), or by factors of their own.

    `lr(t) = start_lr * gamma ** k`, or `start_lr * factors[k - 1]`, after `k` milestones

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: after this step nothing drops any more.
        start_lr: learning rate at step 0.
        milestones: steps at which the LR drops, ascending; the step itself has the new LR. None:
            after half and three quarters of `num_steps`, as on CIFAR-10 by He et al. 2016,
            arXiv:1512.03385.
        gamma: factor of a drop, at least 0; plays no part beside `factors`.
        factors: LR after each milestone over `start_lr`, one for each.

    >>> [round(multistep(t, 8, 1.0, milestones=(2, 5)), 6) for t in range(9)]
    [1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]
    >>> [multistep(t, 8, 2.0, (2, 5), factors=(0.5, 0.125)) for t in (1, 2, 5)]
    [2.0, 1.0, 0.25]
    """
    if milestones is None:
        milestones = (num_steps / 2, num_steps * 3 / 4)
    passed = bisect_right(milestones, min(max(step, 0.0), num_steps) * _ROUNDING)
    if factors is None:
        return start_lr * gamma**passed
    return start_lr * factors[passed - 1] if passed else start_lr
