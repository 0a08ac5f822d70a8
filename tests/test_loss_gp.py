"""The GP against GPyTorch itself: the posterior, the marginal likelihood, the published fit."""

import math
from typing import Any

import gpytorch
import pytest
import torch
from torch import Tensor

from autowu.loss_gp import LossGP, Posterior, default_kernel, smooth, spike_ceiling
from autowu.profile_likelihood import Hyperparameters

pytestmark = pytest.mark.filterwarnings("ignore:.*not p.d., added jitter")


class Reference(gpytorch.models.ExactGP):
    """The same model in plain GPyTorch, with given or initial values."""

    def __init__(self, x: Tensor, y: Tensor, kernel: gpytorch.kernels.Kernel) -> None:
        constraint = gpytorch.constraints.GreaterThan(1e-12 if y.dtype == torch.float64 else 1e-4)
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood(noise_constraint=constraint))
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(kernel.requires_grad_(False))
        self.to(y)

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    def set(self, values: Hyperparameters) -> "Reference":
        self.mean_module.constant = torch.tensor(values.mean, dtype=torch.float64)
        self.covar_module.outputscale = torch.tensor(values.outputscale, dtype=torch.float64)
        self.likelihood.noise = torch.tensor(values.noise, dtype=torch.float64)
        return self


def rbf() -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.RBFKernel().double()
    kernel.lengthscale = torch.tensor(0.2, dtype=torch.float64)
    return kernel


def matern(nu: float) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.MaternKernel(nu=nu).double()
    kernel.lengthscale = torch.tensor(0.3, dtype=torch.float64)
    return kernel


def losses_of(n: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random points of a valley with noise: x (n,) and losses (n,), float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randperm(2 * n, generator=generator)[:n].double() / (2 * n)
    y = (x - 0.6).abs() + noise * torch.randn(n, generator=generator, dtype=torch.float64)
    return x, y


def log_likelihood(model: Reference, x: Tensor, y: Tensor) -> float:
    """GPyTorch's marginal log likelihood, in nats a loss."""
    model.train()
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        return float(mll(model(x), y))


KERNELS: dict[str, Any] = {
    "default": (None, rbf),
    "matern 1/2": (lambda: matern(0.5), lambda: matern(0.5)),
    "matern 5/2": (lambda: matern(2.5), lambda: matern(2.5)),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [5, 30, 100, 500])
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_the_posterior_is_gpytorchs(kernel: str, n: int, noise: float) -> None:
    ours, reference = KERNELS[kernel]
    x, y = losses_of(n, noise)
    gp = LossGP("mle", ours() if ours else None)
    values = gp.fit(x, y)
    if values.noise < 1e-6 * values.outputscale:
        values = values._replace(noise=1e-6 * values.outputscale)  # GPyTorch cannot go lower
    posterior = gp.posterior(x, y, values)
    model = Reference(x, y, reference()).set(values).eval()
    grid = torch.linspace(0, 1, 500, dtype=torch.float64)
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        expected = model(grid)
        mean, covariance = expected.mean, expected.covariance_matrix
    difference = covariance.diagonal() + covariance[-1, -1] - 2 * covariance[-1]
    assert (posterior.mean - mean).abs().max() <= 1e-6 * mean.abs().max()
    scale = difference.max()
    assert (posterior.difference_variance - difference).abs().max() <= 1e-6 * scale
    far = difference > 1e-3 * scale  # where GPyTorch's own difference does not cancel
    ratio = posterior.difference_variance[far] / difference[far]
    assert (ratio - 1).abs().max() <= 1e-6
    assert (posterior.variance - covariance.diagonal()).abs().max() <= 1e-6 * scale
    assert posterior.difference_variance[-1] == 0


def test_a_kernel_whose_rank_is_not_small_is_solved_densely() -> None:
    assert LossGP("mle", matern(0.5)).features.rank is None
    assert (LossGP().features.rank or 99) <= 30


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(4))
def test_no_perturbation_of_the_fit_improves_gpytorchs_likelihood(kernel: str, seed: int) -> None:
    ours, reference = KERNELS[kernel]
    noise = (0.03, 0.1, 0.5, 3.0)[seed]
    x, y = losses_of(60, noise, seed)
    y = (y - y.mean()) / y.std()
    values = LossGP("mle", ours() if ours else None).fit(x, y)
    model = Reference(x, y, reference())
    best = log_likelihood(model.set(values), x, y)
    generator = torch.Generator().manual_seed(seed)
    for size in (1e-4, 1e-2, 0.3, 2.0):
        directions = [*torch.eye(3), *-torch.eye(3), *torch.randn(6, 3, generator=generator)]
        for d in (size * direction for direction in directions):
            trial = Hyperparameters(
                values.mean + float(d[0]),
                values.outputscale * math.exp(d[1]),
                max(values.noise * math.exp(d[2]), 1.001e-8),
            )
            assert log_likelihood(model.set(trial), x, y) <= best + 1e-8


