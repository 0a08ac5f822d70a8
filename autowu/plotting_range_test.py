"""The figure of an LR range test: the loss against the learning rate, and what it suggests."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from autowu.plotting_panels import FAINT, STRONG

if TYPE_CHECKING:
    from autowu.trainer.range_test import RangeTest

WIDTH, HEIGHT = 7.5, 4.2  # inches


def plot_range_test(result: "RangeTest", path: str | Path) -> Path:
    """Draw a range test.

    Args:
        result: with any number of steps, also none.
        path: of the image; the suffix chooses the format (png, svg, pdf; none: png).

    Returns:
        Where the image is.

    Raises:
        ValueError: matplotlib does not know the format.
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    save_range_test(result, path)
    return path


def save_range_test(result: "RangeTest", target: Path | BinaryIO) -> None:
    """The same into a path, or as PNG into an open file."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        draw_range_test(axes, result)
        own_format: dict[str, Any] = {} if isinstance(target, Path) else {"format": "png"}
        figure.savefig(target, dpi=150, **own_format)


def draw_range_test(axes: Axes, result: "RangeTest") -> None:
    """Losses as faint points, their average as a line, and a marker for each suggestion on it."""
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    if not result.lrs:
        axes.set_title("the first loss was not finite")
        return
    lrs, losses, smoothed = map(np.asarray, (result.lrs, result.losses, result.smoothed))
    low, high = _limits(losses, smoothed)
    axes.set_ylim(low, high)
    inside = losses <= high
    points: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0, "color": FAINT}
    axes.plot(
        lrs[inside], losses[inside], marker="o", markersize=3.5, label="loss of a step", **points
    )
    if not inside.all():
        axes.plot(
            lrs[~inside],
            np.full(int((~inside).sum()), 0.98),
            linestyle="none",
            marker="^",
            markersize=5,
            color="0.4",
            transform=axes.get_xaxis_transform(),
            label="above the panel",
        )
    axes.plot(lrs, smoothed, color=STRONG, linewidth=1.6, label="smoothed")
    suggestions = (
        ("steepest descent", result.steepest, (0, (4, 2.5)), "s"),
        ("valley", result.valley, "-", "o"),
    )
    for name, lr, style, marker in suggestions:
        if lr is None:
            continue
        axes.axvline(lr, color=STRONG, linestyle=style, linewidth=0.9, zorder=1.5)
        axes.plot(
            [lr],
            [np.interp(np.log(lr), np.log(lrs), smoothed)],
            linestyle=style,
            linewidth=0.9,
            color=STRONG,
            marker=marker,
            markersize=7,
            markerfacecolor="white",
            markeredgecolor=STRONG,
            zorder=3,
            label=f"{name}, LR {lr:.3g}" + " (suggested)" * (lr == result.suggestion),
        )
    # Beside the panel's top: a curve that falls and rises fills every corner of it.
    axes.figure.legend(loc="outside upper center", ncols=2)


def _limits(losses: np.ndarray, smoothed: np.ndarray) -> tuple[float, float]:
    """From the lowest loss to half as much again as where the test began; more is divergence."""
    low = float(losses.min())
    beginning = float(np.median(losses[: max(5, len(losses) // 10)]))
    top = min(float(losses.max()), max(beginning, low) + 0.5 * max(beginning - low, 0.0))
    top = max(top, float(np.quantile(losses, 0.75)), low)
    margin = 0.05 * (top - low) or 0.1 * (abs(top) or 1.0)
    return low - margin, top + margin
