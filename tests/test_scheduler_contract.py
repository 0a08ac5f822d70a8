"""AutoWU as a citizen of PyTorch: what any torch.optim.lr_scheduler must do, it does."""

import gc
import io
import pickle
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowu import AutoWU, Phase
from tests.helpers import FailOnSync


def parameters(num: int = 1) -> list[Tensor]:
    return [torch.zeros(1, requires_grad=True) for _ in range(num)]


def build(optimizer: Optimizer | None = None, total_steps: int = 100, **settings: Any) -> AutoWU:
    return AutoWU(optimizer or SGD(parameters(), lr=0.5), total_steps, **settings)


def run(scheduler: AutoWU, num_steps: int, loss: float | Tensor = 1.0) -> None:
    for _ in range(num_steps):
        scheduler.optimizer.step()
        scheduler.step(loss)


def test_it_is_an_lr_scheduler_and_sets_initial_and_base_lrs() -> None:
    optimizer = SGD([{"params": parameters(), "lr": lr} for lr in (0.1, 0.4)], lr=0.1)
    scheduler = build(optimizer)
    assert isinstance(scheduler, LRScheduler)
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.1, 0.4]
    assert scheduler.base_lrs == [0.1, 0.4]
    assert scheduler.last_epoch == 0
    assert scheduler.phase is Phase.WARMUP


@pytest.mark.parametrize("optimizer", [None, "sgd", parameters()])
def test_anything_but_an_optimizer_is_a_type_error(optimizer: Any) -> None:
    with pytest.raises(TypeError, match="Optimizer"):
        AutoWU(optimizer, 100)


def test_the_wrong_order_warns_once_and_the_right_order_never() -> None:
    scheduler = build()
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step(1.0)
        run(build(), 60)


def test_an_overridden_optimizer_step_warns() -> None:
    scheduler = build()
    scheduler.optimizer.step = lambda: None  # type: ignore[method-assign,assignment]
    with pytest.warns(UserWarning, match="has been overridden"):
        scheduler.step(1.0)


def test_a_tensor_lr_is_filled_and_never_replaced() -> None:
    lr = torch.tensor(0.5)
    optimizer = Adam(parameters(), lr=lr, foreach=False)
    scheduler = build(optimizer)
    for step in range(1, 101):
        run(scheduler, 1)
        assert optimizer.param_groups[0]["lr"] is lr
        assert float(lr) == pytest.approx(scheduler.lr_at(step))


def test_get_last_lr_gives_copies_of_the_groups_type() -> None:
    optimizer = Adam(parameters(), lr=torch.tensor(0.5), foreach=False)
    scheduler = build(optimizer)
    for _ in range(3):
        run(scheduler, 1)
        (last,) = scheduler.get_last_lr()
        assert isinstance(last, Tensor)
        assert last is not optimizer.param_groups[0]["lr"]
        assert torch.equal(last, optimizer.param_groups[0]["lr"])
    assert [type(lr) for lr in build().get_last_lr()] == [float]


def test_a_tensor_lr_that_groups_share_is_cloned_once() -> None:
    optimizer = Adam([{"params": parameters()}, {"params": parameters()}], lr=torch.tensor(0.5),
                     foreach=False)  # fmt: skip
    assert optimizer.param_groups[0]["lr"] is optimizer.param_groups[1]["lr"]
    optimizer.param_groups[1]["lr_scale"] = 0.25
    scheduler = build(optimizer)
    own = [group["lr"] for group in optimizer.param_groups]
    run(scheduler, 5)
    assert own[0] is not own[1]
    assert [group["lr"] for group in optimizer.param_groups] == own
    assert float(own[1]) == pytest.approx(0.25 * float(own[0]))


@pytest.mark.parametrize("fit", ["mle", "adam"])
@pytest.mark.parametrize("num_steps", [0, 7, 40, 60])
def test_the_state_is_plain_picklable_and_loads_with_weights_only(fit: str, num_steps: int) -> None:
    scheduler = build(fit=fit, test_interval=20, sweep="fixed")
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        run(scheduler, 1, float(torch.rand((), generator=generator)))
    file = io.BytesIO()
    torch.save(scheduler.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True).keys() == scheduler.state_dict().keys()
    pickle.loads(pickle.dumps(scheduler.state_dict()))


def test_the_state_is_plain_where_the_lr_is_numpys() -> None:
    scheduler = build(SGD(parameters(), lr=np.sqrt(0.25)))
    assert type(scheduler.state_dict()["base_lrs"][0]) is float


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_there_are_no_reference_cycles() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = build(optimizer)
    run(scheduler, 100)
    alive = weakref.ref(optimizer), weakref.ref(scheduler)
    with without_garbage_collection():
        del scheduler
        assert alive[1]() is None
        del optimizer
        assert alive[0]() is None


