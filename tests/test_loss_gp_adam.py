"""The published fit, value for value, and its state."""

import copy
from collections.abc import Iterator

import gpytorch
import pytest
import torch
from torch import Tensor

from autowu import loss_gp
from autowu.loss_gp import LossGP
from autowu.saved_state import unboxed


def losses_of(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A valley with noise: x (n,) and losses (n,), float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.arange(n, dtype=torch.float64) / n
    return x, 2 + (x - 0.6).abs() + 0.1 * torch.randn(n, generator=generator).double()


FITS = [losses_of(60, 0), losses_of(100, 1), losses_of(37, 2)]


class Plain(gpytorch.models.ExactGP):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ConstantMean()
        kernel = gpytorch.kernels.RBFKernel().double()
        kernel.lengthscale = torch.tensor(0.2, dtype=torch.float64)
        # Rounded once: an ulp of its raw value moves the float32 fit by 3e-4.
        kernel = kernel.float().requires_grad_(False)
        self.covar_module = gpytorch.kernels.ScaleKernel(kernel)
        self.likelihood.noise = 1e-3

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def plain_fits(fits: list[tuple[Tensor, Tensor]]) -> Iterator[list[float]]:
    """Mean, output scale and noise after each fit: GPyTorch's own example loop."""
    model: Plain | None = None
    for x, y in fits:
        inputs, targets = x.float(), y.float()
        if model is None:
            model = Plain(inputs, targets)
            trainable = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.Adam(trainable, lr=0.01)
            assert len(trainable) == 3
        model.set_train_data(inputs, targets, strict=False)
        model.mean_module.constant = y.mean().item()
        model.train()
        likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        for _ in range(100):
            optimizer.zero_grad()
            (-likelihood(model(inputs), targets)).backward()
            optimizer.step()
        yield [
            model.mean_module.constant.item(),
            model.covar_module.outputscale.item(),
            model.likelihood.noise.item(),
        ]


def test_three_fits_in_a_row_are_those_of_a_plain_gpytorch_loop() -> None:
    gp = LossGP("adam")
    for (x, y), expected in zip(FITS, plain_fits(FITS), strict=True):
        assert list(gp.fit(x, y)) == pytest.approx(expected, rel=5e-3)  # float32, 300 steps


def test_values_and_moments_are_carried_to_the_next_fit() -> None:
    """What a fresh fit of the second losses finds is another place."""
    carried = LossGP("adam")
    carried.fit(*FITS[0])
    fresh = LossGP("adam").fit(*FITS[1])
    assert carried.fit(*FITS[1]).noise != pytest.approx(fresh.noise, rel=0.1)


def test_the_mean_starts_where_it_is_told_and_else_at_that_of_the_losses() -> None:
    x, y = FITS[0]
    default = LossGP("adam").fit(x, y)
    assert LossGP("adam").fit(x, y, mean=float(y.mean())) == default
    # 100 steps of 0.01 cannot cross from 50 to 2.3.
    assert LossGP("adam").fit(x, y, mean=50.0).mean > 48


def test_a_saved_fit_continues_identically_and_a_save_is_a_snapshot() -> None:
    gp = LossGP("adam")
    gp.fit(*FITS[0])
    state = copy.deepcopy(gp.state_dict())
    snapshot = gp.state_dict()
    expected = [gp.fit(*FITS[1]), gp.fit(*FITS[2])]
    other = LossGP("adam")
    other.fit(*FITS[2])  # is overwritten
    other.load_state_dict(state)
    assert [other.fit(*FITS[1]), other.fit(*FITS[2])] == expected
    for name, value in snapshot["parameters"].items():
        assert torch.equal(value, state["parameters"][name])


def test_the_state_is_safe_to_load_and_empty_for_mle(tmp_path: object) -> None:
    gp = LossGP("adam")
    gp.fit(*FITS[0])
    torch.save(gp.state_dict(), f"{tmp_path}/gp.pt")
    other = LossGP("adam")
    other.load_state_dict(torch.load(f"{tmp_path}/gp.pt", weights_only=True))
    assert other.fit(*FITS[1]) == gp.fit(*FITS[1])
    mle = LossGP("mle")
    mle.fit(*FITS[0])
    assert mle.state_dict() == {}


def test_the_callers_kernel_is_not_fitted() -> None:
    kernel = gpytorch.kernels.RBFKernel()
    kernel.lengthscale = 0.4
    gp = LossGP("adam", kernel)
    gp.fit(*FITS[0])
    assert kernel.lengthscale.item() == pytest.approx(0.4)
    assert kernel.raw_lengthscale.requires_grad
    assert gp.model.covar_module.base_kernel.lengthscale.item() == pytest.approx(0.4)


def test_a_fit_of_many_losses_is_exact_and_draws_no_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above 800 losses GPyTorch by itself estimates the likelihood from random probes."""
    monkeypatch.setattr(loss_gp, "ADAM_STEPS", 2)
    x, y = losses_of(810, 0)
    before = torch.get_rng_state()
    one = LossGP("adam").fit(x, y)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(1)
    assert LossGP("adam").fit(x, y) == one


def test_losses_beyond_float32_make_a_negative_test_and_leave_the_fit_as_it_was() -> None:
    from autowu import AutoWU

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU.paper(optimizer, total_steps=60, steps_per_epoch=10)
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        optimizer.step()
        noise = float(torch.randn((), generator=generator))
        scheduler.step(2.0 + 0.1 * noise if step < 15 else 1e25)
        if step == 9:
            before = unboxed(scheduler.state_dict())["gp"]
    assert [test.positive for test in scheduler.tests] == [False] * 3
    assert scheduler.tests[-1].probabilities == (0.0,) * 5
    after = unboxed(scheduler.state_dict())["gp"]
    for name, value in before["parameters"].items():
        assert torch.equal(value, after["parameters"][name])
