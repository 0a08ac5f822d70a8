"""The profiled likelihood against a brute-force search of the whole likelihood."""

import math

import pytest
import torch
from torch import Tensor

from autowu.kernel_features import KernelFeatures
from autowu.loss_gp import default_kernel
from autowu.profile_likelihood import Hyperparameters, maximize

FEATURES = KernelFeatures(default_kernel())


def places(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64) / n


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel_matrix(x: Tensor) -> Tensor:
    return torch.exp(-((x[:, None] - x) ** 2) / (2 * 0.2**2))


def log_likelihood(values: Hyperparameters, x: Tensor, y: Tensor) -> float:
    """`log N(y; mu, s2 R + noise I)` by torch, from the definition."""
    covariance = values.outputscale * kernel_matrix(x) + values.noise * torch.eye(len(x))
    mean = torch.full_like(y, values.mean)
    return float(torch.distributions.MultivariateNormal(mean, covariance).log_prob(y))


def best_at(ratio: float, x: Tensor, y: Tensor) -> tuple[float, Hyperparameters]:
    """The likelihood at one noise ratio, with generalised least squares for the other two."""
    inverse = torch.linalg.inv(kernel_matrix(x) + ratio * torch.eye(len(x)))
    mean = float((inverse @ y).sum() / inverse.sum())
    scale = float((y - mean) @ inverse @ (y - mean) / len(y))
    values = Hyperparameters(mean, scale, ratio * scale)
    return log_likelihood(values, x, y), values


def profile(ratios: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.tensor([best_at(ratio, x, y)[0] for ratio in ratios.tolist()])


def interior_maxima(values: Tensor) -> list[int]:
    inner = (values[1:-1] > values[:-2] + 1e-6) & (values[1:-1] > values[2:] + 1e-6)
    return (inner.nonzero().squeeze(1) + 1).tolist()


def test_no_noise_ratio_is_better_on_random_data() -> None:
    """Pure noise, signals and mixtures: where the profile has its maximum at either end too."""
    ratios = torch.logspace(-6, 6, 49, dtype=torch.float64)
    for seed in range(24):
        n = (5, 8, 20, 40)[seed % 4]
        x = places(n)
        y = (0.0, 0.3, 3.0)[seed % 3] * torch.cos(7 * x) + normal(n, seed)
        found = log_likelihood(maximize(y, features=FEATURES(x)), x, y)
        assert found >= float(profile(ratios, x, y).max()) - 1e-7


def test_of_two_local_maxima_the_higher_one_is_found() -> None:
    """A slow wave and a fast one: explained as signal, or partly as noise. Both ways round."""
    ratios = torch.logspace(-6, 6, 121, dtype=torch.float64)
    winners = set()
    x = places(12)
    for amplitude in (0.35, 0.4, 0.6, 0.7, 0.8):
        y = torch.cos(2 * x) + amplitude * torch.cos(16 * x) + 0.1 * normal(12, 3)
        heights = profile(ratios, x, y)
        lower, upper = interior_maxima(heights)
        higher = lower if heights[lower] > heights[upper] else upper
        winners.add("little noise" if higher == lower else "much noise")
        values = maximize(y, features=FEATURES(x))
        assert log_likelihood(values, x, y) >= float(heights.max()) - 1e-9
    assert len(winners) == 2  # so no search that starts at one end passes


@pytest.mark.parametrize("n", [5, 30, 100])
def test_the_estimate_is_a_stationary_point(n: int) -> None:
    x = places(n)
    y = (x - 0.6).abs() + 0.1 * normal(n, n)
    values = maximize((y - y.mean()) / y.std(), features=FEATURES(x))
    free = torch.tensor(
        [values.mean, math.log(values.outputscale), math.log(values.noise)],
        dtype=torch.float64, requires_grad=True,
    )  # fmt: skip
    covariance = free[1].exp() * kernel_matrix(x) + free[2].exp() * torch.eye(n)
    prior = torch.distributions.MultivariateNormal(free[0].expand(n), covariance)
    prior.log_prob((y - y.mean()) / y.std()).backward()
    assert free.grad is not None and free.grad.abs().max() <= 1e-4 * n


@pytest.mark.parametrize("n", [3, 12, 60, 200])
def test_features_and_matrix_lead_to_the_same_estimate(n: int) -> None:
    """Fewer losses than features, and more."""
    x = places(n)
    y = torch.cos(5 * x) + 0.3 * normal(n, n)
    by_features = maximize(y, features=FEATURES(x))
    by_matrix = maximize(y, matrix=FEATURES.matrix(x, x))
    assert list(by_features) == pytest.approx(list(by_matrix), rel=1e-5, abs=1e-9)


def test_the_order_of_the_losses_does_not_matter() -> None:
    x, y = places(50), torch.cos(5 * places(50)) + 0.3 * normal(50, 0)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    one = maximize(y, features=FEATURES(x))
    other = maximize(y[order], features=FEATURES(x[order]))
    assert list(one) == pytest.approx(list(other), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [(128.0, 0.0), (1 / 128, 0.0), (128.0, 4096.0), (1 / 128, 0.25), (-2.0, 1.0),
                 (1e-30, 0.0), (1e30, 0.0)],
)  # fmt: skip
def test_the_estimate_moves_with_the_losses(a: float, b: float) -> None:
    x, y = places(80), (places(80) - 0.6).abs() + 0.1 * normal(80, 5)
    one, other = maximize(y, features=FEATURES(x)), maximize(a * y + b, features=FEATURES(x))
    assert (other.mean - b) / a == pytest.approx(one.mean, rel=1e-5)
    assert other.outputscale / a / a == pytest.approx(one.outputscale, rel=1e-5)
    assert other.noise / a / a == pytest.approx(one.noise, rel=1e-5)


def test_known_values_are_recovered_from_many_losses() -> None:
    """Mean over draws of the prior itself: mean 3, noise 0.25 come back."""
    n, x = 200, places(200)
    factor = torch.linalg.cholesky(kernel_matrix(x) + 1e-10 * torch.eye(n))
    estimates = [
        maximize(3 + 2 * factor @ normal(n, seed) + 0.5 * normal(n, 1_000 + seed),
                 features=FEATURES(x))
        for seed in range(60)
    ]  # fmt: skip
    mean = sum(estimate.mean for estimate in estimates) / 60
    noise = sum(estimate.noise for estimate in estimates) / 60
    assert mean == pytest.approx(3.0, abs=0.6)  # the deviation of such a mean is about 0.17
    assert noise == pytest.approx(0.25, rel=0.05)
