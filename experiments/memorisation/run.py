"""Wide networks on few images, with and without augmentation: what the training loss tells.

    python -m experiments.memorisation.run --data-root data/cifar10-jpeg

A row for each run in results.csv; `--tables` makes the README's tables and the figure from them.
"""

import statistics
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from autowu.probe import NUM_SAMPLES
from experiments.report import compare
from experiments.sweep.run import EARLIER_RULES, PROBED_LOW
from experiments.tables import markdown_table, put_between_marks, save_figure
from experiments.training.cells import main as cells_main
from experiments.training.methods import AUTOWU, warmup_cosine
from experiments.training.peak_figure import Panel, draw
from experiments.training.summary import mean_text
from experiments.training.trial import Recipe, train

FOLDER = Path(__file__).parent
BATCH_SIZE = 128
SEEDS = (0, 1, 2)
PEAK_LRS = (0.001, 0.003, 0.01, 0.03)
WARMUP = 0.1  # of the epochs
PEAKS = {f"warmup-cosine, LR {lr:g}": lr for lr in (0.0003, *PEAK_LRS)}
AS_IS = "AutoWU"
LOW = "AutoWU, from a tenth of the LR of the probe"  # as before, however spread the fall
BOUNDED = "AutoWU, min_lr 0.001"
OURS = {
    AS_IS: AUTOWU["autowu_cosine"],
    LOW: AUTOWU["autowu_cosine"],
    BOUNDED: Recipe(schedule_settings={"min_lr": 0.001}, num_probe_images=NUM_SAMPLES),
}
Row = dict[str, str]


class Setting(NamedTuple):
    """What is trained, apart from the schedule."""

    task: str
    augment: str  # as `data.augment` of train.py
    epochs: int
    title: str
    methods: tuple[str, ...]

    def columns(self) -> dict[str, str]:
        """Of its rows, without the method and the seed."""
        return {
            "task": self.task,
            "augment": self.augment,
            "batch_size": str(BATCH_SIZE),
            "epochs": str(self.epochs),
        }


_SEEN = (*OURS, *(name for name, lr in PEAKS.items() if lr in PEAK_LRS))
_HELD_OUT = (AS_IS, LOW, *PEAKS)
SETTINGS = (
    Setting("cifar10_wide", "none", 20, "no augmentation, 900 steps", _SEEN),
    Setting("cifar10_wide", "crop_flip", 20, "crops and flips, 900 steps", _SEEN),
    Setting("cifar10_wide", "crop_flip", 10, "crops and flips, 450 steps", _SEEN),
    # Held out: where a spread fall begins had been settled when these were run for the first time.
    Setting("cifar10_vgg", "crop_flip", 20, "VGG, crops and flips, 900 steps", _HELD_OUT),
    Setting("cifar10_vgg", "crop_flip", 10, "VGG, crops and flips, 450 steps", _HELD_OUT),
    Setting("cifar10_wide_more", "crop_flip", 7, "three times the images, 945 steps", _HELD_OUT),
)


@dataclass(frozen=True)
class MemorisationCell:
    """One run."""

    setting: Setting
    method: str
    seed: int
    data_root: Path

    def key(self) -> dict[str, str]:
        return self.setting.columns() | {"method": self.method, "seed": str(self.seed)}

    def run(self) -> dict[str, Any]:
        from experiments.training import tasks

        task = tasks.named(self.setting.task, self.data_root)
        task, epochs = replace(task, augment=self.setting.augment), self.setting.epochs
        if self.method in OURS:
            recipe = OURS[self.method]
        else:
            recipe = warmup_cosine(PEAKS[self.method], WARMUP, epochs)
        as_before = mock.patch.object(*EARLIER_RULES[PROBED_LOW])
        with as_before if self.method == LOW else nullcontext():
            outcome = train(task, recipe, batch_size=BATCH_SIZE, epochs=epochs, seed=self.seed)
        half = outcome.total_steps // 2
        before_half = outcome.losses[half - outcome.total_steps // 10 : half]
        return outcome.columns() | {"loss_at_half": f"{statistics.fmean(before_half):.6g}"}


def cells(data_root: Path) -> list[MemorisationCell]:
    return [
        MemorisationCell(setting, method, seed, data_root)
        for seed in SEEDS
        for setting in SETTINGS
        for method in setting.methods
    ]


def column(rows: list[Row], setting: Setting, method: str, name: str) -> dict[str, float]:
    """Seed -> a column of the rows that are done."""
    wanted = setting.columns() | {"method": method}
    return {row["seed"]: float(row[name]) for row in rows if wanted.items() <= row.items()}


def found(rows: list[Row], setting: Setting, method: str) -> list[tuple[float, float]]:
    """The LR that AutoWU found, and the test accuracy, of each seed."""
    lrs, accuracies = (
        column(rows, setting, method, name) for name in ("start_lr", "test_accuracy")
    )
    return [(lr, accuracies[seed]) for seed, lr in lrs.items()]


def best_peak(rows: list[Row], setting: Setting) -> dict[str, float]:
    """Seed -> test accuracy of the warmup-cosine that is best in the mean."""
    grid = (column(rows, setting, method, "test_accuracy") for method in PEAKS)
    return max(filter(None, grid), key=lambda known: statistics.fmean(known.values()), default={})


def table(rows: list[Row]) -> str:
    """Accuracies and training losses; AutoWU less the best peak of the same seeds."""
    lines = []
    for setting in SETTINGS:
        for method in setting.methods:
            accuracy = column(rows, setting, method, "test_accuracy")
            at_half = column(rows, setting, method, "loss_at_half")
            at_end = column(rows, setting, method, "train_loss")
            line = [setting.title, method, mean_text(list(accuracy.values()), 1)]
            line += [mean_text(list(losses.values()), 3) for losses in (at_half, at_end)]
            if method in OURS:
                lrs = " ".join(f"{lr:.2g}" for lr, _ in found(rows, setting, method))
                test = compare(accuracy, best_peak(rows, setting), decimals=3)
                line += [lrs, test["difference"], test["p_value"]]
            else:
                line += ["-", "-", "-"]
            lines.append(line)
    header = (
        *("images", "method", "test accuracy %", "training loss before half of the run"),
        *("in its last tenth", "LRs found", "minus the best peak", "its p, paired t-test"),
    )
    return markdown_table(header, lines)


def report(rows: list[Row]) -> None:
    put_between_marks(FOLDER / "README.md", "table", table(rows))
    panels = []
    for setting in SETTINGS:
        peaks = {
            lr: list(column(rows, setting, method, "test_accuracy").values())
            for method, lr in PEAKS.items()
        }
        points = {method: found(rows, setting, method) for method in OURS}
        panels.append(Panel(setting.title, peaks, points))
    save_figure(draw(panels, num_columns=3), FOLDER / "memorisation.png", dpi=110)


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
