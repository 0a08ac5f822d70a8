"""What it costs that the LR goes on growing until a test is sure that the loss has its minimum.

    python -m experiments.overshoot.run --data-root data/cifar10-jpeg

Two questions, a row for each run in results.csv. With LRs that are given: an exponential warmup to
a good peak, a cosine from it to the end, and between the two steps in which the LR grows on, or
rests. With AutoWU: its sweep, and two that do not grow while a minimum is likelier than not: one
rests, the other goes back to the LR at that minimum (`experiments/sweep/variants.py`). `--tables`
makes the tables of the README and the figure.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.optim import Optimizer

from autowu import schedules, sweep
from autowu.plotting import STYLE
from experiments.report import compare
from experiments.sweep.paths import GivenLRs
from experiments.sweep.variants import Held, SetBack
from experiments.tables import markdown_table, put_between_marks, save_figure
from experiments.training.cells import main as cells_main
from experiments.training.methods import AUTOWU, EARLIER_GROWTH, warmup_cosine
from experiments.training.summary import deviation, mean_text
from experiments.training.trial import Outcome, Recipe, train

FOLDER = Path(__file__).parent
SEARCHED = {
    "default": AUTOWU["autowu_cosine"],
    "rests": replace(AUTOWU["autowu_cosine"], schedule=Held),
    "goes back": replace(AUTOWU["autowu_cosine"], schedule=SetBack),
}
BEFORE, NOW = "3 % a step", "2 % a step"
# Constants of `autowu.sweep` in place of its own.
SLOWER = {
    BEFORE: {"PROBED_GROWTH": EARLIER_GROWTH},  # as the default was, on the machine of the others
    NOW: {"PROBED_GROWTH": 1.02},
    "1.5 % a step": {"PROBED_GROWTH": 1.015},
    "1.5 % a step, from a third": {"PROBED_GROWTH": 1.015, "MAX_RUN_UP": 3.0},
}
# (task, batch size, epochs, seeds), what is cut is cut last
BUDGETS = (
    ("cifar10", 128, 5, 3),
    ("digits", 128, 5, 5),
    ("digits", 128, 10, 5),
    ("digits", 32, 10, 5),
    ("digits", 128, 30, 5),
    ("digits", 479, 30, 5),
    ("cifar10", 1024, 10, 3),
    ("digits", 32, 30, 5),
    ("cifar10", 128, 10, 3),
    ("cifar10", 1024, 20, 3),
    ("cifar10", 128, 20, 3),
)
APART = ("cifar10", 128, 5)  # the budget in which the LRs of "3 % a step" are taken apart
APART_SEEDS = 5
BASELINE = "warmup-cosine, tuned"  # by `budgets`
BASELINES = {  # peak LR, part of the run that is warmup, seeds
    ("cifar10", 128, 5): (0.01, 0.3, 5),
    ("cifar10", 128, 20): (0.01, 0.1, 3),
}
FIRST_LR = 6e-4  # of the warmups that are given
PEAKS = {0.003: 0.14, 0.005: 0.18, 0.01: 0.24}  # peak LR: part of the run after which it is reached
# Steps, and growth a step: 1.03 is that of AutoWU's sweep, which is about 30 steps late.
LATE = ((0, 1.0), (30, 1.03), (45, 1.0), (45, 1.015), (45, 1.03))
Row = dict[str, str]


def given_lrs(
    total_steps: int, peak: float, begin: float, late_steps: int, growth: float
) -> list[float]:
    """(total_steps,): to `peak` in the fraction `begin`, `late_steps` of growth, then a cosine.

    The cosine is from `peak` to 0 over what is left, as AutoWU's decay is from the minimum.
    """
    rise = round(begin * total_steps)
    fall = total_steps - rise - late_steps
    return [
        *(FIRST_LR * (peak / FIRST_LR) ** (step / rise) for step in range(rise)),
        *(peak * growth**step for step in range(late_steps)),
        *(schedules.cosine(step, fall, peak) for step in range(fall)),
    ]


@dataclass(frozen=True)
class OvershootCell:
    task: str
    batch_size: int
    epochs: int
    method: str  # a key of SEARCHED, or "given"
    peak_lr: float | None
    late_steps: int | None
    growth: float | None
    seed: int
    data_root: Path

    def key(self) -> dict[str, str]:
        given = {
            name: "" if value is None else f"{value:g}"
            for name, value in (
                ("peak_lr", self.peak_lr),
                ("late_steps", self.late_steps),
                ("growth", self.growth),
            )
        }
        return {
            "task": self.task,
            "batch_size": str(self.batch_size),
            "epochs": str(self.epochs),
            "method": self.method,
            **given,
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        outcome = self.outcome()
        last = outcome.lrs[outcome.switch_step - 1] if outcome.switch_step else None
        return outcome.columns() | {"last_lr": "" if last is None else f"{last:.6g}"}  # of warmup

    def outcome(self) -> Outcome:
        from experiments.training import tasks

        with mock.patch.multiple(sweep, **SLOWER.get(self.method, SLOWER[BEFORE])):
            return train(
                tasks.named(self.task, self.data_root),
                self.recipe(),
                batch_size=self.batch_size,
                epochs=self.epochs,
                seed=self.seed,
            )

    def recipe(self) -> Recipe:
        if self.method == "given":
            return Recipe(schedule=self.given())
        if self.method == BASELINE:
            peak, warmup, _ = BASELINES[self.task, self.batch_size, self.epochs]
            return warmup_cosine(peak, warmup, self.epochs)
        if self.method in CHANGES:
            default = _outcome(replace(self, method=BEFORE))
            assert default.switch_step is not None and default.start_lr is not None
            lrs = CHANGES[self.method](list(default.lrs), default.switch_step, default.start_lr)
            return Recipe(schedule=lambda optimizer, *_: GivenLRs(optimizer, lrs, None))
        return SEARCHED.get(self.method, AUTOWU["autowu_cosine"])

    def given(self) -> Callable[[Optimizer, int, int], GivenLRs]:
        peak, late_steps, growth = self.peak_lr, self.late_steps, self.growth
        assert peak is not None and late_steps is not None and growth is not None

        def schedule(optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> GivenLRs:
            lrs = given_lrs(total_steps, peak, PEAKS[peak], late_steps, growth)
            return GivenLRs(optimizer, lrs, None)

        return schedule


@cache
def _outcome(cell: OvershootCell) -> Outcome:
    return cell.outcome()


def own_lrs(lrs: list[float], switch_step: int, peak: float) -> list[float]:
    return lrs


def not_late(lrs: list[float], switch_step: int, peak: float) -> list[float]:
    """The decay begins when the LR of the minimum is reached, and is as much longer."""
    return _then_cosine([lr for lr in lrs[:switch_step] if lr < peak], len(lrs), peak)


def resting(lrs: list[float], switch_step: int, peak: float) -> list[float]:
    """The LR stays at that of the minimum until the decay begins."""
    return [*(min(lr, peak) for lr in lrs[:switch_step]), *lrs[switch_step:]]


def not_late_nor_low(lrs: list[float], switch_step: int, peak: float) -> list[float]:
    """And the warmup begins at a tenth of it."""
    rise = [lr for lr in lrs[:switch_step] if peak / 10 <= lr < peak]
    return _then_cosine(rise, len(lrs), peak)


def linear(lrs: list[float], switch_step: int, peak: float) -> list[float]:
    """The tuned baseline with the LR of AutoWU's minimum as its peak."""
    rise = round(0.3 * len(lrs))
    return _then_cosine([peak * (step + 1) / rise for step in range(rise)], len(lrs), peak)


