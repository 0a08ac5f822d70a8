r"""Collect finished runs of train.py into the rows of an experiment, and summarize these.

    python -m experiments.report runs/paper --into experiments/table1
    DRY_RUN=1 scripts/paper.sh table1 | \
        python -m experiments.report --plan - --into experiments/table1

writes results.csv (a row a run), summary.csv and summary.md (mean, standard deviation, n, and a
paired t-test against the baseline of the same seeds). Where results.csv exists, only its own cells
are filled: runs of other cells are left out, and counted. Rerunning it changes nothing: a row
that is done stays as it is, and where the run directory says something else, that is reported;
--replace takes the run directory's word instead. A cell without a run is a row `not run`.

A run that cannot be read, or two of the same cell, are left out: the rest is written, what is wrong
is said at the end, and the exit code is 1.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from scipy.stats import ttest_1samp  # type: ignore[import-untyped]

from experiments.collect import (
    COLUMNS,
    Key,
    ReportError,
    Row,
    find_runs,
    key_of,
    planned_rows,
    run_row,
    words_of,
)
from experiments.tables import markdown_table, read_rows, write_rows

NOT_AVAILABLE = "n/a"
GROUP = ("config", "variant", "method", "epochs", "batch_size", "data")  # what seeds have in common


def read_results(path: Path) -> list[Row]:
    """The rows of a results.csv; none where there is no such file.

    Raises:
        ReportError: it has other columns.
    """
    rows = read_rows(path)
    if rows and tuple(rows[0]) != COLUMNS:
        raise ReportError(f"{path}: has not the columns of experiments/collect.py")
    return rows


def collect(folders: Iterable[Path]) -> tuple[list[Row], list[str]]:
    """The rows of all finished runs in some folders.

    Of two runs of the same cell neither has a row: nothing says which of them is meant.

    Returns:
        The rows, and what is wrong with the runs that were left out.

    Raises:
        ReportError: there is no such folder.
    """
    found: dict[Key, list[tuple[Path, Row]]] = {}
    errors = []
    runs = {run.resolve(): run for folder in folders for run in find_runs(folder)}
    for run in runs.values():
        try:
            row = run_row(run)
        except ReportError as error:
            errors.append(str(error))
            continue
        same = found.setdefault(key_of(row), [])
        same.append((run, row))
        if len(same) > 1:
            errors.append(f"{run}: the same cell as {same[0][0]}, {words_of(key_of(row))}")
    return [same[0][1] for same in found.values() if len(same) == 1], errors


def merge(
    rows: Sequence[Row], runs: Iterable[Row], *, add: bool, replace: bool
) -> tuple[list[Row], list[str]]:
    """Fill the rows of finished runs in.

    Args:
        rows: of results.csv, in their order.
        runs: to fill in.
        add: also those whose cell has no row, at the end.
        replace: also where a row that is done says something else.

    Returns:
        The rows, and what is to be said about those that were not taken.
    """
    ours = {key_of(row): index for index, row in enumerate(rows) if row["source"] == "ours"}
    merged, notes, num_others = list(rows), [], 0
    for run in runs:
        index = ours.get(key_of(run))
        if index is None:
            if add:
                merged.append(run)
            num_others += not add
        elif merged[index]["status"] != "done" or replace:
            merged[index] = run
        elif merged[index] != run:
            differing = [name for name in COLUMNS if merged[index][name] != run[name]]
            cell, names = words_of(key_of(run)), ", ".join(differing)
            notes.append(f"kept: {cell}, whose run directory differs in {names} (--replace)")
    if num_others:
        notes.append(f"left out: {num_others} runs of cells that are not in results.csv (--add)")
    return merged, notes


def baseline_of(config: str) -> str:
    """The baseline that a config is compared with.

    >>> baseline_of("imagenet_resnet50_adamp_autowu_warmup0.25")
    'imagenet_resnet50_adamp_baseline'
    >>> baseline_of("digits"), baseline_of("digits_baseline")
    ('digits_baseline', 'digits_baseline')
    """
    return config.partition("_autowu")[0].removesuffix("_baseline") + "_baseline"


def accuracies(rows: Iterable[Row]) -> dict[str, float]:
    """Test accuracy by seed, of the rows that are done."""
    return {row["seed"]: float(row["test_accuracy"]) for row in rows if row["status"] == "done"}


def compare(ours: dict[str, float], baseline: dict[str, float], decimals: int = 6) -> Row:
    """The differences of equal seeds, and the p of a two-sided paired t-test.

    Args:
        ours, baseline: test accuracies by seed.
        decimals: to which they are rounded.
    """
    differences = [ours[seed] - baseline[seed] for seed in ours if seed in baseline]
    shown = {"pairs": str(len(differences))}
    shown |= dict.fromkeys(("difference", "difference_deviation", "p_value"), NOT_AVAILABLE)
    if differences:
        shown["difference"] = f"{statistics.fmean(differences):.3f}"
    if len(differences) > 1:
        shown["difference_deviation"] = f"{statistics.stdev(differences):.3f}"
        # Where all differences are equal t has no value, and what rounding leaves between equal
        # differences would look like a tiny p.
        if max(differences) - min(differences) > 2.5 * 10**-decimals:
            shown["p_value"] = f"{ttest_1samp(differences, 0.0).pvalue:.4f}"
    return shown


def summarize(rows: Sequence[Row]) -> list[Row]:
    """A line for each published row, and one for the seeds of each of our cells."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        if row["source"] == "ours":
            groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
    published = [_published_line(row) for row in rows if row["source"] == "published"]
    lines = [_our_line(key, groups) for key in groups]
    # A group whose first seeds have run on some data set leaves the others without one.
    begun = {tuple(line[name] for name in GROUP[:-1]) for line in lines if line["n"] != "0"}
    return published + [
        line
        for line in lines
        if line["n"] != "0" or tuple(line[name] for name in GROUP[:-1]) not in begun
    ]


