"""AutoWU against the tuned warmup-cosine of `budgets`, on seeds that had no part in the tuning.

    python -m experiments.fresh_seeds.run --data-root data/cifar10-jpeg

In `budgets` seed 0 chooses the best of ten peak LRs and warmups by test accuracy, and is among
the seeds by which the choice is judged. Here the choice stands, and both are run with new seeds. A
row for each run in results.csv; `--tables` makes the README's tables and the figure from them.
"""

from pathlib import Path

from experiments.budgets import run as budgets
from experiments.budgets.run import BudgetCell
from experiments.tables import read_rows
from experiments.training.cells import main as cells_main

FOLDER = Path(__file__).parent
SEEDS = {"digits": range(5, 15), "cifar10": range(3, 9)}  # those of `budgets` lie below
AUTOWU = "autowu_cosine"


def cells(data_root: Path) -> list[BudgetCell]:
    """AutoWU and the cell of the grid that `budgets` chose, in all of its budgets."""
    rows = read_rows(budgets.RESULTS)
    return [
        BudgetCell(task, epochs, size, method, lr, warmup, seed, data_root)
        for task, epochs, size in budgets.budgets("*")
        for chosen in budgets.tuned_cells(rows, data_root, task, epochs, size)[:1]
        for seed in SEEDS[task]
        for method, lr, warmup in (
            (AUTOWU, None, None),
            (budgets.TUNED, chosen.lr, chosen.warmup),
        )
    ]


def report(rows: list[dict[str, str]]) -> None:
    """To be written."""


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
