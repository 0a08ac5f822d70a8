"""Learning rates that the curve of a range test suggests, as pure functions of the curve.

The range test is that of Smith 2015, arXiv:1506.01186 (section 3.3): let the LR grow through a
short run, and look where the loss begins to fall and where it stops. The paper reads these places
off the plot by eye. Smoothing by a moving average, the place of the steepest descent and a point
within the longest descent are what libraries have made of it since: common practice, not a result
of the paper.
"""

from collections.abc import Sequence

import numpy as np

MIN_POINTS = 5  # ours: of fewer, a slope says nothing


def moving_average(losses: Sequence[float], beta: float) -> list[float]:
    """Exponential moving average, without the bias towards its start at 0.

    `a_t = beta * a_(t-1) + (1 - beta) * loss_t` with `a_0 = 0`, and `average_t = a_t /
    (1 - beta**t)`, `t` counting from 1. It trails the losses by about `beta / (1 - beta)` steps.

    Args:
        losses: (n,); from one that is not finite on, neither is the average.
        beta: weight of the past, in [0, 1); 0 leaves the losses as they are.

    Returns:
        (n,).

    >>> moving_average([4.0, 2.0, 2.0], 0.5)
    [4.0, 2.6666666666666665, 2.2857142857142856]
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = beta * average + (1 - beta) * loss
        smoothed.append(average / (1 - beta**count))
    return smoothed


def steepest(
    lrs: Sequence[float],
    smoothed: Sequence[float],
    *,
    cut_start: float = 0.1,
    cut_end: float = 0.05,
) -> float | None:
    """The LR at which the loss falls fastest over log LR: `argmin d smoothed / d log(lr)`.

    Args:
        lrs: (n,) positive, growing.
        smoothed: (n,) losses.
        cut_start: share of the points left out at the start; ours, because an average over the
            first few losses is as noisy as they are.
        cut_end: share left out at the end; ours, because a slope at the edge has one neighbour.

    Returns:
        One of `lrs`, never above that of the lowest loss; None for fewer than 5 points, values that
        are not finite, or a loss that falls nowhere.

    >>> steepest([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 2.0, 1.9, 1.0, 0.8, 3.0])
    0.01
    """
    if not _is_usable(lrs, smoothed):
        return None
    num_points = len(lrs)
    first = max(1, round(cut_start * num_points))
    last = min(num_points - max(1, round(cut_end * num_points)), int(np.argmin(smoothed)) + 1)
    if first >= last:
        return None
    slopes = np.gradient(np.asarray(smoothed, float), np.log(lrs))[first:last]
    index = int(np.argmin(slopes))
    return float(lrs[first + index]) if slopes[index] < 0 else None


def valley(
    lrs: Sequence[float], smoothed: Sequence[float], *, fraction: float = 2 / 3
) -> float | None:
    """An LR within the longest stretch, in log LR, over which the loss falls from step to step.

    `lr = start ** (1 - fraction) * end ** fraction`, where the stretch reaches from `start` to
    `end`: far enough along it for the LR to matter, with room before the loss turns.

    Args:
        lrs: (n,) positive, growing.
        smoothed: (n,) losses; looked at up to the lowest one.
        fraction: how far along the stretch, 0 to 1.

    Returns:
        An LR, never above that of the lowest loss; None for fewer than 5 points, values that are
        not finite, or a loss that falls nowhere.

    >>> round(valley([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 2.0, 1.9, 1.0, 0.9, 3.0]), 6)
    0.01
    """
    if not _is_usable(lrs, smoothed):
        return None
    logs = np.log(lrs)
    falls = np.diff(np.asarray(smoothed, float)[: int(np.argmin(smoothed)) + 1]) < 0
    best: tuple[float, int, int] | None = None  # length, first and last point
    start = 0
    for step, fall in enumerate(falls):
        if not fall:
            start = step + 1
            continue
        length = float(logs[step + 1] - logs[start])
        if best is None or length > best[0]:
            best = (length, start, step + 1)
    if best is None:
        return None
    return float(np.exp((1 - fraction) * logs[best[1]] + fraction * logs[best[2]]))


def _is_usable(lrs: Sequence[float], smoothed: Sequence[float]) -> bool:
    if len(lrs) != len(smoothed):
        raise ValueError(f"got {len(lrs)} learning rates for {len(smoothed)} losses")
    return len(lrs) >= MIN_POINTS and bool(np.isfinite(lrs).all() and np.isfinite(smoothed).all())
