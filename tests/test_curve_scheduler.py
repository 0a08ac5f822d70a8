"""The thin scheduler is a citizen of PyTorch, and keeps the ratios of the groups."""

import gc
import io
import pickle
import warnings
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, SequentialLR

from autowu import AutoWU
from autowu.curve_scheduler import CurveScheduler
from autowu.schedules import cosine, exponential, polynomial
from tests.helpers import FailOnSync

CURVE = partial(cosine, num_steps=20, start_lr=1.0)


def parameters(num: int = 1) -> list[Tensor]:
    return [torch.zeros(1, requires_grad=True) for _ in range(num)]


def build(optimizer: Optimizer | None = None, **keywords: Any) -> CurveScheduler:
    return CurveScheduler(optimizer or SGD(parameters(), lr=0.5), CURVE, **keywords)


def run(scheduler: LRScheduler, num_steps: int) -> list[list[float]]:
    lrs = []
    for _ in range(num_steps):
        scheduler.optimizer.step()
        scheduler.step()
        lrs.append([float(group["lr"]) for group in scheduler.optimizer.param_groups])
        assert lrs[-1] == [float(lr) for lr in scheduler.get_last_lr()]
    return lrs


def two_groups(**second: Any) -> Optimizer:
    return SGD([{"params": parameters()}, {"params": parameters(), **second}], lr=0.5)


def test_each_group_has_its_base_lr_times_the_curve_as_with_lambdalr() -> None:
    ours, theirs = two_groups(lr=0.05), two_groups(lr=0.05)
    assert run(build(ours), 25) == run(LambdaLR(theirs, CURVE), 25)
    assert [group["initial_lr"] for group in ours.param_groups] == [0.5, 0.05]


def test_a_group_is_scaled_by_its_lr_scale() -> None:
    for first, second in run(build(two_groups(lr_scale=0.25)), 25):
        assert second == pytest.approx(0.25 * first)


def test_a_group_whose_lr_scale_is_none_is_not_scaled() -> None:
    scheduler = build(two_groups(lr_scale=None))
    assert all(second == first for first, second in run(scheduler, 25))


def test_an_lr_scale_comes_on_top_of_the_ratio_of_an_absolute_curve_and_in_place_of_autowus() -> (
    None
):
    def optimizer() -> Optimizer:
        groups: list[dict[str, Any]] = [{"params": parameters()}, {"params": parameters()}]
        groups[0] |= {"lr": 0.1, "lr_scale": 0.5}
        return SGD(groups, lr=0.2)

    scheduler = CurveScheduler(optimizer(), lambda step: 0.2, absolute=True)
    assert scheduler.get_last_lr() == pytest.approx([0.05, 0.2])
    autowu = AutoWU(optimizer(), 10, min_lr=0.2)
    assert autowu.get_last_lr() == pytest.approx([0.1, 0.2])


def test_an_absolute_curve_gives_learning_rates_and_keeps_the_ratios() -> None:
    sweep = partial(exponential, num_steps=10, start_lr=1e-5, end_lr=1.0)
    scheduler = CurveScheduler(two_groups(lr=0.05), sweep, absolute=True)
    assert scheduler.reference_lr == 0.5
    for step, (first, second) in enumerate(run(scheduler, 12), start=1):
        assert first == sweep(step)
        assert second == pytest.approx(0.1 * first)


@pytest.mark.parametrize("optimizer", [None, "sgd", parameters()])
def test_anything_but_an_optimizer_is_a_type_error(optimizer: Any) -> None:
    with pytest.raises(TypeError, match="Optimizer"):
        CurveScheduler(optimizer, CURVE)


def test_the_wrong_order_warns_once_and_the_right_order_never() -> None:
    scheduler = build()
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
        run(build(), 25)


def test_a_tensor_lr_is_filled_and_never_replaced() -> None:
    lr = torch.tensor(0.5)
    optimizer = Adam(parameters(), lr=lr, foreach=False)
    scheduler = build(optimizer)
    for step in range(1, 25):
        run(scheduler, 1)
        assert optimizer.param_groups[0]["lr"] is lr
        assert float(lr) == pytest.approx(0.5 * CURVE(step), rel=1e-6, abs=1e-9)
    assert [float(base) for base in scheduler.base_lrs] == [0.5]
    assert scheduler.get_last_lr()[0] is not lr


def test_a_tensor_lr_that_groups_share_is_cloned() -> None:
    groups: list[dict[str, Any]] = [{"params": parameters()}, {"params": parameters()}]
    groups[1]["lr_scale"] = 0.25
    optimizer = Adam(groups, lr=torch.tensor(0.5), foreach=False)
    scheduler = build(optimizer)
    own = [group["lr"] for group in optimizer.param_groups]
    run(scheduler, 5)
    assert own[0] is not own[1]
    assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, own, strict=True))
    assert float(own[1]) == pytest.approx(0.25 * float(own[0]))
    optimizer.add_param_group({"params": parameters()})  # with the default LR, not the present one
    assert float(optimizer.param_groups[2]["lr"]) == 0.5


def test_a_group_added_in_mid_run_takes_its_lr_as_initial_lr() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = build(optimizer)
    run(scheduler, 10)
    optimizer.add_param_group({"params": parameters(), "lr": 0.05})
    run(scheduler, 1)
    first, added = optimizer.param_groups
    assert added["initial_lr"] == 0.05
    assert added["lr"] == pytest.approx(0.1 * first["lr"])
    assert len(scheduler.base_lrs) == len(scheduler.get_last_lr()) == 2


