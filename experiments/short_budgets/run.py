"""Test accuracy on digits in short budgets: default, published procedure, tuned warmup-cosine.

    python -m experiments.short_budgets.run        ten minutes on one core; results.csv and a figure

Every run is one call of train.py; those with a row in results.csv are not made again.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from autowu.settings import PAPER
from experiments.results import add_results_option, is_committed, still_to_run
from experiments.tables import (
    append_row,
    commit,
    markdown_table,
    put_between_marks,
    read_rows,
    save_figure,
)

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.csv"
EPOCHS = (2, 5, 10, 30)
SEEDS = (0, 1, 2)
PEAK_LRS = (0.001, 0.003, 0.01, 0.03, 0.1)  # the grid that "tuned" is the best of
METHODS = {
    "default": [],
    "without the probe": ["schedule.probe=0"],
    "fixed sweep": ["schedule.sweep=fixed"],
    "paper": [f"schedule.{name}={value}" for name, value in PAPER.items()],
    **{
        f"warmup_cosine {lr}": ["schedule.name=warmup_cosine", f"optimizer.lr={lr}"]
        for lr in PEAK_LRS
    },
}

OURS = ("default", "without the probe", "fixed sweep", "paper")  # columns of the table


def run(method: str, epochs: int, seed: int, output_dir: Path) -> dict[str, Any]:
    """The row of one run of train.py, made anew: digits, small CNN, AdamP, batch size 32."""
    name = f"{method.replace(' ', '-')}-epochs{epochs}-seed{seed}"
    command = [sys.executable, "train.py", *METHODS[method], f"epochs={epochs}", f"seed={seed}"]
    subprocess.run(
        [*command, f"output_dir={output_dir}", f"name={name}", "resume=never"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    summary = json.loads((output_dir / name / "summary.json").read_text(encoding="utf-8"))
    return {
        "source": "ours",
        "status": "done",
        "method": method,
        "epochs": epochs,
        "batch_size": 32,
        "test_accuracy": f"{summary['test_accuracy']:.3f}",
        "switch_step": summary["switch_step"],
        "start_lr": f"{summary['start_lr']:.6g}",
        "total_steps": summary["total_steps"],
        "seed": seed,
        "commit": commit(),
        "device": summary["device"],
    }


def accuracies(rows: list[dict[str, Any]], method: str, epochs: int) -> list[float]:
    return [
        float(row["test_accuracy"])
        for row in rows
        if row["method"] == method and row["epochs"] == str(epochs)
    ]


def best_baseline(rows: list[dict[str, Any]], epochs: int) -> str:
    """The baseline with the highest mean over the seeds: tuned with hindsight."""
    names = [method for method in METHODS if method.startswith("warmup_cosine")]
    return max(names, key=lambda name: statistics.fmean(accuracies(rows, name, epochs)))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and deviation of each method in each budget."""

    def cell(method: str, epochs: int) -> str:
        values = accuracies(rows, method, epochs)
        return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"

    lines = [
        [
            epochs,
            *(cell(method, epochs) for method in OURS),
            cell(best_baseline(rows, epochs), epochs),
            best_baseline(rows, epochs).split()[-1],
        ]
        for epochs in EPOCHS
    ]
    return markdown_table(["epochs", *OURS, "tuned warmup_cosine", "its peak LR"], lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for method, color, marker in (
            ("tuned warmup_cosine", "0.7", "s"),
            ("paper", "0.45", "x"),
            ("default", "black", "o"),
        ):
            values = []
            for epochs in EPOCHS:
                name = best_baseline(rows, epochs) if method.startswith("tuned") else method
                values.append(accuracies(rows, name, epochs))
            axes.errorbar(
                EPOCHS,
                [statistics.fmean(v) for v in values],
                [statistics.stdev(v) for v in values],
                color=color,
                marker=marker,
                capsize=3,
                label=method,
            )
        axes.set_xscale("log")
        axes.set_xticks(EPOCHS, [str(epochs) for epochs in EPOCHS])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="budget in epochs", ylabel="test accuracy, %, mean ± sd of 3 seeds")
        axes.legend()
        axes.grid(color="0.92")
        save_figure(figure, path, dpi=150)


def key_of(cell: tuple[int, str, int]) -> tuple[str, str, str]:
    """What tells its row from the others."""
    epochs, method, seed = cell
    return method, str(epochs), str(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/short_budgets"))
    add_results_option(parser, RESULTS)
    options = parser.parse_args()
    known = {(row["method"], row["epochs"], row["seed"]) for row in read_rows(options.results)}
    wanted = itertools.product(EPOCHS, METHODS, SEEDS)
    for epochs, method, seed in still_to_run(options.results, wanted, key_of, known):
        row = run(method, epochs, seed, options.output_dir)
        append_row(options.results, row)
        print(f"{epochs:3} epochs  {method:20} {row['test_accuracy']}", flush=True)
    if is_committed(options.results, RESULTS):
        rows = read_rows(options.results)
        draw(rows, FOLDER / "short_budgets.png")
        put_between_marks(FOLDER / "README.md", "table", table(rows))


if __name__ == "__main__":
    main()
