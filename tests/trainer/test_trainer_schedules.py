"""The baseline schedule against an LR table worked out by hand."""

from typing import Any

import pytest
import torch

from autowu import AutoWU, Phase
from autowu.trainer.schedules import Schedule, build_schedule


def build(lr: float = 1.0, **changes: Any) -> tuple[torch.optim.Optimizer, Schedule]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    settings: dict[str, Any] = {
        "warmup_epochs": 1.0,
        "end_lr_ratio": 0.0,
        "scale_lr": "none",
        "base_batch_size": 256,
    }
    return optimizer, build_schedule(
        "warmup_cosine",
        optimizer,
        epochs=changes.pop("epochs", 3),
        steps_per_epoch=changes.pop("steps_per_epoch", 2),
        batch_size=64,
        **(settings | changes),
    )


def table(optimizer: torch.optim.Optimizer, schedule: Schedule, num_steps: int) -> list[float]:
    lrs = []
    for _ in range(num_steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(torch.tensor(1.0))
    return [*lrs, optimizer.param_groups[0]["lr"]]


def test_baseline_rises_linearly_and_falls_as_a_cosine() -> None:
    # 2 steps of warmup (1/3, 2/3), then (1 + cos(pi * k / 4)) / 2 for k = 0..4.
    expected = [1 / 3, 2 / 3, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0]
    assert table(*build(), num_steps=6) == pytest.approx(expected)


def test_baseline_ends_at_the_end_ratio() -> None:
    assert table(*build(lr=2.0, end_lr_ratio=0.1), num_steps=6)[-1] == pytest.approx(0.2)


@pytest.mark.parametrize(("scale_lr", "peak"), [("none", 0.4), ("linear", 0.1), ("sqrt", 0.2)])
def test_baseline_scales_the_peak_with_the_batch_size(scale_lr: str, peak: float) -> None:
    optimizer, schedule = build(lr=0.4, scale_lr=scale_lr)  # batches of 64 for a base of 256
    assert max(table(optimizer, schedule, num_steps=6)) == pytest.approx(peak)
    assert schedule.start_lr == pytest.approx(peak)


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(30, 30), (50, 50), (200, 50), (1, 1)])
def test_baseline_warms_up_for_a_tenth_of_the_epochs_but_at_most_five(
    epochs: int, warmup_steps: int
) -> None:
    optimizer, schedule = build(warmup_epochs=None, epochs=epochs, steps_per_epoch=10)
    assert schedule.switch_step is None
    lrs = table(optimizer, schedule, num_steps=epochs * 10)
    assert lrs.index(max(lrs)) == schedule.switch_step == warmup_steps
    assert schedule.phase is Phase.DECAY


def test_autowu_takes_its_settings_as_keywords() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = build_schedule(
        "autowu", optimizer, epochs=3, steps_per_epoch=2, batch_size=64, min_lr=0.125
    )
    assert isinstance(schedule, AutoWU)
    assert schedule.get_last_lr() == [0.125]
