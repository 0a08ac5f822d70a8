"""What the default test and the published procedure decide on rescaled losses of real training.

    python -m experiments.decisions.run       five minutes on one core; results.csv, decisions.png
    python -m experiments.decisions.run --tables       only the table and the figure, from the rows

The curves are whole sweeps, from 1e-5 to 1.0 and never ended early, of the small CNN with AdamP on
scikit-learn's digits. Each is replayed as `a * loss + b`, and once more turning to NaN on the way.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from autowu import AutoWU, replay
from autowu.settings import PAPER
from autowu.trainer import optimizers
from autowu.trainer.data import load_data
from autowu.trainer.distributed import Ranks
from autowu.trainer.models import build_model
from autowu.trainer.step import OptimizerStep
from experiments.minimum_test.run import LABELS
from experiments.results import add_results_option, is_committed, refuse_tables_of_others
from experiments.tables import (
    commit,
    done_rows,
    markdown_table,
    put_between_marks,
    read_rows,
    save_figure,
    write_rows,
)

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.csv"
RUNS = ((32, 5), (32, 10), (32, 30), (128, 30), (479, 60))  # (batch size, epochs)
SEEDS = (0, 1)
SCALES = ((1.0, 0.0), (128.0, 0.0), (1 / 128, 0.0), (128.0, 4096.0), (1 / 128, 0.25),
          (100.0, 0.0), (0.01, 0.0))  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER}


def sweep_losses(batch_size: int, epochs: int, seed: int) -> tuple[Tensor, int]:
    """Losses of a whole sweep over half of the epochs (n,), and the steps of an epoch."""
    torch.manual_seed(seed)
    data = load_data("digits", batch_size, ranks=Ranks(), seed=seed)
    model = build_model("small_cnn", data.num_channels, data.num_classes)
    optimizer = optimizers.build(model, "adamp", lr=None, weight_decay=0.01)
    total_steps = epochs * data.steps_per_epoch
    never = {"test_interval": total_steps, "patience": 10**6}
    scheduler = AutoWU(optimizer, total_steps, sweep="fixed", **never)
    take_step = OptimizerStep(model, optimizer)
    losses: list[float] = []
    for epoch in range((epochs + 1) // 2):
        for micro_batches in data.train_batches(epoch):
            loss = take_step(micro_batches)
            scheduler.step(loss)
            losses.append(float(loss))
    return torch.tensor(losses[: scheduler.warmup_steps]), data.steps_per_epoch


def decide(losses: Tensor, epochs: int, steps_per_epoch: int, method: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the divergence is what is measured
        scheduler = replay(losses, epochs * steps_per_epoch, steps_per_epoch, **METHODS[method])
    assert scheduler.switch_step is not None
    return {
        "switch_step": scheduler.switch_step,
        "switch_epoch": f"{scheduler.switch_step / steps_per_epoch:.2f}",
        "start_lr": f"{scheduler.start_lr:.6g}",
        "diverged": int(scheduler.diverged),
    }


def run() -> list[dict[str, Any]]:
    rows = []
    for batch_size, epochs in RUNS:
        for seed in SEEDS:
            losses, steps_per_epoch = sweep_losses(batch_size, epochs, seed)
            dying = losses.clone()
            dying[2 * len(losses) // 3 :] = torch.nan
            curves = [(a, b, a * losses.double() + b) for a, b in SCALES] + [(1.0, 0.0, dying)]
            for method in METHODS:
                for a, b, curve in curves:
                    rows.append(
                        {
                            "source": "ours",
                            "status": "done",
                            "method": method,
                            "curve": "dies" if curve is dying else "real",
                            "batch_size": batch_size,
                            "epochs": epochs,
                            "seed": seed,
                            "a": f"{a:g}",
                            "b": f"{b:g}",
                            **decide(curve, epochs, steps_per_epoch, method),
                            "commit": commit(),
                            "device": "cpu",
                        }
                    )
            print(f"batch size {batch_size}, {epochs} epochs, seed {seed}", flush=True)
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """A line a curve: epoch and LR at which each method ends the warmup, for some of the scales."""
    shown = (("real", "1", "0"), ("real", "100", "0"), ("real", "0.01", "0"),
             ("real", "128", "4096"), ("dies", "1", "0"))  # fmt: skip
    lines = []
    for batch_size, epochs in RUNS:
        for seed in SEEDS:
            for method in METHODS:
                line: list[object] = [batch_size, epochs, seed, LABELS[method]]
                for curve in shown:
                    (row,) = [
                        r
                        for r in rows
                        if (r["batch_size"], r["epochs"], r["seed"], r["method"])
                        == (str(batch_size), str(epochs), str(seed), method)
                        and (r["curve"], r["a"], r["b"]) == curve
                    ]
                    line.append(f"{row['switch_epoch']}, {float(row['start_lr']):.2g}")
                lines.append(line)
    header = ["batch size", "epochs", "seed", "method", "loss", "100 x", "0.01 x",
              "128 x + 4096", "NaN from 2/3 on"]  # fmt: skip
    return "Epoch at which the warmup ends, and the LR that the decay starts from:\n\n" + (
        markdown_table(header, lines)
    )


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """The start LR against the factor of the loss, a line for each curve."""
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, method in zip(panels, METHODS, strict=True):
            for index, (batch_size, epochs) in enumerate(RUNS):
                for seed in SEEDS:
                    points = sorted(
                        (float(row["a"]), float(row["start_lr"]))
                        for row in rows
                        if (row["method"], row["batch_size"], row["epochs"], row["seed"])
                        == (method, str(batch_size), str(epochs), str(seed))
                        and row["b"] == "0"
                        and row["curve"] == "real"
                    )
                    axes.loglog(
                        *zip(*points, strict=True),
                        marker="osD^v"[index],
                        color=str(0.15 * index),
                        markersize=4,
                        linewidth=1,
                        label=f"batch {batch_size}, {epochs} epochs" if seed == 0 else None,
                    )
            axes.set(title=LABELS[method], xlabel="loss times")
            axes.grid(color="0.92")
        panels[0].set_ylabel("LR the decay starts from")
        panels[0].set_ylim(1e-5, 2)
        panels[0].legend(fontsize=8)
        save_figure(figure, path, dpi=150)


def report(rows: list[dict[str, str]]) -> None:
    draw(rows, FOLDER / "decisions.png")
    put_between_marks(FOLDER / "README.md", "table", table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tables", action="store_true", help="run nothing, write the table and the figure"
    )
    add_results_option(parser, RESULTS)
    options = parser.parse_args()
    refuse_tables_of_others(parser, options, RESULTS)
    if options.tables:
        return report(done_rows(RESULTS))
    torch.set_num_threads(1)
    rows = run()
    write_rows(options.results, rows)
    if is_committed(options.results, RESULTS):
        report(read_rows(RESULTS))


if __name__ == "__main__":
    main()
