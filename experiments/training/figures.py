"""A figure that several experiments share: bars of means with deviations, told apart by hatches."""

import statistics
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE

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
