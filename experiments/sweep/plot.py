"""The tables and the figure of the README, from results.csv, simulated.csv and paths.csv.

    python -m experiments.sweep.plot

It makes the table of sweeps in docs/differences.md, too. Everything can be told apart in greyscale.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from experiments.budgets.plot import by_kept_statistics
from experiments.budgets.run import RESULTS as BUDGETS
from experiments.report import compare
from experiments.sweep.paths import PATHS, PLANS, TUNED
from experiments.sweep.run import (
    BOUNDED,
    PROBED,
    PROBED_ALIKE,
    PROBED_BY_HALF,
    PROBED_LOW,
    PROBES,
    RESULTS,
    SIMULATED,
    SIMULATED_STEPS,
    steps_off,
)
from experiments.sweep.variants import VARIANTS
from experiments.tables import done_rows, markdown_table, put_between_marks, save_figure
from experiments.training.figures import dots
from experiments.training.summary import mean_text

FOLDER = Path(__file__).parent
DIFFERENCES = FOLDER.parents[1] / "docs" / "differences.md"
SHOWN = {  # in docs/differences.md: (task, optimizer, total steps)
    ("digits", "adamp", 55): "digits, 55 steps of 128",
    ("cifar10_cnn", "adamp", 120): "CIFAR-10, small CNN, 120 steps of 1,024",
    ("cifar10_wide", "adamp", 90): "CIFAR-10, half a ResNet-18, 90 steps of 128",
}
BASELINE = "warmup_cosine"
TASKS = {  # as the figure names them
    "cifar10": "CIFAR-10, residual network",
    "cifar10_cnn": "CIFAR-10, small CNN",
    "cifar10_wide": "CIFAR-10, half a ResNet-18",
    "digits": "digits",
    "digits_vit": "digits, vision transformer",
}
OPTIMIZERS = {"adamp": "AdamP", "adamw": "AdamW", "lamb": "LAMB", "momentum": "SGD"}
UNPLANNED = "-"  # the tables hold all of methods times tasks, and not all of that was to be run
Row = dict[str, str]
Group = tuple[str, str, int]  # task, optimizer, total steps


def _text(values: list[float]) -> str:
    return mean_text(values) if values else UNPLANNED


def mean(values: dict[str, float]) -> float:
    return statistics.fmean(values.values())


def grouped(rows: list[Row]) -> dict[Group, dict[str, dict[str, float]]]:
    """Test accuracies of each method by seed; of the baseline those of the peak LR and warmup that
    are best in the mean, chosen with hindsight."""
    found: dict[Group, dict[tuple[str, str, str], dict[str, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in rows:
        steps = int(row["total_steps"]) + steps_off(row["method"], int(row["batch_size"]))
        group = (row["task"], row["optimizer"], steps)
        cell = (row["method"], row["lr"], row["warmup"])
        found[group][cell][row["seed"]] = float(row["test_accuracy"])
    result: dict[Group, dict[str, dict[str, float]]] = {}
    for group, cells in sorted(found.items()):
        result[group] = {name: values for (name, lr, _), values in cells.items() if not lr}
        grid = [values for (name, _, _), values in cells.items() if name == BASELINE]
        if grid:
            result[group][BASELINE] = max(grid, key=mean)
    return result


def table(rows: list[Row]) -> str:
    """A line for each method, and paired tests against the best of the grid and the fixed sweep."""
    groups = grouped(rows)
    names = [f"{task}, {optimizer}, {steps:,}" for task, optimizer, steps in groups]
    lines = [
        [method, *(_text(list(values.get(method, {}).values())) for values in groups.values())]
        for method in (
            *PROBES,
            PROBED_ALIKE,
            PROBED_LOW,
            PROBED_BY_HALF,
            *VARIANTS,
            BOUNDED,
            BASELINE,
        )
    ]
    lines[-1][0] = "warmup-cosine, best of its grid"
    for method, other, name in (
        (PROBED, BASELINE, "after a probe - best of the grid"),
        (PROBED, "fixed", "after a probe - fixed"),
        ("adaptive", "fixed", "adaptive - fixed"),
        ("adaptive", BASELINE, "adaptive - best of the grid"),
    ):
        tests = [
            compare(values.get(method, {}), values.get(other, {}), decimals=3)
            for values in groups.values()
        ]
        lines.append([name, *(test["difference"] for test in tests)])
        lines.append(["its p, paired t-test", *(test["p_value"] for test in tests)])
    return markdown_table(["accuracy %", *names], lines)


def differences_table(rows: list[Row]) -> str:
    """What each sweep has in three short runs."""
    kinds = {
        "fixed": "fixed",
        "adaptive": "adaptive",
        PROBED: "adaptive, after a probe",
        BASELINE: "best of a grid",
    }
    groups = grouped(rows)
    lines = [
        [title, *(_text(list(groups[group].get(kind, {}).values())) for kind in kinds)]
        for group, title in SHOWN.items()
        if group in groups
    ]
    return markdown_table(["accuracy %", *kinds.values()], lines)


def simulated_table(rows: list[Row]) -> str:
    """Mean over curvatures and seeds of log10 of the last loss; and the worst of them."""
    lines = []
    for method in (PROBED, *VARIANTS, BASELINE):
        line = [method]
        for steps in SIMULATED_STEPS:
            values = [
                float(row["log10_loss"])
                for row in rows
                if (row["method"], row["total_steps"]) == (method, str(steps))
            ]
            line.append(
                f"{statistics.fmean(values):.2f} ({max(values):.2f})" if values else UNPLANNED
            )
        lines.append(line)
    lines[-1][0] = "warmup-cosine, best of its grid"
    return markdown_table(["steps", *(f"{steps:,}" for steps in SIMULATED_STEPS)], lines)


def paths_table(paths: list[Row], rows: list[Row], budgets: list[Row]) -> str:
    """Accuracy of what begins a tuned schedule later, and of the adaptive sweep, same seeds."""
    header = ["accuracy %"]
    lines = [[plan] for plan in PLANS]
    sweeps = {name: [f"AutoWU, {name}"] for name in ("adaptive", PROBED)}
    in_budgets = {"adaptive": "autowu_no_probe", PROBED: "autowu_cosine"}
    for task, epochs in TUNED:
        chosen = [r for r in paths if (r["task"], r["epochs"]) == (task, str(epochs))]
        steps = chosen[0]["total_steps"] if chosen else "?"
        header.append(f"{task}, {epochs} epochs, {steps} steps")
        for line in lines:
            line.append(mean_text(accuracies(chosen, line[0])))
        own = {"task": task, "epochs": str(epochs), "batch_size": "1024"}
        seeds = {row["seed"] for row in chosen}
        same = [[row for row in each if row["seed"] in seeds] for each in (rows, budgets)]
        for name, line in sweeps.items():
            found = accuracies(same[0], name, **own)
            if not found:  # by the statistics of batch norms that were kept in training, as here
                found = accuracies(by_kept_statistics(same[1]), in_budgets[name], **own)
            line.append(mean_text(found))
    return markdown_table(header, [*lines, *sweeps.values()])


def accuracies(rows: list[Row], method: str, **columns: str) -> list[float]:
    wanted = columns | {"method": method}
    return [float(r["test_accuracy"]) for r in rows if wanted.items() <= r.items()]


def figure(rows: list[Row]) -> Figure:
    """Accuracy of each kind of sweep less that of the best warmup-cosine, of equal seeds."""
    looks = {"fixed": ("o", "0.55"), "adaptive": ("s", "black"), PROBED: ("D", "tab:blue")}
    needed = {BASELINE, *looks}
    groups = {group: values for group, values in grouped(rows).items() if needed <= values.keys()}
    return dots(
        {
            f"{TASKS[task]}, {OPTIMIZERS[optimizer]}, {steps:,} steps": {
                f"sweep: {kind}": [
                    accuracy - values[BASELINE][seed]
                    for seed, accuracy in values[kind].items()
                    if seed in values[BASELINE]
                ]
                for kind in looks
            }
            for (task, optimizer, steps), values in groups.items()
        },
        {f"sweep: {kind}": look for kind, look in looks.items()},
        "the best warmup-cosine",
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows, simulated = done_rows(RESULTS), done_rows(SIMULATED)
    put_between_marks(FOLDER / "README.md", "table", table(rows))
    put_between_marks(FOLDER / "README.md", "simulated", simulated_table(simulated))
    paths = paths_table(done_rows(PATHS), rows, done_rows(BUDGETS))
    put_between_marks(FOLDER / "README.md", "paths", paths)
    put_between_marks(DIFFERENCES, "sweeps", differences_table(rows))
    save_figure(figure(rows), FOLDER / "sweep.png", dpi=110)


if __name__ == "__main__":
    main()
