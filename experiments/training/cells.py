"""Many small runs, several processes at once; rows that exist already are not made again."""

import argparse
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from experiments.results import (
    add_results_option,
    is_committed,
    refuse_tables_of_others,
    shown,
    still_to_run,
)
from experiments.tables import append_row, commit, done_rows, read_rows, write_rows


class Cell(Protocol):
    """What is run; it is pickled, and `key` tells its row from the others."""

    def key(self) -> dict[str, str]:
        """The columns that say what was run, as they are written."""

    def run(self) -> dict[str, Any]:
        """The other columns of the row."""


def run_cells(path: Path, cells: Sequence[Cell], processes: int = 2) -> None:
    """Run what has no row with `status` done in `path`, in order, and add the rows to it.

    A process takes one run after the other and one thread for each, at low priority. Ctrl-C loses
    the runs under way. Rows `not run` are taken out.
    """
    rows = read_rows(path)
    done = [row for row in rows if row["status"] == "done"]
    if len(done) < len(rows):  # what is not run now is said anew by `add_not_run`
        write_rows(path, done)
    keys = list(cells[0].key()) if cells else []
    finished = {tuple(row[name] for name in keys) for row in done}
    waiting = still_to_run(path, cells, lambda cell: tuple(cell.key().values()), finished)
    version = commit()
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin) as pool:
        futures = {pool.submit(_run, cell): cell for cell in waiting}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                key = futures[future].key()
                columns = {"source": "ours", "status": "done", **key, **future.result()}
                append_row(path, columns | {"commit": version, "device": cpu_name()})
                print(f"{number}/{len(waiting)}", *key.values(), flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def add_not_run(path: Path, cells: Sequence[Cell]) -> None:
    """A row `not run` for every cell without a row, in a file that has rows."""
    if not cells:
        return
    rows = read_rows(path)
    if not rows:
        raise SystemExit(f"{shown(path)}: has no row, whose columns a row `not run` takes")
    keys = list(cells[0].key())
    known = {tuple(row[name] for name in keys) for row in rows}
    for cell in cells:
        if tuple(cell.key().values()) not in known:
            empty = dict.fromkeys(rows[0], "")
            append_row(path, empty | {"source": "ours", "status": "not run", **cell.key()})


def main(
    description: str,
    results: Path,
    make_cells: Callable[[Path], Sequence[Cell]],
    report: Callable[[list[dict[str, str]]], None],
) -> None:
    """The command line of an experiment that is one list of cells.

    Args:
        description: for `--help`.
        results: the committed CSV file of its rows.
        make_cells: all of its cells, called with the folder of CIFAR-10.
        report: writes the tables of the README and the figure from the committed rows that are
            done.
    """
    options = parse_options(description, results)
    if not options.tables:
        carry_out(options, options.results, make_cells(options.data_root))
    if is_committed(options.results, results):
        report(done_rows(results))


def parse_options(description: str, results: Path) -> argparse.Namespace:
    """Those of `command_line`, and `tables`: run nothing."""
    parser = command_line(description, results)
    parser.add_argument(
        "--tables", action="store_true", help="run nothing, write the tables and the figure"
    )
    options = parser.parse_args()
    if options.tables and options.not_run:
        parser.error("--tables and --not-run: give one of them")
    refuse_tables_of_others(parser, options, results)
    return options


def command_line(description: str | None, results: Path | None) -> argparse.ArgumentParser:
    """With the options that `carry_out` reads, the folder of CIFAR-10 and the file of the rows.

    Args:
        description: for `--help`.
        results: the committed file, None where that depends on other options.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--processes", type=int, default=2, help="runs at once, a core each")
    add("--data-root", type=Path, default=Path("data/cifar10-jpeg"), help="Parquet of CIFAR-10")
    add("--not-run", action="store_true", help="run nothing, add a row for what is missing")
    add_results_option(parser, results)
    return parser


def carry_out(options: argparse.Namespace, results: Path, cells: Sequence[Cell]) -> None:
    """Run the cells, or with `--not-run` add the rows of those that are missing."""
    if options.not_run:
        add_not_run(results, cells)
    else:
        run_cells(results, cells, options.processes)


def cpu_name() -> str:
    """What a run depends on: other processors round differently, and so train to other weights."""
    from torch.backends.cpu import get_cpu_capability  # which instructions torch uses

    return f"{cpu_model()}, {get_cpu_capability()}, {os.cpu_count()} cores, one thread a run"


def cpu_model() -> str:
    """Of the processor, as Linux tells it: "cpu AMD EPYC, family 23, model 1"."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    told = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    name = told.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key.split()[-1]} {told[key]}" for key in ("cpu family", "model") if key in told]
    return ", ".join([f"cpu {name}", *numbers])


def _begin() -> None:
    import torch

    os.nice(10)
    torch.set_num_threads(1)


def _run(cell: Cell) -> dict[str, Any]:
    return cell.run()
