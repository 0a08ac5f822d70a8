"""AutoWU against the tuned warmup-cosine of `budgets`, on seeds that had no part in the tuning.

    python -m experiments.fresh_seeds.run --data-root data/cifar10-jpeg

In `budgets` seed 0 chooses the best of ten peak LRs and warmups by test accuracy, and is among
the seeds by which the choice is judged. Here the choice stands, and both are run with new seeds. A
row for each run in results.csv; `--tables` makes the README's tables and the figure from them.
"""

import statistics
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from scipy.stats import t

from autowu.plotting import STYLE
from experiments.budgets import run as budgets
from experiments.budgets.plot import (
    DEFAULT,
    GOAL,
    LENGTHS,
    Budget,
    accuracies,
    all_budgets,
    interval_text,
    steps_of,
)
from experiments.budgets.run import TUNED, BudgetCell
from experiments.report import compare
from experiments.tables import markdown_table, put_between_marks, read_rows, save_figure
from experiments.training.cells import main as cells_main
from experiments.training.methods import SHORTER
from experiments.training.summary import mean_text

FOLDER = Path(__file__).parent
UNTOUCHED = 180  # steps, up to which half of the run is the longest warmup of both
SEEDS = {"digits": range(5, 15), "cifar10": range(3, 9)}  # those of `budgets` lie below
Row = dict[str, str]


def cells(data_root: Path) -> list[BudgetCell]:
    """AutoWU and the cell of the grid that `budgets` chose, in all of its budgets."""
    rows = read_rows(budgets.RESULTS)
    return [
        BudgetCell(task, epochs, size, method, lr, warmup, seed, data_root)
        for task, epochs, size in budgets.budgets("*")
        for chosen in budgets.tuned_cells(rows, data_root, task, epochs, size)[:1]
        for seed in SEEDS[task]
        for method, lr, warmup in (
            (DEFAULT, None, None),
            (SHORTER, None, None),
            (TUNED, chosen.lr, chosen.warmup),
        )
        if method != SHORTER or steps_of((task, epochs, size)) > UNTOUCHED
    ]


def gaps(rows: list[Row], budget: Budget, method: str = DEFAULT) -> list[float]:
    """AutoWU minus the tuned baseline, of each seed that has both."""
    if method == SHORTER and steps_of(budget) <= UNTOUCHED:
        method = DEFAULT  # the same run
    ours, tuned = (accuracies(rows, budget, each) for each in (method, TUNED))
    return [ours[seed] - tuned[seed] for seed in ours if seed in tuned]


def half_width(values: list[float]) -> float:
    """Of the 95 % interval of the mean, by Student's t.

    >>> round(half_width([1.0, 2.0, 3.0]), 2)
    2.48
    """
    n = len(values)
    return float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5


def verdict(values: list[float]) -> str:
    """What the interval says of the goal."""
    mean, half = statistics.fmean(values), half_width(values)
    if mean - half >= -GOAL:
        return "met, all of the interval"
    if mean + half < -GOAL:
        return "missed, all of the interval"
    return "met" if mean >= -GOAL else "missed"


def table(rows: list[Row], before: list[Row]) -> str:
    """A line for each budget; `before` are the rows of `budgets`."""
    lines = []
    for budget in all_budgets(rows):
        new = gaps(rows, budget)
        if len(new) < 2:
            continue
        ours, shorter, tuned = (
            accuracies(rows, budget, each) for each in (DEFAULT, SHORTER, TUNED)
        )
        gained = [shorter[seed] - ours[seed] for seed in shorter if seed in ours]
        task, epochs, size = budget
        lines.append(
            [
                *(f"{task}, batch {size}", epochs, f"{steps_of(budget):,}", len(new)),
                *(mean_text(list(values.values())) for values in (ours, tuned)),
                interval_text(new),
                compare(ours, tuned, decimals=3)["p_value"],
                verdict(new),
                interval_text(gained) if gained else "the same",
                interval_text(gaps(before, budget)),
            ]
        )
    header = ("task", "epochs", "steps", "n", "AutoWU", "warmup-cosine, tuned", "AutoWU - tuned")
    more = ("p", f"at most {GOAL} below", "up to 30 % of the run - AutoWU", "in `budgets`")
    return markdown_table((*header, *more), lines)


def means(rows: list[Row], before: list[Row]) -> str:
    """Over budgets: the mean of their differences, and in how many the goal is met."""
    known = [budget for budget in all_budgets(rows) if gaps(rows, budget)]
    groups = {
        name: [budget for budget in known if least <= steps_of(budget) < end]
        for name, least, end in LENGTHS
    } | {"CIFAR-10": [budget for budget in known if budget[0] == "cifar10"], "all": known}
    lines = []
    for name, chosen in groups.items():
        line: list[object] = [name, len(chosen)]
        for of, method in ((rows, DEFAULT), (rows, SHORTER), (before, DEFAULT)):
            of_each = [statistics.fmean(gaps(of, budget, method)) for budget in chosen]
            reached = sum(gap >= -GOAL for gap in of_each)
            line += [interval_text(of_each), f"{reached} of {len(chosen)}"]
        lines.append(line)
    header = ["budgets", "n", "AutoWU - tuned, new seeds", f"within {GOAL} points"]
    header += ["up to 30 % of the run - tuned", "within", "AutoWU in `budgets`", "within"]
    return markdown_table(header, lines)


def figure(rows: list[Row], before: list[Row]) -> Figure:
    """The differences of each budget, by its length, with their 95 % intervals."""
    known = [budget for budget in all_budgets(rows) if len(gaps(rows, budget)) > 1]
    known.sort(key=lambda budget: (steps_of(budget), budget))
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(8.5, 8), layout="constrained")
        axes = drawing.subplots()
        axes.axvspan(-GOAL, GOAL, color="0.9", linewidth=0, label=f"{GOAL} points around it")
        axes.axvline(0, color="black", linewidth=0.8)
        for of, shift, marker, colour, label in (
            (rows, -0.15, "s", "tab:blue", "new seeds (digits 10, CIFAR-10 6)"),
            (before, 0.2, "o", "0.55", "the seeds of budgets: 5 and 3, one chose the baseline"),
        ):
            of_each = [gaps(of, budget) for budget in known]
            axes.errorbar(
                [statistics.fmean(values) for values in of_each],
                [place + shift for place in range(len(known))],
                xerr=[half_width(values) for values in of_each],
                fmt=marker,
                color=colour,
                markersize=5 if of is rows else 3.5,
                elinewidth=1.4 if of is rows else 0.7,
                label=label,
            )
        names = [
            f"{task}, batch {size:,}: {steps_of((task, e, size)):,}" for task, e, size in known
        ]
        axes.set_yticks(range(len(known)), names, fontsize=9)
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_xlim(-4.5, 7.5)
        axes.set_xlabel("AutoWU minus the tuned warmup-cosine, points of test accuracy, 95 %")
        axes.set_ylabel("budget, in optimizer steps")
        drawing.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawing


def report(rows: list[Row]) -> None:
    before = read_rows(budgets.RESULTS)
    put_between_marks(FOLDER / "README.md", "table", table(rows, before))
    put_between_marks(FOLDER / "README.md", "means", means(rows, before))
    save_figure(figure(rows, before), FOLDER / "fresh_seeds.png", dpi=110)


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
