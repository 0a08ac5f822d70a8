"""The simulated curves met by a running scheduler, whose sweep the losses steer: both sweeps.

    python -m experiments.minimum_test.live       a quarter of an hour on one core; restartable

A recorded curve can be replayed under a fixed sweep alone. Here the loss of a step is the curve's
at the LR of that step, so that an adaptive sweep meets it, too. Two more shapes are hard for the
adaptive one alone. A row a run in live.csv, and the tables of the README.
"""

import argparse
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim import SGD

from autowu import AutoWU
from autowu.minimum_test import num_consecutive_positive
from autowu.settings import SweepKind
from experiments.minimum_test.curves import OFFSET, SHAPES, Shape
from experiments.minimum_test.run import FOUND_FRACTION, NOISES
from experiments.results import add_results_option, is_committed, still_to_run
from experiments.tables import (
    append_row,
    commit,
    markdown_table,
    put_between_marks,
    read_rows,
    wilson_interval,
)

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "live.csv"
BUDGETS = ((120, 10), (800, 40))  # total steps, steps per epoch; the sweep takes half of the steps
SWEEPS: tuple[SweepKind, ...] = ("fixed", "adaptive")
LONG_BUDGET = (4000, 200)  # of the shapes below
NUM_SEEDS = 12
MIN_LR, MAX_LR = 1e-5, 1.0


def _rest_between_falls(u: np.ndarray) -> np.ndarray:
    """A quarter of the fall in a decade of LRs, a rest of 1.5 decades, and what is left in 1.5."""
    return np.interp(u, [0.2, 0.4, 0.7, 1.0], [1.0, 0.75, 0.75, 0.0])


def _great_fall_first(u: np.ndarray) -> np.ndarray:
    """Five sixths of the fall in the first decade of LRs, and what is left evenly in the others."""
    return np.interp(u, [0.0, 0.2, 1.0], [1.0, 1 / 6, 0.0])


LONG_SHAPES = {
    "rest between two falls": Shape(_rest_between_falls, None),
    "great fall first": Shape(_great_fall_first, None),
}
ALL_SHAPES = SHAPES | LONG_SHAPES


class Run(NamedTuple):
    sweep: SweepKind
    shape: str
    noise: float  # deviation of a loss, in units of the whole fall
    total_steps: int
    steps_per_epoch: int
    seed: int

    def key(self) -> tuple[str, ...]:
        return tuple(str(value) for value in self)


def runs() -> Iterator[Run]:
    for seed in range(NUM_SEEDS):
        for total_steps, steps_per_epoch in BUDGETS:
            for noise in NOISES:
                for shape in SHAPES:
                    for sweep in SWEEPS:
                        yield Run(sweep, shape, noise, total_steps, steps_per_epoch, seed)
        for noise, shape, sweep in product(NOISES, LONG_SHAPES, SWEEPS):
            yield Run(sweep, shape, noise, *LONG_BUDGET, seed)


def row_of(run: Run, version: str) -> dict[str, Any]:
    """Run the warmup to its end; `version` is the commit of the code."""
    curve, minimum = ALL_SHAPES[run.shape]
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(
        optimizer,
        run.total_steps,
        run.steps_per_epoch,
        min_lr=MIN_LR,
        max_lr=MAX_LR,
        sweep=run.sweep,
        seed=run.seed,
    )
    rng = np.random.default_rng(
        (run.seed, list(ALL_SHAPES).index(run.shape), round(100 * run.noise))
    )
    optimizer.step()
    met = []  # true losses
    while scheduler.switch_step is None:
        lr = float(scheduler.get_last_lr()[0])
        progress = math.log(lr / MIN_LR) / math.log(MAX_LR / MIN_LR)
        met.append(float(curve(np.array([progress]))[0]))
        scheduler.step(OFFSET + met[-1] + run.noise * rng.standard_normal())
    assert scheduler.start_lr is not None
    whole = curve(np.linspace(0.0, 1.0, 1001))
    fallen = (whole[0] - min(met)) / (whole[0] - whole.min())
    found = num_consecutive_positive(scheduler.tests) >= scheduler.settings.patience
    error = "" if minimum is None else math.log10(scheduler.start_lr / MAX_LR) - 5 * (minimum - 1)
    return {
        "source": "ours",
        "status": "done",
        **run._asdict(),
        "switch_step": scheduler.switch_step,
        "detected": int(found),
        "fallen_fraction": f"{fallen:.4f}",
        "lr_error": error if error == "" else f"{error:.4f}",
        "commit": version,
        "device": "cpu",
    }


