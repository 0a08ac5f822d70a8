"""A run that is saved and loaded at any step goes on as if nothing had happened, bit for bit."""

import copy
from typing import Any

import gpytorch
import numpy as np
import pytest
import torch
from torch.optim import SGD

from autowu import AutoWU, replay
from tests.helpers import assert_same_state

TOTAL_STEPS, STEPS_PER_EPOCH = 90, 15
U = np.arange(TOTAL_STEPS) / TOTAL_STEPS
LOSSES = np.abs(U - 0.25) + 0.02 * np.random.default_rng(0).standard_normal(TOTAL_STEPS)
LOSSES[7] = np.nan


def matern() -> gpytorch.kernels.Kernel:
    return gpytorch.kernels.MaternKernel(nu=1.5)


def build(**settings: Any) -> AutoWU:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.3)]
    return AutoWU(SGD(groups, lr=0.1), TOTAL_STEPS, STEPS_PER_EPOCH, **settings)


def go_on(scheduler: AutoWU, stop: int | None = None) -> list[list[float]]:
    lrs = []
    for loss in LOSSES[scheduler.last_epoch : stop]:
        scheduler.optimizer.step()
        scheduler.observe(float(loss), weight=2)
        scheduler.step(float(loss) + 0.1)
        lrs.append(scheduler.get_last_lr())
    return lrs


@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize(
    ("settings", "every"),
    [
        ({}, 1),
        ({"fit": "adam", "test_interval": "epoch"}, 7),  # slow, hence not at every step
        ({"kernel": matern, "decay": "constant_cosine", "num_posterior_samples": 10}, 7),
        ({"growth": "linear", "test_interval": 4}, 1),
    ],
    ids=["default", "paper", "kernel", "linear"],
)
def test_saved_and_loaded_at_every_step_the_rest_is_the_same(
    settings: dict[str, Any], every: int
) -> None:
    def fresh() -> AutoWU:
        kernel = settings.get("kernel")
        return build(**(settings | ({"kernel": kernel()} if kernel else {})))

    whole = fresh()
    lrs = go_on(whole)
    for step in range(0, TOTAL_STEPS, every):
        first = fresh()
        go_on(first, step)
        state = copy.deepcopy(first.state_dict())
        second = fresh()
        second.load_state_dict(state)
        assert second.get_last_lr() == (lrs[step - 1] if step else first.get_last_lr())
        assert [g["lr"] for g in second.optimizer.param_groups] == second.get_last_lr()
        assert go_on(second) == lrs[step:]
        assert_same_state(second.state_dict(), whole.state_dict())


def test_an_open_observation_is_saved_too() -> None:
    first, second = build(), build()
    go_on(first, 8)
    first.observe(2.0)
    second.load_state_dict(first.state_dict())
    for scheduler in (first, second):
        scheduler.observe(4.0)
        scheduler.step()
    assert second.losses[-1] == 3.0
    assert_same_state(first.state_dict(), second.state_dict())


def test_a_state_is_a_snapshot() -> None:
    scheduler = build()
    go_on(scheduler, 20)
    state = scheduler.state_dict()
    before = copy.deepcopy(state)
    go_on(scheduler)
    assert_same_state(state, before)


def test_the_settings_come_with_the_state() -> None:
    saved = replay(LOSSES[:60], 120, 15, max_lr=3.0, decay="constant_cosine", seed=5)
    scheduler = build()
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(optimizer, 7)
    scheduler.load_state_dict(saved.state_dict())
    assert scheduler.settings == saved.settings
    assert scheduler.get_last_lr() == saved.get_last_lr()
    assert scheduler.lr_at(100) == saved.lr_at(100)


def test_a_group_added_after_the_save_is_adopted() -> None:
    first = build()
    go_on(first, 10)
    state = first.state_dict()
    second = build()
    second.optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.05})
    second.load_state_dict(state)
    assert second.get_last_lr() == pytest.approx([*first.get_last_lr(), first.get_last_lr()[0] / 2])


@pytest.mark.parametrize("state", [{}, {"last_epoch": 3}, {"settings": {}, "version": 1}, []])
def test_a_foreign_state_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="not a state_dict of AutoWU"):
        build().load_state_dict(state)


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = build().state_dict()
    single = AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 10)
    with pytest.raises(ValueError, match="2 parameter groups, the optimizer has 1"):
        single.load_state_dict(state)
    with pytest.raises(ValueError, match="another kernel"):
        build(kernel=matern()).load_state_dict(state)
    with pytest.raises(ValueError, match="another kernel"):
        build().load_state_dict(build(kernel=matern()).state_dict())
    with pytest.raises(ValueError, match="version 99"):
        build().load_state_dict(state | {"version": 99})
