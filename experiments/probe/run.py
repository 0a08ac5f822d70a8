"""Where the probe says that the loss begins to fall, by how many samples and how fast it is.

    python -m experiments.probe.run --data-root data/cifar10-jpeg    # a quarter of an hour
    python -m experiments.probe.run --tables

A row for each probe in results.csv; those that are there are not made again. `--tables` makes the
table and the figure of the README from them and from the rows of `experiments/sweep`.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from autowu.probe import NUM_SAMPLES, find_fall
from experiments.sweep.run import RESULTS as SWEEP
from experiments.tables import done_rows, markdown_table, put_between_marks, save_figure
from experiments.training.cells import main as cells_main

FOLDER = Path(__file__).parent
BATCH_SIZES = {
    "digits": 128,
    "digits_vit": 128,
    "cifar10": 1024,
    "cifar10_cnn": 1024,
    "cifar10_wide": 128,
}
PAIRS = (
    ("digits", "adamp"),
    ("digits", "momentum"),
    ("digits", "lamb"),
    ("digits", "adamw"),
    ("digits", "lion"),
    ("digits", "muon"),
    ("digits_vit", "adamw"),
    ("cifar10", "adamp"),
    ("cifar10", "momentum"),
    ("cifar10_cnn", "adamp"),
    ("cifar10_wide", "adamp"),
    ("cifar10_wide", "momentum"),
)
# (samples, factor of the LR from step to step, the loss times)
KINDS = (
    (NUM_SAMPLES, 2.0, 1.0),
    (16, 2.0, 1.0),
    (64, 2.0, 1.0),
    (256, 2.0, 1.0),
    (NUM_SAMPLES, 1.5, 1.0),
    (NUM_SAMPLES, 2.0, 100.0),
)
SEEDS = (0, 1, 2, 3, 4)
Row = dict[str, str]


@dataclass(frozen=True)
class ProbeCell:
    """One probe."""

    task: str
    optimizer: str
    num_samples: int
    growth: float  # at most, from step to step
    scale: float  # of the loss
    seed: int
    data_root: Path

    def key(self) -> dict[str, str]:
        return {
            "task": self.task,
            "optimizer": self.optimizer,
            "num_samples": str(self.num_samples),
            "growth": f"{self.growth:g}",
            "loss_times": f"{self.scale:g}",
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        import torch
        import torch.nn.functional as F

        from autowu import probe
        from autowu.group_lrs import set_lr
        from autowu.trainer import optimizers
        from autowu.unchanged import unchanged
        from experiments.training import tasks

        task = tasks.named(self.task, self.data_root)
        torch.manual_seed(self.seed)
        network = task.network()
        optimizer = optimizers.build(network, self.optimizer)
        batches = list(islice(task.batches(BATCH_SIZES[self.task], self.seed), 3))

        def take_step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = self.scale * F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        def write_lr(lr: float) -> None:
            for group in optimizer.param_groups:
                set_lr(group, lr)

        num_factors = math.ceil(math.log(1.0 / 1e-5) / math.log(self.growth))
        lrs = [1e-5 ** (1 - k / num_factors) for k in range(num_factors + 1)]
        if self.growth == probe.GROWTH:
            lrs = probe.probe_lrs(1e-5, 1.0)
        images, labels = batches[0]
        if len(images) < self.num_samples:
            images, labels = next(task.batches(self.num_samples, self.seed))
        few = images[: self.num_samples], labels[: self.num_samples]
        cpu = torch.device("cpu")
        with unchanged(network, optimizer, cpu):
            take_step(*batches[0])  # whatever is done once only
        start = time.perf_counter()
        with unchanged(network, optimizer, cpu):
            losses = probe.probe_losses(lrs, write_lr, lambda: take_step(*few))
        probe_seconds = time.perf_counter() - start
        start = time.perf_counter()
        with unchanged(network, optimizer, cpu):
            write_lr(1e-5)
            for batch in batches:
                take_step(*batch)
        step_seconds = (time.perf_counter() - start) / len(batches)
        fall = find_fall(lrs, losses)
        return {
            "lr": "" if fall is None else f"{fall.lr:.6g}",
            "num_steps": str(len(lrs)),
            "probe_steps": f"{probe_seconds / step_seconds:.3f}",  # of the batch size
            "losses": " ".join(f"{loss:.5g}" for loss in losses),
        }


def cells(data_root: Path) -> list[ProbeCell]:
    return [
        ProbeCell(task, optimizer, num_samples, growth, scale, seed, data_root)
        for task, optimizer in PAIRS
        for num_samples, growth, scale in KINDS
        for seed in SEEDS
    ]


def best_peaks(rows: Sequence[Row]) -> dict[tuple[str, str], list[float]]:
    """(task, optimizer) -> the best peak LR of a warmup-cosine for each length of the run."""
    accuracies: dict[tuple[str, str, str], dict[float, list[float]]] = {}
    for row in rows:
        if row["method"] == "warmup_cosine":
            group = (row["task"], row["optimizer"], row["total_steps"])
            peaks = accuracies.setdefault(group, {})
            peaks.setdefault(float(row["lr"]), []).append(float(row["test_accuracy"]))
    found: dict[tuple[str, str], list[float]] = {}
    for (task, optimizer, _), peaks in accuracies.items():
        best = max(peaks, key=lambda lr: sum(peaks[lr]) / len(peaks[lr]))
        found.setdefault((task, optimizer), []).append(best)
    return found


def select(rows: Sequence[Row], *kind: object) -> list[Row]:
    names = ("task", "optimizer", "num_samples", "growth", "loss_times")
    wanted = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in zip(names, kind, strict=True)
    }
    return [row for row in rows if wanted.items() <= row.items()]


def table(rows: Sequence[Row], peaks: dict[tuple[str, str], list[float]]) -> str:
    """LRs from the lowest to the highest of the seeds, and what a probe costs."""
    lines = []
    for task, optimizer in PAIRS:
        line = [f"{task}, {optimizer}"]
        for kind in KINDS:
            chosen = select(rows, task, optimizer, *kind)
            line.append(span([float(row["lr"]) for row in chosen if row["lr"]]))
        line.append(span(peaks.get((task, optimizer), [])))
        usual = select(rows, task, optimizer, *KINDS[0])
        falls = [find_fall(*curve(row)) for row in usual]
        line.append(f"{sum(fall is not None and fall.is_spread for fall in falls)} of {len(falls)}")
        costs = [float(row["probe_steps"]) for row in usual]
        line.append(f"{sum(costs) / len(costs):.1f}" if costs else "not run")
        lines.append(line)
    names = [
        f"{num_samples} samples"
        + f", {growth:g}x a step" * (growth != 2.0)
        + f", loss x {scale:g}" * (scale != 1.0)
        for num_samples, growth, scale in KINDS
    ]
    header = [
        "task, optimizer",
        *names,
        "best peak LR",
        "spread falls",
        "costs, in steps of the run",
    ]
    return markdown_table(header, lines)


def curve(row: Row) -> tuple[list[float], list[float]]:
    """LRs and losses of a probe."""
    losses = [float(loss) for loss in row["losses"].split()]
    return [1e-5 ** (1 - k / (len(losses) - 1)) for k in range(len(losses))], losses


def span(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def figure(rows: Sequence[Row], peaks: dict[tuple[str, str], list[float]]) -> Figure:
    """The losses of the probes over the LR, as a part of their fall, with the LR that is found."""
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(13, 4.6), layout="constrained")
        for axes, (task, optimizer) in zip(drawing.subplots(2, 6).flat, PAIRS, strict=True):
            for row in select(rows, task, optimizer, *KINDS[0]):
                lrs, losses = curve(row)
                fall = losses[0] - min(losses)
                parts = [(loss - min(losses)) / fall for loss in losses]
                axes.plot(lrs, parts, color="0.4", linewidth=0.8)
                lr = float(row["lr"])
                height = np.interp(lr, lrs, parts)
                axes.plot([lr], [height], "D", color="tab:blue", markersize=5)
            for peak in peaks.get((task, optimizer), []):
                axes.axvline(peak, color="black", linestyle="--", linewidth=0.8)
            axes.set(xscale="log", ylim=(-0.05, 1.3))
            axes.set_title(f"{task}, {optimizer}", fontsize=9)
        drawing.supxlabel("learning rate of the next step", fontsize=9)
        drawing.supylabel("loss, from its lowest (0) to its first (1)", fontsize=9)
    return drawing


def report(rows: list[Row]) -> None:
    peaks = best_peaks(done_rows(SWEEP))
    put_between_marks(FOLDER / "README.md", "table", table(rows, peaks))
    save_figure(figure(rows, peaks), FOLDER / "probe.png", dpi=110)


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