def _then_cosine(rise: list[float], total_steps: int, peak: float) -> list[float]:
    fall = total_steps - len(rise)
    return [*rise, *(schedules.cosine(step, fall, peak) for step in range(fall))]


# (the default's LRs, its `switch_step`, its `start_lr`) -> LRs
CHANGES: dict[str, Callable[[list[float], int, float], list[float]]] = {
    "its LRs, given": own_lrs,
    "resting while late": resting,
    "not late": not_late,
    "not late, from a tenth of the peak": not_late_nor_low,
    "its peak, linear warmup of 30 %": linear,
}

APART_METHODS = (BEFORE, *CHANGES, NOW, BASELINE)


def cells(root: Path) -> list[OvershootCell]:
    given = [
        OvershootCell("cifar10", 128, 5, "given", peak, late_steps, growth, seed, root)
        for seed in range(3)
        for peak in PEAKS
        for late_steps, growth in LATE
    ]
    searched = [
        OvershootCell(task, size, epochs, method, None, None, None, seed, root)
        for methods in (SEARCHED, SLOWER)
        for task, size, epochs, num_seeds in BUDGETS
        for seed in range(num_seeds)
        for method in methods
    ]
    apart = [
        OvershootCell(*APART, method, None, None, None, seed, root)
        for seed in range(APART_SEEDS)
        for method in (BEFORE, NOW, *CHANGES)
        if method not in SLOWER or seed >= 3  # the others are there already
    ]
    tuned = [
        OvershootCell(*budget, BASELINE, None, None, None, seed, root)
        for budget, (*_, num_seeds) in BASELINES.items()
        for seed in range(num_seeds)
    ]
    return [*given, *searched, *apart, *tuned]


