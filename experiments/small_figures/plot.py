"""The tables and the pictures of the README, from results.csv, curves.csv and rows of `budgets`.

    python -m experiments.small_figures.plot

Everything can be told apart in greyscale.
"""

import argparse
import statistics
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import linregress  # type: ignore[import-untyped]

from autowu.plotting import STYLE
from experiments.budgets.plot import accuracies, by_kept_statistics
from experiments.budgets.run import RESULTS as BUDGETS
from experiments.budgets.run import TUNED, WARMUPS
from experiments.curves import draw_curves
from experiments.paper import LOOKS, mark_batch_sizes
from experiments.small_figures.run import (
    ADAPTIVE,
    BATCH_SIZES,
    CURVES,
    EPOCHS,
    FIXED,
    GROWTH_BATCH_SIZES,
    RESULTS,
    SCHEDULES,
)
from experiments.tables import done_rows, markdown_table, put_between_marks, read_rows, save_figure
from experiments.training.figures import bars
from experiments.training.summary import mean_text

FOLDER = Path(__file__).parent
PEAK_BATCH_SIZE = 1024  # of the accuracy over the peak LR
Row = dict[str, str]
LINES = {  # of a table and of the start LRs: (optimizer, schedule)
    "AdamP, adaptive sweep": ("adamp", ADAPTIVE),
    "AdamP, fixed sweep, fraction 0.5": ("adamp", FIXED),
    "AdamP, fixed sweep, fraction 0.25": ("adamp", "fixed, fraction 0.25"),
    "AdamP, fixed sweep, fraction 0.125": ("adamp", "fixed, fraction 0.125"),
    "LAMB, adaptive sweep": ("lamb", ADAPTIVE),
}


def select(rows: list[Row], optimizer: str, schedule: str, size: int) -> list[Row]:
    wanted = (optimizer, schedule, str(size))
    return [r for r in rows if (r["optimizer"], r["schedule"], r["batch_size"]) == wanted]


def exponent(rows: list[Row]) -> tuple[float, float] | None:
    """Of the batch size in the start LR, by least squares over all runs, and its standard error.

    The error is from the residuals, with n - 2 degrees of freedom. None below 2 sizes or 3 runs.
    """
    if len({row["batch_size"] for row in rows}) < 2 or len(rows) < 3:
        return None
    sizes = np.log([float(row["batch_size"]) for row in rows])
    lrs = np.log([float(row["start_lr"]) for row in rows])
    line = linregress(sizes, lrs)
    return float(line.slope), float(line.stderr)


def start_lr_table(rows: list[Row]) -> str:
    """The start LRs of all seeds, in brackets their geometric mean; the exponent of the batch size.

    The exponent has its standard error.
    """
    lines = []
    for name, (optimizer, schedule) in LINES.items():
        cells = [select(rows, optimizer, schedule, size) for size in BATCH_SIZES]
        texts = [lrs_text([float(row["start_lr"]) for row in cell]) for cell in cells]
        fit = exponent([row for cell in cells for row in cell])
        shown = "not run" if fit is None else "{:.2f} ± {:.2f}".format(*fit)
        lines.append([name, *texts, shown])
    return markdown_table(["start LR", *map(str, BATCH_SIZES), "exponent"], lines)


def lrs_text(lrs: list[float]) -> str:
    """All of them, and their geometric mean.

    >>> lrs_text([0.01, 0.0025]), lrs_text([0.01]), lrs_text([])
    ('0.01 0.0025 (0.005)', '0.01', 'not run')
    """
    if len(lrs) > 1:
        return f"{' '.join(f'{lr:.2g}' for lr in lrs)} ({statistics.geometric_mean(lrs):.2g})"
    return f"{lrs[0]:.2g}" if lrs else "not run"


def accuracy_table(rows: list[Row]) -> str:
    lines = []
    for optimizer, schedule in dict.fromkeys([*LINES.values(), *(("adamp", s) for s in SCHEDULES)]):
        cells = [select(rows, optimizer, schedule, size) for size in BATCH_SIZES]
        texts = [
            mean_text([float(row["test_accuracy"]) for row in cell])
            if cell or "linear" not in schedule or size in GROWTH_BATCH_SIZES
            else "-"
            for cell, size in zip(cells, BATCH_SIZES, strict=True)
        ]
        lines.append([f"{optimizer}, {schedule}", *texts])
    baseline = by_kept_statistics(read_rows(BUDGETS))  # as the runs above were tested
    tuned = [accuracies(baseline, ("cifar10", EPOCHS, s), TUNED) for s in BATCH_SIZES]
    texts = [mean_text(list(values.values())) if values else "-" for values in tuned]
    lines.append(["adamp, warmup-cosine, tuned (`budgets`)", *texts])
    return markdown_table(["accuracy %", *map(str, BATCH_SIZES)], lines)


