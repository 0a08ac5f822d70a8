"""Which file the rows of an experiment are in: the committed one, or another that was asked for."""

import argparse
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import TypeVar

Run = TypeVar("Run")
Key = TypeVar("Key")


def add_results_option(parser: argparse.ArgumentParser, committed: Path | None) -> None:
    """`--results FILE`, for whoever wants to make runs anew that have a committed row.

    Args:
        parser: of the experiment's command.
        committed: the default; None where that depends on other options.
    """
    parser.add_argument(
        "--results",
        type=_csv_file,
        default=committed,
        metavar="FILE",
        help="the CSV file of the rows (default: the committed one); another one makes all runs "
        "anew, and leaves the tables of the README and the figures as they are",
    )


def _csv_file(text: str) -> Path:
    if not text.endswith(".csv"):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a .csv file")
    return Path(text)


def is_committed(results: Path, committed: Path) -> bool:
    """Whether README and figures are to show these rows; if not, it says where they are."""
    if results.resolve() == committed.resolve():
        return True
    print(f"the rows are in {shown(results)}; tables and figures are those of {shown(committed)}")
    return False


def refuse_tables_of_others(
    parser: argparse.ArgumentParser, options: argparse.Namespace, committed: Path
) -> None:
    """For an option `--tables`: README and figures show committed rows alone."""
    if options.tables and options.results.resolve() != committed.resolve():
        parser.error("--tables: is for the committed rows, leave --results out")


def still_to_run(
    results: Path, runs: Iterable[Run], key: Callable[[Run], Key], done: Container[Key]
) -> list[Run]:
    """The runs that have no row; prints how many have one, and how they are made anew if all.

    Args:
        results: the file of the rows.
        runs: all that are wanted.
        key: what tells the row of a run from the others.
        done: the keys of the rows.
    """
    wanted = list(runs)
    missing = [run for run in wanted if key(run) not in done]
    hint = "" if missing else "; --results FILE makes them anew"
    num_done = len(wanted) - len(missing)
    print(f"{num_done} of {len(wanted)} runs are there (in {shown(results)}{hint})", flush=True)
    return missing


def shown(path: Path) -> Path:
    """As it is printed: from the working directory, if it lies below that."""
    here, path = Path.cwd().resolve(), path.resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def curves_beside(results: Path) -> Path:
    """The file of the curves that belong to these rows.

    >>> str(curves_beside(Path("results.csv"))), str(curves_beside(Path("runs/mine.csv")))
    ('curves.csv', 'runs/mine_curves.csv')
    >>> str(curves_beside(Path("held_out_results.csv")))
    'held_out_curves.csv'
    """
    stem = results.stem
    name = stem.replace("results", "curves") if "results" in stem else f"{stem}_curves"
    return results.with_name(f"{name}.csv")
