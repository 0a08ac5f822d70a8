"""The tables of the READMEs and of docs/ are those that their commands make of the rows."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from experiments.tables import done_rows

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
OF_ALL_ROWS = (
    "budgets.plot",
    "language_model.plot",
    "minimum_test.live",
    "minimum_test.report",
    "small_figures.plot",
    "sweep.plot",
)
OF_DONE_ROWS = (
    "decisions",
    "divergence",
    "finetuning",
    "fresh_seeds",
    "loss_scale",
    "memorisation",
    "optimizers",
    "overhead",
    "overshoot",
    "probe",
)


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


def test_long_runs_of_digits_are_as_far_from_the_tuned_ones_as_their_rows_say() -> None:
    rows = done_rows(EXPERIMENTS / "budgets" / "results.csv")
    long = [row for row in rows if row["task"] == "digits" and int(row["total_steps"]) >= 300]

    def mean(method: str, total_steps: str) -> float:
        runs = [r for r in long if (r["method"], r["total_steps"]) == (method, total_steps)]
        if method == "warmup_cosine":  # the cell that has more seeds than the first
            lr, warmup = next((r["lr"], r["warmup"]) for r in runs if r["seed"] == "1")
            runs = [r for r in runs if (r["lr"], r["warmup"]) == (lr, warmup)]
        assert len(runs) == 5  # seeds
        return sum(float(r["test_accuracy"]) for r in runs) / 5

    budgets = {row["total_steps"] for row in long}  # each of another length
    assert len(budgets) == 6
    expected = []
    for method in ("warmup_cosine_untuned", "autowu_cosine"):
        gaps = torch.tensor([mean(method, b) - mean("warmup_cosine", b) for b in budgets])
        half = 2.5706 * gaps.std().item() / 6**0.5  # t of 5 degrees of freedom
        expected.append(f"{gaps.mean().item():.2f} ± {half:.2f}")
    readme = (EXPERIMENTS / "budgets" / "README.md").read_text(encoding="utf-8")
    assert f"| digits, 300 steps and more | 6 | {' | '.join(expected)} | " in readme


@pytest.mark.parametrize("folder", OF_DONE_ROWS)
def test_a_table_is_that_of_its_rows_that_are_done(folder: str, tables: list[str]) -> None:
    module: Any = import_module(f"experiments.{folder}.run")
    module.report(done_rows(EXPERIMENTS / folder / "results.csv"))
    assert tables
