"""The experiment in experiments/language_model, with runs of a few steps."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from experiments.language_model import plot, run
from experiments.language_model.text import standard_library
from experiments.tables import append_row, read_rows

TINY = run.Size(
    num_steps=30,
    batch_size=4,
    context=16,
    width=16,
    num_layers=1,
    num_heads=2,
    num_validation_sequences=16,
)


def test_text_is_of_the_size_asked_for_and_always_the_same() -> None:
    text = standard_library(20_000, 5_000)
    assert (len(text.train), len(text.validation)) == (20_000, 5_000)
    assert standard_library(20_000, 5_000).sha256 == text.sha256
    assert standard_library(20_001, 5_000).sha256 != text.sha256
    with pytest.raises(ValueError, match="bytes too early"):
        standard_library(10**9, 5_000)


def test_sequences_are_the_bytes_of_the_text_in_their_order() -> None:
    pieces = run.sequences(b"import os\nimport re\n", context=10)
    assert [bytes(piece["input_ids"].tolist()) for piece in pieces] == [
        b"import os\n",
        b"import re\n",
    ]


@pytest.mark.parametrize(
    "cell", [run.Cell("autowu", None, None, 1), run.Cell("warmup_cosine", 0.01, 0.1, 1)]
)
def test_a_run_learns_in_one_epoch_and_reports_its_schedule(cell: run.Cell) -> None:
    row, curve = run.train(cell, TINY)
    assert float(row["validation_loss"]) < math.log(256)  # of a network that knows nothing
    assert [point["step"] for point in curve] == [10, 20, 30]
    if cell.method == "autowu":
        assert 0 < row["switch_step"] <= 15
        assert 1e-5 <= float(row["start_lr"]) <= 1.0
    else:
        assert row["switch_step"] == row["start_lr"] == ""
        # The tenth step's: nine are done, three of them the warmup, and 27 are the cosine.
        expected = 0.01 * (1 + math.cos(math.pi * 6 / 27)) / 2
        assert float(curve[0]["lr"]) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", [run.PROBED, "warmup_cosine"])
def test_muon_and_adamw_follow_one_schedule(method: str, tmp_path: Path) -> None:
    fixed = method == "warmup_cosine"
    cell = run.Cell(method, 0.003 if fixed else None, 0.1 if fixed else None, 1)
    size = replace(TINY, muon_decay=0.1)
    text = standard_library(size.num_train_bytes, size.num_validation_sequences * size.context)
    trainer = run.build_trainer(cell, size, text, str(tmp_path))
    trainer.train()
    muon, adamw = trainer.optimizer.optimizer.optimizers  # within that of Accelerate
    assert {p.ndim for p in muon.param_groups[0]["params"]} == {2}
    assert muon.defaults["weight_decay"] == 0.1 and adamw.defaults["weight_decay"] == 0.0
    lrs = [group["lr"] for group in trainer.optimizer.param_groups]
    assert lrs[1] == pytest.approx(lrs[0])
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert max(logged) > 1e-4


def test_finished_runs_are_not_made_again_and_stray_curves_go(tmp_path: Path) -> None:
    cell = run.Cell("warmup_cosine", 0.01, 0.3, 0)
    key = cell.columns(TINY)
    append_row(tmp_path / "results.csv", {**key, "validation_loss": "1.5"})
    append_row(tmp_path / "curves.csv", {**key, "step": 10})
    append_row(tmp_path / "curves.csv", {**key, "seed": "1", "step": 10})  # killed before its row
    run.run([cell], TINY, tmp_path / "results.csv", num_processes=1)
    assert read_rows(tmp_path / "results.csv") == [{**key, "validation_loss": "1.5"}]
    assert read_rows(tmp_path / "curves.csv") == [{**key, "step": "10"}]


def test_tables_compare_with_the_best_baseline_seed_by_seed() -> None:
    rows = [
        {"method": method, "peak_lr": peak_lr, "warmup": warmup, "seed": str(seed),
         "validation_loss": str(loss), "start_lr": "0.002", "highest_lr": "0.01",
         "switch_step": "9", "total_steps": "30"}
        for method, peak_lr, warmup, losses in (
            ("warmup_cosine", "0.01", "0.3", (2.0, 2.2)),
            ("warmup_cosine", "0.01", "0.1", (2.1, 2.2)),
            ("warmup_cosine", "0.001", "0.1", (2.5, 2.5)),
            ("autowu", "", "", (1.9, 2.4)),
        )
        for seed, loss in enumerate(losses)
    ]  # fmt: skip
    assert plot.best_of_grid(rows) == ("0.01", "0.3")
    table = plot.losses_table(rows).splitlines()
    assert (
        table[2] == "| warmup_cosine, warmup of 10 % | 0.001 | 2.500 ± 0.000 | +0.400 ± 0.141 | 2 |"
    )
    assert (
        table[3] == "| warmup_cosine, warmup of 10 % | 0.01 | 2.150 ± 0.071 | +0.050 ± 0.071 | 2 |"
    )
    assert (
        table[4] == "| warmup_cosine, warmup of 30 % | 0.01 | 2.100 ± 0.141 | +0.000 ± 0.000 | 2 |"
    )
    assert table[5] == "| autowu | found: 0.002 0.002 | 2.150 ± 0.354 | +0.050 ± 0.212 | 2 |"
    assert "| autowu | 0 | 9 of 30 | 0.01 | 0.002 | 1.900 |" in plot.found_table(rows)
