"""The rise to the peak that may stand before any curve."""

from typing import Literal

from autowu.curves.smooth import exponential, linear

Warmup = Literal["linear", "exponential"]


def warmup(
    step: float,
    num_steps: float,
    end_lr: float,
    shape: Warmup = "linear",
    start_ratio: float | None = None,
) -> float:
    """Rise to `end_lr`, linearly (Goyal et al. 2017, arXiv:1706.02677) or by a factor a step.

    `lr(t) = start + (end_lr - start) * t / num_steps`, or
    `lr(t) = start * (end_lr / start) ** (t / num_steps)`, where `start = start_ratio * end_lr`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps to `end_lr`, which the step after the warmup has; 0 gives it at once.
        end_lr: learning rate where the warmup ends.
        shape: "linear" or "exponential".
        start_ratio: LR at step 0 over `end_lr`. None: `1 / (num_steps + 1)` for the linear one,
            so that the first step is not lost to an LR of 0; 0.01 for the exponential one.

    >>> [warmup(t, 3, 1.0) for t in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    >>> [warmup(t, 2, 1.0, start_ratio=0.5) for t in range(3)]
    [0.5, 0.75, 1.0]
    >>> [round(warmup(t, 2, 1.0, "exponential"), 6) for t in range(3)]
    [0.01, 0.1, 1.0]
    """
    if shape == "exponential":
        ratio = 0.01 if start_ratio is None else start_ratio
        return exponential(step, num_steps, ratio * end_lr, end_lr)
    if start_ratio is None:
        return linear(max(step, 0.0) + 1, num_steps + 1, 0.0, end_lr)
    return linear(step, num_steps, start_ratio * end_lr, end_lr)
