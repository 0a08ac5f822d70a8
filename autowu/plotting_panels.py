"""The panels of the figure of a run, each drawn into given axes.

Everything can be told apart in greyscale: by marker, line style and lightness, not by hue.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from autowu.loss_gp import smooth, spike_ceiling
from autowu.minimum_test import MinimumTest
from autowu.scheduler import AutoWU

MAX_POINTS = 3000  # more points than that only merge: they are thinned evenly
MAX_QUANTILE = 1_000_000  # losses that a quantile is taken of; torch refuses 16 million
MAX_MARKS = 60  # triangles or crosses side by side at the edge of a panel
FAINT, BAND, STRONG = "0.62", "0.85", "black"  # lightness of points, band and lines
MIN_GAP = 0.05  # of the panel's height, between a curve and losses that it leaves out
LATER = "0.82"  # lightness of losses that may have been recorded at other LRs
OTHER_LRS = "after the warmup, maybe at other LRs"  # label of those


def draw_losses(
    axes: Axes, steps: np.ndarray, losses: np.ndarray, end: float | None = None
) -> None:
    """The losses as faint points; a diverging end is cut off rather than flattening the rest.

    Losses above the panel become triangles at its upper edge, NaN and infinity crosses.

    Args:
        steps: (n,) optimizer steps done before each loss.
        losses: (n,).
        end: losses from this step on, the end of the warmup, may have been recorded at other LRs
            than the figure shows: they are fainter, and have no part in the range of the panel.
            None: there are none.
    """
    axes.set_ylabel("training loss")
    if end is not None:
        is_later = steps >= end
        later, later_losses = steps[is_later], losses[is_later]
        steps, losses = steps[~is_later], losses[~is_later]
    finite = np.isfinite(losses)
    if not finite.any():
        return
    low, high = loss_limits(losses[finite])
    positive = losses[finite][losses[finite] > 0]
    if len(positive) == finite.sum() and needs_log_scale(positive):
        axes.set_yscale("log")
        margin = (high / low) ** 0.04
        axes.set_ylim(low / margin, high * margin)
    else:
        margin = 0.04 * (high - low) or 0.1 * (abs(high) or 1.0)
        axes.set_ylim(low - margin, high + margin)
    inside, above = finite & (losses <= high), finite & (losses > high)
    points: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markersize": float(np.clip(75 / len(losses) ** 0.5, 1.5, 4.0)),
        "markeredgewidth": 0,
        "rasterized": len(losses) > 1000,
    }
    axes.plot(
        *_thinned(steps[inside], losses[inside]), color=FAINT, label="loss of a step", **points
    )
    if end is not None:
        is_shown = later_losses <= axes.get_ylim()[1]  # NaN is not
        if is_shown.any():
            axes.plot(
                *_thinned(later[is_shown], later_losses[is_shown]),
                color=LATER,
                label=OTHER_LRS,
                **points,
            )
    at_edge = axes.get_xaxis_transform()  # x in steps, y from 0 at the bottom to 1 at the top
    for selected, marker, label in ((above, "^", "above the panel"), (~finite, "x", "not finite")):
        if selected.any():
            marked = _spread(steps[selected], (steps[-1] - steps[0]) / MAX_MARKS)
            axes.plot(
                marked,
                np.full(len(marked), 0.98),
                linestyle="none",
                marker=marker,
                markersize=5,
                color="0.4",
                transform=at_edge,
                label=label,
            )


def draw_smoothed_loss(axes: Axes, scheduler: AutoWU) -> None:
    """The GP's mean over the warmup, and the band of two standard deviations around it.

    On a log axis the band is cut off at half of the lowest loss of the warmup, and the mean is left
    out where it is within two standard deviations of 0. Where losses count as less than they are,
    and it shows, a thin line is the most that they count as.
    """
    losses = scheduler.losses
    try:
        curve = smooth(losses, kernel=scheduler.kernel)
    except ValueError:  # there is nothing to smooth
        return
    steps = scheduler.first_step + (curve.x * len(losses)).numpy()
    mean, std = curve.mean.numpy(), curve.std.numpy()
    low, high = mean - 2 * std, mean + 2 * std
    positive = losses[losses > 0]
    if axes.get_yscale() == "log" and len(positive):  # what reaches 0 would fall out of the panel
        floor = 0.5 * float(positive.min())
        mean = np.where(low > 0, np.maximum(mean, floor), math.nan)
        low, high = (np.maximum(each, floor) for each in (low, high))
    axes.plot(steps, mean, color=STRONG, linewidth=1.4, label="GP mean, ±2 sd")
    finite = losses[losses.isfinite()]
    if _height(axes, curve.ceiling, float(finite.max())) > MIN_GAP:
        axes.plot(
            [scheduler.first_step, scheduler.first_step + len(losses)],
            [curve.ceiling] * 2,
            color="0.3",
            linestyle=(0, (1, 1.5)),
            linewidth=1.0,
            label=f"the GP takes higher losses for {curve.ceiling:.3g}",
        )
    # The band lies under the points and its edges over them, so that neither hides the other.
    axes.fill_between(steps, low, high, color=BAND, linewidth=0, zorder=1)
    for edge in (low, high):
        axes.plot(steps, edge, color="0.3", linewidth=0.6)


def draw_tests(axes: Axes, tests: Sequence[MinimumTest], confidence: float) -> None:
    """The probabilities of each test: filled markers for positive tests, hollow for negative."""
    axes.set_ylabel("P(fall\nis over)")
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([0.0, 0.5, 1.0])
    axes.axhline(
        confidence,
        color="0.3",
        linestyle=(0, (1, 1.5)),
        linewidth=1.2,
        label=f"confidence {confidence:g}",
    )
    size = 4.5 if len(tests) <= 60 else 3.5
    for positive, face, label in ((False, "white", "negative"), (True, STRONG, "positive")):
        points = [(t.step, p) for t in tests if t.positive == positive for p in t.probabilities]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                linestyle="none",
                marker="o",
                markersize=size,
                markeredgewidth=0.7,
                markerfacecolor=face,
                markeredgecolor=STRONG,
                label=f"{label} test",
            )
    # Above the panel: the tests may fill all of it.
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)


def _height(axes: Axes, low: float, high: float) -> float:
    """From `low` to `high`, as far as the panel reaches, as a fraction of its height."""
    place = axes.yaxis.get_transform().transform
    bottom, top = axes.get_ylim()
    ends = place(np.array([bottom, top, min(max(low, bottom), top), min(max(high, bottom), top)]))
    return float((ends[3] - ends[2]) / (ends[1] - ends[0]))


def draw_lr(
    axes: Axes, steps: np.ndarray, lrs: Sequence[float] | np.ndarray, lowest: float | None = None
) -> None:
    """The learning rate on a log axis; its fall to 0 leaves the panel at the bottom.

    Args:
        steps: (n,) optimizer steps done before each step.
        lrs: (n,).
        lowest: the axis begins there, or lower, at a hundredth of the peak, where LRs lie so low;
            if left out, at the lowest LR, but at most four decades below the peak.
    """
    axes.set_ylabel("learning rate")
    axes.set_yscale("log")
    lrs = np.asarray(lrs, dtype=float)
    positive = lrs[np.isfinite(lrs) & (lrs > 0)]
    if len(positive):
        peak = positive.max()
        if lowest is None:
            lowest = max(positive.min(), 1e-4 * peak)
        else:
            lowest = min(lowest, max(positive.min(), 1e-2 * peak))
        axes.set_ylim(lowest / 1.6, 2 * peak)
    axes.plot(steps, lrs, color=STRONG, linewidth=1.8)


def draw_switch(panels: Sequence[Axes], scheduler: AutoWU) -> list[Line2D]:
    """Mark the end of the warmup and the step of the sweep whose LR the decay starts from.

    Args:
        panels: all that share the steps; the last one shows the learning rate.

    Returns:
        A line for each mark, labelled with its step, epoch and LR, for a legend; of a run whose
        warmup goes on labels alone, and none of one that has not begun.
    """
    steps_per_epoch = scheduler.settings.steps_per_epoch
    if scheduler.switch_step is None or scheduler.start_lr is None:
        step, cap = scheduler.last_epoch, scheduler.warmup_steps
        place, lr = _place(step, steps_per_epoch), scheduler.lr_at(step)
        told = (
            f"the warmup goes on at {place}, LR {lr:.3g}",
            f"it ends at {_place(cap, steps_per_epoch)} at the latest",
        )
        return [Line2D([], [], linestyle="none", label=line) for line in told if step > 0]
    origin = scheduler.sweep_step(scheduler.start_lr)
    solid: dict[str, Any] = {"color": STRONG, "linestyle": "-", "linewidth": 1.0}
    dashed: dict[str, Any] = {"color": STRONG, "linestyle": (0, (4, 2.5)), "linewidth": 1.0}
    for axes in panels:
        axes.axvline(scheduler.switch_step, zorder=1.5, **solid)
        axes.axvline(origin, zorder=1.5, **dashed)
    panels[-1].plot(
        [origin, scheduler.switch_step],
        [scheduler.start_lr] * 2,
        color="0.4",
        linestyle=":",
        linewidth=1.2,
        marker="o",
        markevery=[0],
        markersize=6,
        markerfacecolor="white",
        markeredgecolor=STRONG,
        zorder=3,
    )
    reason = "" if scheduler.found_minimum else "no minimum is certain by the cap, "
    if scheduler.diverged:
        reason = "the run diverged, "
    reached = scheduler.lr_at(scheduler.switch_step - 1)
    return [
        Line2D(
            [],
            [],
            **solid,
            label=f"{reason}warmup ends at "
            f"{_place(scheduler.switch_step, steps_per_epoch)}, last LR {reached:.3g}",
        ),
        Line2D(
            [],
            [],
            **dashed,
            label="decay starts from LR "
            f"{scheduler.start_lr:.3g}, that of {_place(origin, steps_per_epoch)}",
        ),
    ]


def loss_limits(losses: np.ndarray) -> tuple[float, float]:
    """The range of losses worth showing: the bulk, the beginning, and some room around them.

    A run that diverges ends far above where it began. So the range reaches from the 2 % quantile
    to the 90 % one (at most the ceiling of the GP) or to where the run began, whichever is higher,
    and half of that beyond.

    Args:
        losses: (n,) finite, in the order of the steps.

    >>> loss_limits(np.array([2.0] * 50 + [1.0] * 49 + [1e6]))
    (1.0, 2.5)
    """
    beginning = losses[: max(5, len(losses) // 50)]
    bottom = float(np.quantile(losses, 0.02))
    some = losses[:: math.ceil(len(losses) / MAX_QUANTILE)]
    ceiling = spike_ceiling(torch.from_numpy(some), torch.from_numpy(beginning))
    top = max(min(float(np.quantile(losses, 0.9)), ceiling), float(np.quantile(beginning, 0.9)))
    room = 0.5 * (top - bottom)
    return max(float(losses.min()), bottom - room), min(float(losses.max()), top + room)


def needs_log_scale(losses: np.ndarray) -> bool:
    """Whether positive losses spread over so many decades that a linear axis hides most."""
    low, middle, high = np.quantile(losses, [0.05, 0.5, 0.95])
    return bool(high / low > 100 and high / middle > 30)


def draw_legend(axes: Axes) -> None:
    """A legend where the panel has room, with points large enough to see."""
    if not axes.get_legend_handles_labels()[0]:
        return
    legend = axes.legend(loc="best")
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D) and handle.get_marker() == "o":
            handle.set_markersize(max(4.5, handle.get_markersize()))


def _thinned(*arrays: np.ndarray) -> list[np.ndarray]:
    every = max(1, math.ceil(len(arrays[0]) / MAX_POINTS))
    return [array[::every] for array in arrays]


def _spread(steps: np.ndarray, distance: float) -> np.ndarray:
    """The steps that are at least `distance` apart, from the first on."""
    kept = [steps[0]]
    for step in steps:
        if step - kept[-1] >= distance:
            kept.append(step)
    return np.array(kept)


def _place(step: float, steps_per_epoch: int | None) -> str:
    if not steps_per_epoch:
        return f"step {step:,.0f}"
    epoch = step / steps_per_epoch
    return f"step {step:,.0f} (epoch {epoch:.{1 if epoch >= 10 else 2}f})"