def _published_line(row: Row) -> Row:
    return {
        "source": "published",
        "status": row["status"],
        **{name: row[name] for name in GROUP},
        "n": row["n"],
        "mean": row["test_accuracy"],
        "deviation": row["deviation"] or NOT_AVAILABLE,
        "pairs": "0",
        "difference": NOT_AVAILABLE,
        "difference_deviation": NOT_AVAILABLE,
        "p_value": NOT_AVAILABLE,
    }


def _our_line(key: Key, groups: dict[Key, list[Row]]) -> Row:
    columns = dict(zip(GROUP, key, strict=True))
    values = accuracies(groups[key])
    line = {"source": "ours", "status": "done" if values else "not run", **columns}
    line |= {"n": str(len(values)), "mean": NOT_AVAILABLE, "deviation": NOT_AVAILABLE}
    if values:
        line["mean"] = f"{statistics.fmean(values.values()):.3f}"
    if len(values) > 1:
        line["deviation"] = f"{statistics.stdev(values.values()):.3f}"
    rivals = [
        row
        for other, of_other in groups.items()
        for row in of_other
        if row["config"] == baseline_of(columns["config"])
        and row["variant"] == ""
        and other != key
        and all(row[name] == columns[name] for name in ("epochs", "batch_size", "data"))
    ]
    return line | compare(values, accuracies(rivals))


def to_markdown(lines: Sequence[Row]) -> str:
    header = ["config", "variant", "method", "epochs", "batch size", "data", "source", "n",
              "test accuracy, %", "minus the baseline's", "pairs", "p"]  # fmt: skip
    return markdown_table(
        header,
        [
            [line["config"], line["variant"], line["method"], line["epochs"], line["batch_size"],
             line["data"], line["source"], line["n"],
             _with_deviation(line["mean"], line["deviation"])
             if line["status"] == "done" else "not run",
             _with_deviation(line["difference"], line["difference_deviation"]), line["pairs"],
             line["p_value"]]
            for line in lines
        ],
    )  # fmt: skip


def _with_deviation(value: str, deviation: str) -> str:
    return value if deviation == NOT_AVAILABLE else f"{value} ± {deviation}"


def report(
    folders: Sequence[Path], plan: Iterable[str], into: Path, *, add: bool, replace: bool
) -> tuple[list[str], list[str]]:
    """Bring the three files of an experiment up to date.

    Returns:
        What is to be said about the runs, and what is wrong with those that were left out.
    """
    path = into / "results.csv"
    rows = read_results(path)
    is_new = not rows
    known = {key_of(row) for row in rows if row["source"] == "ours"}
    planned = {key_of(row): row for row in planned_rows(plan)}
    rows += [row for key, row in planned.items() if key not in known]
    add = add or (is_new and not planned)
    runs, errors = collect(folders)
    merged, notes = merge(rows, runs, add=add, replace=replace)
    if not merged:
        return [*notes, "no finished run and no planned cell: nothing is written"], errors
    into.mkdir(parents=True, exist_ok=True)
    lines = summarize(merged)
    if merged != read_rows(path):
        write_rows(path, merged)
    write_rows(into / "summary.csv", lines)
    (into / "summary.md").write_text(to_markdown(lines) + "\n", encoding="utf-8")
    num_done = sum(row["status"] == "done" for row in merged if row["source"] == "ours")
    num_ours = sum(row["source"] == "ours" for row in merged)
    written = [str(into / name) for name in ("summary.csv", "summary.md")]
    return [*notes, f"{path}: {num_done} of {num_ours} cells are done", *written], errors


def main(arguments: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="run directories, or folders of them",
    )
    parser.add_argument(
        "--into", type=Path, required=True, metavar="EXPERIMENT", help="folder of results.csv"
    )
    parser.add_argument(
        "--plan", metavar="FILE", help="commands of a sweep's dry run, for rows `not run`; -: stdin"
    )
    parser.add_argument(
        "--add", action="store_true", help="add cells that results.csv does not have"
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace rows whose run directory differs"
    )
    options = parser.parse_args(arguments)
    try:
        plan: list[str] = []
        if options.plan == "-":
            plan = sys.stdin.read().splitlines()
        elif options.plan:
            plan = Path(options.plan).read_text(encoding="utf-8").splitlines()
        notes, errors = report(
            options.folders, plan, options.into, add=options.add, replace=options.replace
        )
    except (ReportError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print("\n".join(notes), flush=True)
    for error in errors:
        print(f"report: left out: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
