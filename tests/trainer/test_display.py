"""How often a run says something while it trains."""

from typing import Any

import pytest

from autowu.trainer import display
from autowu.trainer.display import Display


def epochs_told(monkeypatch: pytest.MonkeyPatch, capsys: Any, seconds: float) -> list[int]:
    """Of 100 epochs, each so long."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    shown = Display(epochs=100, steps_per_epoch=5, steps_done=0, max_lines=4)
    for epoch in range(1, 101):
        now[0] += seconds
        metrics = {"epoch": epoch, "train_loss": 1.0, "test_accuracy": 50.0, "phase": "warmup"}
        shown.epoch_done(metrics, 0.1)
    return [int(line.split()[1].partition("/")[0]) for line in capsys.readouterr().out.splitlines()]


def test_a_run_of_many_epochs_says_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert epochs_told(monkeypatch, capsys, seconds=1.0) == [25, 50, 75, 100]


def test_but_one_after_each_epoch_that_takes_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert epochs_told(monkeypatch, capsys, seconds=61.0) == list(range(1, 101))
    told = epochs_told(monkeypatch, capsys, seconds=8.0)
    assert told[:4] == [8, 16, 24, 25]
