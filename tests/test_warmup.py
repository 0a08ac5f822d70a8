"""The warmup by itself, without an optimizer, against the one in AutoWU."""

import math
from typing import Any

import pytest
import torch
from torch.optim import SGD

from autowu import AutoWU
from autowu.settings import SchedulerSettings
from autowu.warmup import Warmup, WarmupEnd
from tests.helpers import assert_same_state

CPU = torch.device("cpu")


def build(total_steps: int = 400, **settings: Any) -> AutoWU:
    return AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), total_steps, **settings)


def warmup_of(settings: SchedulerSettings) -> Warmup:
    return Warmup(settings, kernel=None, process_group=None, first_step=0)


def loss_at(lr: float, step: int) -> float:
    """Falls up to an LR of 0.02 and rises from there."""
    return abs(math.log(lr / 0.02)) + 0.05 * math.sin(7 * step)


def go_on(warmup: Warmup, begin: int, stop: int) -> tuple[int, WarmupEnd | None]:
    """To the step at which it ends, or to `stop`."""
    for step in range(begin, stop):
        warmup.interval.add(loss_at(warmup.sweep.lr(step), step))
        warmup.interval.commit()
        if step + 1 == warmup.next_test_step:
            warmup.synchronize(CPU)
            end = warmup.test(step + 1, CPU)
            if end is not None:
                return step + 1, end
    return stop, None


@pytest.mark.parametrize("sweep", ["adaptive", "fixed"])
def test_a_warmup_by_itself_ends_as_that_of_the_scheduler(sweep: str) -> None:
    scheduler = build(sweep=sweep)
    while scheduler.switch_step is None:
        scheduler.optimizer.step()
        scheduler.step(loss_at(scheduler.get_last_lr()[0], scheduler.last_epoch))
    warmup = warmup_of(scheduler.settings)
    switch_step, end = go_on(warmup, 0, scheduler.warmup_steps)
    assert end is not None and not end.diverged
    assert (switch_step, end.start_lr) == (scheduler.switch_step, scheduler.start_lr)
    assert end.start_lr == pytest.approx(0.02, rel=0.3)
    assert warmup.tests == scheduler.tests
    assert end.num_newest == switch_step - warmup.tests[-2].step


@pytest.mark.parametrize("step", [1, 17, 40])
def test_a_warmup_goes_on_from_its_state(step: int) -> None:
    whole, settings = warmup_of(build().settings), build().settings
    go_on(whole, 0, step)
    resumed = warmup_of(settings)
    resumed.load_state_dict(whole.state_dict(), has_ended=False)
    assert resumed.next_test_step == whole.next_test_step
    assert go_on(resumed, step, 200) == go_on(whole, step, 200)
    assert_same_state(resumed.state_dict(), whole.state_dict())


def test_a_warmup_whose_newest_losses_are_not_finite_has_diverged() -> None:
    warmup = warmup_of(build(sweep="fixed").settings)
    step = 0
    while step < 60 or warmup.last_test_step < step:
        step, _ = go_on(warmup, step, step + 1)
    num_newest = warmup.next_test_step - step
    for _ in range(num_newest):
        warmup.interval.add(math.nan)
        warmup.interval.commit()
    warmup.synchronize(CPU)
    end = warmup.test(step + num_newest, CPU)
    assert end is not None and end.diverged and end.num_newest == num_newest
    assert end.start_lr == pytest.approx(warmup.sweep.lr(step)), "it fell to the last finite one"
