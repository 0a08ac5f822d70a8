"""Injected NaNs, loss spikes, label noise and runs that diverge: what each method ends with.

    python -m experiments.divergence.run

Digits, batch size 128, 30 epochs. A row for each run in results.csv; `--tables` makes the
README's table from them.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autowu.probe import NUM_SAMPLES
from autowu.settings import PAPER
from experiments.tables import markdown_table, put_between_marks, save_figure
from experiments.training.cells import main as cells_main
from experiments.training.figures import dots
from experiments.training.methods import AUTOWU, UNTUNED, warmup_cosine
from experiments.training.summary import mean_text
from experiments.training.tasks import Task, digits
from experiments.training.trial import Recipe, train

FOLDER = Path(__file__).parent
BATCH_SIZE, EPOCHS = 128, 30
SEEDS = (0, 1, 2)
EVERY = 100  # steps between two disturbed ones, on average
SPIKE = 100.0  # times the loss
METHODS = {
    "autowu": AUTOWU["autowu_cosine"],
    "autowu, no probe": AUTOWU["autowu_no_probe"],
    "paper": AUTOWU["paper"],
    "warmup_cosine": warmup_cosine(0.03, 0.1, EPOCHS),
    "warmup_cosine, LR 1": warmup_cosine(1.0, 0.1, EPOCHS),
    **UNTUNED,
}
WILD = {  # a range of LRs that ends far above those the network bears
    "autowu": Recipe("sgd", schedule_settings={"max_lr": 1e6}, num_probe_images=NUM_SAMPLES),
    "autowu, no probe": Recipe("sgd", schedule_settings={"max_lr": 1e6}),
    "paper": Recipe("sgd", schedule_settings=PAPER | {"max_lr": 1e6}),
    "warmup_cosine": warmup_cosine(1e3, 0.1, EPOCHS, "sgd"),
}
LOOKS = {  # of the figure; the markers differ in greyscale too
    method: (marker, "tab:blue" if method.startswith("autowu") else "black")
    for method, marker in zip(METHODS, "oDs^v<>P", strict=True)
}
CONDITIONS = ("none", "NaN", "spikes", "labels 20 %", "labels 40 %", "SGD, LRs up to 1e6")


@dataclass(frozen=True)
class DisturbedCell:
    condition: str
    method: str
    seed: int

    def key(self) -> dict[str, str]:
        return {"condition": self.condition, "method": self.method, "seed": str(self.seed)}

    def run(self) -> dict[str, Any]:
        task = digits()
        if self.condition.startswith("labels"):
            task = with_noisy_labels(float(self.condition.split()[1]) / 100)
        recipe = WILD[self.method] if self.condition.startswith("SGD") else METHODS[self.method]
        disturb = self.disturb if self.condition in ("NaN", "spikes") else None
        outcome = train(
            task,
            recipe,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            seed=self.seed,
            disturb=disturb,
        )
        return outcome.columns()

    def disturb(self, step: int, loss: Tensor) -> Tensor:
        """A NaN comes without a gradient, as after a GradScaler; a spike with its own."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        if torch.rand(1, generator=generator).item() >= 1 / EVERY:
            return loss
        return _WithoutGradient.apply(loss) if self.condition == "NaN" else SPIKE * loss


class _WithoutGradient(torch.autograd.Function):
    """NaN in place of the loss, and a gradient of 0."""

    @staticmethod
    def forward(context: Any, loss: Tensor) -> Tensor:
        return torch.full_like(loss, torch.nan)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return torch.zeros_like(gradients[0])


@cache
def with_noisy_labels(fraction: float) -> Task:
    """The digits, that fraction of the training labels drawn at random, always the same."""
    task = digits()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(len(task.labels), generator=generator) < fraction
    random = torch.randint(0, 10, task.labels.shape, generator=generator)
    return replace(task, labels=torch.where(chosen, random, task.labels))


def cells(data_root: Path) -> list[DisturbedCell]:
    return [
        DisturbedCell(condition, method, seed)
        for seed in SEEDS
        for condition in CONDITIONS
        for method in (WILD if condition.startswith("SGD") else METHODS)
    ]


def table(rows: list[dict[str, str]]) -> str:
    def cell(condition: str, method: str) -> str:
        known = WILD if condition.startswith("SGD") else METHODS
        if method not in known:
            return "-"  # not planned
        chosen = [row for row in rows if (row["condition"], row["method"]) == (condition, method)]
        return mean_text([float(row["test_accuracy"]) for row in chosen])

    lines = [(m, *(cell(condition, m) for condition in CONDITIONS)) for m in METHODS]
    return markdown_table(("accuracy %", *CONDITIONS), lines)


def report(rows: list[dict[str, str]]) -> None:
    put_between_marks(FOLDER / "README.md", "table", table(rows))
    drawing = dots(gaps(rows), LOOKS, "the same method without a disturbance")
    save_figure(drawing, FOLDER / "divergence.png", dpi=110)


def gaps(rows: list[dict[str, str]]) -> dict[str, dict[str, list[float]]]:
    """Condition -> method -> its accuracies less those of equal seeds without a disturbance."""
    found = {
        (row["condition"], row["method"], row["seed"]): float(row["test_accuracy"]) for row in rows
    }
    result: dict[str, dict[str, list[float]]] = {condition: {} for condition in CONDITIONS[1:]}
    for (condition, method, seed), accuracy in found.items():
        undisturbed = found.get((CONDITIONS[0], method, seed))
        if condition in result and undisturbed is not None:
            result[condition].setdefault(method, []).append(accuracy - undisturbed)
    return result


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