def rows_of(rows: list[Row], **columns: object) -> list[Row]:
    wanted = {name: str(value) for name, value in columns.items()}
    return [row for row in rows if wanted.items() <= row.items()]


def accuracies(rows: list[Row], **columns: object) -> dict[str, float]:
    """By seed, of the rows with these columns."""
    return {row["seed"]: float(row["test_accuracy"]) for row in rows_of(rows, **columns)}


def searched(task: str, batch_size: int, epochs: int, method: str) -> dict[str, object]:
    return {"task": task, "batch_size": batch_size, "epochs": epochs, "method": method}


def late_columns(peak: float, late_steps: int, growth: float) -> dict[str, str]:
    return {"peak_lr": f"{peak:g}", "late_steps": str(late_steps), "growth": f"{growth:g}"}


def given_table(rows: list[Row]) -> str:
    lines = []
    for late_steps, growth in LATE:
        found = [accuracies(rows, **late_columns(peak, late_steps, growth)) for peak in PEAKS]
        times = f"{growth**late_steps:.1f} times in all"
        name = f"{late_steps} steps at {growth:g}x, {times}" if late_steps else "none"
        lines.append([name, *(mean_text(list(values.values())) for values in found)])
    header = [f"peak {peak:g} after {100 * begin:g} %" for peak, begin in PEAKS.items()]
    return markdown_table(["late steps", *header], lines)


def lateness_table(rows: list[Row]) -> str:
    """How far the default's sweep goes beyond its minimum in the 390 steps of the given LRs."""
    lines = []
    for row in rows_of(rows, **searched("cifar10", 128, 5, "default")):
        growth = float(row["last_lr"]) / float(row["start_lr"])
        steps = math.log(growth) / math.log(EARLIER_GROWTH)
        columns = (row[name] for name in ("seed", "switch_step", "start_lr", "last_lr"))
        lines.append([*columns, f"{steps:.0f}", f"{growth:.1f}"])
    header = ["seed", "warmup ends at", "LR at the minimum", "last LR", "steps late", "growth"]
    return markdown_table(header, lines)


def apart_table(rows: list[Row]) -> str:
    """What each change of AutoWU's LRs gains in the 390 steps."""
    found = {method: accuracies(rows, **searched(*APART, method)) for method in APART_METHODS}
    lines = []
    for method, values in found.items():
        test = compare(values, found[BEFORE])
        difference = f"{test['difference']} ± {test['difference_deviation']}"
        lines.append([method, len(values), mean_text(list(values.values())), difference])
        lines[-1].append(test["p_value"])
    return markdown_table(["LRs", "n", "accuracy %", f"minus {BEFORE}", "p"], lines)


def baseline_table(rows: list[Row]) -> str:
    lines = []
    for task, batch_size, epochs in BASELINES:
        budget = task, batch_size, epochs
        methods = BEFORE, NOW, BASELINE
        found = [accuracies(rows, **searched(*budget, method)) for method in methods]
        tests = [compare(each, found[-1]) for each in found[:-1]]
        lines.append(
            [
                f"{task}, batch {batch_size}, {epochs} epochs",
                len(found[0]),
                *(mean_text(list(values.values())) for values in found),
                *(
                    f"{test['difference']} ± {test['difference_deviation']}, {test['p_value']}"
                    for test in tests
                ),
            ]
        )
    differences = [f"{method} - tuned, p" for method in (BEFORE, NOW)]
    return markdown_table(["run", "n", BEFORE, NOW, BASELINE, *differences], lines)


