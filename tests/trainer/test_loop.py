"""Evaluation, and what is looked at between two writings of the journal."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autowu.trainer.distributed import Ranks, choose_device
from autowu.trainer.errors import ConfigError, Interrupted, TrainingDiverged
from autowu.trainer.journal import Journal, check_finite
from autowu.trainer.loop import MOST_SKIPPED, check_skipped, evaluate, watched
from autowu.trainer.progress import Progress
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.schedules import Schedule, create
from autowu.trainer.signals import Pace, StopSignals

IMAGES = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3


def test_evaluation_gives_the_share_of_correct_images_in_percent() -> None:
    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.eye(3)[[0] * len(images)]

    batches = [(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])]
    assert evaluate(First(), batches, Ranks()) == 100 * 3 / 8  # labels 0, 3, 6 of 8 are class 0


def schedule_after(num_steps: int) -> Schedule:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = create("warmup_cosine", optimizer, epochs=10, steps_per_epoch=1, warmup_epochs=2)
    for _ in range(num_steps):
        optimizer.step()
        schedule.step(torch.tensor(1.0))
    return schedule


def test_a_loss_that_must_be_finite_and_is_not_ends_the_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    losses = [math.nan, 1.0, 1.0, math.inf]
    check_finite(losses, [False, True, True, False], 0, schedule_after(4), run)
    with pytest.raises(TrainingDiverged, match="inf at step 13, in the decay that began at"):
        check_finite(losses, [False, True, True, True], 10, schedule_after(4), run)
    with pytest.raises(TrainingDiverged, match=r"nan at step 0, in the warmup"):
        check_finite(losses, [True] * 4, 0, schedule_after(1), run)


class NoData:
    wait_seconds = 0.0


@pytest.fixture
def journal(tmp_path: Any) -> Journal:
    run = RunDirectory(tmp_path / "run")
    run.start("")
    return Journal(run, Ranks(), Progress(), StopSignals(), every=3)


def test_the_journal_writes_what_it_took_down(journal: Journal) -> None:
    images: Any = NoData()
    for step in range(5):
        journal.record(0.1 * step, torch.tensor(float(step)), must_be_finite=True)
        if journal.is_due:
            assert journal.look(images, schedule_after(0)) is False
            assert journal.progress.step == 3
    assert journal.num_unseen == 2
    journal.look(images, schedule_after(0))
    assert journal.progress.epoch_losses == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (journal.progress.step, journal.progress.last_lr) == (5, 0.4)
    rows = journal.run.steps.read_text().splitlines()
    expected = ["0,0.0,0", "1,0.1,1", "2,0.2,2", f"3,{3 * 0.1!r},3", "4,0.4,4"]
    assert rows == ["step,lr,loss", *expected]


def test_a_signal_is_answered_at_the_next_look(journal: Journal) -> None:
    journal.record(0.1, torch.tensor(1.0), must_be_finite=True)
    assert not journal.is_due
    journal.stop.received = 15
    assert journal.is_due
    assert journal.look(NoData(), schedule_after(0)) is True  # type: ignore[arg-type]


class TwoRanks(Ranks):
    """The first of two, of which the other one has the same values and no signal."""

    def __init__(self) -> None:
        super().__init__()
        self.world_size = 2

    def sum(self, values: Tensor) -> Tensor:
        return 2 * values


def test_all_ranks_look_as_often_as_takes_a_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = Pace(most=20)
    assert pace.steps == 1  # until it is known
    for seconds, steps in ((2.0, 2), (0.001, 20), (60.0, 1), (0.0, 20)):
        pace.took(seconds)
        assert pace.steps == steps

    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    run = RunDirectory(tmp_path / "run")
    run.start("")
    journal = Journal(run, TwoRanks(), Progress(), StopSignals(), every=20)
    looks = []
    for step in range(1, 41):
        clock[0] += 60.0 if step == 1 else 2.0 if step < 20 else 0.01  # it compiles first
        journal.record(0.1, torch.tensor(1.0), must_be_finite=True)
        if journal.is_due:
            looks.append(step)
            journal.look(NoData(), schedule_after(0))  # type: ignore[arg-type]
    assert looks[:6] == [1, 2, 3, 5, 7, 9] and looks[-2:] == [22, 40]


def test_an_evaluation_that_shall_stop_does_so_between_two_batches() -> None:
    stop = StopSignals()

    def batches_that_tell(number: int) -> Any:
        for index in range(5):
            if index == number:
                stop.received = 15
            yield index

    assert list(watched(batches_that_tell(9), 5, Ranks(), stop)) == [0, 1, 2, 3, 4]
    for ranks in (Ranks(), TwoRanks()):
        stop.received, seen = None, []
        with pytest.raises(Interrupted):
            for index in watched(batches_that_tell(1), 5, ranks, stop):
                seen.append(index)
        assert seen == [0]
    stop.received = None
    # The batch that the other rank does not have: nobody would answer.
    assert list(watched(batches_that_tell(1), 1, TwoRanks(), stop)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_saved", [True, False])
def test_an_error_speaks_of_a_checkpoint_where_there_is_one(is_saved: bool, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    nothing = "; nothing was saved yet to go on from"
    last = "; the last checkpoint is from before {} (resume=never starts afresh)"
    if is_saved:
        run.last.touch()
    progress = Progress(skipped_in_a_row=MOST_SKIPPED + 1)
    with pytest.raises(TrainingDiverged) as ended:
        check_skipped(progress, run)
    assert str(ended.value).endswith(last.format("them or among them") if is_saved else nothing)
    with pytest.raises(TrainingDiverged) as ended:
        check_finite([math.nan], [True], 0, schedule_after(0), run)
    assert str(ended.value).endswith(last.format("it") if is_saved else nothing)


def test_a_scaler_that_skips_every_step_ends_the_run(tmp_path: Path) -> None:
    run, progress = RunDirectory(tmp_path), Progress()
    for _ in range(MOST_SKIPPED):
        progress.count(skipped=True)
        check_skipped(progress, run)
    progress.count(skipped=True)
    with pytest.raises(TrainingDiverged, match=f"the last {MOST_SKIPPED + 1} gradients"):
        check_skipped(progress, run)
    progress.count(skipped=False)
    check_skipped(progress, run)
    assert progress.skipped_steps == MOST_SKIPPED + 1


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="device=cuda:99"):
        choose_device("cuda:99")


def test_ranks_on_one_node_do_not_share_a_named_device() -> None:
    with pytest.raises(ConfigError, match="device=cuda:0: 2 ranks cannot share it"):
        choose_device("cuda:0", local_rank=1, local_size=2)
