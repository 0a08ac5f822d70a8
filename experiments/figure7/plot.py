"""Figure 7: the LR that the decay starts from, against batch size and cap of the warmup.

python -m experiments.figure7.plot     figure7.png, from results.csv: the runs of Table 4
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.collect import Row
from experiments.paper import (
    by_data_set,
    full_budget,
    mark_batch_sizes,
    rows_option,
    say_not_run,
    with_looks,
)
from experiments.report import read_results
from experiments.tables import save_figure

FOLDER = Path(__file__).parent


def start_lrs(rows: Sequence[Row], fraction: str) -> list[tuple[int, float]]:
    """Batch size and geometric mean of the start LRs of its runs, in their order.

    Raises:
        ValueError: they are runs on several data sets.
    """
    if len(data := by_data_set(rows)) > 1:
        raise ValueError(f"runs on several data sets ({', '.join(data)}) are one line")
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
    """A line for each cap, over the batch size, as far as it has been run.

    Args:
        rows: of AutoWU, those `not run` without a start LR.
        path: of the picture.
    """
    found = [row for row in rows if row["start_lr"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        for fraction, look in with_looks(
            sorted({row["max_warmup_fraction"] for row in rows}, key=float)
        ):
            line = start_lrs(found, fraction)
            sizes, lrs = zip(*line, strict=True) if line else ((), ())
            label = fraction if line else f"{fraction}, not run"
            axes.plot(sizes, lrs, label=label, markersize=5, **look)
        axes.set(ylabel="LR at the start of the decay", yscale="log")
        if not found:
            say_not_run(axes)
            sizes = sorted(int(row["batch_size"]) for row in rows)
            axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
        mark_batch_sizes(axes, rows)
        figure.legend(title="max_warmup_fraction", loc="outside right upper")
        save_figure(figure, path, dpi=150)


def main() -> None:
    options = rows_option(__doc__, FOLDER, FOLDER).parse_args()
    rows = [row for row in read_results(options.rows) if row["max_warmup_fraction"]]
    if not rows:
        raise SystemExit(f"{options.rows}: has no rows of AutoWU, so nothing is drawn")
    draw(full_budget(rows), options.output)


if __name__ == "__main__":
    main()
