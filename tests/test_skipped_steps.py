"""Steps that a GradScaler leaves out: of a search for its scale, and of a network that is lost."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.optim import SGD

from autowu import AutoWU
from autowu.probe import MOST_SKIPPED
from autowu.saved_state import unboxed
from tests.helpers import assert_same_state


def build() -> AutoWU:
    return AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 400, sweep="fixed")


def take(scheduler: AutoWU, loss: float, *, skipped: bool) -> None:
    scheduler.observe(loss)
    if skipped:
        scheduler.skip()
    else:
        scheduler.optimizer.step()
        scheduler.step()


def test_the_losses_of_skipped_steps_are_averaged_into_the_next() -> None:
    scheduler = build()
    for loss, skipped in ((1.0, True), (2.0, True), (6.0, False), (5.0, False)):
        take(scheduler, loss, skipped=skipped)
    assert scheduler.losses.tolist() == [3.0, 5.0]
    assert scheduler.last_epoch == 2


def test_those_in_a_row_that_no_scale_explains_are_steps() -> None:
    scheduler = build()
    for _ in range(2):
        for _ in range(MOST_SKIPPED):
            take(scheduler, 1.0, skipped=True)
        before = scheduler.last_epoch
        take(scheduler, 1.0, skipped=False)
        assert scheduler.last_epoch == before + 1
    for _ in range(MOST_SKIPPED + 3):
        take(scheduler, 1.0, skipped=True)
    assert scheduler.last_epoch == 2 + 3


@pytest.mark.parametrize("saved_after", [10, MOST_SKIPPED + 2])
def test_a_run_goes_on_among_skipped_steps(saved_after: int) -> None:
    whole, resumed = build(), build()
    take(whole, 2.0, skipped=False)
    for step in range(MOST_SKIPPED + 5):
        if step == saved_after:
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        for scheduler in [whole] if step < saved_after else [whole, resumed]:
            take(scheduler, 1.0, skipped=True)
    assert whole.last_epoch == 1 + 5
    assert_same_state(resumed.state_dict(), whole.state_dict())


def test_a_state_of_before_they_were_counted_goes_on() -> None:
    old, new = build(), build()
    for step in range(10):
        take(old, 3.0 - 0.1 * step, skipped=False)
    state = unboxed(old.state_dict()) | {"version": 5}
    del state["num_skipped"]
    new.load_state_dict(state)
    assert_same_state(new.state_dict(), old.state_dict())


def test_a_skipped_step_without_a_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was observed"):
        build().skip()


def test_after_the_warmup_they_need_no_loss() -> None:
    scheduler = AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 4)
    for _ in range(2):
        take(scheduler, 1.0, skipped=False)
    assert scheduler.switch_step == 2
    scheduler.skip()
    assert scheduler.last_epoch == 2


def test_a_sweep_that_loses_the_network_in_fp16_ends() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )
    inputs = torch.randn(128, 8)
    targets = inputs.sum(dim=1, keepdim=True)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = AutoWU(optimizer, 120, max_lr=1e3, sweep="fixed")
    scaler = torch.amp.GradScaler("cpu")
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    with pytest.warns(UserWarning, match="the run has diverged"):
        for batch in itertools.count():
            with torch.autocast("cpu", torch.float16):
                outputs = model(inputs)
            loss = nn.functional.mse_loss(outputs.float(), targets)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scheduler.observe(loss)
            num_steps = scheduler.last_epoch
            scaler.step(optimizer)
            if scheduler.last_epoch == num_steps:
                scheduler.skip()
            scaler.update()
            if scheduler.switch_step is not None or batch == 120:
                break
    assert scheduler.diverged
    assert scheduler.start_lr is not None
    assert scheduler.start_lr < 0.5


def test_a_test_that_is_interrupted_among_them_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    whole, stopped = build(), build()
    with monkeypatch.context() as patch:
        patch.setattr(stopped._warmup, "synchronize", interrupted)
        for _ in range(400):
            take(whole, 1.0, skipped=True)
            try:
                take(stopped, 1.0, skipped=True)
            except KeyboardInterrupt:
                break
    assert whole.tests and not stopped.tests
    for scheduler in (whole, stopped):
        take(scheduler, 1.0, skipped=True)
    assert_same_state(stopped.state_dict(), whole.state_dict())
