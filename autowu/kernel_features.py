"""A smooth kernel on [0, 1] as a short list of features, so that inference costs almost nothing.

A smooth kernel is, to rounding, a polynomial in each argument: its values on `m` Chebyshev nodes
determine it on the whole interval. With `k(z, z') = U diag(l) U'` on the nodes and `C` the map
from node values to Chebyshev coefficients,

    phi(x) = T(x) C U diag(sqrt(l)),    k(x, x') = phi(x) phi(x')'

where `T(x)` holds the Chebyshev polynomials at `x`. Eigenvalues at the level of rounding are
dropped; the squared-exponential kernel of length-scale 0.2 keeps 20 of 40. Interpolation
in Chebyshev points: Trefethen, Approximation Theory and Approximation Practice, chapters 2-4.
"""

import copy
import math

import torch
from torch import Tensor

from autowu.gpytorch_import import gpytorch

NUM_NODES = 40  # enough for the default kernel to reach rounding, and still tiny matrices
TOLERANCE = 1e-12  # largest error of phi(x) phi(x')' relative to the largest k(x, x)


class KernelFeatures:
    """Features `phi` with `phi(x) @ phi(x').T == k(x, x')` on [0, 1], if the kernel has them.

    `rank` is their number, or None when the kernel is not smooth enough (Matern, or a length-scale
    far below 0.1): then only `matrix` may be used.

    Args:
        kernel: a GPyTorch kernel of one input dimension; it is copied, in float64, on the CPU.

    Raises:
        TypeError: `kernel` is not a GPyTorch kernel.
        ValueError: it does not give a finite matrix on points of [0, 1].
    """

    def __init__(self, kernel: gpytorch.kernels.Kernel) -> None:
        if not isinstance(kernel, gpytorch.kernels.Kernel):
            raise TypeError(
                f"kernel must be a gpytorch.kernels.Kernel, got {type(kernel).__name__}; "
                "for example gpytorch.kernels.RBFKernel()"
            )
        self.kernel = copy.deepcopy(kernel).to(device="cpu", dtype=torch.float64).eval()
        angles = (torch.arange(NUM_NODES, dtype=torch.float64, device="cpu") + 0.5) * (
            math.pi / NUM_NODES
        )
        nodes = 0.5 * (1.0 + torch.cos(angles))
        if (kernel.ard_num_dims or 1) > 1:
            raise ValueError(
                f"kernel must take one input dimension, got {kernel.ard_num_dims} (ard_num_dims)"
            )
        try:
            gram = self.matrix(nodes, nodes)  # (m, m)
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"kernel {type(kernel).__name__} does not take one input dimension: {error}"
            ) from error
        if gram.shape != (NUM_NODES, NUM_NODES) or not gram.isfinite().all():
            raise ValueError(
                f"kernel {type(kernel).__name__} gives a matrix of shape {tuple(gram.shape)} "
                f"or non-finite values on {NUM_NODES} points of [0, 1]; "
                "it must take one input dimension and no batch"
            )
        eigenvalues, vectors = torch.linalg.eigh(0.5 * (gram + gram.T))
        kept = eigenvalues > 1e-15 * eigenvalues[-1]
        orders = torch.arange(NUM_NODES, dtype=torch.float64, device="cpu")
        coefficients = torch.cos(orders[:, None] * angles) * (2.0 / NUM_NODES)  # (m, m)
        coefficients[0] *= 0.5
        self._orders = orders
        self._basis = coefficients @ (vectors[:, kept] * eigenvalues[kept].sqrt())  # (m, r)
        self.rank = int(kept.sum()) if self._is_exact(gram) else None

    def __call__(self, x: Tensor) -> Tensor:
        """Features of `x`, float64 (n,) in [0, 1]: (n, rank)."""
        angles = torch.acos((2.0 * x - 1.0).clamp(-1.0, 1.0))
        return torch.cos(angles[:, None] * self._orders) @ self._basis

    def matrix(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The kernel matrix of `x1` (n,) and `x2` (m,), float64: (n, m)."""
        with torch.no_grad():
            return self.kernel(x1.unsqueeze(-1), x2.unsqueeze(-1)).to_dense()

    def fingerprint(self) -> list[float]:
        """The kernel at a few pairs of points, as plain numbers: tells two kernels apart."""
        x = torch.linspace(0.0, 1.0, 9, dtype=torch.float64, device="cpu")
        return self.matrix(x[:2], x).flatten().tolist()

    def _is_exact(self, gram: Tensor) -> bool:
        # Points that are no nodes, the ends included: there interpolation is at its worst.
        x = torch.linspace(0.0, 1.0, 101, dtype=torch.float64, device="cpu")
        features = self(x)
        error = (features @ features.T - self.matrix(x, x)).abs().max()
        return bool(error <= TOLERANCE * gram.diagonal().max())