def table(rows: list[dict[str, str]]) -> str:
    """Of the shapes that recorded curves have too, by length, noise and sweep."""
    rows = [row for row in rows if row["shape"] in SHAPES]
    lines = []
    for total_steps, _ in BUDGETS:
        for noise in NOISES:
            for sweep in SWEEPS:
                wanted = {"total_steps": str(total_steps), "noise": str(noise), "sweep": sweep}
                chosen = [row for row in rows if wanted.items() <= row.items()]
                num_early, num_found, errors = count_outcomes(chosen)
                lines.append(
                    (
                        total_steps // 2,
                        noise,
                        sweep,
                        len(chosen),
                        _percent(num_early, len(chosen)),
                        _percent(num_found, len(errors)),
                        f"{np.mean(errors):.2f} ({max(errors):.2f})",
                    )
                )
    header = (
        "steps of the sweep",
        "noise",
        "sweep",
        "n",
        "ended early %",
        "minima found by the test %",
        "LR error, decades (largest)",
    )
    return markdown_table(header, lines)


def count_outcomes(rows: list[dict[str, str]]) -> tuple[int, int, list[float]]:
    """How many ended before the fall, how many found their minimum, errors of LR in decades.

    The errors are of the curves that have a minimum, without their sign.
    """
    with_minimum = [row for row in rows if row["lr_error"]]
    early = [row for row in rows if row["detected"] == "1" and not _has_fallen(row)]
    found = [row for row in with_minimum if row["detected"] == "1" and _has_fallen(row)]
    return len(early), len(found), [abs(float(row["lr_error"])) for row in with_minimum]


def long_table(rows: list[dict[str, str]]) -> str:
    """Of the two other shapes: how many warmups end early, and how much of the fall they had."""
    lines = []
    for shape, noise, sweep in product(LONG_SHAPES, NOISES, SWEEPS):
        wanted = {"shape": shape, "noise": str(noise), "sweep": sweep}
        chosen = [row for row in rows if wanted.items() <= row.items()]
        early = [row for row in chosen if row["detected"] == "1" and not _has_fallen(row)]
        fallen = [100 * float(row["fallen_fraction"]) for row in chosen]
        lines.append(
            (
                shape,
                noise,
                sweep,
                len(chosen),
                _percent(len(early), len(chosen)),
                f"{np.mean(fallen):.0f} ({min(fallen):.0f})",
            )
        )
    header = ("shape", "noise", "sweep", "n", "ended early %", "fallen % (least)")
    return markdown_table(header, lines)


def _has_fallen(row: dict[str, str]) -> bool:
    return float(row["fallen_fraction"]) >= FOUND_FRACTION


def _percent(count: int, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{100 * count / n:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_results_option(parser, RESULTS)
    results = parser.parse_args().results
    torch.set_num_threads(1)
    known = {tuple(row[name] for name in Run._fields) for row in read_rows(results)}
    missing = still_to_run(results, runs(), Run.key, known)
    version = commit()
    for run in missing:
        append_row(results, row_of(run, version))
    if is_committed(results, RESULTS):
        rows = read_rows(results)
        put_between_marks(FOLDER / "README.md", "live", table(rows))
        put_between_marks(FOLDER / "README.md", "long", long_table(rows))


if __name__ == "__main__":
    main()
