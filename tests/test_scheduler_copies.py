"""Copies, interruptions and odd surroundings: what must not change a run in silence."""

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR, SequentialLR

import autowu.decision
from autowu import AutoWU
from tests.helpers import assert_same_state


def build(**settings: Any) -> AutoWU:
    """The losses below know nothing of the LR: they are those of a fixed sweep."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return AutoWU(optimizer, 400, **({"sweep": "fixed"} | settings))


def loss_of(step: int) -> float:
    return abs(step - 120) / 100 + 0.01 * math.sin(7 * step)


def go_on(scheduler: AutoWU, stop: int, as_loss: Callable[[float], Any] = float) -> None:
    while scheduler.last_epoch < stop:
        scheduler.optimizer.step()
        scheduler.step(as_loss(loss_of(scheduler.last_epoch)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("as_loss", [float, torch.tensor])
def test_a_copy_made_between_two_tests_goes_on_alike(copied: Any, as_loss: Any) -> None:
    scheduler = build()
    go_on(scheduler, 13, as_loss)
    twin = copied(scheduler)
    for each in (scheduler, twin):
        go_on(each, 200, as_loss)
    assert twin.losses.tolist() == scheduler.losses.tolist()
    assert (twin.switch_step, twin.start_lr) == (scheduler.switch_step, scheduler.start_lr)
    assert scheduler.switch_step is not None and 120 < scheduler.switch_step < 150


def test_an_interrupted_test_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = build()

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(autowu.decision, "weigh_evidence", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go_on(scheduler, 200)
    stopped = scheduler.last_epoch
    assert len(scheduler.losses) == stopped
    assert scheduler.get_last_lr() == [scheduler.lr_at(stopped)]
    go_on(scheduler, 200)
    assert scheduler.tests[0].step == stopped
    assert scheduler.losses.tolist() == pytest.approx(
        [loss_of(t) for t in range(len(scheduler.losses))]
    )
    assert scheduler.start_lr == pytest.approx(1e-2, rel=0.2)


@pytest.mark.parametrize("where", ["weigh_evidence", "synchronize"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_test_interrupted_at_the_longest_warmup_is_made_up_for(
    where: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often; the curve has no room for a loss after it, and the interval for one."""

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    whole, stopped = build(max_warmup_fraction=0.05), build(max_warmup_fraction=0.05)
    for scheduler in (whole, stopped):
        go_on(scheduler, scheduler.warmup_steps - 1)
    go_on(whole, 40)
    with monkeypatch.context() as patch:
        target = autowu.decision if where == "weigh_evidence" else stopped._warmup
        patch.setattr(target, where, interrupted)
        for _ in range(times):
            with pytest.raises(KeyboardInterrupt):
                go_on(stopped, 40)
    assert stopped.last_epoch == stopped.warmup_steps and stopped.switch_step is None
    go_on(stopped, 40)
    assert_same_state(whole.state_dict(), stopped.state_dict())


def test_a_group_added_under_a_tensor_lr_keeps_the_optimizers_default() -> None:
    optimizer = Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(1e-3), foreach=False)
    scheduler = AutoWU(optimizer, 400)
    go_on(scheduler, 20)
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    go_on(scheduler, 21)
    first, added = scheduler.get_last_lr()
    assert float(added) == pytest.approx(float(first))


def test_groups_cannot_be_removed() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    scheduler = AutoWU(SGD(groups, lr=1.0), 400)
    go_on(scheduler, 5)
    del scheduler.optimizer.param_groups[0]
    with pytest.raises(ValueError, match="1 parameter groups, and had 2"):
        go_on(scheduler, 6)


def test_built_and_loaded_in_inference_mode_it_runs_outside() -> None:
    with torch.inference_mode():
        scheduler, loaded = build(), build()
        loaded.load_state_dict(scheduler.state_dict())
    for each in (scheduler, loaded):
        go_on(each, 200)
    assert loaded.switch_step == scheduler.switch_step is not None


def test_an_lr_scale_of_none_is_no_lr_scale() -> None:
    optimizer = SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr_scale": None}], lr=1.0)
    scheduler = AutoWU(optimizer, 400)
    go_on(scheduler, 5)
    assert scheduler.get_last_lr() == [scheduler.lr_at(5)]


def test_a_state_with_something_missing_changes_nothing() -> None:
    scheduler = build()
    go_on(scheduler, 30)
    state = scheduler.state_dict()
    del state["tests"]
    with pytest.raises(ValueError, match="tests missing"):
        scheduler.load_state_dict(state)
    with pytest.raises(ValueError, match="settings of the state"):
        scheduler.load_state_dict(scheduler.state_dict() | {"settings": {"seed": 1}})
    assert len(scheduler.losses) == scheduler.last_epoch == 30


def test_a_negative_weight_on_a_device_leaves_the_loss_out() -> None:
    scheduler = build()
    scheduler.optimizer.step()
    scheduler.observe(1.5, torch.tensor(-1.0))
    scheduler.step()
    assert scheduler.num_nonfinite == 0  # not looked at before the first test
    assert math.isnan(scheduler.losses[0])
    assert scheduler.num_nonfinite == 1


@pytest.mark.parametrize(("min_lr", "max_lr"), [(1e-320, 1.0), (1e-308, 1e308)])
def test_a_range_beyond_floating_point_is_refused(min_lr: float, max_lr: float) -> None:
    with pytest.raises(ValueError, match="max_lr / min_lr must be finite"):
        build(min_lr=min_lr, max_lr=max_lr)


@pytest.mark.parametrize("last_epoch", [2.5, "3", None, True])
def test_last_epoch_is_an_integer(last_epoch: Any) -> None:
    with pytest.raises(TypeError, match="last_epoch must be an integer"):
        build(last_epoch=last_epoch)


