"""Fine-tuning: AutoWU on networks that are trained already, beside a warmup-cosine at six peak LRs.

    python -m experiments.finetuning.run --data-root data/cifar10-jpeg

A row for each run in results.csv; `--tables` makes the README's tables and the figure from them.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autowu.probe import NUM_SAMPLES
from experiments.tables import markdown_table, put_between_marks, save_figure
from experiments.training.cells import main as cells_main
from experiments.training.methods import AUTOWU, warmup_cosine
from experiments.training.peak_figure import Panel, draw
from experiments.training.summary import mean_text
from experiments.training.trial import Recipe, train

FOLDER = Path(__file__).parent
Budget = tuple[str, int, int, int]  # task, images, batch size, epochs
BUDGETS: tuple[Budget, ...] = (
    ("cifar10", 1000, 64, 20),
    ("cifar10", 1000, 64, 5),
    ("cifar10", 200, 64, 60),
    ("digits_vit", 700, 32, 10),
    ("digits_vit", 200, 32, 20),
)
SEEDS = (0, 1, 2, 3, 4)
PEAK_LRS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
WARMUP = 0.1  # of the epochs
PEAKS = {f"warmup-cosine, LR {lr:g}": lr for lr in PEAK_LRS}
OURS = {
    "AutoWU": AUTOWU["autowu_cosine"],
    "AutoWU, constant-cosine": AUTOWU["autowu_constant_cosine"],
    "AutoWU, max_lr 0.01": Recipe(schedule_settings={"max_lr": 0.01}, num_probe_images=NUM_SAMPLES),
    "AutoWU, classifier at 10 times the LR": Recipe(
        optimizer_settings={"head_lr_mult": 10.0}, num_probe_images=NUM_SAMPLES
    ),
    "AutoWU without its probe": AUTOWU["autowu_no_probe"],
    "AutoWU as published": AUTOWU["paper"],
}
METHODS = (*PEAKS, *OURS)
DRAWN = ("AutoWU", "AutoWU, max_lr 0.01", "AutoWU without its probe")
FROM_SCRATCH = ("warmup-cosine, LR 0.01", "AutoWU")
TRAINED, RANDOM = "trained", "random"  # weights that a run begins with


@dataclass(frozen=True)
class FineTuningCell:
    """One run, of a trained network or from scratch."""

    task: str
    num_images: int
    batch_size: int
    epochs: int
    weights: str
    method: str
    seed: int  # of the classifier, the order of the images and their augmentation
    data_root: Path

    def key(self) -> dict[str, str]:
        return {
            "task": self.task,
            "images": str(self.num_images),
            "batch_size": str(self.batch_size),
            "epochs": str(self.epochs),
            "weights": self.weights,
            "method": self.method,
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        from experiments.finetuning.transfer import few_images, from_trained

        make_task = from_trained if self.weights == TRAINED else few_images
        task = make_task(self.task, self.data_root, self.num_images)
        if self.method in PEAKS:
            recipe = warmup_cosine(PEAKS[self.method], WARMUP, self.epochs)
        else:
            recipe = OURS[self.method]
        outcome = train(
            task, recipe, batch_size=self.batch_size, epochs=self.epochs, seed=self.seed
        )
        return outcome.columns()


def cells(data_root: Path) -> list[FineTuningCell]:
    return [
        FineTuningCell(*budget, weights, method, seed, data_root)
        for seed in SEEDS
        for budget in BUDGETS
        for weights, methods in ((TRAINED, METHODS), (RANDOM, FROM_SCRATCH))
        for method in methods
    ]


def name_of(budget: Budget) -> str:
    """
    >>> name_of(("cifar10", 1000, 64, 20))
    'CIFAR-10, 1000 images, 300 steps'
    """
    task, num_images, batch_size, epochs = budget
    name = {"cifar10": "CIFAR-10", "digits_vit": "digits (ViT)"}[task]
    return f"{name}, {num_images} images, {num_images // batch_size * epochs} steps"


class Rows:
    """The rows that are done, by budget, weights and method."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self._rows: dict[tuple[str, ...], list[dict[str, str]]] = {}
        names = ("task", "images", "batch_size", "epochs", "weights", "method")
        for row in rows:
            self._rows.setdefault(tuple(row[name] for name in names), []).append(row)

    def of(self, budget: Budget, weights: str, method: str) -> dict[str, Any]:
        """Seed -> row."""
        chosen = self._rows.get((*map(str, budget), weights, method), [])
        return {row["seed"]: row for row in chosen}

    def accuracies(self, budget: Budget, weights: str, method: str) -> dict[str, float]:
        """Seed -> test accuracy in percent."""
        chosen = self.of(budget, weights, method)
        return {seed: float(row["test_accuracy"]) for seed, row in chosen.items()}

    def found(self, budget: Budget, method: str) -> list[tuple[float, float]]:
        """The LR that AutoWU found, and the test accuracy, of each seed."""
        chosen = self.of(budget, TRAINED, method).values()
        return [(float(row["start_lr"]), float(row["test_accuracy"])) for row in chosen]

    def best_peak(self, budget: Budget) -> str | None:
        """The warmup-cosine with the best mean accuracy; None without a row."""
        means = {
            method: statistics.fmean(known.values())
            for method in PEAKS
            if (known := self.accuracies(budget, TRAINED, method))
        }
        return max(means, key=lambda method: means[method], default=None)

    def above_best(self, budget: Budget, method: str) -> list[float]:
        """Points of accuracy above the best peak, seed by seed."""
        best = self.best_peak(budget)
        if best is None:
            return []
        reference = self.accuracies(budget, TRAINED, best)
        own = self.accuracies(budget, TRAINED, method)
        return [own[seed] - reference[seed] for seed in own if seed in reference]


def accuracy_table(rows: Rows) -> str:
    def line(name: str, weights: str, method: str) -> tuple[str, ...]:
        known = [list(rows.accuracies(budget, weights, method).values()) for budget in BUDGETS]
        return (name, *(mean_text(values, 1) for values in known))

    lines = [line(method, TRAINED, method) for method in METHODS]
    lines += [line(f"{method}, from scratch", RANDOM, method) for method in FROM_SCRATCH]
    return markdown_table(("accuracy %", *map(name_of, BUDGETS)), lines)


def difference_table(rows: Rows) -> str:
    lines = []
    for budget in BUDGETS:
        best = rows.best_peak(budget)
        found = " ".join(f"{lr:.2g}" for lr, _ in rows.found(budget, "AutoWU"))
        gaps = (mean_text(rows.above_best(budget, method), 1) for method in OURS)
        peak = "not run" if best is None else f"{PEAKS[best]:g}"
        lines.append((name_of(budget), peak, found, *gaps))
    return markdown_table(("budget", "best peak", "AutoWU's LRs", *OURS), lines)


def report(done: list[dict[str, str]]) -> None:
    rows = Rows(done)
    readme = FOLDER / "README.md"
    put_between_marks(readme, "accuracy", accuracy_table(rows))
    put_between_marks(readme, "differences", difference_table(rows))
    panels = [
        Panel(
            name_of(budget),
            {
                lr: list(rows.accuracies(budget, TRAINED, method).values())
                for method, lr in PEAKS.items()
            },
            {method: rows.found(budget, method) for method in DRAWN},
        )
        for budget in BUDGETS
    ]
    save_figure(draw(panels), FOLDER / "finetuning.png", dpi=110)


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
