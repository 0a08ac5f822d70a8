"""Training steps and evaluation, on a network small enough to work out what they must do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autowu.trainer.build_schedule import WarmupCosine
from autowu.trainer.errors import TrainingDiverged
from autowu.trainer.loop import check_finite, choose_device, evaluate, train_epoch

IMAGES = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3


def train(batches: list[tuple[Tensor, Tensor]], **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = WarmupCosine(optimizer, num_steps=10, warmup_steps=0)
    return model, train_epoch(model, optimizer, schedule, batches, len(batches), **options)


def test_accumulation_takes_the_same_steps_as_the_whole_batch() -> None:
    whole, trace = train([(IMAGES, LABELS)] * 3)
    parts, parts_trace = train([(IMAGES, LABELS)] * 3, accumulate=4)
    assert parts_trace.losses == pytest.approx(trace.losses, abs=1e-6)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_trace_holds_the_lr_and_the_loss_of_each_step() -> None:
    _, trace = train([(IMAGES, LABELS)] * 3)
    assert trace.lrs == [0.25 * (1 + math.cos(math.pi * step / 10)) for step in range(3)]
    assert trace.losses[0] > trace.losses[1] > trace.losses[2]


def test_clipping_bounds_the_step() -> None:
    start, _ = train([])
    end, _ = train([(IMAGES, LABELS)], clip_grad_norm=0.01)
    pairs = zip(start.parameters(), end.parameters(), strict=True)
    moved = math.sqrt(sum((a - b).detach().square().sum().item() for a, b in pairs))
    assert moved == pytest.approx(0.5 * 0.01, rel=1e-3)  # LR times the norm


def test_bf16_changes_the_forward_pass_and_keeps_the_weights_in_fp32() -> None:
    model, trace = train([(IMAGES, LABELS)], precision="bf16")
    _, exact = train([(IMAGES, LABELS)])
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
    assert trace.losses != exact.losses
    assert trace.losses == pytest.approx(exact.losses, rel=0.02)


def test_evaluation_gives_the_share_of_correct_images_in_percent() -> None:
    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.eye(3)[[0] * len(images)]

    batches = [(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])]
    assert evaluate(First(), batches) == 100 * 3 / 8  # labels 0, 3, 6 of 8 are class 0


def test_a_loss_that_is_not_finite_ends_the_decay_but_not_the_warmup() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = WarmupCosine(optimizer, num_steps=10, warmup_steps=2)
    losses = [math.nan, 1.0, 1.0, math.inf]
    check_finite(losses, 0, schedule)  # still in the warmup
    for _ in range(4):
        optimizer.step()
        schedule.step()
    check_finite(losses[:3], 0, schedule)
    with pytest.raises(TrainingDiverged, match="became inf at step 3"):
        check_finite(losses, 0, schedule)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device=cuda:99"):
        choose_device("cuda:99")
