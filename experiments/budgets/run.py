"""Accuracy against budget: AutoWU, a tuned and an untuned warmup-cosine, and LR-free methods.

    python -m experiments.budgets.run                       all cells, 8.7 core-hours
    python -m experiments.budgets.run --only warmup_cosine --task digits

Many runs in one process after the other. A row for each in results.csv; those that are there are
not made again, so it can be stopped and started at any time. `--not-run` adds a row `not run` for
every run that is missing. `python -m experiments.budgets.plot` makes the tables and the figure.
"""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.tables import read_rows
from experiments.training import methods, tasks
from experiments.training.cells import carry_out, command_line
from experiments.training.trial import Recipe, train

RESULTS = Path(__file__).parent / "results.csv"
# (task, epochs, batch sizes), what is cheap and says most first
BUDGETS = (
    *(("digits", epochs, (128, 479, 1437, 32)) for epochs in (5, 10, 2, 30)),
    *(("cifar10", epochs, (1024, 128)) for epochs in (10, 5, 20)),
    ("digits", 100, (1437, 479, 128, 32)),
)
SEEDS = {"digits": (0, 1, 2, 3, 4), "cifar10": (0, 1, 2)}
TUNED = "warmup_cosine"
PEAK_LRS = (0.001, 0.003, 0.01, 0.03, 0.1)
WARMUPS = (0.1, 0.3)  # of the budget
METHODS = {**methods.UNTUNED, **methods.AUTOWU}
UNTUNED = "warmup_cosine_untuned"
KEPT = "kept_statistics_accuracy"  # column; empty with Schedule-Free, which keeps none


@dataclass(frozen=True)
class BudgetCell:
    """One run; `lr` and `warmup` are those of a warmup-cosine."""

    task: str
    epochs: int
    batch_size: int
    method: str
    lr: float | None
    warmup: float | None
    seed: int
    data_root: Path

    def key(self) -> dict[str, str]:
        return {
            "task": self.task,
            "epochs": str(self.epochs),
            "batch_size": str(self.batch_size),
            "method": self.method,
            "lr": "" if self.lr is None else f"{self.lr:g}",
            "warmup": "" if self.warmup is None else f"{self.warmup:g}",
            "seed": str(self.seed),
        }

    def recipe(self) -> Recipe:
        if self.lr is None or self.warmup is None:
            return (METHODS | methods.TRIED)[self.method]
        return methods.warmup_cosine(self.lr, self.warmup, self.epochs)

    def run(self) -> dict[str, Any]:
        outcome = train(
            tasks.named(self.task, self.data_root),
            self.recipe(),
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
            fresh_statistics=True,  # those kept in a short run lag behind its weights
        )
        kept = outcome.kept_statistics_accuracy
        return outcome.columns() | {KEPT: "" if kept is None else f"{kept:.3f}"}


def cells(data_root: Path, method: str, task: str, epochs: int, size: int) -> list[BudgetCell]:
    """The runs of one method in one budget; of the tuned baseline its grid."""
    if method == TUNED:
        return [
            BudgetCell(task, epochs, size, method, lr, warmup, 0, data_root)
            for lr in PEAK_LRS
            for warmup in WARMUPS
        ]
    lr, warmup = None, None
    if method == UNTUNED:
        lr, warmup = methods.UNTUNED_LR, methods.UNTUNED_WARMUP
    return [
        BudgetCell(task, epochs, size, method, lr, warmup, seed, data_root) for seed in SEEDS[task]
    ]


def tuned_cells(
    rows: list[dict[str, str]], data_root: Path, task: str, epochs: int, size: int
) -> list[BudgetCell]:
    """The other seeds of the cell of the grid that is best with seed 0.

    By test accuracy, and where that is equal by the training loss at the end: the baseline knows
    the test set. None before the whole grid is there.
    """
    grid = [
        row
        for row in rows
        if row["status"] == "done"
        and (row["method"], row["seed"], row["task"]) == (TUNED, "0", task)
        and (row["epochs"], row["batch_size"]) == (str(epochs), str(size))
    ]
    if len(grid) < len(PEAK_LRS) * len(WARMUPS):
        return []
    best = max(grid, key=lambda row: (float(row["test_accuracy"]), -float(row["train_loss"])))
    lr, warmup = float(best["lr"]), float(best["warmup"])
    return [
        BudgetCell(task, epochs, size, TUNED, lr, warmup, seed, data_root)
        for seed in SEEDS[task][1:]
    ]


def budgets(task: str) -> Iterator[tuple[str, int, int]]:
    for name, epochs, sizes in BUDGETS:
        if fnmatch.fnmatch(name, task):
            for size in sizes:
                yield name, epochs, size


def main() -> None:
    parser = command_line(__doc__, RESULTS)
    add = parser.add_argument
    add("--only", default="*", metavar="PATTERN", help="methods (* ? [] allowed)")
    add("--task", default="*", metavar="PATTERN", help="digits or cifar10")
    add("--epochs", type=int, nargs="*", help="budgets")
    options = parser.parse_args()
    names = [m for m in (TUNED, UNTUNED, *METHODS) if fnmatch.fnmatch(m, options.only)]
    if not names:
        parser.error(f"--only {options.only}: no such method ({', '.join((TUNED, *METHODS))})")
    chosen = [b for b in budgets(options.task) if not options.epochs or b[1] in options.epochs]
    if not chosen:
        parser.error(f"--task {options.task}, --epochs {options.epochs}: no such budget")
    wanted = [
        cell
        for budget in chosen
        for name in names
        for cell in cells(options.data_root, name, *budget)
    ]
    carry_out(options, options.results, wanted)
    if TUNED in names:
        rows = read_rows(options.results)
        tuned = [
            cell for budget in chosen for cell in tuned_cells(rows, options.data_root, *budget)
        ]
        carry_out(options, options.results, tuned)


if __name__ == "__main__":
    main()
