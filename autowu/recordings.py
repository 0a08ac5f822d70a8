"""What is on disk about a training run: a file of losses, or the directory that train.py writes.

Everything here raises `ValueError` with one line that names the file, the place in it and what
would be right, or `OSError` when a file cannot be read at all.
"""

import csv
import json
import reprlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from autowu.scheduler import AutoWU


class RecordedRun(NamedTuple):
    """A run of train.py, finished or not."""

    steps: "np.ndarray"  # (n,) 0, 1, 2, ...: done before each, those that were skipped included
    lrs: "np.ndarray"  # (n,) the learning rate that each step used
    losses: "np.ndarray"  # (n,) may hold NaN and infinity
    summary: dict[str, Any]  # summary.json; empty before the end of the run
    # As of the last checkpoint; None: the run has another schedule, or no checkpoint yet.
    scheduler: "AutoWU | None"


def read_losses(
    path: str | Path, column: str = "loss", *, with_lrs: bool = True
) -> tuple[list[float], list[float] | None]:
    """Read a recorded loss curve, one loss for each optimizer step, and the LRs if they are there.

    Args:
        path: CSV with a header (`,`, `;` or tabs), one number a line, or JSON Lines; the content
            tells which. "-" is the standard input. Blank lines are skipped; `nan` and `inf`, and
            `null` in JSON, are losses too.
        column: the CSV column, or the JSON key, that holds the loss; that of the LR is `lr`.
        with_lrs: whether LRs are read.

    Returns:
        Losses (n,) and the learning rates (n,) of their steps, of those that were skipped, too;
        None in a file without `lr`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a directory, or holds no losses, no such column, or what is no number.
    """
    name = "standard input" if str(path) == "-" else str(path)
    if Path(path).is_dir():
        own = Path(path) / "steps.csv"
        raise ValueError(f"{name}: a directory, expected a file (of a run of train.py: {own})")
    try:
        lines = _read_text(path).splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{name}: not a text file") from None
    first = next((line.strip() for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"{name}: empty, expected a loss a line")
    if first.startswith("{"):
        rows = _json_rows(lines, column, name, with_lrs)
    elif _is_number(first):
        rows = ((number, [line]) for number, line in enumerate(lines, 1) if line.strip())
    else:
        rows = _csv_rows(lines, column, name, with_lrs)
    table = [[_to_number(cell, f"{name}, line {number}") for cell in row] for number, row in rows]
    if not table:
        raise ValueError(f"{name}: a header and no losses")
    losses, *others = (list(numbers) for numbers in zip(*table, strict=True))
    return losses, others[0] if others else None


def read_run(run_dir: str | Path) -> RecordedRun:
    """Read the directory of a run: steps.csv, summary.json if it is finished, and last.pt.

    Raises:
        ValueError: the directory, a file or something in a file is missing; it says what.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir}: no such directory")
    if not (run_dir / "steps.csv").is_file():
        raise ValueError(f"{run_dir}: not the directory of a run, it has no steps.csv")
    is_finished = (run_dir / "summary.json").is_file()
    summary = _read_summary(run_dir / "summary.json") if is_finished else {}
    if summary.get("schedule") == "lr_range_test":
        raise ValueError(f"{run_dir}: a range test, which has drawn lr_range_test.png itself")
    steps, lrs, losses = _read_steps(run_dir / "steps.csv", is_finished)
    scheduler = None
    checkpoint = run_dir / "last.pt"
    if summary.get("schedule") == "autowu" or (not is_finished and checkpoint.is_file()):
        scheduler = _read_scheduler(checkpoint)
        if is_finished and scheduler is None:
            raise ValueError(f"{checkpoint}: no state of AutoWU in it, with which the run was made")
    return RecordedRun(steps, lrs, losses, summary, scheduler)


def _read_text(path: str | Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    return Path(path).read_text(encoding="utf-8-sig")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _to_number(cell: Any, place: str) -> float:
    try:
        if isinstance(cell, bool):
            raise ValueError
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{place}: {reprlib.repr(cell)} is not a number") from None


def _wanted(column: str, has_lrs: bool) -> list[str]:
    """The columns to read: that of the losses and, where there is one, that of the LRs."""
    return [column, "lr"] if has_lrs and column != "lr" else [column]


def _csv_rows(
    lines: Sequence[str], column: str, name: str, with_lrs: bool
) -> Iterator[tuple[int, list[str]]]:
    header = next(line for line in lines if line.strip())
    rows = csv.reader(lines, delimiter=max(",;\t", key=header.count), skipinitialspace=True)
    columns: list[str] | None = None
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns = [cell.strip() for cell in row]
                if column not in columns and columns[0].startswith("["):
                    raise ValueError(f"{name}: a JSON array, expected an object or a number a line")
                wanted = _wanted(column, with_lrs and "lr" in columns)
                indices = [_index(columns, each, name) for each in wanted]
            else:
                yield rows.line_num, [row[index] if index < len(row) else "" for index in indices]
    except csv.Error as error:
        raise ValueError(f"{name}, line {rows.line_num}: {error}") from None


def _index(columns: list[str], column: str, name: str) -> int:
    """Where a column stands, once and no more."""
    if column not in columns:
        raise ValueError(f"{name}: no column {column!r}, found {_quoted(columns)}")
    if columns.count(column) > 1:
        raise ValueError(f"{name}: {columns.count(column)} columns {column!r}, expected one")
    return columns.index(column)


def _json_rows(
    lines: Sequence[str], column: str, name: str, with_lrs: bool
) -> Iterator[tuple[int, list[Any]]]:
    entries: list[tuple[int, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            raise ValueError(f"{name}, line {number}: not JSON") from None
        if not isinstance(entry, dict):
            found = type(entry).__name__
            raise ValueError(f"{name}, line {number}: no key {column!r}, found {found}")
        entries.append((number, entry))
    wanted = _wanted(column, with_lrs and any("lr" in entry for _, entry in entries))
    for number, entry in entries:
        for key in wanted:
            if key not in entry:
                raise ValueError(f"{name}, line {number}: no key {key!r}, found {_quoted(entry)}")
        # JSON has no NaN: null stands for it.
        yield number, ["nan" if entry[key] is None else entry[key] for key in wanted]


def _quoted(names: Any, most: int = 12) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path}: not valid JSON") from None
    if not isinstance(summary, dict) or "schedule" not in summary:
        raise ValueError(f"{path}: not the summary of a run, it has no key 'schedule'")
    return summary


def _read_steps(path: Path, is_finished: bool) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    import numpy as np

    with open(path, encoding="utf-8") as file:
        columns = file.readline().strip().split(",")
        indices = [_index(columns, column, str(path)) for column in ("step", "lr", "loss")]
        # Of a run under way not the line that is being written.
        lines = [line for line in file if is_finished or line.endswith("\n")]
    if not lines:
        raise ValueError(f"{path}: a header and no steps")
    try:
        table = np.loadtxt(lines, delimiter=",", usecols=indices, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return table[:, 0], table[:, 1], table[:, 2]


def _read_scheduler(path: Path) -> "AutoWU | None":
    import torch

    from autowu.scheduler import AutoWU

    if not path.is_file():
        raise ValueError(f"{path.parent}: the run was made with AutoWU, and has no {path.name}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["scheduler"]
    # A damaged file can fail in the zip reader, the unpickler or anywhere in between.
    except Exception as error:
        raise ValueError(f"{path}: no scheduler state in it ({type(error).__name__})") from None
    if "tests" not in state:  # of another schedule
        return None
    # The optimizer and the length are stand-ins: loading brings the settings with it.
    groups = [{"params": torch.zeros(1, requires_grad=True)} for _ in state["base_lrs"]]
    scheduler = AutoWU(torch.optim.SGD(groups, lr=1.0), total_steps=2)
    with warnings.catch_warnings(action="ignore"):
        scheduler.load_state_dict(state)
    return scheduler