def test_a_group_added_in_mid_run_takes_its_lr_as_initial_lr() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = build(optimizer)
    run(scheduler, 10)
    optimizer.add_param_group({"params": parameters(), "lr": 0.05})
    run(scheduler, 1)
    first, added = optimizer.param_groups
    assert added["initial_lr"] == 0.05
    assert added["lr"] == pytest.approx(0.1 * first["lr"])
    assert first["lr"] == pytest.approx(scheduler.lr_at(11))
    assert len(scheduler.base_lrs) == len(scheduler.get_last_lr()) == 2


def test_replaced_group_dicts_are_written_to() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    scheduler = build(optimizer)
    run(scheduler, 10)
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    run(scheduler, 1)
    assert optimizer.param_groups[0]["lr"] == scheduler.lr_at(11)


def test_last_epoch_goes_on_in_the_warmup_with_nothing_remembered() -> None:
    optimizer = SGD(parameters(), lr=0.5)
    run(build(optimizer), 10)
    scheduler = build(optimizer, last_epoch=9)
    assert scheduler.last_epoch == 10
    assert optimizer.param_groups[0]["lr"] == build(sweep="fixed").lr_at(10)
    assert scheduler.fall_step is None
    run(scheduler, 1)
    assert len(scheduler.losses) == 1


@pytest.mark.parametrize("last_epoch", [-2, 49, 99])
def test_last_epoch_beyond_the_warmup_needs_a_state(last_epoch: int) -> None:
    optimizer = SGD(parameters(), lr=0.5)
    build(optimizer)
    with pytest.raises(ValueError, match=f"last_epoch .*got {last_epoch}"):
        build(optimizer, last_epoch=last_epoch)


def test_last_epoch_without_initial_lr_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="initial_lr"):
        build(last_epoch=3)


def test_accelerate_neither_wraps_nor_multiplies_it() -> None:
    assert AutoWU._is_accelerate_prepared is True
    assert not hasattr(build(), "total_steps")


@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5)])
@pytest.mark.parametrize(
    "loss", [1.0, torch.tensor(1.0), torch.tensor(1.0, requires_grad=True) * 2]
)
def test_a_step_without_a_test_never_waits_for_the_device(lr: Any, loss: Any) -> None:
    optimizer = Adam(parameters(), lr=lr, foreach=False)
    scheduler = build(optimizer, total_steps=30_000, steps_per_epoch=300)
    run(scheduler, 3, 1.0)
    with FailOnSync():
        for _ in range(40):
            scheduler.step(loss)
            scheduler.observe(loss, weight=torch.tensor(3.0))
            scheduler.observe(loss, weight=2)
    assert not scheduler.tests
    while scheduler.phase is Phase.WARMUP:
        scheduler.step(1.0)
    with FailOnSync():
        scheduler.step()
        scheduler.step(loss)


@pytest.mark.parametrize("growth", ["exponential", "linear"])
def test_nothing_of_a_loss_is_read_between_tests(growth: Any) -> None:
    """A meta tensor has no values: whatever copied one to the host, or asked it, would raise."""
    scheduler = build(total_steps=10_000, growth=growth, test_interval=200, sweep="fixed")
    loss = torch.ones((), device="meta", requires_grad=True)
    for step in range(150):
        scheduler.optimizer.step()
        scheduler.observe(loss, weight=2)
        scheduler.observe(loss)
        scheduler.observe(loss, weight=torch.ones((), device="meta"))
        scheduler.step(loss * 2)
        assert scheduler.get_last_lr() == [scheduler.lr_at(step + 1)]
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        run(scheduler, 50, loss)  # the test reads them


def test_base_and_initial_lrs_do_not_follow_a_tensor_lr() -> None:
    optimizer = Adam(parameters(), lr=torch.tensor(0.5), foreach=False)
    scheduler = build(optimizer)
    run(scheduler, 30)
    assert float(optimizer.param_groups[0]["lr"]) != 0.5
    assert float(optimizer.param_groups[0]["initial_lr"]) == 0.5
    assert [float(lr) for lr in scheduler.base_lrs] == [0.5]


def test_the_loss_is_copied_and_its_graph_is_let_go() -> None:
    scheduler = build()
    source = torch.tensor(2.0, requires_grad=True)
    inner = source * 1.0
    loss = inner.square() / 2.0  # the square keeps `inner` for the backward pass
    kept = weakref.ref(inner)
    scheduler.optimizer.step()
    scheduler.step(loss)
    with torch.no_grad():
        loss.fill_(7.0)
    del loss, inner
    assert kept() is None
    assert scheduler.losses.tolist() == [2.0]
    assert not scheduler.losses.requires_grad


def test_random_state_grad_mode_and_dtype_of_the_caller_are_left_alone() -> None:
    before = torch.get_rng_state()
    results = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                scheduler = build(total_steps=60)
                for step in range(60):
                    scheduler.optimizer.step()
                    scheduler.step(abs(step - 15) / 30 + 0.01 * (step % 3))
                assert torch.is_inference_mode_enabled()
        finally:
            torch.set_default_dtype(torch.float32)
        results.append((scheduler.switch_step, scheduler.start_lr, scheduler.tests))
    assert results[0] == results[1] == results[2]
    assert results[0][0] is not None and results[0][0] < 30
    assert torch.equal(torch.get_rng_state(), before)
