"""Figure 5: the baseline's test accuracy over the peak LR, for each length of its warmup.

python -m experiments.figure5.plot     from results.csv
"""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.collect import Row
from experiments.paper import cell_text, mean_and_deviation, rows_option, whiskers, with_looks
from experiments.report import read_results
from experiments.tables import markdown_table, put_between_marks, save_figure

FOLDER = Path(__file__).parent
VARIANT = re.compile(r"lr(?P<lr>.+)-warmup(?P<warmup>.+)")
# Of Table 1, at the same batch size.
PUBLISHED = {
    "AutoWU + const-cos": 75.62,
    "AutoWU + cos": 75.22,
    "baseline, best of its grid": 75.84,
}
PUBLISHED_STYLES = ("-", "--", ":")  # thick and without markers, as no line of a warmup is
Cell = tuple[str, str]  # peak LR, epochs of warmup


def by_cell(rows: Sequence[Row], source: str) -> dict[Cell, list[Row]]:
    """The rows of each peak LR and warmup; without those whose variant names neither."""
    cells: dict[Cell, list[Row]] = {}
    for row in rows:
        match = VARIANT.fullmatch(row["variant"])
        if match and row["source"] == source:
            cells.setdefault((match["lr"], match["warmup"]), []).append(row)
    return cells


def table(rows: Sequence[Row]) -> str:
    """Warmups across, peak LRs down; the published number stands behind ours."""
    ours, published = by_cell(rows, "ours"), by_cell(rows, "published")
    lrs, warmups = (sorted({cell[i] for cell in ours | published}, key=float) for i in range(2))
    lines = []
    for lr in lrs:
        cells = []
        for warmup in warmups:
            text = cell_text(ours.get((lr, warmup), []))
            if (lr, warmup) in published:
                text += f" (published {cell_text(published[lr, warmup])})"
            cells.append(text)
        lines.append([lr, *cells])
    return markdown_table(["peak LR", *(f"{w} epochs of warmup" for w in warmups)], lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """A line for each warmup as far as it has been run, and what is published."""
    ours, published = by_cell(rows, "ours"), by_cell(rows, "published")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        warmups = sorted({warmup for _, warmup in ours}, key=float)
        for warmup, look in with_looks(warmups):
            points = []
            for lr in sorted({lr for lr, of_cell in ours if of_cell == warmup}, key=float):
                found = mean_and_deviation(ours[lr, warmup])
                if found is not None:
                    points.append((float(lr), *found))
            if points:
                label = f"warmup of {warmup} epochs, ours"
                x, y, deviations = zip(*points, strict=True)
                axes.errorbar(x, y, whiskers(deviations), label=label, capsize=3, **look)
        for (lr, warmup), (row,) in published.items():
            axes.plot(float(lr), float(row["test_accuracy"]), "s", color="black", markersize=6,
                      markerfacecolor="white", label=f"warmup of {warmup} epochs, published",
                      linestyle="none")  # fmt: skip
        lrs = sorted({lr for lr, _ in ours | published}, key=float)
        ends = [0.8 * float(lrs[0]), 1.25 * float(lrs[-1])]
        if published:
            for (name, accuracy), style in zip(PUBLISHED.items(), PUBLISHED_STYLES, strict=True):
                label = f"{name}, published"
                axes.plot(ends, [accuracy] * 2, style, label=label, color="C5", linewidth=2.5)
        axes.set_xscale("log")
        axes.set_xticks([float(lr) for lr in lrs], lrs)
        axes.set_xticks([], minor=True)
        axes.set(xlabel="peak LR", xlim=ends, ylabel="test accuracy, %")
        figure.legend(loc="outside right upper")
        save_figure(figure, path, dpi=150)


def main() -> None:
    options = rows_option(__doc__, FOLDER, FOLDER).parse_args()
    rows = read_results(options.rows)
    draw(rows, options.output)
    if options.rows == FOLDER / "results.csv":
        put_between_marks(FOLDER / "README.md", "table", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
