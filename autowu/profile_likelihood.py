"""Exact maximum likelihood for a GP whose kernel shape is fixed, by profiling.

The model is `y ~ N(mu 1, s2 (R + rho I))` with a known `R` of eigenvalues `l_i`. Given the noise
ratio `rho = noise / s2` the best `mu` and `s2` are closed forms (generalised least squares;
Rasmussen and Williams 2006, section 2.7 and eq. 2.30):

    mu = 1'K^-1 y / 1'K^-1 1,   s2 = (y - mu)' K^-1 (y - mu) / n,   K = R + rho I

and the likelihood that is left, `-2 log p = n log s2 + log |K| + const`, is a function of one
number. In the eigenbasis of `R` an evaluation is a sum over the eigenvalues, so a fine grid over
`rho` and a refinement of every local maximum find the global one. Everything is equivariant:
`a * y + b` gives `a * mu + b`, `a**2 * s2` and the same `rho`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MIN_NOISE_RATIO, MAX_NOISE_RATIO = 1e-8, 1e8  # at the upper end f is a constant, to rounding
GRID_SIZE = 129  # 0.29 apart in log(rho): finer than any peak of the profile
NUM_REFINEMENTS = 5  # each shrinks the bracket tenfold


class Hyperparameters(NamedTuple):
    """What the likelihood determines, in the units of the losses it was fitted to."""

    mean: float  # mu, loss units
    outputscale: float  # s2, loss units squared
    noise: float  # variance of a loss about f, loss units squared


class _Spectrum(NamedTuple):
    """`R`, `y` and the vector of ones in the eigenbasis of `R`."""

    eigenvalues: Tensor  # (r,)
    y: Tensor  # (r,)
    ones: Tensor  # (r,)
    y_rest: Tensor  # (n,) what lies outside the r eigenvectors
    ones_rest: Tensor  # (n,)


def maximize(
    y: Tensor, *, features: Tensor | None = None, matrix: Tensor | None = None
) -> Hyperparameters:
    """Maximise the marginal likelihood over the mean, the output scale and the noise.

    Args:
        y: observations, float64 (n,), not all equal. Standardise them: the search is equivariant
            in exact arithmetic, this keeps it so in floating point.
        features: `phi` with `R = phi phi'`, float64 (n, r), for a kernel of small rank; or
        matrix: `R` itself, float64 (n, n).

    Returns:
        The global maximum over `rho` in [1e-8, 1e8].
    """
    spectrum = _decompose(y, features, matrix)
    log_ratios = torch.linspace(
        math.log(MIN_NOISE_RATIO), math.log(MAX_NOISE_RATIO), GRID_SIZE,
        dtype=torch.float64, device="cpu",
    )  # fmt: skip
    scores = _profile(spectrum, log_ratios.exp())[2]
    left = torch.cat([scores[:1], scores[:-1]])
    right = torch.cat([scores[1:], scores[-1:]])
    centers = log_ratios[(scores <= left) & (scores <= right)]  # every local maximum, (m,)
    radius = float(log_ratios[1] - log_ratios[0])
    offsets = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64, device="cpu")
    for _ in range(NUM_REFINEMENTS):
        trials = (centers[:, None] + radius * offsets).clamp(log_ratios[0], log_ratios[-1])
        scores = _profile(spectrum, trials.flatten().exp())[2].view_as(trials)
        best = scores.argmin(dim=1, keepdim=True)
        centers = trials.gather(1, best).squeeze(1)
        radius /= 10.0
    best_scores = scores.gather(1, best).squeeze(1)
    ratio = centers[best_scores.argmin()].exp().reshape(1)
    mean, outputscale, _ = _profile(spectrum, ratio)
    return Hyperparameters(float(mean), float(outputscale), float(outputscale) * float(ratio))


def _decompose(y: Tensor, features: Tensor | None, matrix: Tensor | None) -> _Spectrum:
    if features is not None:
        vectors, singular_values, _ = torch.linalg.svd(features, full_matrices=False)
        eigenvalues = singular_values.square()
    else:
        assert matrix is not None
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        eigenvalues = eigenvalues.clamp_min(0.0)
    ones = torch.ones_like(y)
    y_rotated, ones_rotated = vectors.T @ y, vectors.T @ ones
    return _Spectrum(
        eigenvalues,
        y_rotated,
        ones_rotated,
        y - vectors @ y_rotated,
        ones - vectors @ ones_rotated,
    )


def _profile(spectrum: _Spectrum, ratios: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`mu`, `s2` and `-2 log p` (up to a constant) at each ratio: three tensors (k,)."""
    n, rank = spectrum.y_rest.numel(), spectrum.eigenvalues.numel()
    shifted = spectrum.eigenvalues + ratios[:, None]  # (k, r)
    ones_ones = (spectrum.ones**2 / shifted).sum(1) + spectrum.ones_rest.square().sum() / ratios
    ones_y = (spectrum.ones * spectrum.y / shifted).sum(1) + (
        spectrum.ones_rest @ spectrum.y_rest
    ) / ratios
    mean = ones_y / ones_ones
    # The residual is formed before it is squared: no cancellation for small ratios.
    residual = spectrum.y - mean[:, None] * spectrum.ones  # (k, r)
    residual_rest = spectrum.y_rest - mean[:, None] * spectrum.ones_rest  # (k, n)
    quadratic = (residual**2 / shifted).sum(1) + residual_rest.square().sum(1) / ratios
    outputscale = quadratic / n
    log_det = shifted.log().sum(1) + (n - rank) * ratios.log()
    return mean, outputscale, n * outputscale.log() + log_det
