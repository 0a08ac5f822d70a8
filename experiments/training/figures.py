"""Figures that several experiments share: bars of means, and dots of differences."""

import statistics
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE

LINEAR = 2.0  # points of accuracy around 0 that `dots` shows on a linear scale
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")


def bars(
    groups: Mapping[str, Mapping[str, Sequence[float]]], lowest: float = 0.0, num_columns: int = 4
) -> Figure:
    """A group of bars for each key, a bar for each method in it; whiskers are one deviation.

    Args:
        groups: group -> method -> test accuracies in percent, of the seeds.
        lowest: where the axis begins, percent.
        num_columns: of the legend.
    """
    methods = list(dict.fromkeys(method for values in groups.values() for method in values))
    width = 0.8 / max(1, len(methods))
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(10, 4), layout="constrained")
        axes = drawing.subplots()
        for index, method in enumerate(methods):
            known = [(i, v[method]) for i, v in enumerate(groups.values()) if v.get(method)]
            axes.bar(
                [place + (index - (len(methods) - 1) / 2) * width for place, _ in known],
                [statistics.fmean(values) for _, values in known],
                width,
                yerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in known],
                color=str(0.25 + 0.65 * index / len(methods)),
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor="black",
                label=method,
            )
        axes.set_xticks(range(len(groups)), list(groups), fontsize=8)
        axes.set_ylabel("test accuracy, %")
        axes.set_ylim(lowest, 100 + 0.02 * (100 - lowest))
        drawing.legend(loc="outside lower center", ncols=num_columns, frameon=False)
    return drawing


def dots(
    groups: Mapping[str, Mapping[str, float]],
    looks: Mapping[str, tuple[str, str]],
    reference: str,
    num_columns: int = 4,
) -> Figure:
    """A column of dots for each group, on an axis that is linear around 0 and logarithmic beyond.

    Args:
        groups: group -> what -> points of accuracy above the reference.
        looks: what -> its marker and its colour, in the order of the legend.
        reference: what they are above.
        num_columns: of the legend.
    """
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(max(8.0, 0.95 * len(groups)), 4.4), layout="constrained")
        axes = drawing.subplots()
        axes.axhline(0, color="black", linewidth=0.8)
        for index, (what, (marker, colour)) in enumerate(looks.items()):
            known = [(i, gaps[what]) for i, gaps in enumerate(groups.values()) if what in gaps]
            shift = 0.5 * (index - (len(looks) - 1) / 2) / len(looks)
            places = [place + shift for place, _ in known]
            axes.plot(places, [gap for _, gap in known], marker, color=colour, label=what)
        axes.set_xticks(range(len(groups)), list(groups), fontsize=8)
        axes.set_yscale("symlog", linthresh=LINEAR)
        values = [gap for gaps in groups.values() for gap in gaps.values()]
        low, high = 1.4 * min([-1.0, *values]), 1.4 * max([1.0, *values])
        axes.set_ylim(low, high)
        ticks = [t for t in (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20) if low < t < high]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_ylabel(f"points of accuracy above\n{reference}")
        drawing.legend(loc="outside lower center", ncols=num_columns, frameon=False)
    return drawing
