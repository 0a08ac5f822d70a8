"""Figure 7: the LR that the decay starts from, against batch size and cap of the warmup.

python -m experiments.figure7.plot     from the rows of Table 4
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.collect import Row
from experiments.paper import LOOKS, full_budget, mark_batch_sizes, rows_option
from experiments.report import read_results

FOLDER = Path(__file__).parent


def start_lrs(rows: Sequence[Row], fraction: str) -> list[tuple[int, float]]:
    """Batch size and geometric mean of the start LRs of its runs, in their order."""
    sizes = sorted(
        {int(row["batch_size"]) for row in rows if row["max_warmup_fraction"] == fraction}
    )
    return [
        (
            size,
            statistics.geometric_mean(
                float(row["start_lr"])
                for row in rows
                if (row["max_warmup_fraction"], row["batch_size"]) == (fraction, str(size))
            ),
        )
        for size in sizes
    ]


def draw(rows: Sequence[Row], path: Path) -> None:
    """A line for each cap, over the batch size."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5, 3.6), layout="constrained")
        axes = figure.subplots()
        fractions = sorted({row["max_warmup_fraction"] for row in rows}, key=float)
        for fraction, look in zip(fractions, LOOKS, strict=False):
            line = start_lrs(rows, fraction)
            axes.plot(*zip(*line, strict=True), label=fraction, markersize=5, **look)
        mark_batch_sizes(axes, rows)
        axes.set(yscale="log", ylabel="LR at the start of the decay")
        figure.legend(title="max_warmup_fraction", loc="outside right upper")
        figure.savefig(path, dpi=150)


def main() -> None:
    options = rows_option(__doc__, FOLDER, FOLDER.parent / "table4").parse_args()
    rows = full_budget(read_results(options.rows))
    found = [row for row in rows if row["start_lr"] and row["max_warmup_fraction"]]
    if not found:
        raise SystemExit(f"{options.rows}: has no finished run of AutoWU, so nothing is drawn")
    draw(found, options.output)


if __name__ == "__main__":
    main()
