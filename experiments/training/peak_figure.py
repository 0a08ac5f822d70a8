"""The figure: test accuracy over the peak LR, and where AutoWU's runs lie in it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.training.summary import deviation

LOOKS = (("o", "tab:blue"), ("^", "tab:orange"), ("x", "tab:red"))  # of the methods, in turn


@dataclass(frozen=True)
class Panel:
    """One budget."""

    title: str
    peaks: Mapping[float, Sequence[float]]  # peak LR -> test accuracies in percent, of the seeds
    # method -> (LR that was found, test accuracy) of each seed
    found: Mapping[str, Sequence[tuple[float, float]]]


def draw(panels: Sequence[Panel], num_columns: int = 3) -> Figure:
    """A panel for each budget: means of the peaks, ± one standard deviation, and AutoWU's seeds."""
    num_rows = -(-len(panels) // num_columns)
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(11.0, 3.2 * num_rows + 0.6), layout="constrained")
        spaces = drawing.subplots(num_rows, num_columns, squeeze=False).flat
        for panel, axes in zip(panels, spaces, strict=False):
            known = {lr: values for lr, values in panel.peaks.items() if values}
            axes.errorbar(
                list(known),
                [statistics.fmean(values) for values in known.values()],
                yerr=[deviation(values) for values in known.values()],
                fmt="s-",
                color="0.35",
                markersize=4,
                elinewidth=1.1,
                label="warmup-cosine: its peak LR",
            )
            for (method, points), (marker, colour) in zip(panel.found.items(), LOOKS, strict=False):
                axes.plot(
                    [lr for lr, _ in points],
                    [accuracy for _, accuracy in points],
                    marker,
                    color=colour,
                    markersize=6,
                    label=f"{method}: each seed at the LR that it found",
                )
            axes.set_xscale("log")
            axes.set_title(panel.title, fontsize=11)
            axes.set_xlabel("peak LR")
            axes.set_ylabel("test accuracy, %")
        for empty in list(spaces):
            empty.remove()
        handles, labels = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return drawing
