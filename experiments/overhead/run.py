"""What the scheduler costs, as ratios within one run: a test, and a step without a test.

    python -m experiments.overhead.run             two to four minutes on one core
    python -m experiments.overhead.run --tables    the table and overhead.png, from results.csv

A test is compared with the published procedure in plain GPyTorch, a step with that of PyTorch's
ExponentialLR. What is compared is timed in turns, so that a noisy machine hits both alike.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.optim.lr_scheduler import ExponentialLR

from autowu import AutoWU
from autowu.loss_curve import LossCurve
from autowu.loss_gp import LossGP
from autowu.minimum_test import weigh_evidence
from experiments.minimum_test.curves import SHAPES, noisy_losses
from experiments.overhead.published_test import published_test
from experiments.results import add_results_option, is_committed, refuse_tables_of_others
from experiments.tables import (
    commit,
    done_rows,
    markdown_table,
    put_between_marks,
    save_figure,
    write_rows,
)

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.csv"
NUM_LOSSES = (100, 1_000, 10_000, 1_000_000)
STEPS_TIMED = 2_000  # steps without a test in one timing
WARMUP_STEPS = 10**7  # so long that no test falls into it


def seconds_in_turns(
    functions: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
    """Time each function `rounds` times, one after the other within a round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()  # imports, allocations, caches
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    return times