def searched_table(rows: list[Row], methods: tuple[str, ...]) -> str:
    """Of AutoWU's variants, the first of which is that which the others are compared with."""
    reference, *tried = methods
    header = ["run", "steps", "n", *methods, *(f"{method} - {reference}, p" for method in tried)]
    header += [f"{what}, {method}" for what in ("warmup ends at", "LR") for method in methods]
    lines = []
    for *cell, num_seeds in sorted(BUDGETS):
        seeds = [str(seed) for seed in range(num_seeds)]
        own = {
            method: [
                row for row in rows_of(rows, **searched(*cell, method)) if row["seed"] in seeds
            ]
            for method in methods
        }
        if not own[reference]:
            continue
        found = {method: accuracies(own[method]) for method in methods}
        tests = [compare(found[method], found[reference]) for method in tried]
        columns = [
            *([row["switch_step"] for row in own[method]] for method in methods),
            *([f"{float(row['start_lr']):.2g}" for row in own[method]] for method in methods),
        ]
        task, batch_size, epochs = cell
        lines.append(
            [
                f"{task}, batch {batch_size}, {epochs} epochs",
                f"{int(own[reference][0]['total_steps']):,}",
                len(found[reference]),
                *(mean_text(list(values.values())) for values in found.values()),
                *(f"{test['difference']}, {test['p_value']}" for test in tests),
                *(" ".join(column) for column in columns),
            ]
        )
    return markdown_table(header, lines)


def figure(rows: list[Row]) -> Figure:
    """Accuracy over the growth in the late steps, and what resting and slowness do for AutoWU."""
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(11, 8), layout="constrained")
        upper, lower = drawing.subfigures(2, 1)
        left, right = upper.subplots(1, 2, width_ratios=(1, 1.4))
        looks = zip(PEAKS.items(), (":", "-", "--"), ("s", "o", "^"), strict=True)
        for index, ((peak, begin), style, marker) in enumerate(looks):
            found = [list(accuracies(rows, **late_columns(peak, *late)).values()) for late in LATE]
            known = [(place, values) for place, values in enumerate(found) if values]
            left.errorbar(
                [place + 0.12 * (index - 1) for place, _ in known],
                [statistics.fmean(values) for _, values in known],
                [deviation(values) for _, values in known],
                color=str(0.25 * index),
                linestyle=style,
                marker=marker,
                label=f"peak {peak:g} after {100 * begin:g} % of the run",
            )
        texts = [f"{steps} at {growth:g}x\n({growth**steps:.1f})" for steps, growth in LATE]
        left.set_xticks(range(len(LATE)), texts, fontsize=8)
        left.set_xlabel("late steps, growth of the LR a step (in all)")
        left.set_ylabel("test accuracy, %")
        left.margins(y=0.2)  # room for the legend
        left.legend(frameon=False, fontsize=8, loc="lower left")
        _draw_gaps(right, rows, tuple(SEARCHED))
        _draw_gaps(lower.subplots(), rows, tuple(SLOWER))
    return drawing


def _draw_gaps(axes: Axes, rows: list[Row], methods: tuple[str, ...]) -> None:
    """By how much each run is above that of the first method with its seed, and their means."""
    reference, *tried = methods
    names = []
    for *cell, num_seeds in sorted(BUDGETS):
        seeds = [str(seed) for seed in range(num_seeds)]  # as in the tables
        default = accuracies(rows, **searched(*cell, reference))
        for index, (method, marker) in enumerate(zip(tried, ("o", "s", "^"), strict=False)):
            found = accuracies(rows, **searched(*cell, method))
            gaps = [
                found[seed] - default[seed]
                for seed in seeds
                if {seed} <= found.keys() & default.keys()
            ]
            if not gaps:
                continue
            place = len(names) + 0.25 * (index - (len(tried) - 1) / 2)
            label = None if names else method
            axes.plot([place] * len(gaps), gaps, marker, color="0.65", ms=4, label=label)
            axes.plot([place], [statistics.fmean(gaps)], "_", color="black", ms=11, mew=2)
        names.append(f"{cell[0]}\n{cell[1]}\n{cell[2]} ep.")
    axes.legend(frameon=True, edgecolor="black", fontsize=8)  # its markers are no runs
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel(f"points of accuracy above {reference}")


def report(rows: list[Row]) -> None:
    put_between_marks(FOLDER / "README.md", "lateness", lateness_table(rows))
    put_between_marks(FOLDER / "README.md", "given", given_table(rows))
    put_between_marks(FOLDER / "README.md", "searched", searched_table(rows, tuple(SEARCHED)))
    put_between_marks(FOLDER / "README.md", "slower", searched_table(rows, tuple(SLOWER)))
    put_between_marks(FOLDER / "README.md", "apart", apart_table(rows))
    put_between_marks(FOLDER / "README.md", "baseline", baseline_table(rows))
    save_figure(figure(rows), FOLDER / "overshoot.png", dpi=110)


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
