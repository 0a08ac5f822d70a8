"""Which file the rows of an experiment are in: the committed one, or another that was asked for."""

import argparse
from pathlib import Path


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


def say_done(results: Path, num_done: int, num_runs: int) -> None:
    """How many of the runs have a row, and where that are all, how they are made anew."""
    hint = "; --results FILE makes them anew" if num_done == num_runs else ""
    print(f"{num_done} of {num_runs} runs are there (in {shown(results)}{hint})", flush=True)


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
