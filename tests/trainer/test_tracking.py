"""What those who watch a run get to see."""

from pathlib import Path
from typing import Any

import pytest

from autowu.trainer.settings import TrackingSettings
from autowu.trainer.tracking import rows, start_tracker

TEST = {
    "step": 3,
    "lr": 0.1,
    "probabilities": [0.5, 1.0],
    "positive": True,
    "lr_at_minimum": 0.05,
}
METRICS = {
    "epoch": 1,
    "step": 5,
    "train_loss": 2.0,
    "tests": [TEST],
    "restored_step": None,
    "timing": {"images_per_second": 7.0, "gpu_memory_gib": None},
}


def test_a_test_is_a_row_under_its_own_step_before_that_of_the_epoch() -> None:
    (step, test), (last, epoch) = rows(METRICS)
    assert (step, last) == (3, 5)
    assert test == {
        "test/positive": 1,
        "test/lr": 0.1,
        "test/lr_at_minimum": 0.05,
        "test/probability_0": 0.5,
        "test/probability_1": 1.0,
    }
    assert epoch == {"epoch": 1, "step": 5, "train_loss": 2.0, "images_per_second": 7.0}


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    event_accumulator: Any = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    settings = TrackingSettings(tensorboard=True)
    with start_tracker(settings, tmp_path, "run", {}, first_step=0) as tracker:
        tracker.log(METRICS)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {key for _, row in rows(METRICS) for key in row}
    (event,) = events.Scalars("test/probability_1")
    assert (event.step, event.value) == (3, 1.0)


def test_ranks_that_do_not_speak_watch_nothing(tmp_path: Path) -> None:
    settings = TrackingSettings(wandb="offline", tensorboard=True)
    with start_tracker(settings, tmp_path, "run", {}, first_step=0, speaks=False) as tracker:
        tracker.log(METRICS)
    assert list(tmp_path.iterdir()) == []