def test_the_fit_finds_the_higher_of_two_maxima() -> None:
    """A fast wiggle on a slow wave: noise, or signal; brute force over both decides."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x = torch.arange(12, dtype=torch.float64) / 12
        y = torch.randn(12, generator=generator, dtype=torch.float64)
        values = LossGP().fit(x, y)
        model = Reference(x, y, rbf())
        best = log_likelihood(model.set(values), x, y)
        for log_ratio in torch.linspace(math.log(1e-8), math.log(1e6), 60).tolist():
            ratio = math.exp(log_ratio)
            k = rbf()(x).to_dense() + ratio * torch.eye(12, dtype=torch.float64)
            weights = torch.linalg.solve(k, torch.stack([torch.ones_like(y), y], 1))
            mean = float(weights[:, 1].sum() / weights[:, 0].sum())
            scale = float((y - mean) @ torch.linalg.solve(k, y - mean) / 12)
            trial = Hyperparameters(mean, scale, max(ratio * scale, 1e-8))
            assert log_likelihood(model.set(trial), x, y) <= best + 1e-7


@pytest.mark.parametrize("a", [128.0, 1 / 128, 1e-30, 1e30])
@pytest.mark.parametrize("b", [0.0, 32.0])
def test_the_fit_moves_with_the_losses(a: float, b: float) -> None:
    x, y = losses_of(100, 0.1)
    one, other = LossGP().fit(x, y), LossGP().fit(x, a * (y + b))
    assert other.mean / a - b == pytest.approx(one.mean, rel=1e-6)
    assert other.outputscale == pytest.approx(a * a * one.outputscale, rel=1e-6)
    assert other.noise == pytest.approx(a * a * one.noise, rel=1e-6)


def test_the_published_fit_is_a_hundred_adam_steps_carried_over() -> None:
    gp = LossGP("adam")
    model: Reference | None = None
    for seed in range(3):
        x, y = losses_of(80, 0.1, seed)
        values = gp.fit(x, y, mean=float(y.mean()))
        inputs, targets = x.float().unsqueeze(-1), y.float()
        if model is None:
            kernel = gpytorch.kernels.RBFKernel()
            kernel.lengthscale = 0.2
            model = Reference(inputs, targets, kernel)
            model.likelihood.noise = 1e-3
            free = [p for p in model.parameters() if p.requires_grad]
            adam = torch.optim.Adam(free, lr=0.01)
            assert float(model.covar_module.outputscale) == pytest.approx(0.6931, abs=1e-4)
        model.set_train_data(inputs, targets, strict=False)
        model.mean_module.constant = float(y.mean())
        model.train()
        mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        for _ in range(100):
            adam.zero_grad()
            (-mll(model(inputs), targets)).backward()
            adam.step()
        expected = (model.mean_module.constant, model.covar_module.outputscale,
                    model.likelihood.noise)  # fmt: skip
        assert list(values) == pytest.approx([float(e.detach()) for e in expected], rel=5e-3)


def test_the_gain_is_that_over_the_best_constant() -> None:
    for ours, reference in KERNELS.values():
        x, y = losses_of(50, 0.2)
        gp = LossGP("mle", ours() if ours else None)
        values = gp.fit(x, y)
        variance = float(y.var(correction=0))
        constant = torch.distributions.Normal(y.mean(), variance**0.5).log_prob(y).sum()
        covariance = values.outputscale * reference()(x).to_dense()
        covariance += values.noise * torch.eye(50, dtype=torch.float64)
        mean = torch.full_like(y, values.mean)
        full = torch.distributions.MultivariateNormal(mean, covariance).log_prob(y)
        gain = gp.posterior(x, y, values).gain
        assert gain == pytest.approx(float(full - constant), rel=1e-6)
        assert gain > 5


def test_a_posterior_of_noise_gains_next_to_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(100, dtype=torch.float64) / 100
    gains = []
    for _ in range(20):
        y = torch.randn(100, generator=generator, dtype=torch.float64)
        gp = LossGP()
        gains.append(gp.posterior(x, y, gp.fit(x, y)).gain)
    assert sum(gain < 4 for gain in gains) >= 19
    assert min(gains) > -1e-2  # the constant is a limit of the model


def test_the_ceiling_is_equivariant_and_above_normal_noise() -> None:
    _, y = losses_of(300, 0.1)
    ceiling = spike_ceiling(y, y[:9])
    assert spike_ceiling(128 * y + 7, 128 * y[:9] + 7) == pytest.approx(128 * ceiling + 7)
    noise = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert spike_ceiling(noise, noise[:9]) == pytest.approx(5 * 1.645, rel=0.1)
    assert noise.max() < spike_ceiling(noise, noise[:9])
    assert spike_ceiling(torch.ones(5, dtype=torch.float64), torch.ones(2)) == math.inf
    high = torch.tensor([9.0, math.nan, 9.0])  # the run began higher than all that was drawn
    assert spike_ceiling(torch.linspace(0, 1, 50).double(), high) == 9.0


def test_smoothing_for_a_plot_ignores_what_is_not_finite() -> None:
    x, y = torch.arange(200) / 200, torch.empty(200)
    y = (x - 0.5).square()
    y[17] = torch.nan
    curve = smooth(y)
    assert (curve.mean - (curve.x - 0.5).square())[5:-10].abs().max() < 1e-2
    with pytest.raises(ValueError, match="two distinct finite losses, got 0 finite of 3"):
        smooth(torch.full((3,), torch.nan))


def test_a_kernel_must_be_one_of_gpytorch_and_finite() -> None:
    with pytest.raises(TypeError, match="got function"):
        LossGP("mle", rbf)  # type: ignore[arg-type]
    bad = rbf()
    bad.raw_lengthscale.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="non-finite"):
        LossGP("mle", bad)


def test_the_default_kernel_has_length_scale_a_fifth() -> None:
    kernel = default_kernel()
    value = kernel(torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 0.2).double())
    assert float(value.to_dense().detach()) == pytest.approx(math.exp(-0.5))
    assert isinstance(LossGP().posterior(*losses_of(9, 0.1), LossGP().fit(*losses_of(9, 0.1))),
                      Posterior)  # fmt: skip


def test_the_model_holds_what_was_fitted() -> None:
    x, y = losses_of(80, 0.1)
    y = (y - y.mean()) / y.std()
    gp = LossGP()
    values = gp.fit(x, y)
    assert list(gp.model.hyperparameters) == pytest.approx(list(values), rel=1e-6, abs=1e-12)
    assert isinstance(gp.model, gpytorch.models.ExactGP)
