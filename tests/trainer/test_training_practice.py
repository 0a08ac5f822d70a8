"""Clipping by value, norms on demand, missing gradients, non-finite values, averages of weights."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autowu.trainer.errors import ConfigError, TrainingDiverged
from autowu.trainer.models import average_of
from autowu.trainer.nonfinite import FiniteCheck, explained
from autowu.trainer.step import OptimizerStep, missing_gradients

IMAGES = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3
BATCH = [(IMAGES, LABELS)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def gradients_of(model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(IMAGES), LABELS), model.parameters()))


@pytest.mark.parametrize("measure_gradient", [False, True])
def test_clipping_by_value_bounds_every_element(measure_gradient: bool) -> None:
    model, lr, most = network(), 0.5, 0.01
    expected = [
        parameter.detach() - lr * gradient.clamp(-most, most)
        for parameter, gradient in zip(model.parameters(), gradients_of(model), strict=True)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    OptimizerStep(model, optimizer, clip_grad_value=most)(BATCH, measure_gradient)
    for parameter, right in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), right)


def test_layer_norms_are_those_of_weights_and_gradients_before_clipping() -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    weights = [float(parameter.detach().norm()) for parameter in model.parameters()]
    gradients = [float(gradient.norm()) for gradient in gradients_of(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    take_step = OptimizerStep(model, optimizer, layer_norms=True, clip_grad_norm=1e-3)
    take_step(BATCH)
    assert take_step.layer_norms == {}  # measured on demand only
    take_step = OptimizerStep(network(), optimizer, layer_norms=True, clip_grad_norm=1e-3)
    take_step(BATCH, measure_gradient=True)
    assert take_step.layer_norms is not None and list(take_step.layer_norms) == names
    for (weight, gradient), *right in zip(
        take_step.layer_norms.values(), weights, gradients, strict=True
    ):
        assert [float(weight), float(gradient)] == pytest.approx(right, rel=1e-5)


class Branches(nn.Module):
    """A linear layer that is used, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images.flatten(1))


def test_parameters_without_a_gradient_are_named() -> None:
    model = Branches()
    take_step = OptimizerStep(model, torch.optim.SGD(model.parameters(), lr=0.1))
    take_step(BATCH)
    assert take_step.without_gradient == ["unused.weight", "unused.bias"]
    said = missing_gradients(take_step.without_gradient)
    assert said.startswith("warning: unused.weight, unused.bias get no gradient")
    assert missing_gradients(list("abcdefg")).startswith("warning: a, b, c, d, e and 2 more get")


def test_frozen_parameters_are_not_missed() -> None:
    model = Branches()
    model.unused.requires_grad_(False)
    take_step = OptimizerStep(model, torch.optim.SGD(model.used.parameters(), lr=0.1))
    take_step(BATCH)
    assert take_step.without_gradient == []


class Exploding(nn.Module):
    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def forward(self, inputs: Tensor) -> Tensor:
        if self.at == "output":
            return inputs / 0.0
        return inputs + (inputs - inputs).sqrt()  # finite, with an infinite gradient


@pytest.mark.parametrize(
    ("at", "said"),
    [("output", "the output of 2 is not finite"), ("gradient", "the gradient of 1.bias is not")],
)
def test_the_first_layer_that_is_not_finite_is_named(at: str, said: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), Exploding(at), nn.Linear(5, 3))
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    take_step = OptimizerStep(model, optimizer, check_finite=True)
    with pytest.raises(TrainingDiverged, match=f"check_finite: {said}.* in step 7"):
        take_step(BATCH, step=7)
    for parameter, kept in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)  # stopped before the step


def test_a_network_whose_values_are_finite_passes() -> None:
    model = network()
    check = FiniteCheck(model)
    F.cross_entropy(model(IMAGES), LABELS).backward()
    check.check(0)
    model.eval()
    model(IMAGES * math.inf)  # an evaluation is not looked at
    check.check(1)


def test_a_divergence_names_the_first_weights_that_are_lost() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight[0, 0] = math.nan
    with (
        pytest.raises(TrainingDiverged, match=r"lost; the first .* 3\.weight \(1 of 4"),
        explained(model),
    ):
        raise TrainingDiverged("lost")


def test_curvature_is_refused_where_its_graph_is_lost() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="a single rank, and precision=fp32 or bf16"):
        OptimizerStep(model, optimizer, precision="fp16", create_graph=True)


def test_create_graph_keeps_the_graph_of_the_gradient() -> None:
    model = network()
    seen: list[bool] = []

    class Looks(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            (first, *_) = (p.grad for p in model.parameters())
            assert first is not None
            seen.append(first.grad_fn is not None)

    take_step = OptimizerStep(model, Looks(model.parameters(), lr=0.1), create_graph=True)
    assert not take_step(BATCH).requires_grad
    assert seen == [True]


def test_the_average_follows_the_weights_with_a_decay_that_grows() -> None:
    model = network()
    average = average_of(model, 0.9)
    assert average is not None
    expected = model[1].weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model[1].weight.add_(0.1)
        average.update(model, step)
        done = step - 1
        decay = 0.0 if done <= 0 else min(0.9, 1 - (1 + done) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * model[1].weight.detach()
    torch.testing.assert_close(average.module[1].weight.detach(), expected)
    assert average_of(model, None) is None
