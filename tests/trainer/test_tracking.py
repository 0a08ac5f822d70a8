"""What those who watch a run get to see."""

from pathlib import Path
from typing import Any

import pytest
import torch

from autowu import AutoWU
from autowu.trainer.errors import ConfigError, WriteError
from autowu.trainer.progress import Progress
from autowu.trainer.settings import TrackingSettings
from autowu.trainer.tracking import Tracker, Trackers, rows, start_tracker

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
    "scheduler_step": 5,
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
    assert epoch == {
        "epoch": 1,
        "step": 5,
        "scheduler_step": 5,
        "train_loss": 2.0,
        "images_per_second": 7.0,
    }


def test_after_skipped_steps_no_row_goes_back() -> None:
    """W&B throws away what does."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(optimizer, 60, 10, test_interval=2, max_warmup_fraction=1.0)
    progress, steps, num_tests = Progress(), [], 0
    for _ in range(4):
        for loss in range(10):
            if progress.step in (0, 1, 2, 13, 29):
                scheduler.observe(float(loss))
            else:
                optimizer.step()
                scheduler.step(float(loss))
            progress.step += 1
            progress.epoch_losses.append(float(loss))
        progress.epoch_seconds = 1.0
        metrics = progress.epoch_done(
            test_accuracy=0.0,
            evaluation_seconds=0.0,
            scheduler=scheduler,
            restored_step=None,
            batch_size=1,
            gpu_memory=None,
        )
        of_tests = [step for step, row in rows(metrics) if "test/lr" in row]
        assert all(progress.step - 10 < step <= progress.step for step in of_tests)
        assert len(set(of_tests)) == len(of_tests) == len(metrics["tests"])
        steps += [step for step, _ in rows(metrics)]
        num_tests += len(of_tests)
    assert num_tests == len(scheduler.tests) > 10
    assert steps == sorted(steps)


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


@pytest.mark.parametrize("content", [b"", b"a/b", b"\xff"])
def test_a_damaged_id_is_named(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "wandb_id").write_bytes(content)
    with pytest.raises(ConfigError, match="wandb_id: not the id of a run"):
        start_tracker(TrackingSettings(wandb="offline"), tmp_path, "run", {}, first_step=0)


class FullDisk(Tracker):
    def __exit__(self, *exception: object) -> None:
        raise OSError("No space left on device")


class Closed(Tracker):
    is_closed = False

    def __exit__(self, *exception: object) -> None:
        self.is_closed = True


def test_a_watcher_that_cannot_be_closed_hides_no_other_error_and_leaves_none_open() -> None:
    last = Closed()
    with (
        pytest.raises(WriteError, match=r"tracking: .* No space left"),
        Trackers([FullDisk(), last]),
    ):
        assert not last.is_closed
    assert last.is_closed
    with pytest.raises(WriteError, match=r"^steps\.csv$"), Trackers([FullDisk()]):
        raise WriteError("steps.csv")
