"""The option `--results` of the experiments: runs are made anew, and what is committed stays."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.decisions import run as decisions
from experiments.minimum_test import live
from experiments.overhead import lars
from experiments.overhead import run as overhead
from experiments.results import curves_beside
from experiments.resume import run as resume
from experiments.short_budgets import run as short_budgets
from experiments.small_figures import run as small_figures
from experiments.tables import read_rows
from experiments.throughput import run as throughput
from experiments.training import cells

RATIOS = ("times_baseline", "lower_quartile", "upper_quartile")
# What the experiments that print their rows read of them.
ROW = dict.fromkeys((*RATIOS, "microseconds", "milliseconds", "num_losses"), "1") | {
    "what": "a step",
    "baseline": "another",
    "extra_megabytes": "1",
    "test_accuracy": "97",
}


@dataclass(frozen=True)
class Double:
    """A cell that takes no time."""

    number: int

    def key(self) -> dict[str, str]:
        return {"number": str(self.number)}

    def run(self) -> dict[str, Any]:
        return {"double": str(2 * self.number)}


class Experiment:
    """Two cells, whose committed rows are in the working directory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.reports: list[list[str]] = []  # what each report has been given

    def run(self, *arguments: str) -> str:
        """What the command prints."""
        self._monkeypatch.setattr(sys, "argv", ["run", "--processes", "1", *arguments])
        cells.main(
            "Doubles.",
            Path("results.csv").resolve(),
            lambda data_root: [Double(2), Double(3)],
            lambda rows: self.reports.append([row["double"] for row in rows]),
        )
        return self._capsys.readouterr().out

    def error(self, *arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            self.run(*arguments)
        return f"{self._capsys.readouterr().err}{stop.value.code}"


@pytest.fixture
def experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Experiment:
    """After all of its runs, so that there is nothing left to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "commit", lambda: "abc")  # no repository is here
    threads = ThreadPoolExecutor(1)  # begin sooner than processes
    monkeypatch.setattr(cells, "ProcessPoolExecutor", lambda *_, **__: nullcontext(threads))
    doubles = Experiment(monkeypatch, capsys)
    doubles.run()
    assert doubles.reports == [["4", "6"]]
    return doubles


def test_when_all_runs_are_there_it_says_how_they_are_made_anew(experiment: Experiment) -> None:
    expected = "2 of 2 runs are there (in results.csv; --results FILE makes them anew)\n"
    assert experiment.run() == experiment.run("--results", "results.csv") == expected
    assert len(experiment.reports) == 3


def test_runs_with_another_file_are_made_anew_and_not_reported(experiment: Experiment) -> None:
    before = Path("results.csv").read_bytes()
    printed = experiment.run("--results", "new/mine.csv").splitlines()
    assert printed[0] == "0 of 2 runs are there (in new/mine.csv)"
    where = "the rows are in new/mine.csv; tables and figures are those of results.csv"
    assert printed[-1] == where
    assert [row["double"] for row in read_rows(Path("new/mine.csv"))] == ["4", "6"]
    assert (len(experiment.reports), Path("results.csv").read_bytes()) == (1, before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tables", "--results", "mine.csv"], "committed rows, leave --results out"),
        (["--results", "runs"], "'runs' is not the name of a .csv file"),
        (["--not-run", "--results", "mine.csv"], "mine.csv: has no row, whose columns"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    arguments: list[str], said: str, experiment: Experiment
) -> None:
    assert said in experiment.error(*arguments)
    assert sorted(path.name for path in Path().iterdir()) == ["results.csv"]


@pytest.mark.parametrize(
    ("module", "name", "makes"),
    [
        (decisions, "run", lambda: [ROW]),
        (lars, "measure", lambda *_: [ROW]),
        (live, "row_of", lambda *_: ROW),
        (overhead, "time_tests", lambda *_: [ROW]),
        (
            resume,
            "measure",
            lambda ranks, *_: [
                {"ranks": ranks, "what": "state", "inside_a_save": "", "equal": True}
            ],
        ),
        (short_budgets, "run", lambda *_: ROW),
        (throughput, "measure_cells", lambda *_: []),
    ],
)
def test_another_file_leaves_tables_and_figures_as_they_are(
    module: Any,
    name: str,
    makes: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, name, makes)
    monkeypatch.setattr(overhead, "time_steps", lambda *_: [ROW])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(sys, "argv", ["run", "--results", str(tmp_path / "mine.csv")])
    if module is resume:  # which empties it
        sys.argv += ["--output-dir", str(tmp_path / "runs")]

    def committed() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in module.FOLDER.glob("*.*")}

    before = committed()
    module.main()
    assert committed() == before
    assert read_rows(tmp_path / "mine.csv")
    assert f"the rows are in {tmp_path.resolve() / 'mine.csv'}; " in capsys.readouterr().out


def test_curves_lie_beside_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("results.csv", "held_out_results.csv", "mine.csv")
    found = [curves_beside(tmp_path / name).name for name in names]
    assert found == ["curves.csv", "held_out_curves.csv", "mine_curves.csv"]
    wanted: list[Any] = []
    monkeypatch.setattr(small_figures, "carry_out", lambda _, path, found: wanted.extend(found))
    monkeypatch.setattr(sys, "argv", ["run", "--results", str(tmp_path / "mine.csv")])
    small_figures.main()
    assert {cell.curves for cell in wanted} == {tmp_path / "mine_curves.csv"}
    assert {cell.curves for cell in small_figures.cells(tmp_path)} == {small_figures.CURVES}
