"""Features that are the kernel, and kernels that have none."""

from collections.abc import Callable

import gpytorch
import pytest
import torch
from gpytorch.kernels import (
    Kernel,
    LinearKernel,
    MaternKernel,
    PolynomialKernel,
    RBFKernel,
    RQKernel,
)
from torch import Tensor

from autowu.kernel_features import KernelFeatures

POINTS = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = torch.cat([torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64), POINTS])


def rbf(length_scale: float = 0.2) -> RBFKernel:
    kernel = RBFKernel().double()
    kernel.lengthscale = torch.tensor(length_scale, dtype=torch.float64)
    return kernel


def squared_exponential(x: Tensor, length_scale: float) -> Tensor:
    return torch.exp(-((x[:, None] - x[None, :]) ** 2) / (2 * length_scale**2))


@pytest.mark.parametrize("length_scale", [0.15, 0.2, 0.3, 1.0, 10.0])
def test_the_features_reproduce_the_squared_exponential_kernel(length_scale: float) -> None:
    features = KernelFeatures(rbf(length_scale))
    phi = features(X)
    assert phi.dtype is torch.float64 and phi.shape == (len(X), features.rank)
    assert (phi @ phi.T - squared_exponential(X, length_scale)).abs().max() <= 1e-12
    assert features.rank is not None and features.rank <= 35
    assert (features.matrix(X, X) - squared_exponential(X, length_scale)).abs().max() <= 1e-14


@pytest.mark.parametrize(
    "make",
    [RQKernel, LinearKernel, lambda: PolynomialKernel(power=3), lambda: rbf() * LinearKernel(),
     lambda: rbf(0.3) + LinearKernel(), lambda: gpytorch.kernels.ScaleKernel(rbf())],
)  # fmt: skip
def test_the_features_reproduce_other_smooth_kernels(make: Callable[[], Kernel]) -> None:
    kernel = make()
    features = KernelFeatures(kernel)
    if features.rank is None:
        pytest.fail(f"{type(kernel).__name__} is smooth enough for 40 nodes")
    matrix = kernel.double()(X.unsqueeze(-1)).to_dense().detach()
    phi = features(X)
    assert (phi @ phi.T - matrix).abs().max() <= 2e-12 * matrix.diagonal().max()


@pytest.mark.parametrize(
    "make",
    [lambda: MaternKernel(nu=0.5), lambda: MaternKernel(nu=1.5), lambda: MaternKernel(nu=2.5),
     lambda: rbf(0.01), lambda: rbf(0.05)],
)  # fmt: skip
def test_a_rough_kernel_has_no_rank_but_its_matrix(make: Callable[[], Kernel]) -> None:
    kernel = make()
    features = KernelFeatures(kernel)
    assert features.rank is None
    expected = kernel.double()(X.unsqueeze(-1), POINTS.unsqueeze(-1)).to_dense().detach()
    torch.testing.assert_close(features.matrix(X, POINTS), expected, rtol=1e-14, atol=1e-14)


def test_the_kernel_is_copied_and_a_later_change_of_the_original_is_not_seen() -> None:
    kernel = RBFKernel()  # float32, in training mode
    kernel.lengthscale = 0.3
    features = KernelFeatures(kernel)
    before = features.matrix(X, X)
    kernel.lengthscale = 5.0
    assert torch.equal(features.matrix(X, X), before)
    assert kernel.lengthscale.dtype is torch.float32 and kernel.training
    assert not before.requires_grad


def test_a_fingerprint_tells_two_kernels_apart_and_is_plain() -> None:
    one, same, other = (KernelFeatures(kernel) for kernel in (rbf(), rbf(), rbf(0.21)))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert {type(value) for value in one.fingerprint()} == {float}


@pytest.mark.parametrize("kernel", ["rbf", None, RBFKernel, 3])
def test_what_is_no_kernel_is_refused(kernel: object) -> None:
    with pytest.raises(TypeError, match=r"gpytorch\.kernels\.Kernel, got (str|NoneType|type|int)"):
        KernelFeatures(kernel)


def test_a_kernel_that_is_not_finite_or_has_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"RBFKernel .*non-finite"):
        KernelFeatures(_with_nan())
    with pytest.raises(ValueError, match=r"RBFKernel gives a matrix of shape \(2, 40, 40\)"):
        KernelFeatures(RBFKernel(batch_shape=torch.Size([2])))
    tasks = gpytorch.kernels.MultitaskKernel(RBFKernel(), num_tasks=2)
    with pytest.raises(ValueError, match=r"MultitaskKernel gives a matrix of shape \(80, 80\)"):
        KernelFeatures(tasks)


def _with_nan() -> RBFKernel:
    kernel = rbf()
    kernel.raw_lengthscale.data.fill_(torch.nan)
    return kernel


@pytest.mark.parametrize(
    "make", [lambda: RBFKernel(ard_num_dims=2), lambda: RBFKernel(active_dims=[1])]
)
@pytest.mark.parametrize("debug", [True, False])
def test_a_kernel_of_two_input_dimensions_is_refused(
    make: Callable[[], Kernel], debug: bool
) -> None:
    """Whatever GPyTorch itself checks: its checks are off while a scheduler is built."""
    with gpytorch.settings.debug(debug), pytest.raises(ValueError, match="one input dimension"):
        KernelFeatures(make())
