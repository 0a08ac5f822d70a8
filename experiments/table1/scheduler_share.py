"""The share of a run's time that went into AutoWU's tests, by repeating the scheduler alone.

    python -m experiments.table1.scheduler_share runs/gpu_table1     scheduler.csv

The losses in steps.csv are given to `autowu.replay` with the run's settings, on this machine's CPU,
where the tests of a run on a GPU are made, too. Collecting a loss that lies on a GPU is not in it.
Run it on the machine that made the runs. Rows of other runs stay as they are.
"""

import argparse
import inspect
import time
from collections.abc import Sequence
from pathlib import Path

from autowu import AutoWU, replay
from autowu.trainer.config import build_settings
from experiments.collect import ReportError, Row, find_runs, run_row
from experiments.tables import read_rows, write_rows

FOLDER = Path(__file__).parent
IDENTITY = (  # columns of results.csv that tell its rows apart
    "source",
    "status",
    "config",
    "variant",
    "epochs",
    "batch_size",
    "seed",
    "data",
    "commit",
    "device",
)


def scheduler_row(run: Path) -> Row | None:
    """Seconds of the scheduler and of the whole run; None for a run without AutoWU."""
    schedule = vars(build_settings([run / "config.yaml"], []).schedule)
    if schedule["name"] != "autowu":
        return None
    row = run_row(run)
    keywords = inspect.signature(AutoWU).parameters
    settings = {name: value for name, value in schedule.items() if name in keywords}
    steps = read_rows(run / "steps.csv")
    losses, first_lr = [float(step["loss"]) for step in steps], float(steps[0]["lr"])
    if settings["sweep"] == "adaptive" and first_lr > settings["min_lr"]:  # after a probe
        settings["first_lr"] = first_lr
    times = []
    for _ in range(2):  # the first one also warms up
        start = time.perf_counter()
        scheduler = replay(losses, int(row["total_steps"]), int(row["steps_per_epoch"]), **settings)
        times.append(time.perf_counter() - start)
    seconds = min(times)
    return {name: row[name] for name in IDENTITY} | {
        "tests": str(len(scheduler.tests)),
        "scheduler_seconds": f"{seconds:.3f}",
        "run_seconds": row["seconds"],
        "share": f"{seconds / float(row['seconds']):.5f}",
    }


def merged(rows: Sequence[Row], made: Sequence[Row]) -> list[Row]:
    """The rows with those that were made in the place of their like, or else at the end."""
    by_key = {tuple(row[name] for name in IDENTITY): row for row in [*rows, *made]}
    return list(by_key.values())


def main(arguments: Sequence[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=FOLDER / "scheduler.csv")
    options = parser.parse_args(arguments)
    try:
        runs = [run for folder in options.folders for run in find_runs(folder)]
        rows = [row for run in runs if (row := scheduler_row(run)) is not None]
    except ReportError as error:
        raise SystemExit(f"scheduler_share: {error}") from None
    if not rows:
        raise SystemExit("scheduler_share: no finished run of AutoWU, nothing is written")
    write_rows(options.output, merged(read_rows(options.output), rows))
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
