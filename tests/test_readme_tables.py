"""The tables of the READMEs and of docs/ are those that their commands make of the rows."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments.tables import done_rows

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
OF_ALL_ROWS = (
    "budgets.plot",
    "language_model.plot",
    "minimum_test.report",
    "small_figures.plot",
    "sweep.plot",
)
OF_DONE_ROWS = ("divergence", "loss_scale", "optimizers", "overhead", "overshoot", "probe")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The marks of those that were compared; nothing is written."""
    compared: list[str] = []

    def compare(path: Path, mark: str, text: str) -> None:
        _, rest = path.read_text(encoding="utf-8").split(f"<!-- {mark} -->\n")
        assert rest.split(f"\n<!-- end of {mark} -->")[0] == text, (path, mark)
        compared.append(mark)

    for name in (*OF_ALL_ROWS, *(f"{folder}.run" for folder in OF_DONE_ROWS)):
        monkeypatch.setattr(import_module(f"experiments.{name}"), "put_between_marks", compare)
    monkeypatch.setattr(Figure, "savefig", lambda *args, **kwargs: None)
    return compared


@pytest.mark.parametrize("name", OF_ALL_ROWS)
def test_a_table_is_that_of_its_rows(
    name: str, tables: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = import_module(f"experiments.{name}")
    monkeypatch.setattr(sys, "argv", [name])
    if hasattr(module, "write_rows"):
        monkeypatch.setattr(module, "write_rows", lambda *args: None)
    module.main()
    assert tables


@pytest.mark.parametrize("folder", OF_DONE_ROWS)
def test_a_table_is_that_of_its_rows_that_are_done(folder: str, tables: list[str]) -> None:
    module: Any = import_module(f"experiments.{folder}.run")
    module.report(done_rows(EXPERIMENTS / folder / "results.csv"))
    assert tables