def test_a_process_group_needs_torch_distributed() -> None:
    with pytest.raises(ValueError, match="init_process_group"):
        build(process_group=object())


def in_second_place() -> tuple[SequentialLR, AutoWU]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    first, second = ConstantLR(optimizer, 0.5, 5), AutoWU(optimizer, 400)
    return SequentialLR(optimizer, [first, second], milestones=[5]), second


@pytest.mark.parametrize("saved_after", [2, 5, 9])
def test_before_its_turn_in_a_sequence_it_observes_nothing(saved_after: int) -> None:
    whole, scheduler = in_second_place()
    resumed, twin = in_second_place()
    for step in range(60):
        scheduler.optimizer.step()
        scheduler.observe(loss_of(step))
        whole.step()
        if step >= saved_after:
            twin.optimizer.step()
            twin.observe(loss_of(step))
            resumed.step()
        if step == saved_after - 1:
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
            twin.optimizer.load_state_dict(copy.deepcopy(scheduler.optimizer.state_dict()))
            lrs = [each.optimizer.param_groups[0]["lr"] for each in (scheduler, twin)]
            assert lrs[0] == lrs[1]
    expected = torch.tensor([loss_of(step) for step in range(5, 60)])
    assert torch.equal(scheduler.losses, expected)
    assert_same_state(twin.state_dict(), scheduler.state_dict())


def test_before_its_turn_in_a_sequence_a_probe_leaves_the_lrs_alone() -> None:
    runs = []
    for probed in (False, True):
        whole, scheduler = in_second_place()
        if probed:
            scheduler.begin_at(1e-3)
            assert scheduler.optimizer.param_groups[0]["lr"] == 0.5
            take_step = iter([1.0] * 6 + [0.5] * 12).__next__
            assert scheduler.probe(torch.nn.Linear(1, 1), take_step) is not None
            assert scheduler.get_last_lr() == [1e-5]
        lrs = []
        for step in range(7):
            lrs.append(scheduler.optimizer.param_groups[0]["lr"])
            scheduler.optimizer.step()
            scheduler.observe(loss_of(step))
            whole.step()
        runs.append(lrs)
    assert runs[0][:5] == runs[1][:5] == [0.5] * 5
    assert runs[0][5] == 1e-5 < runs[1][5] == scheduler.lr_at(0)


def test_first_in_a_sequence_it_goes_as_it_does_alone() -> None:
    def build_first() -> AutoWU:
        return AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 40)

    alone, first = build_first(), build_first()
    then = ConstantLR(first.optimizer, 0.5, 100)
    sequence = SequentialLR(first.optimizer, [first, then], milestones=[40])
    for step in range(39):
        for scheduler in (alone, first):
            assert scheduler.get_last_lr() == [scheduler.optimizer.param_groups[0]["lr"]]
            scheduler.optimizer.step()
            scheduler.observe(loss_of(step))
        alone.step()
        sequence.step()
        assert first.get_last_lr() == alone.get_last_lr()
    assert_same_state(
        first.state_dict() | {"step_count": 0}, alone.state_dict() | {"step_count": 0}
    )
    first.optimizer.step()
    sequence.step()
    assert first.optimizer.param_groups[0]["lr"] == 0.5


def test_before_its_turn_it_skips_nothing_and_takes_no_step_of_its_own() -> None:
    sequence, second = in_second_place()
    second.optimizer.step()
    second.observe(1.0)
    second.skip()
    with pytest.raises(ValueError, match=r"gets its losses by observe\(loss\)"):
        second.step(1.0)
    assert second.last_epoch == -1
    assert sequence.get_last_lr() == [second.optimizer.param_groups[0]["lr"]] == [0.5]


def test_compiled_a_subclass_takes_each_step_once() -> None:
    class Counting(AutoWU):
        num_calls = 0

        def step(self, loss: torch.Tensor | float | None = None) -> None:
            self.num_calls += 1
            super().step(loss)

    scheduler = Counting(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 400)
    num_constructed = scheduler.num_calls
    fast = torch.compile(lambda loss: scheduler.step(loss), backend="eager")
    for step in range(4):
        scheduler.optimizer.step()
        fast(torch.tensor(loss_of(step)))
    assert scheduler.num_calls - num_constructed == scheduler.last_epoch == 4


def frozen_groups(**of_first: float) -> SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    return SGD([groups[0] | of_first, groups[1]], lr=1.0)


def test_a_group_that_an_lr_of_0_does_not_freeze_is_named() -> None:
    with pytest.warns(UserWarning, match=r"give it lr_scale=0\.0"):
        AutoWU(frozen_groups(lr=0.0), 400)


@pytest.mark.parametrize("of_first", [{"lr": 0.0, "lr_scale": 0.0}, {"lr": 0.1}])
def test_groups_that_say_what_they_mean_are_not(of_first: dict[str, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoWU(frozen_groups(**of_first), 400)
        AutoWU(SGD([torch.zeros(1, requires_grad=True)], lr=0.0), 400)


def test_compiled_with_the_optimizer_it_decides_alike_and_no_test_is_compiled() -> None:
    plain, compiled = build(), build()

    def take_step(loss: torch.Tensor) -> None:
        compiled.optimizer.step()
        compiled.step(loss)

    counter = CompileCounter()
    fast = torch.compile(take_step, backend=counter)
    for step in range(24):
        plain.optimizer.step()
        plain.step(torch.tensor(loss_of(step)))
        fast(torch.tensor(loss_of(step)))
    assert len(compiled.tests) > 2
    assert_same_state(compiled.state_dict(), plain.state_dict())
    assert counter.frame_count <= 3  # as many as with one of torch's schedulers