def draw_peaks(axes: Axes) -> None:
    """Accuracy of the baseline over its peak LR, a line a warmup; AutoWU's runs as stars."""
    rows = [
        row
        for row in by_kept_statistics(done_rows(BUDGETS))
        if (row["task"], row["epochs"], row["batch_size"])
        == ("cifar10", str(EPOCHS), str(PEAK_BATCH_SIZE))
    ]
    for warmup, look in zip(WARMUPS, LOOKS, strict=False):
        grid = [r for r in rows if r["method"] == TUNED and r["warmup"] == f"{warmup:g}"]
        line = sorted((float(r["lr"]), float(r["test_accuracy"])) for r in grid if r["seed"] == "0")
        axes.plot(*zip(*line, strict=True), label=f"warmup of {warmup:.0%}", markersize=5, **look)
    ours = [row for row in rows if row["method"] == "autowu_cosine"]
    axes.plot(
        [float(row["start_lr"]) for row in ours],
        [float(row["test_accuracy"]) for row in ours],
        "*",
        color="C0",
        markersize=12,
        label="AutoWU after a probe, one run each",
    )
    axes.set(xscale="log", xlabel="peak LR", ylabel="test accuracy, %")
    axes.set_title(f"batch size {PEAK_BATCH_SIZE}, {EPOCHS} epochs")
    axes.legend()


def draw_start_lrs(axes: Axes, rows: list[Row]) -> None:
    """The LR that the decay starts from over the batch size: geometric means, and all runs."""
    dots = {"linestyle": "none", "marker": ".", "alpha": 0.5}
    for (name, (optimizer, schedule)), look in zip(LINES.items(), LOOKS[:5], strict=True):
        chosen = [row for size in BATCH_SIZES for row in select(rows, optimizer, schedule, size)]
        if not chosen:
            continue
        points = [(int(row["batch_size"]), float(row["start_lr"])) for row in chosen]
        sizes = sorted({size for size, _ in points})
        means = [statistics.geometric_mean(lr for s, lr in points if s == size) for size in sizes]
        axes.plot(sizes, means, label=name, markersize=5, **look)
        axes.plot(*zip(*points, strict=True), **(dots | {"color": look["color"]}))
    mark_batch_sizes(axes, rows)
    axes.set(yscale="log", ylabel="LR at the start of the decay")
    axes.set_ylim(top=2.5 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize=8, loc="upper left")


def growth_groups(rows: list[Row]) -> dict[str, dict[str, list[float]]]:
    budgets = by_kept_statistics(read_rows(BUDGETS))
    names = {
        ADAPTIVE: "exponential, adaptive",
        FIXED: "exponential, fixed",
        "linear to 1": "linear, max_lr 1",
        "linear to 0.1": "linear, max_lr 0.1",
    }
    return {
        f"batch size {size}": {
            "warmup-cosine, tuned": list(
                accuracies(budgets, ("cifar10", EPOCHS, size), TUNED).values()
            )
        }
        | {
            name: [float(row["test_accuracy"]) for row in select(rows, "adamp", schedule, size)]
            for schedule, name in names.items()
        }
        for size in GROWTH_BATCH_SIZES
    }


def draw_losses(path: Path) -> None:
    """LR and training loss of seed 0, a line a batch size."""
    # A run that was killed while it wrote left points, which the next one wrote again.
    distinct = dict.fromkeys(tuple(row.items()) for row in read_rows(CURVES))
    points = [dict(point) for point in distinct]
    names = {cell: name.removesuffix(", fraction 0.5") for name, cell in LINES.items()}
    shown = [name for name in names.values() if "fraction" not in name]
    points = [
        point | {"config": names.get((point["optimizer"], point["schedule"]), "")}
        for point in points
    ]
    points = [point for point in points if point["config"] in shown]
    if points:
        draw_curves(points, "row", "batch_size", ("lr", "loss"), path, smooth_epochs=0.5)


def write(rows: list[Row]) -> None:
    """Everything that the README shows."""
    put_between_marks(FOLDER / "README.md", "start LRs", start_lr_table(rows))
    put_between_marks(FOLDER / "README.md", "accuracies", accuracy_table(rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_start_lrs(left, rows)
        draw_peaks(right)
        save_figure(figure, FOLDER / "small_figures.png", dpi=120)
    save_figure(bars(growth_groups(rows), lowest=0.0), FOLDER / "growth.png", dpi=110)
    draw_losses(FOLDER / "curves.png")


def main() -> None:
    assert __doc__ is not None
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    write(done_rows(RESULTS))


if __name__ == "__main__":
    main()
