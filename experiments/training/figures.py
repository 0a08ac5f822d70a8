"""Figures that several experiments share: bars and dots of means, and dots of differences."""

import statistics
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from autowu.plotting import STYLE
from experiments.training.summary import deviation

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
                yerr=[deviation(values) for _, values in known],
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
    groups: Mapping[str, Mapping[str, Sequence[float]]],
    looks: Mapping[str, tuple[str, str]],
    reference: str,
    num_columns: int = 4,
) -> Figure:
    """A row of dots for each group, on an axis that is linear around 0 and logarithmic beyond.

    The part that is linear is shaded, and said to be. Whiskers are one deviation of the seeds.

    Args:
        groups: group -> what -> points of accuracy above the reference, of the seeds; of one value
            there is no whisker.
        looks: what -> its marker and its colour, in the order of the legend.
        reference: what they are above.
        num_columns: of the legend.
    """
    with matplotlib.rc_context(STYLE):
        height = max(0.36, 0.065 * len(looks)) * len(groups) + 1.6
        drawing = Figure(figsize=(9.5, height), layout="constrained")
        axes = drawing.subplots()
        axes.axvline(0, color="black", linewidth=0.8)
        ends = [-1.0, 1.0]
        for index, (what, (marker, colour)) in enumerate(looks.items()):
            known = [(i, gaps[what]) for i, gaps in enumerate(groups.values()) if what in gaps]
            shift = 0.75 * (index - (len(looks) - 1) / 2) / len(looks)
            means = [statistics.fmean(gaps) for _, gaps in known]
            spread = [deviation(gaps) for _, gaps in known]
            axes.errorbar(
                means,
                [place + shift for place, _ in known],
                xerr=spread if any(spread) else None,
                fmt=marker,
                color=colour,
                markersize=5.5,
                elinewidth=1.1,
                label=what,
            )
            ends += [mean - half for mean, half in zip(means, spread, strict=True)]
            ends += [mean + half for mean, half in zip(means, spread, strict=True)]
        axes.set_yticks(range(len(groups)), list(groups), fontsize=9)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xscale("symlog", linthresh=LINEAR)
        low, high = 1.1 * min(ends), 1.1 * max(ends)
        if max(ends) <= LINEAR:  # no sliver of another scale
            high = min(high, LINEAR)
        axes.set_xlim(low, high)
        ticks = [t for t in (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20) if low < t < high]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        if low < -LINEAR or high > LINEAR:
            inner = max(low, -LINEAR), min(high, LINEAR)
            axes.axvspan(*inner, color="0.95", linewidth=0, zorder=0)
            at_top = {"transform": axes.get_xaxis_transform(), "va": "bottom", "fontsize": 9}
            axes.text(statistics.fmean(inner), 1.0, "linear scale", ha="center", **at_top)
            if low < -LINEAR:
                axes.text(1.05 * inner[0], 1.0, "logarithmic", ha="right", **at_top)
            if high > 1.5 * LINEAR:  # there is room for the word
                axes.text(1.05 * inner[1], 1.0, "logarithmic", ha="left", **at_top)
        axes.set_xlabel(f"points of accuracy above {reference}")
        drawing.legend(loc="outside lower center", ncols=num_columns, frameon=False)
    return drawing


def rows_of_dots(
    groups: Mapping[str, Mapping[str, Sequence[float]]], reference: str, num_columns: int = 3
) -> Figure:
    """A panel for each group, in it a row with a dot for each method; whiskers are one deviation.

    The rows have their names at the left, and a line is where the reference is.

    Args:
        groups: group -> method -> test accuracies in percent, of the seeds.
        reference: the method that the others are to be compared with.
        num_columns: of the panels.
    """
    methods = list(dict.fromkeys(method for values in groups.values() for method in values))
    num_rows = -(-len(groups) // num_columns)
    with matplotlib.rc_context(STYLE):
        drawing = Figure(
            figsize=(10.0, num_rows * (0.24 * len(methods) + 0.7)), layout="constrained"
        )
        panels = drawing.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
        for axes, (group, values) in zip(panels.flat, groups.items(), strict=False):
            axes.set_title(group)
            for place, method in enumerate(methods):
                if not values.get(method):
                    continue
                mean = statistics.fmean(values[method])
                is_reference = method == reference
                axes.errorbar(
                    mean,
                    place,
                    xerr=deviation(values[method]),
                    fmt="s" if is_reference else "o",
                    color="black" if is_reference else "tab:blue",
                    markersize=5.5,
                    elinewidth=1.2,
                )
                if is_reference:
                    axes.axvline(mean, color="0.5", linewidth=1.0, linestyle=":", zorder=0)
        panels[0, 0].set_ylim(len(methods) - 0.5, -0.5)
        panels[0, 0].xaxis.set_major_locator(MultipleLocator(1.0))
        for axes in panels[:, 0]:
            axes.set_yticks(range(len(methods)), methods, fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("test accuracy, %")
    return drawing
