"""A run that is saved and loaded at any step goes on as if nothing had happened, bit for bit."""

import copy
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gpytorch
import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ExponentialLR,
    MultiplicativeLR,
    SequentialLR,
)

from autowu import AutoWU, CurveScheduler, loss_gp, replay, schedules
from autowu.saved_state import unboxed
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
    "settings",
    [
        {},
        {"fit": "adam", "test_interval": "epoch"},
        {
            "kernel": matern,
            "decay": "constant_cosine",
            "num_posterior_samples": 10,
            "test_interval": 5,
        },
        {"growth": "linear", "test_interval": 4},
    ],
    ids=["default", "paper", "kernel", "linear"],
)
def test_saved_and_loaded_at_every_step_the_rest_is_the_same(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each step, and between the two observations of each step."""
    monkeypatch.setattr(loss_gp, "ADAM_STEPS", 5)  # enough to carry moments from test to test

    def fresh() -> AutoWU:
        if "kernel" not in settings:
            return build(**settings)
        return build(**(settings | {"kernel": settings["kernel"](), "grid_size": 50}))

    whole = fresh()
    closed, open_, lrs = [], [], []
    for loss in LOSSES:
        closed.append(whole.state_dict())
        whole.optimizer.step()
        whole.observe(float(loss), weight=2)
        open_.append(whole.state_dict())
        whole.step(float(loss) + 0.1)
        lrs.append(whole.get_last_lr())
    assert whole.switch_step is not None and 0 < whole.switch_step < TOTAL_STEPS
    assert whole.tests and len(closed) == TOTAL_STEPS
    for step in range(TOTAL_STEPS):
        before = lrs[step - 1] if step else fresh().get_last_lr()
        for state in (closed[step], open_[step]):
            scheduler = fresh()
            scheduler.load_state_dict(copy.deepcopy(state))
            assert scheduler.last_epoch == step
            assert scheduler.get_last_lr() == before
            assert [group["lr"] for group in scheduler.optimizer.param_groups] == before
            rest = []
            if state is open_[step]:
                scheduler.step(float(LOSSES[step]) + 0.1)
                rest.append(scheduler.get_last_lr())
            assert rest + go_on(scheduler) == lrs[step:]
            assert_same_state(scheduler.state_dict(), whole.state_dict())


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


def test_a_state_passes_through_a_file(tmp_path: Path) -> None:
    first, second = build(), build()
    go_on(first, 20)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert go_on(first) == go_on(second)


def test_loading_fills_a_tensor_lr_in_place() -> None:
    first = build()
    go_on(first, 20)
    lr = torch.tensor(0.1)
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    optimizer = torch.optim.Adam(groups, lr=lr, foreach=False)
    scheduler = AutoWU(optimizer, TOTAL_STEPS)
    scheduler.load_state_dict(first.state_dict())
    assert optimizer.param_groups[0]["lr"] is lr
    saved = first.get_last_lr()
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx(saved)


def test_loading_leaves_nothing_of_what_was_before() -> None:
    early, used = build(), build(seed=3, decay="constant_cosine")
    go_on(early, 8)
    go_on(used)
    used.load_state_dict(early.state_dict())
    assert_same_state(used.state_dict(), early.state_dict())
    assert go_on(used) == go_on(early)


@pytest.mark.parametrize("fit", ["mle", "adam"])
def test_a_state_is_a_snapshot(fit: Any) -> None:
    scheduler, other = build(fit=fit, test_interval=15, sweep="fixed"), build()
    go_on(scheduler, 20)  # after the first test
    state = scheduler.state_dict()
    before = copy.deepcopy(state)
    go_on(scheduler)
    assert len(scheduler.tests) > 1
    assert_same_state(state, before)
    other.load_state_dict(state)
    assert_same_state(other.state_dict(), before)
    go_on(other)
    assert_same_state(state, before)  # nor do the steps of whoever loaded it change it


def test_the_settings_come_with_the_state() -> None:
    saved = replay(LOSSES[:60], 120, 15, max_lr=3.0, decay="constant_cosine", seed=5)
    scheduler = build()
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(optimizer, 7)
    scheduler.load_state_dict(saved.state_dict())
    assert scheduler.settings == saved.settings
    assert scheduler.get_last_lr() == saved.get_last_lr()
    assert scheduler.lr_at(100) == saved.lr_at(100)


def of_two_groups(lr: Any, **second: Any) -> AutoWU:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1} for _ in range(2)]
    groups[1] |= {"lr": lr} | second
    return AutoWU(SGD(groups, lr=0.1), TOTAL_STEPS)


def test_ratios_that_were_given_in_vain_are_said() -> None:
    state = of_two_groups(0.01).state_dict()
    said = r"own settings: ratio of group 1: 0\.1 \(given: 0\.5\)$"
    with pytest.warns(UserWarning, match=said):
        of_two_groups(0.05).load_state_dict(state)
    with warnings.catch_warnings(action="error"):
        of_two_groups(0.01).load_state_dict(state)
        of_two_groups(torch.tensor(0.01)).load_state_dict(state)  # another number in float32
        of_two_groups(0.05, lr_scale=0.1).load_state_dict(state)  # its ratio plays no part


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


def test_the_state_of_another_scheduler_is_refused_and_nothing_is_changed() -> None:
    scheduler = build()
    go_on(scheduler, 20)
    before = scheduler.state_dict()
    other = torch.optim.lr_scheduler.CosineAnnealingLR(build().optimizer, 10).state_dict()
    damaged: list[dict[str, Any]] = [{"version": 0}, {"kernel": [1.0]}, {"diverged": True}]
    for state in (other, *(before | change for change in damaged)):
        with pytest.raises(ValueError):
            scheduler.load_state_dict(state)
        assert_same_state(scheduler.state_dict(), before)


def test_a_state_of_version_4_goes_on_as_it_did() -> None:
    """It does not know of steps without a weight."""
    old, new = build(), build()
    go_on(old, 20)
    state = unboxed(old.state_dict()) | {"version": 4}
    assert state.pop("unweighted") == []
    new.load_state_dict(state)
    assert go_on(new) == go_on(old)
    assert_same_state(new.state_dict(), old.state_dict())


def test_a_kernel_of_another_length_scale_is_another_kernel() -> None:
    one, other = matern(), matern()
    other.lengthscale = 2.0
    state = build(kernel=one).state_dict()
    build(kernel=matern()).load_state_dict(state)
    with pytest.raises(ValueError, match="another kernel"):
        build(kernel=other).load_state_dict(state)


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


def one_after_the_other(optimizer: SGD, first: Any) -> SequentialLR:
    return SequentialLR(optimizer, [first, ExponentialLR(optimizer, 0.9)], [20])


def both_at_once(optimizer: SGD, first: Any) -> ChainedScheduler:
    return ChainedScheduler([first, MultiplicativeLR(optimizer, lambda _: 0.5)], optimizer)


@pytest.mark.parametrize("combine", [one_after_the_other, both_at_once])
@pytest.mark.parametrize("is_autowu", [True, False], ids=["AutoWU", "CurveScheduler"])
@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("num_steps", [10, 20, 30])
def test_the_lr_that_another_scheduler_wrote_is_not_lost(
    combine: Any, is_autowu: bool, optimizer_first: bool, num_steps: int
) -> None:
    """In a SequentialLR after its turn, in a ChainedScheduler always."""

    def fresh() -> tuple[Any, Any, Any]:
        optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        curve = partial(schedules.cosine, num_steps=100, start_lr=1.0)
        one = AutoWU(optimizer, 100) if is_autowu else CurveScheduler(optimizer, curve)
        return optimizer, one, combine(optimizer, one)

    def go(optimizer: Any, one: Any, schedule: Any, num_steps: int) -> list[float]:
        lrs = []
        for step in range(num_steps):
            if is_autowu:
                one.observe(2.0 - 0.01 * step)
            optimizer.step()
            schedule.step()
            lrs.append(optimizer.param_groups[0]["lr"])
        return lrs

    whole, resumed = fresh(), fresh()
    last_lr = go(*whole, num_steps)[-1]
    parts = [(0, whole[0].state_dict()), (2, whole[2].state_dict())]
    for index, state in copy.deepcopy(parts if optimizer_first else parts[::-1]):
        resumed[index].load_state_dict(state)
    assert resumed[0].param_groups[0]["lr"] == last_lr
    assert go(*resumed, 5) == go(*whole, 5)


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_a_group_added_before_a_save_keeps_its_ratio_and_its_first_lr(
    optimizer_first: bool,
) -> None:
    """Even if no step came in between, and the resuming script builds it with another LR."""

    def built(num_groups: int) -> AutoWU:
        groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(num_groups)]
        return AutoWU(SGD(groups, lr=0.1), TOTAL_STEPS)

    def lrs(scheduler: AutoWU) -> list[float]:
        return [group["lr"] for group in scheduler.optimizer.param_groups]

    whole, resumed = built(1), built(2)
    go_on(whole, 6)
    added = {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.01}
    whole.optimizer.add_param_group(added)
    parts = [(whole.optimizer.state_dict(), resumed.optimizer), (whole.state_dict(), resumed)]
    with warnings.catch_warnings(action="ignore"):  # its ratio is another than it was built with
        for state, part in parts if optimizer_first else parts[::-1]:
            part.load_state_dict(copy.deepcopy(state))
    assert lrs(resumed) == lrs(whole)
    assert lrs(whole)[1] == 0.01
    assert go_on(resumed, 12) == go_on(whole, 12)
    assert lrs(resumed) == lrs(whole)
    assert lrs(whole)[1] == pytest.approx(lrs(whole)[0] / 10)


def rising(min_lr: float) -> AutoWU:
    """The loss rises from the first step on: the sweep is set back to its first LR."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = AutoWU(optimizer, 200, min_lr=min_lr)
    noise = np.random.default_rng(0).standard_normal(8)
    for step in range(8):
        optimizer.step()
        scheduler.step(1.9 + (step > 0) * (0.1 + 0.2 * step + 0.01 * float(noise[step])))
    return scheduler


@pytest.mark.parametrize("min_lr", [7e-6, 1.4e-5, 2.8e-5, 5.6e-5, 4.1e-4])
def test_a_set_back_to_the_first_lr_is_a_state_that_can_be_loaded(min_lr: float) -> None:
    """The mean of five of these LRs, as it is rounded, lies below them."""
    assert math.fsum([min_lr] * 5) / 5 < min_lr
    first = rising(min_lr)
    state = first.state_dict()
    assert state["slow_lr"] == min_lr
    below = math.nextafter(min_lr, 0.0)
    rounded = unboxed(state) | {"version": 6, "slow_lr": below}  # as version 6 was
    del rounded["other_lrs"]
    for saved in (state, rounded):
        second = AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=0.1), 200, min_lr=min_lr)
        second.load_state_dict(saved)
        assert second.get_last_lr() == pytest.approx(first.get_last_lr())


