"""The loss times 0.01, 1 and 100: the default against the published procedure.

    python -m experiments.loss_scale.run       digits, and CIFAR-10 at batch size 1,024

AdamP and a scaled loss train as without the scale, but for the eps in its denominator; SGD's good
LRs are divided by the scale, and so is its range of LRs here. A row for each run in results.csv;
`--tables` makes those of the README, and the figure.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from experiments.tables import markdown_table, put_between_marks, save_figure
from experiments.training import methods
from experiments.training.cells import main as cells_main
from experiments.training.figures import dots
from experiments.training.summary import mean_text
from experiments.training.trial import train

FOLDER = Path(__file__).parent
SCALES = (0.01, 1.0, 100.0)
METHODS = {
    "default": methods.AUTOWU["autowu_cosine"],
    "no probe": methods.AUTOWU["autowu_no_probe"],
    "paper": methods.AUTOWU["paper"],
}
BUDGETS = (
    ("digits", 128, 30),
    ("digits", 479, 60),
    ("digits", 32, 10),
    ("digits", 128, 5),
    ("cifar10", 1024, 20),
)
SEEDS = (0, 1, 2)
REFERENCE = "default, loss times 1"  # of the figure


@dataclass(frozen=True)
class ScaleCell:
    task: str
    batch_size: int
    epochs: int
    optimizer: str
    method: str
    scale: float
    seed: int
    data_root: Path

    def key(self) -> dict[str, str]:
        return {
            "task": self.task,
            "batch_size": str(self.batch_size),
            "epochs": str(self.epochs),
            "optimizer": self.optimizer,
            "method": self.method,
            "scale": f"{self.scale:g}",
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        from experiments.training import tasks

        task = tasks.named(self.task, self.data_root)
        settings = dict(METHODS[self.method].schedule_settings)
        if self.optimizer == "momentum":
            settings |= {"min_lr": 1e-5 / self.scale, "max_lr": 1.0 / self.scale}
        outcome = train(
            task,
            replace(METHODS[self.method], optimizer=self.optimizer, schedule_settings=settings),
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
            disturb=self.scaled,
        )
        return outcome.columns()

    def scaled(self, step: int, loss: Tensor) -> Tensor:
        return self.scale * loss


def cells(root: Path) -> list[ScaleCell]:
    return [
        ScaleCell(task, size, epochs, optimizer, method, scale, seed, root)
        for task, size, epochs in BUDGETS
        for seed in SEEDS
        for optimizer in ("adamp", "momentum")
        for method in METHODS
        for scale in SCALES
        if task == "digits" or seed < 2
    ]


def table(rows: list[dict[str, str]]) -> str:
    lines = []
    for name, size, epochs in BUDGETS:
        for optimizer in ("adamp", "momentum"):
            for method in METHODS:
                for scale in SCALES:
                    values = [
                        row
                        for row in rows
                        if (row["task"], row["batch_size"], row["epochs"])
                        == (name, str(size), str(epochs))
                        and (row["optimizer"], row["method"]) == (optimizer, method)
                        and row["scale"] == f"{scale:g}"
                    ]
                    if not values:
                        continue
                    unit = scale if optimizer == "momentum" else 1.0
                    lines.append(
                        (
                            f"{name}, batch {size}, {epochs} epochs",
                            optimizer,
                            method,
                            f"{scale:g}",
                            " ".join(row["switch_step"] for row in values),
                            " ".join(f"{unit * float(row['start_lr']):.2g}" for row in values),
                            mean_text([float(r["test_accuracy"]) for r in values]),
                            len(values),
                        )
                    )
    header = (
        "run",
        "optimizer",
        "method",
        "loss times",
        "warmup ends at step",
        "LR (SGD: times the scale)",
        "accuracy %",
        "n",
    )
    return markdown_table(header, lines)


def figure(rows: list[dict[str, str]]) -> Figure:
    """Mean accuracies less those of the default with the loss as it is."""
    groups: dict[str, dict[str, list[float]]] = {}
    order = [(name, str(size), str(epochs)) for name, size, epochs in BUDGETS]
    for row in sorted(rows, key=lambda r: order.index((r["task"], r["batch_size"], r["epochs"]))):
        size, epochs = row["batch_size"], row["epochs"]
        run = f"{row['task']}, batch {size}, {epochs} epochs, {row['optimizer']}"
        what = f"{row['method']}, loss times {row['scale']}"
        groups.setdefault(run, {}).setdefault(what, []).append(float(row["test_accuracy"]))
    gaps = {
        run: {what: [fmean(v) - fmean(values[REFERENCE])] for what, v in values.items()}
        for run, values in groups.items()
        if REFERENCE in values
    }
    kinds = (("tab:blue", "vo^"), ("black", "1+2"), ("tab:red", "<s>"))  # a marker each, for grey
    looks = {
        f"{method}, loss times {scale:g}": (marker, colour)
        for method, (colour, markers) in zip(METHODS, kinds, strict=True)
        for scale, marker in zip(SCALES, markers, strict=True)
    }
    del looks[REFERENCE]
    return dots(gaps, looks, f"the {REFERENCE}")


def report(rows: list[dict[str, str]]) -> None:
    put_between_marks(FOLDER / "README.md", "table", table(rows))
    save_figure(figure(rows), FOLDER / "loss_scale.png", dpi=110)


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
