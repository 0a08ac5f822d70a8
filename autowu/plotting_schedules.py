"""The figure of several schedules: the learning rate over the epochs, before any training."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autowu.plotting import STYLE, save

if TYPE_CHECKING:
    from autowu.commands.show import Curve

WIDTH, HEIGHT = 7.5, 4.2  # inches
MAX_LABEL = 36  # characters, for two labels side by side
MAX_POINTS = 4000  # of a line; more only merge
MAX_LINE = 76  # characters of a line of the legend
MAX_DECADES = 5  # that a log axis reaches below the peak
# Told apart by colour, by lightness, by dashes and, from the tenth on, by markers: 63 in all.
COLORS = ("black", "#0072B2", "#E69F00")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("", "o", "s", "^", "D", "x", "v")
LOOKS: list[dict[str, Any]] = [
    {
        "color": color,
        "linestyle": dashes,
        "linewidth": 1.8,
        "marker": marker,
        "markerfacecolor": "white",
        "markersize": 5.5,
        # As parts of the panel's diagonal; lines that lie on each other have theirs side by side.
        "markevery": (0.03 + 0.03 * (len(COLORS) * row + column), 0.18),
    }
    for marker in MARKERS
    for row, dashes in enumerate(DASHES)
    for column, color in enumerate(COLORS)
]
# Examples have the colour of their curve, shorter dashes and, from the fourth on, a marker.
EXAMPLE_MARKERS = ("", *"|+os^Dxv*ph<>1234PXd")


def plot_schedules(curves: Sequence["Curve"], path: str | Path, *, steps_per_epoch: int) -> Path:
    """Draw schedules on one pair of axes.

    Args:
        curves: at least one.
        path: of the image; the suffix chooses the format (png, svg, pdf; none: png).
        steps_per_epoch: optimizer steps of an epoch.

    Returns:
        Where the image is.

    Raises:
        ValueError: matplotlib does not know the format.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        draw_schedules(axes, curves, steps_per_epoch)
        for line in axes.lines:
            line.set_label(textwrap.fill(str(line.get_label()), MAX_LINE))
        labels = [each for line in axes.lines for each in str(line.get_label()).split("\n")]
        is_narrow = len(labels) > 2 and max(map(len, labels)) <= MAX_LABEL
        figure.set_figheight(HEIGHT + 0.2 * len(labels) / (2 if is_narrow else 1))
        figure.legend(loc="outside upper center", ncols=2 if is_narrow else 1)
        return save(figure, path)


def draw_schedules(axes: Axes, curves: Sequence["Curve"], steps_per_epoch: int) -> None:
    """A line for each schedule; what depends on the losses is dotted, and says what it supposes."""
    some_relative = any(curve.relative for curve in curves)
    all_relative = all(curve.relative for curve in curves)
    for number, curve in enumerate(curves):
        look = LOOKS[number % len(LOOKS)]
        label = curve.label
        if curve.relative and not all_relative:
            label += ", LR / peak LR"
        if curve.example:
            label += ": sweep, as far as the longest warmup"
        elif curve.note:
            label += f": {curve.note}"
        axes.plot(*_points(0, curve.lrs, steps_per_epoch), label=label, **look)
        if curve.example:
            start = curve.example_start / steps_per_epoch
            axes.plot(
                *_points(curve.example_start, curve.example, steps_per_epoch),
                linestyle=(0, (2, 1.2)),
                marker=EXAMPLE_MARKERS[number // len(COLORS) % len(EXAMPLE_MARKERS)],
                **{name: look[name] for name in ("color", "markerfacecolor", "markevery")},
                linewidth=1.4,
                label=f"{curve.label}: decay, if at epoch {start:.3g} the minimum were found to"
                f" lie at LR {curve.example[0]:.3g}",
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel("LR / peak LR" if all_relative else "learning rate")
    if some_relative and not all_relative:
        axes.set_ylabel("learning rate, or LR / peak LR")
    positive = [lr for curve in curves for lr in (*curve.lrs, *curve.example) if lr > 0]
    if positive and any(needs_log_axis(curve.lrs) for curve in curves):
        axes.set_yscale("log")
        peak = max(positive)
        # A fall to 0 leaves the panel at the bottom; where a sweep begins is shown.
        lowest = max(min(positive), peak * 10.0**-MAX_DECADES)
        starts = [curve.lrs[0] for curve in curves if curve.lrs[0] > 0]
        axes.set_ylim(min([lowest, *starts]) / 1.4, peak * 1.4)
    else:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.01)


def needs_log_axis(lrs: Sequence[float]) -> bool:
    """Whether a linear axis would press half of the curve or more into its lowest fifth.

    >>> needs_log_axis([1.0, 0.5, 0.0]), needs_log_axis([1e-3, 1e-2, 1e-1, 1.0])
    (False, True)
    """
    positive = [lr for lr in lrs if lr > 0]
    return bool(positive) and max(positive) > 5 * float(np.median(positive))


def _points(
    first_step: int, lrs: Sequence[float], steps_per_epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and LRs, thinned evenly; jumps stay steep and the last step stays."""
    number = min(len(lrs), MAX_POINTS)
    chosen = np.unique(np.linspace(0, len(lrs) - 1, number).round().astype(int))
    return (first_step + chosen) / steps_per_epoch, np.asarray(lrs)[chosen]
