"""train.py with schedules and optimizers that bring state of their own, and with a range test."""

import json
import signal
from pathlib import Path

import pytest
import torch

from autowu.trainer.models import build_model
from tests.launch import finish, start
from tests.test_train import assert_same_run, load, metrics_of, run, stop_after

FOUR_PIECES = (
    "schedule.curves=["
    "{name: linear, length: 0.1, start: 0.1, end: 1},"
    "{name: cosine, length: 0.4, start: 1, end: 0.01},"
    "{name: linear, length: 0.1, start: 0.01, end: 0.5},"
    "{name: cosine, length: 0.4, start: 0.5, end: 0, interval: rescaled}]"
)
CHOICES = {
    "schedule-free and an average": [
        "optimizer.name=Schedule-Free", "optimizer.lr=0.01", "schedule.name=constant",
        "ema_decay=0.98",
    ],
    "plateau": [
        "optimizer.name=sgd", "optimizer.lr=0.5", "schedule.name=plateau", "schedule.patience=0",
        "schedule.threshold=0.9",
    ],
    "four pieces under lookahead and lars": [
        "optimizer.name=sgd", "optimizer.lr=2", "optimizer.lookahead=true", "optimizer.lars=true",
        "schedule.name=composite", FOUR_PIECES,
    ],
    "a range test before a one-cycle": [
        "optimizer.name=adamw", "schedule.name=range_test_onecycle", "schedule.num_steps=60",
        "schedule.min_lr=1e-5",
    ],
    "curvature under AutoWU": ["optimizer.name=sophia", "layer_norms=true"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("choice", CHOICES)
def test_it_trains_and_goes_on_bit_for_bit_after_an_interruption(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*CHOICES[choice], "epochs=3"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, *settings) == 0
    losses = [line["train_loss"] for line in metrics_of(whole)]
    assert losses[-1] < 0.9 * losses[0]
    for epoch in (0, 1, 2):
        with monkeypatch.context() as patch:
            stop_after(epoch, signal.SIGTERM, patch)
            assert run(parts, *settings) == 143
    assert run(parts, *settings) == 0
    assert_same_run(whole, parts)


def test_schedule_free_saves_the_weights_that_it_evaluates(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(folder, *CHOICES["schedule-free and an average"], "epochs=2") == 0
    last, summary = load(folder / "last.pt"), json.loads((folder / "summary.json").read_text())
    assert any(
        not torch.equal(last["model"][name], last["training_model"][name])
        for name in last["model"]
        if name.endswith("weight")
    )
    means = [name for name in last["model"] if name.endswith("running_mean")]
    assert means and all(
        not torch.equal(last["model"][name], last["training_model"][name]) for name in means
    )
    for weights, key in (("model", "test_accuracy"), ("average", "ema_test_accuracy")):
        assert accuracy_on_digits(last[weights]) == pytest.approx(summary[key])


def accuracy_on_digits(weights: dict[str, torch.Tensor]) -> float:
    from autowu.trainer.data import load_data
    from autowu.trainer.distributed import Ranks
    from autowu.trainer.loop import evaluate

    images = load_data("digits", batch_size=64, ranks=Ranks(), seed=0, augment="none")
    model = build_model("small_cnn", 1, 10)
    model.load_state_dict(weights)
    return evaluate(model, images.test_batches(), images.ranks)


def test_plateau_lowers_the_lr_when_the_training_loss_stalls(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(folder, *CHOICES["plateau"], "epochs=4") == 0
    lines = metrics_of(folder)
    # threshold 0.9: an epoch is better only with a tenth of the best loss; patience 0.
    lr, best, expected = 0.5, float("inf"), []
    for line in lines:
        expected.append(lr)
        if line["train_loss"] < best * (1 - 0.9):
            best = line["train_loss"]
        else:
            lr *= 0.1
    assert [line["lr"] for line in lines] == pytest.approx(expected)
    assert expected[-1] < 0.5


RANGE_TEST = [
    "optimizer.name=adamw", "schedule.name=lr_range_test", "schedule.num_steps=60",
    "schedule.min_lr=1e-5",
]  # fmt: skip


def test_a_range_test_suggests_and_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(folder, *RANGE_TEST) == 0
    said = capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml", "steps.csv", "summary.json", "lr_range_test.csv", "lr_range_test.png",
    }  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert 1e-4 < summary["suggested_lr"] < 1
    assert f"suggested LR {summary['suggested_lr']:.3g}" in said and "lr_range_test.png" in said
    rows = (folder / "lr_range_test.csv").read_text().splitlines()
    assert len(rows) == 1 + summary["num_steps"]

    assert run(folder, *RANGE_TEST) == 0  # shown again, not made again
    assert "is finished" in capsys.readouterr().out
    assert run(folder, *RANGE_TEST, "schedule.max_lr=1") == 2
    assert "schedule.max_lr=1" in capsys.readouterr().err
    assert run(folder, *RANGE_TEST, "resume=never", "schedule.max_lr=1") == 0


def test_a_range_test_does_not_take_the_place_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(folder, "epochs=1") == 0
    before = (folder / "last.pt").read_bytes()
    assert run(folder, *RANGE_TEST) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (folder / "last.pt").read_bytes() == before


def test_a_one_cycle_without_any_lr_to_find_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "optimizer.name=sgd", "schedule.name=range_test_onecycle", "schedule.num_steps=5",
        "schedule.min_lr=1e3", "schedule.max_lr=1e4",
    ]  # fmt: skip
    assert run(tmp_path / "run", *settings) == 1
    assert "give it other limits" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_make_one_range_test_and_train_with_its_lr(tmp_path: Path) -> None:
    settings = [
        *CHOICES["a range test before a one-cycle"],
        "data.batch_size=64", "epochs=2", f"output_dir={tmp_path}", "name=two",
    ]  # fmt: skip
    ended = finish(start(settings, world_size=2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["world_size"] == 2
    assert 1e-4 < summary["start_lr"] < 1
    assert summary["test_accuracy"] > 50


def test_curvature_with_two_ranks_is_refused(tmp_path: Path) -> None:
    settings = [
        *CHOICES["curvature under AutoWU"], "data.batch_size=64", f"output_dir={tmp_path}",
    ]  # fmt: skip
    ended = finish(start(settings, world_size=2))
    assert [code for code, _, _ in ended] == [2, 2], ended
    assert "needs a single rank" in ended[0][2]


def test_a_refused_optimizer_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "run", "optimizer.name=lbfgs", "optimizer.weight_decay=0") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "closure" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        (["optimizer.name=prodigy", "optimizer.lookahead=true"], True),
        (["optimizer.name=dadaptadam"], True),
        (["optimizer.name=prodigy", "schedule.name=constant", "optimizer.lr=1"], False),
        (["optimizer.name=adamw"], False),
    ],
)
def test_an_optimizer_that_estimates_the_lr_is_not_driven_by_autowu_without_a_word(
    settings: list[str], warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", *settings, "epochs=1") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(lines) == warned
    for line in lines:
        assert settings[0] in line and "optimizer.lr=1 schedule.name=constant" in line