def test_a_step_that_is_interrupted_while_it_writes_the_lr_has_its_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = build()
    go_on(scheduler, 4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AutoWU, "_write_lr", Mock(side_effect=KeyboardInterrupt))
        scheduler.step(1.0)
    go_on(scheduler, 7)
    assert (scheduler.last_epoch, len(scheduler.losses)) == (7, 7)
    build().load_state_dict(scheduler.state_dict())


def test_what_another_wrote_may_be_no_lr_and_a_tensor_stays_out_of_a_group_of_floats() -> None:
    lr = torch.tensor(0.1)
    saved = AutoWU(torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr), TOTAL_STEPS)
    go_on(saved, 5)
    for other in (math.nan, 0.25):
        saved.optimizer.param_groups[0]["lr"].fill_(other)
        state = saved.state_dict()
        scheduler = AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=0.1), TOTAL_STEPS)
        scheduler.load_state_dict(state)
        (group,) = scheduler.optimizer.param_groups
        assert type(group["lr"]) is float
        assert group["lr"] == pytest.approx(other, nan_ok=True)


@pytest.mark.parametrize("is_autowu", [True, False], ids=["AutoWU", "CurveScheduler"])
def test_a_save_before_its_turn_changes_nothing(is_autowu: bool) -> None:
    """The base LR of a group that comes in meanwhile is that which it has when the turn comes."""

    def base_lrs(saves: bool) -> list[Any]:
        optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        curve = partial(schedules.cosine, num_steps=100, start_lr=1.0)
        second = AutoWU(optimizer, 100) if is_autowu else CurveScheduler(optimizer, curve)
        schedule = SequentialLR(optimizer, [ExponentialLR(optimizer, 0.5), second], [5])
        optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.01})
        for _ in range(6):
            optimizer.step()
            if saves:
                second.state_dict()
            schedule.step()
            second.observe(1.0) if is_autowu else None
        return second.base_lrs

    assert base_lrs(saves=True) == base_lrs(saves=False)


def test_a_first_step_that_raises_is_none() -> None:
    scheduler = build()
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(UserWarning, match=r"before `optimizer.step\(\)`"),
    ):
        scheduler.step(1.0)
    scheduler.optimizer.step()
    scheduler.step(1.0)
    assert (scheduler.last_epoch, len(scheduler.losses)) == (1, 1)
    build().load_state_dict(scheduler.state_dict())