def test_replaced_group_dicts_are_written_to() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = build(optimizer)
    run(scheduler, 10)
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    run(scheduler, 1)
    assert optimizer.param_groups[0]["lr"] == 0.5 * CURVE(11)


@pytest.mark.parametrize("num_steps", [0, 1, 7, 20, 25])
@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5)])
def test_a_resumed_scheduler_goes_on_exactly(num_steps: int, lr: Any) -> None:
    def fresh() -> CurveScheduler:
        groups: list[dict[str, Any]] = [{"params": parameters()}, {"params": parameters()}]
        groups[1]["lr_scale"] = 0.3
        return build(Adam(groups, lr=torch.clone(lr) if torch.is_tensor(lr) else lr, foreach=False))

    scheduler = fresh()
    run(scheduler, num_steps)
    file = io.BytesIO()
    torch.save(scheduler.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    pickle.loads(pickle.dumps(state))
    resumed = fresh()
    run(resumed, 3)
    resumed.load_state_dict(state)
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    assert run(resumed, 30) == run(scheduler, 30)


@pytest.mark.parametrize("num_steps", [0, 3, 5, 9])
def test_a_state_loaded_before_its_turn_leaves_the_lr_of_the_one_before(num_steps: int) -> None:
    def fresh() -> tuple[Optimizer, SequentialLR]:
        optimizer = SGD(parameters(), lr=0.5)
        warmup = LinearLR(optimizer, 0.1, 1.0, total_iters=5)
        return optimizer, SequentialLR(optimizer, [warmup, build(optimizer)], [5])

    optimizer, scheduler = fresh()
    run(scheduler, num_steps)
    states = optimizer.state_dict(), scheduler.state_dict()
    resumed_optimizer, resumed = fresh()
    resumed_optimizer.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert resumed_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert run(resumed, 20) == run(scheduler, 20)


def test_a_group_added_before_a_save_is_known_after_it() -> None:
    def fresh() -> Optimizer:
        return two_groups(lr=2.0)  # larger than the default of the reference

    scheduler = CurveScheduler(SGD(parameters(), lr=0.5), CURVE, absolute=True)
    run(scheduler, 4)
    scheduler.optimizer.add_param_group({"params": parameters(), "lr": 2.0})
    run(scheduler, 1)
    resumed = CurveScheduler(fresh(), CURVE, absolute=True)
    resumed.load_state_dict(scheduler.state_dict())
    assert run(resumed, 10) == run(scheduler, 10)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="not a state_dict of CurveScheduler: base_lrs"):
        build().load_state_dict({"last_epoch": 3})
    state = build(two_groups()).state_dict()
    with pytest.raises(ValueError, match="2 parameter groups, the optimizer has 1"):
        build().load_state_dict(state)


def test_last_epoch_goes_on_without_a_state() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    run(build(optimizer), 10)
    build(optimizer, last_epoch=9)
    assert optimizer.param_groups[0]["lr"] == 0.5 * CURVE(10)
    with pytest.raises(KeyError, match="initial_lr"):
        build(last_epoch=3)


def test_a_step_never_waits_for_the_device() -> None:
    scheduler = build(Adam(parameters(), lr=torch.tensor(0.5), foreach=False))
    scheduler.optimizer.step()
    with FailOnSync():
        for _ in range(25):
            scheduler.step()


def test_there_are_no_reference_cycles() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = build(optimizer)
    run(scheduler, 10)
    alive = weakref.ref(optimizer), weakref.ref(scheduler)
    gc.collect()
    gc.disable()
    try:
        del scheduler
        assert alive[1]() is None
        del optimizer
        assert alive[0]() is None
    finally:
        gc.enable()


def test_accelerate_neither_wraps_nor_multiplies_it() -> None:
    assert CurveScheduler._is_accelerate_prepared is True
    assert not hasattr(build(), "total_steps")


def test_it_is_pickled_with_its_curve() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = CurveScheduler(optimizer, partial(polynomial, num_steps=9, start_lr=1.0))
    again = pickle.loads(pickle.dumps(scheduler.curve))
    assert [again(step) for step in range(10)] == [scheduler.curve(step) for step in range(10)]


@pytest.mark.parametrize("loss", [0.5, torch.tensor(0.5), np.float32(0.5)])
def test_a_loss_is_not_taken_for_an_epoch(loss: Any) -> None:
    scheduler = build(SGD(parameters(), lr=0.5))
    with pytest.raises(TypeError, match="takes no loss"):
        scheduler.step(loss)
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize(
    "damage",
    [
        {"last_epoch": "7"},
        {"step_count": -1},
        {"base_lrs": [-5.0]},
        {"base_lrs": 5.0},
        {"reference_lr": None},
        {"other_lrs": ["high"]},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage: dict[str, Any]) -> None:
    scheduler = build(SGD(parameters(), lr=0.5))
    run(scheduler, 3)
    before = scheduler.state_dict()
    (name,) = damage
    with pytest.raises(ValueError, match="damaged" if damage == {"base_lrs": 5.0} else name):
        scheduler.load_state_dict(before | damage)
    assert scheduler.state_dict() == before


def test_a_state_that_does_not_know_of_the_lrs_of_others_is_loaded() -> None:
    first, second = (build(SGD(parameters(), lr=0.5)) for _ in range(2))
    run(first, 3)
    state = first.state_dict()
    del state["other_lrs"]
    second.load_state_dict(state)
    assert run(second, 3) == run(first, 3)


@pytest.mark.parametrize("state", [None, []])
def test_what_is_no_state_is_named(state: Any) -> None:
    with pytest.raises(ValueError, match="not a state_dict of CurveScheduler"):
        build(SGD(parameters(), lr=0.5)).load_state_dict(state)