def time_tests(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for num_losses in NUM_LOSSES:
        losses = torch.from_numpy(noisy_losses(SHAPES["late minimum"], num_losses, 0.1, 0)).float()
        curve = LossCurve(num_losses)
        curve.extend(losses)
        gp = LossGP()

        def ours(curve: LossCurve = curve, gp: LossGP = gp) -> None:
            weigh_evidence(
                curve,
                gp,
                num_losses=len(curve),
                num_tests=5,
                num_fit_samples=100,
                num_posterior_samples=500,
                rng=np.random.default_rng(0),
            )

        def published(losses: torch.Tensor = losses) -> None:
            published_test(losses)

        times = seconds_in_turns({"default test": ours, "published test": published}, rounds)
        rows += to_rows(times, baseline="published test", num_losses=num_losses)
    return rows


def time_steps(rounds: int) -> list[dict[str, Any]]:
    loss = torch.tensor(1.0, requires_grad=True) * 1.0  # with a graph, as in training

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

    def repeat(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(STEPS_TIMED):
                step()

        return run

    exponential = ExponentialLR(optimizer(), gamma=0.999999)
    warmup = AutoWU(optimizer(), 2 * WARMUP_STEPS, test_interval=WARMUP_STEPS)
    warmup_float = AutoWU(optimizer(), 2 * WARMUP_STEPS, test_interval=WARMUP_STEPS)
    decay = AutoWU(optimizer(), 2 * WARMUP_STEPS, max_warmup_fraction=1e-7)
    for scheduler in (exponential, warmup, warmup_float, decay):
        scheduler.optimizer.step()
    while decay.switch_step is None:
        decay.step(1.0)
    times = seconds_in_turns(
        {
            "ExponentialLR.step()": repeat(exponential.step),
            "warmup, step(tensor)": repeat(lambda: warmup.step(loss)),
            "warmup, step(float)": repeat(lambda: warmup_float.step(1.0)),
            "decay, step()": repeat(decay.step),
        },
        rounds,
    )
    per_step = {name: [t / STEPS_TIMED for t in values] for name, values in times.items()}
    return to_rows(per_step, baseline="ExponentialLR.step()", num_losses=0)


def to_rows(times: dict[str, list[float]], baseline: str, num_losses: int) -> list[dict[str, Any]]:
    """A row a thing timed; `times_baseline` is the median of its ratios of a round."""
    ratios = {
        name: [a / b for a, b in zip(values, times[baseline], strict=True)]
        for name, values in times.items()
    }
    quartiles = {name: statistics.quantiles(values) for name, values in ratios.items()}
    return [
        {
            "source": "ours",
            "status": "done",
            "what": name,
            "num_losses": num_losses or "",
            "microseconds": f"{1e6 * statistics.median(values):.3f}",
            "baseline": baseline,
            "times_baseline": f"{statistics.median(ratios[name]):.5f}",
            "lower_quartile": f"{quartiles[name][0]:.5f}",
            "upper_quartile": f"{quartiles[name][2]:.5f}",
            "rounds": len(values),
            "seed": 0,
        }
        for name, values in times.items()
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    tests = [row for row in rows if row["baseline"] == "published test"]
    steps = [row for row in rows if row["baseline"] != "published test"]
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(8, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, marker in (("published test", "s"), ("default test", "o")):
            chosen = [row for row in tests if row["what"] == name]
            left.loglog(
                [int(row["num_losses"]) for row in chosen],
                [float(row["microseconds"]) / 1e3 for row in chosen],
                marker=marker,
                color="0.5" if name == "published test" else "black",
                label=name,
            )
        left.set(xlabel="recorded losses", ylabel="ms a test", title="a test of the minimum")
        left.set_ylim(0.3, 3000)
        left.legend()
        names = [row["what"] for row in steps]
        values = [float(row["times_baseline"]) for row in steps]
        below = [v - float(row["lower_quartile"]) for v, row in zip(values, steps, strict=True)]
        above = [float(row["upper_quartile"]) - v for v, row in zip(values, steps, strict=True)]
        greys = ["0.8", "0.5", "0.5", "0.5"]
        bars = right.barh(names, values, xerr=[below, above], capsize=3, color=greys)
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # hides the line below
        right.bar_label(bars, fmt="%.2f", padding=4, bbox=paper)
        right.axvline(2.0, color="black", linestyle=":", zorder=0)
        right.text(2.03, len(names) - 0.6, "twice: the aim", fontsize=8, va="bottom")
        right.set(xlabel="times ExponentialLR.step()", title="a step without a test")
        right.set_xlim(0, max(2.3, 1.25 * max(v + a for v, a in zip(values, above, strict=True))))
        right.invert_yaxis()
        save_figure(figure, path, dpi=150)


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        losses = f"{int(row['num_losses']):,}" if row["num_losses"] else "-"
        microseconds = f"{float(row['microseconds']):,.1f}"
        lines.append([row["what"], losses, microseconds, ratio_text(row), row["rounds"]])
    header = ["what", "recorded losses", "microseconds", "ratio (quartiles)", "rounds"]
    return markdown_table(header, lines)


def ratio_text(row: dict[str, Any]) -> str:
    """What a thing takes in times of its baseline, or by how many times it is faster."""
    names = ("times_baseline", "lower_quartile", "upper_quartile")
    middle, low, high = (float(row[name]) for name in names)
    if middle < 0.1:
        return f"{1 / middle:.0f}x ({1 / high:.0f} to {1 / low:.0f}) faster than {row['baseline']}"
    return f"{middle:.2f}x ({low:.2f} to {high:.2f}) the time of {row['baseline']}"


def report(rows: list[dict[str, Any]]) -> None:
    draw(rows, FOLDER / "overhead.png")
    put_between_marks(FOLDER / "README.md", "table", table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=45)
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing, write the table and the figure"
    )
    add_results_option(parser, RESULTS)
    options = parser.parse_args()
    refuse_tables_of_others(parser, options, RESULTS)
    if options.tables:
        return report(done_rows(RESULTS))
    torch.set_num_threads(1)
    made_by = {
        "commit": commit(),
        "device": f"cpu, {platform.machine()}, 1 thread, torch {torch.__version__}",
    }
    rows = [*time_tests(options.rounds), *time_steps(options.rounds)]
    rows = [row | made_by for row in rows]
    write_rows(options.results, rows)
    for row in rows:
        losses, microseconds = f"{row['num_losses']!s:>8} losses", float(row["microseconds"])
        ratio = f"{float(row['times_baseline']):.4f} x {row['baseline']}"
        print(f"{row['what']:22} {losses} {microseconds:>12,.1f} us  {ratio}")
    if is_committed(options.results, RESULTS):
        report(rows)


if __name__ == "__main__":
    main()
