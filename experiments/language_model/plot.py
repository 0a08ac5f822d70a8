"""The figure and the tables of the README, from results.csv and curves.csv.

    python -m experiments.language_model.plot

Everything can be told apart in greyscale.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.language_model.run import MUON_RESULTS, PROBED, WARMUPS
from experiments.tables import markdown_table, put_between_marks, read_rows, save_figure

FOLDER = Path(__file__).parent
HEADLINE, BASELINE = PROBED, "warmup_cosine"
UNPROBED = "autowu"
DASHED = (0, (4, 2))
DOTTED = (0, (1, 1.2))
Row = dict[str, str]


def select(rows: Sequence[Row], method: str, peak_lr: str = "", warmup: str = "") -> list[Row]:
    wanted = (method, peak_lr, warmup)
    return [row for row in rows if (row["method"], row["peak_lr"], row["warmup"]) == wanted]


def losses(rows: Sequence[Row]) -> list[float]:
    return [float(row["validation_loss"]) for row in rows]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The deviation of a single value is NaN."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def grid(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The baseline's peak LRs, each with its warmups, from the lowest to the highest."""
    pairs = {(row["peak_lr"], row["warmup"]) for row in rows if row["method"] == BASELINE}
    return sorted(pairs, key=lambda pair: (float(pair[0]), float(pair[1])))


def best_of_grid(rows: Sequence[Row]) -> tuple[str, str]:
    """The baseline's best by the mean validation loss: tuned with hindsight."""
    return min(grid(rows), key=lambda pair: statistics.fmean(losses(select(rows, BASELINE, *pair))))


def losses_table(rows: Sequence[Row]) -> str:
    """Validation loss of each method, and its distance from the best baseline."""
    best = select(rows, BASELINE, *best_of_grid(rows))
    lines: list[list[object]] = []
    for peak_lr, warmup in grid(rows):
        chosen = select(rows, BASELINE, peak_lr, warmup)
        name = f"{BASELINE}, warmup of {100 * float(warmup):g} %"
        lines.append([name, peak_lr, *loss_cells(chosen, best)])
    for method in sorted({row["method"] for row in rows} - {BASELINE}):
        chosen = sorted(select(rows, method), key=lambda row: row["seed"])
        found = " ".join(f"{float(row['start_lr']):.2g}" for row in chosen)
        lines.append([method, f"found: {found}", *loss_cells(chosen, best)])
    header = ["method", "peak LR", "validation loss", "minus the best baseline's", "n"]
    return markdown_table(header, lines)


def loss_cells(rows: Sequence[Row], best: Sequence[Row]) -> list[object]:
    """Means and deviations; of the difference over the seeds, which share weights and order."""
    reference = {row["seed"]: float(row["validation_loss"]) for row in best}
    differences = [float(row["validation_loss"]) - reference[row["seed"]] for row in rows]
    mean, deviation = mean_and_deviation(losses(rows))
    shift, shift_deviation = mean_and_deviation(differences)
    if len(rows) == 1:
        return [f"{mean:.3f}", f"{shift:+.3f}", 1]
    return [f"{mean:.3f} ± {deviation:.3f}", f"{shift:+.3f} ± {shift_deviation:.3f}", len(rows)]


def found_table(rows: Sequence[Row]) -> str:
    """What AutoWU found in each run."""
    lines = [
        [row["method"], row["seed"], f"{row['switch_step']} of {row['total_steps']}",
         f"{float(row['highest_lr']):.2g}", f"{float(row['start_lr']):.2g}",
         f"{float(row['validation_loss']):.3f}"]
        for row in sorted(rows, key=lambda row: (row["method"], row["seed"]))
        if row["method"] != BASELINE
    ]  # fmt: skip
    header = ["method", "seed", "steps of warmup", "LR reached in it", "LR the decay starts from",
              "validation loss"]  # fmt: skip
    return markdown_table(header, lines)


