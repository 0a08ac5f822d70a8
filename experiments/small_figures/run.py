"""The paper's figures 2, 3, 5, 6 and 7 in small: a residual network on 10,000 images of CIFAR-10.

    python -m experiments.small_figures.run --data-root data/cifar10-jpeg    some 25 minutes a seed
    python -m experiments.small_figures.plot                                 tables and pictures

What the LR and the loss do at five batch sizes, with AdamP and with LAMB; which LR the decay starts
from, by batch size and `max_warmup_fraction`; exponential against linear growth; and the accuracy
over peak LR and warmup length, from the rows of `budgets`. A row for each run in results.csv, of
seed 0 the LR and the loss in curves.csv.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.curves import thin
from experiments.results import curves_beside, is_committed
from experiments.tables import append_row, done_rows
from experiments.training.cells import carry_out, parse_options
from experiments.training.trial import Recipe, train

FOLDER = Path(__file__).parent
RESULTS, CURVES = FOLDER / "results.csv", FOLDER / "curves.csv"
BATCH_SIZES = (64, 128, 256, 512, 1024)
GROWTH_BATCH_SIZES = (128, 1024)  # of linear growth; `budgets` has tuned baselines there
EPOCHS = 10
SEEDS = (0, 1)
ADAPTIVE, FIXED = "adaptive", "fixed"
SCHEDULES: dict[str, dict[str, Any]] = {
    ADAPTIVE: {},
    FIXED: {"sweep": "fixed"},
    "fixed, fraction 0.25": {"sweep": "fixed", "max_warmup_fraction": 0.25},
    "fixed, fraction 0.125": {"sweep": "fixed", "max_warmup_fraction": 0.125},
    "linear to 1": {"growth": "linear"},
    "linear to 0.1": {"growth": "linear", "max_lr": 0.1},
}


@dataclass(frozen=True)
class SmallCell:
    """One run of AutoWU."""

    optimizer: str
    schedule: str
    batch_size: int
    seed: int
    data_root: Path
    curves: Path  # the file that the LR and the loss of seed 0 are added to

    def key(self) -> dict[str, str]:
        return {
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "batch_size": str(self.batch_size),
            "epochs": str(EPOCHS),
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        from experiments.training.tasks import cifar10

        recipe = Recipe(self.optimizer, schedule_settings=SCHEDULES[self.schedule])
        task = cifar10(self.data_root)
        outcome = train(task, recipe, batch_size=self.batch_size, epochs=EPOCHS, seed=self.seed)
        if self.seed == 0:
            steps = [
                {"step": str(step), "lr": str(lr), "loss": str(loss)}
                for step, (lr, loss) in enumerate(zip(outcome.lrs, outcome.losses, strict=True))
            ]
            for point in thin(steps, task.steps_per_epoch(self.batch_size)):
                append_row(self.curves, self.key() | point)
        return outcome.columns()


def cells(data_root: Path, curves: Path = CURVES) -> list[SmallCell]:
    def cell(optimizer: str, schedule: str, size: int, seed: int) -> SmallCell:
        return SmallCell(optimizer, schedule, size, seed, data_root, curves)

    found = []
    for seed in SEEDS:
        found += [
            cell("adamp", schedule, size, seed)
            for schedule in SCHEDULES
            for size in (GROWTH_BATCH_SIZES if "linear" in schedule else BATCH_SIZES)
        ]
        found += [cell("lamb", ADAPTIVE, size, seed) for size in BATCH_SIZES]
    return found


def main() -> None:
    from experiments.small_figures.plot import write

    assert __doc__ is not None
    options = parse_options(__doc__, RESULTS)
    if not options.tables:
        wanted = cells(options.data_root, curves_beside(options.results))
        carry_out(options, options.results, wanted)
    if is_committed(options.results, RESULTS):
        write(done_rows(RESULTS))


if __name__ == "__main__":
    main()
