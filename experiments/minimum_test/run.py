"""Run the default test and the published procedure over simulated curves with a known minimum.

    python -m experiments.minimum_test.run            all cells, about 30 minutes on one core
    python -m experiments.minimum_test.run --method default --curves 40

Appends a row per curve to results.csv and skips the rows that are there, so it can be stopped
and started at any time. `python -m experiments.minimum_test.report` makes the table and figure.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from autowu import replay
from autowu.minimum_test import num_consecutive_positive
from autowu.settings import PAPER
from experiments.minimum_test.curves import SHAPES, fallen_fraction, noisy_losses
from experiments.results import add_results_option, still_to_run
from experiments.tables import append_row, commit, read_rows

RESULTS = Path(__file__).parent / "results.csv"
BUDGETS = (  # (total steps, steps per epoch); the sweep takes half of the steps
    (120, 10),
    (800, 40),
    (2_000, 200),
    (10_000, 100),
)
NOISES = (0.03, 0.1, 0.3)  # deviation of a loss, in units of the whole fall
METHODS: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER}
# The default sweep is adaptive, and recorded curves cannot answer to it: `live.py` has it.
LABELS = {"default": "default test, fixed sweep", "paper": "paper"}
NUM_CURVES = {"default": 40, "paper": 5}  # a cell; the published tests are slow
FOUND_FRACTION = 0.9  # of the whole fall; a warmup that ends before that is a false alarm
Cell = tuple[str, str, float, int, int, int]  # method, shape, noise, total, per epoch, seed


def cells(curves: int | None, methods: list[str]) -> Iterator[Cell]:
    """Every curve to run; the same curve for both methods, seed by seed over all cells."""
    for method in methods:
        for index in range(curves or NUM_CURVES[method]):
            for total_steps, steps_per_epoch in BUDGETS:
                for noise in NOISES:
                    for shape in SHAPES:
                        yield method, shape, noise, total_steps, steps_per_epoch, index


def key_of(cell: Cell) -> tuple[str, ...]:
    """What tells its row from the others."""
    method, shape, noise, total_steps, _, seed = cell
    return method, shape, str(noise), str(total_steps), str(seed)


def run_curve(cell: Cell) -> dict[str, Any]:
    method, name, noise, total_steps, steps_per_epoch, index = cell
    shape = SHAPES[name]
    # Other noise for each shape and level, the same for both methods and for every budget.
    seed = 10_000 * index + 100 * list(SHAPES).index(name) + round(100 * noise)
    num_steps = total_steps // 2
    losses = noisy_losses(shape, num_steps, noise, seed)
    started = time.perf_counter()
    scheduler = replay(losses, total_steps, steps_per_epoch, **METHODS[method])
    seconds = time.perf_counter() - started
    assert scheduler.switch_step is not None and scheduler.start_lr is not None
    fallen = fallen_fraction(shape, num_steps, scheduler.switch_step)
    false_alarm = fallen < FOUND_FRACTION
    detected = num_consecutive_positive(scheduler.tests) >= scheduler.settings.patience
    delay = error = None
    if shape.minimum is not None:
        delay = scheduler.switch_step / num_steps - shape.minimum
        best_lr = 1e-5 * 1e5**shape.minimum
        error = math.log10(scheduler.start_lr / best_lr)
    return {
        "source": "ours",
        "status": "done",
        "method": method,
        "shape": name,
        "noise": noise,
        "total_steps": total_steps,
        "steps_per_epoch": steps_per_epoch,
        "seed": index,
        "switch_step": scheduler.switch_step,
        "detected": int(detected),
        "fallen_fraction": f"{fallen:.4f}",
        "false_alarm": int(false_alarm),
        "delay_fraction": "" if delay is None else f"{delay:.4f}",
        "start_lr": f"{scheduler.start_lr:.6g}",
        "lr_error_decades": "" if error is None else f"{error:.4f}",
        "seconds": f"{seconds:.3f}",
        "commit": commit(),
        "device": "cpu",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, action="append", help="both if left out")
    parser.add_argument("--curves", type=int, help="curves a cell (default 40, paper 5)")
    add_results_option(parser, RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {
        (r["method"], r["shape"], r["noise"], r["total_steps"], r["seed"])
        for r in read_rows(options.results)
    }
    wanted = cells(options.curves, options.method or list(METHODS))
    for cell in still_to_run(options.results, wanted, key_of, done):
        append_row(options.results, run_curve(cell))


if __name__ == "__main__":
    main()
