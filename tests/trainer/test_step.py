"""Optimizer steps on a network small enough to work out what they must do."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autowu.trainer.loop import MOST_SKIPPED
from autowu.trainer.step import OptimizerStep

IMAGES = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3


def train(
    batches: list[list[tuple[Tensor, Tensor]]], fused: bool = False, **options: Any
) -> tuple[nn.Module, list[float], OptimizerStep]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=fused)
    take_step = OptimizerStep(model, optimizer, **options)
    return model, [float(take_step(batch)) for batch in batches], take_step


def test_accumulation_takes_the_same_steps_as_the_whole_batch() -> None:
    whole, losses, _ = train([[(IMAGES, LABELS)]] * 3)
    parts = list(zip(IMAGES.split(2), LABELS.split(2), strict=True))
    other, part_losses, _ = train([parts] * 3)
    assert part_losses == pytest.approx(losses, abs=1e-6)
    assert losses[0] > losses[1] > losses[2]
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_clipping_bounds_the_step_and_reports_the_norm_before_it() -> None:
    start, _, _ = train([])
    end, _, take_step = train([[(IMAGES, LABELS)]], clip_grad_norm=0.01)
    pairs = zip(start.parameters(), end.parameters(), strict=True)
    moved = math.sqrt(sum((a - b).detach().square().sum().item() for a, b in pairs))
    assert moved == pytest.approx(0.5 * 0.01, rel=1e-3)  # LR times the norm
    loss = F.cross_entropy(start(IMAGES), LABELS)
    gradients = torch.autograd.grad(loss, list(start.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert float(take_step.gradient_norm) == pytest.approx(norm)  # type: ignore[arg-type]


def test_bf16_changes_the_forward_pass_and_keeps_the_weights_in_fp32() -> None:
    model, losses, _ = train([[(IMAGES, LABELS)]], precision="bf16")
    _, exact, _ = train([[(IMAGES, LABELS)]])
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.02)


def test_labels_are_smoothed_in_the_loss() -> None:
    model, _, _ = train([])
    _, (loss,), _ = train([[(IMAGES, LABELS)]], label_smoothing=0.3)
    log_probabilities = F.log_softmax(model(IMAGES), dim=1)
    targets = 0.7 * F.one_hot(LABELS, 3) + 0.1
    assert loss == pytest.approx(-float((targets * log_probabilities.detach()).sum(dim=1).mean()))


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_whose_gradient_overflows_in_fp16_is_skipped(fused: bool) -> None:
    start, _, _ = train([])
    huge = IMAGES * 1e4  # the scaled gradient exceeds what fp16 holds
    end, losses, take_step = train([[(huge, LABELS)]], fused, precision="fp16")
    assert take_step.skipped
    assert take_step.scaler.get_scale() == 2.0**15
    for a, b in zip(start.parameters(), end.parameters(), strict=True):
        assert torch.equal(a, b)
    _, losses, take_step = train([[(IMAGES, LABELS)]] * 20, fused, precision="fp16")
    assert not take_step.skipped
    _, exact, _ = train([[(IMAGES, LABELS)]] * 20)
    assert losses[-1] == pytest.approx(exact[-1], rel=0.02)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_after_which_the_scale_grows_is_not_skipped(fused: bool) -> None:
    _, _, take_step = train([], fused, precision="fp16")
    take_step.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    skipped, scales = [], []
    for images in (IMAGES, IMAGES, IMAGES * math.nan, IMAGES):
        take_step([(images, LABELS)])
        skipped.append(take_step.skipped)
        scales.append(take_step.scaler.get_scale())
    assert skipped == [False, False, True, False]
    assert scales == [8.0, 16.0, 8.0, 8.0]


@pytest.mark.parametrize("fused", [False, True])
def test_every_step_is_skipped_for_as_long_as_no_gradient_is_finite(fused: bool) -> None:
    _, _, take_step = train([], fused, precision="fp16")
    for _ in range(MOST_SKIPPED + 1):
        take_step([(IMAGES * math.nan, LABELS)])
        assert take_step.skipped
    assert take_step.scaler.get_scale() == 0  # where it cannot be halved


def test_other_precisions_never_skip() -> None:
    _, losses, take_step = train([[(IMAGES * math.nan, LABELS)]])
    assert math.isnan(losses[0])
    assert not take_step.skipped


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_leaves_the_running_statistics_as_they_were(fused: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=fused)
    take_step = OptimizerStep(model, optimizer, precision="fp16")
    while take_step(([IMAGES, LABELS],)) is None or take_step.skipped:
        pass
    before = [buffer.clone() for buffer in model.buffers()]
    take_step(([IMAGES * 1e30, LABELS],))
    assert take_step.skipped
    for buffer, kept in zip(model.buffers(), before, strict=True):
        assert torch.equal(buffer, kept)
