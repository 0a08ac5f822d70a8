"""Bad input works, or raises an error that names the value and what would be right."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW

from autowu import AutoWU, CurveScheduler


def build(total_steps: Any = 100, steps_per_epoch: Any = None, **settings: Any) -> AutoWU:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    return AutoWU(optimizer, total_steps, steps_per_epoch, **settings)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"total_steps": 0}, ValueError, "total_steps must be at least 2, got 0"),
        ({"total_steps": 1}, ValueError, "total_steps must be at least 2, got 1"),
        ({"total_steps": 10.5}, TypeError, "total_steps must be an integer, got float 10.5"),
        ({"total_steps": True}, TypeError, "total_steps must be an integer"),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch must be at least 1, got 0"),
        ({"min_lr": 0.0}, ValueError, "min_lr must be positive and finite, got 0.0"),
        ({"min_lr": math.nan}, ValueError, "min_lr must be positive and finite, got nan"),
        ({"max_lr": math.inf}, ValueError, "max_lr must be positive and finite, got inf"),
        ({"max_lr": "1"}, TypeError, "max_lr must be a number, got str '1'"),
        ({"min_lr": 1.0}, ValueError, r"min_lr must be below max_lr=1.0, got 1.0"),
        ({"min_lr": 2.0}, ValueError, r"min_lr must be below max_lr=1.0, got 2.0"),
        ({"max_warmup_fraction": 0.0}, ValueError, r"max_warmup_fraction must be in \(0, 1\]"),
        ({"max_warmup_fraction": 1.1}, ValueError, r"max_warmup_fraction .*got 1.1"),
        ({"cooldown_fraction": -0.1}, ValueError, r"cooldown_fraction .*got -0.1"),
        ({"confidence": 1.0}, ValueError, "confidence must be below 1"),
        ({"confidence": 95}, ValueError, "confidence .*got 95"),
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"num_tests": 0}, ValueError, "num_tests must be at least 1, got 0"),
        ({"num_fit_samples": 4}, ValueError, "num_fit_samples must be at least 5, got 4"),
        ({"grid_size": 1}, ValueError, "grid_size must be at least 2, got 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"growth": "exponental"}, ValueError, r"got 'exponental' \(did you mean 'exponential'"),
        ({"decay": "linaer"}, ValueError, "got 'linaer'"),
        ({"fit": "MLE"}, ValueError, "'mle' or 'adam', got 'MLE'"),
        ({"at_cap": None}, ValueError, "at_cap must be .*got None"),
        ({"test_interval": "steps"}, ValueError, "or a number of optimizer steps, got 'steps'"),
        ({"test_interval": 0}, ValueError, "test_interval must be at least 1, got 0"),
        ({"test_interval": 1.5}, TypeError, "test_interval must be an integer, got float 1.5"),
        ({"test_interval": "epoch"}, ValueError, "needs steps_per_epoch"),
        ({"kernel": "rbf"}, TypeError, "gpytorch.kernels.Kernel, got str"),
    ],
)
def test_a_bad_setting_is_named(settings: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        build(**settings)


def test_lengths_that_look_swapped_are_asked_about() -> None:
    with pytest.warns(
        UserWarning, match="total_steps=44 .*steps_per_epoch=1320: .*swapped"
    ) as caught:
        build(44, 1320)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("lengths", [(1320, 44), (44, 44), (44, 1321), (44, None)])
def test_lengths_that_do_not_are_taken_as_they_are(lengths: tuple[int, int | None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(*lengths)


BAD_GROUPS: Any = [
    ({"lr": -0.1}, ValueError, r"initial_lr of parameter group 1 .*at least 0, got -0.1"),
    ({"lr": math.nan}, ValueError, "initial_lr of parameter group 1 must be finite .*got nan"),
    ({"lr": torch.tensor(math.inf)}, ValueError, "initial_lr of parameter group 1 .*got inf"),
    ({"lr": "0.1"}, TypeError, "initial_lr of parameter group 1 .*got str '0.1'"),
    ({"lr_scale": -0.5}, ValueError, "lr_scale of parameter group 1 .*at least 0, got -0.5"),
    ({"lr_scale": math.inf}, ValueError, "lr_scale of parameter group 1 must be finite"),
    ({"lr_scale": "0.5"}, TypeError, "lr_scale of parameter group 1 must be a number"),
    ({"lr_scale": torch.ones(2)}, TypeError, "lr_scale of parameter group 1 .*got Tensor"),
]


@pytest.mark.parametrize(("group", "error", "said"), BAD_GROUPS)
def test_a_bad_lr_or_lr_scale_of_a_group_is_named(
    group: Any, error: type[Exception], said: str
) -> None:
    def optimizer(**second: Any) -> SGD:
        groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
        groups[1] |= second
        return SGD(groups, lr=0.5)

    with pytest.raises(error, match=said):
        AutoWU(optimizer(**group), 100)
    with pytest.raises(error, match=said):
        CurveScheduler(optimizer(**group), lambda step: 1.0)


@pytest.mark.parametrize("scale", [0.5, torch.tensor(0.5)])
def test_an_lr_that_is_no_tensor_stays_none_whatever_its_lr_scale(scale: Any) -> None:
    """Optimizers with `foreach` take no tensor."""

    def optimizer() -> AdamW:
        group = {"params": [torch.zeros(1, requires_grad=True)], "lr_scale": scale}
        return AdamW([group], lr=0.5)

    for scheduler in (AutoWU(optimizer(), 100), CurveScheduler(optimizer(), lambda step: 1.0)):
        for _ in range(3):
            scheduler.optimizer.step()
            scheduler.step(*[1.0] * isinstance(scheduler, AutoWU))
            (lr,) = (group["lr"] for group in scheduler.optimizer.param_groups)
            assert type(lr) is float
        assert scheduler.get_last_lr() == [lr]


def test_a_curve_that_is_none_is_named() -> None:
    with pytest.raises(TypeError, match="curve must be a function of the steps done, got "):
        CurveScheduler(SGD([torch.zeros(1, requires_grad=True)], lr=0.5), 0.1)  # type: ignore[arg-type]


def test_a_bad_lr_of_a_group_that_is_added_in_mid_run_is_named_too() -> None:
    scheduler = build()
    added = {"params": [torch.zeros(1, requires_grad=True)], "lr": -0.1}
    scheduler.optimizer.add_param_group(added)
    scheduler.optimizer.step()
    with pytest.raises(ValueError, match=r"lr of parameter group 1 .*got -0.1"):
        scheduler.step(1.0)


def test_an_empty_parameter_list_is_pytorchs_error_and_an_empty_group_works() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        AutoWU(SGD([], lr=1.0), 100)
    optimizer = SGD([{"params": []}], lr=1.0)
    scheduler = AutoWU(optimizer, 100)
    optimizer.step()
    scheduler.step(1.0)
    assert scheduler.get_last_lr()[0] > 1e-5


@pytest.mark.parametrize("loss", [3, True, 0])
def test_an_integer_step_is_refused_and_told_of_observe(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"the integer .*observe\(loss\)"):
        build().step(loss)


def test_a_missing_loss_names_the_adapters() -> None:
    scheduler = build()
    for name in ("observe", "lightning", "AutoWUTrainer", "accelerate", "AutoWUScheduler"):
        with pytest.raises(ValueError, match=name):
            scheduler.step()
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize(
    ("loss", "error", "said"),
    [
        (torch.zeros(3), ValueError, r"scalar, got a tensor of shape \(3,\)"),
        (torch.zeros(1), ValueError, r"scalar, got a tensor of shape \(1,\)"),
        (torch.tensor(3), TypeError, "floating-point tensor, got torch.int64"),
        ("1.0", TypeError, "got str '1.0'"),
        ([1.0], TypeError, "got list"),
        (1j, TypeError, "got complex"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(loss: Any, error: type[Exception], said: str) -> None:
    scheduler = build()
    with pytest.raises(error, match=said):
        scheduler.step(loss)
    with pytest.raises(error, match=said):
        scheduler.observe(loss)


@pytest.mark.parametrize("weight", [-1, -0.5, math.nan, math.inf, "1", torch.zeros(2)])
def test_a_bad_weight_is_refused(weight: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="weight"):
        build().observe(1.0, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_of_any_floating_dtype_are_taken(dtype: torch.dtype) -> None:
    scheduler = build()
    scheduler.optimizer.step()
    scheduler.step(torch.tensor(1.5, dtype=dtype))
    assert scheduler.losses.tolist() == [1.5]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1e300])
def test_a_loss_beyond_float32_is_kept_and_left_out(loss: float) -> None:
    scheduler = build()
    scheduler.optimizer.step()
    scheduler.step(loss)
    assert len(scheduler.losses) == 1
    assert scheduler.num_nonfinite == 1


@pytest.mark.parametrize("total_steps", [2, 3, 4, 5, 9])
def test_the_shortest_runs_end_at_an_lr_of_zero(total_steps: int) -> None:
    scheduler = build(total_steps, steps_per_epoch=1)
    for step in range(total_steps):
        scheduler.optimizer.step()
        scheduler.step(1.0 / (step + 1))
    assert scheduler.get_last_lr() == [0.0]
    assert scheduler.start_lr is not None and 1e-5 <= scheduler.start_lr <= 1.0