def draw(rows: Sequence[Row], curves: Sequence[Row], path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
        axes = left.subplots()
        draw_validation(axes, rows)
        left.legend(loc="outside upper center")
        upper, lower = right.subplots(2, sharex=True, height_ratios=(2, 1))
        draw_curves(upper, lower, curves, best_of_grid(rows))
        right.legend(*upper.get_legend_handles_labels(), loc="outside upper center")
        right.align_ylabels()
        save_figure(figure, path, dpi=150)


def draw_validation(axes: Axes, rows: Sequence[Row]) -> None:
    """Validation loss against the baseline's peak LR, and against the LRs that AutoWU found.

    The band is AutoWU's mean and deviation, whatever LR it found.
    """
    lrs = list(dict.fromkeys(peak_lr for peak_lr, _ in grid(rows)))
    for warmup, marker, look in zip(WARMUPS, "sv", (DASHED, DOTTED), strict=True):
        of_warmup = [pair for pair in grid(rows) if pair[1] == f"{warmup:g}"]
        cells = [mean_and_deviation(losses(select(rows, BASELINE, *pair))) for pair in of_warmup]
        axes.errorbar(
            [float(lr) for lr, _ in of_warmup],
            [mean for mean, _ in cells],
            [deviation for _, deviation in cells],
            color="0.45",
            marker=marker,
            markersize=5,
            capsize=3,
            linestyle=look,
            label=f"warmup-cosine, warmup of {100 * warmup:g} %, mean ± sd of 3 seeds",
        )
    mean, deviation = mean_and_deviation(losses(select(rows, HEADLINE)))
    axes.axhspan(mean - deviation, mean + deviation, color="0.88", linewidth=0)
    axes.axhline(
        mean, color="black", linewidth=1.4, label="AutoWU after a probe, mean ± sd of 3 seeds"
    )
    for method, marker, label in (
        (HEADLINE, "o", "AutoWU after a probe, each seed at the LR it found"),
        (UNPROBED, "D", "AutoWU without a probe"),
    ):
        found = select(rows, method)
        axes.plot(
            [float(row["start_lr"]) for row in found],
            losses(found),
            linestyle="none",
            marker=marker,
            markersize=6,
            markeredgecolor="black",
            markerfacecolor="white",
            zorder=3,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xticks([float(lr) for lr in lrs], lrs)
    axes.set_xticks([], minor=True)
    axes.set(xlabel="peak LR", ylabel="validation loss, nats a byte")


def draw_curves(upper: Axes, lower: Axes, curves: Sequence[Row], best: tuple[str, str]) -> None:
    """Training loss and LR over the run: means over the seeds, AutoWU's of each seed."""

    def line(rows: Sequence[Row], label: str | None, **look: Any) -> None:
        steps = sorted({int(row["step"]) for row in rows})
        for axes, column in ((upper, "loss"), (lower, "lr")):
            at_step = ([float(r[column]) for r in rows if int(r["step"]) == s] for s in steps)
            axes.plot(steps, [statistics.fmean(v) for v in at_step], label=label, **look)

    others = [pair for pair in grid(curves) if pair != best]
    for pair in others:
        label = "other warmup-cosines" if pair == others[0] else None
        line(select(curves, BASELINE, *pair), label, color="0.8", linewidth=1.0)
    label = f"warmup-cosine, {best[0]}, warmup of {100 * float(best[1]):g} %"
    line(select(curves, BASELINE, *best), label, color="0.45", linestyle=DASHED)
    for method, label, look in (
        (HEADLINE, "AutoWU after a probe, 3 seeds", {"linewidth": 1.2}),
        (UNPROBED, "AutoWU without a probe", {"linewidth": 1.2, "linestyle": DOTTED}),
    ):
        rows = select(curves, method)
        for seed in sorted({row["seed"] for row in rows}):
            of_seed = [row for row in rows if row["seed"] == seed]
            line(of_seed, label if seed == "0" else None, color="black", **look)
    upper.set(ylabel="training loss", yscale="log")
    upper.set_yticks([2, 3, 4, 5], ["2", "3", "4", "5"])
    upper.set_yticks([], minor=True)
    lower.set(xlabel="optimizer step", ylabel="LR", yscale="log", ylim=(7e-6, None))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows, curves = read_rows(FOLDER / "results.csv"), read_rows(FOLDER / "curves.csv")
    draw(rows, curves, FOLDER / "results.png")
    put_between_marks(FOLDER / "README.md", "losses", losses_table(rows))
    put_between_marks(FOLDER / "README.md", "found", found_table(rows))
    others = {
        "held_out_results.csv": ("held out", "found there"),
        MUON_RESULTS[0.1]: ("muon", "found with muon"),
        MUON_RESULTS[0.0]: ("muon without decay", "found without decay"),
    }
    for name, (mark, found_mark) in others.items():
        rows = read_rows(FOLDER / name)
        put_between_marks(FOLDER / "README.md", mark, losses_table(rows))
        put_between_marks(FOLDER / "README.md", found_mark, found_table(rows))


if __name__ == "__main__":
    main()
