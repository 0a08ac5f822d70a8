"""The Gaussian process on (x, loss): the model, its two fits and its posterior.

`L(x) = f(x) + noise`, `f ~ GP(mu, s2 * k(x, x'))`, `x` in [0, 1] the fraction of the observed
steps and `k` the squared-exponential kernel of length-scale 0.2 (section 2.1.2, eq. (2) of
arXiv:2107.05855). The length-scale is fixed; `mu`, `s2` and the noise are fitted.

The model is a GPyTorch model in every mode: it defines the prior and holds the fitted values.
`fit="mle"` maximises its marginal likelihood exactly (`profile_likelihood.py`); `fit="adam"` is
the published procedure. The posterior is exact in both: through the kernel's features where it
is smooth (`kernel_features.py`), through a dense Cholesky factor where it is not.
"""

import copy
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autowu import profile_likelihood
from autowu.gpytorch_import import NanError, NotPSDError, gpytorch
from autowu.kernel_features import KernelFeatures
from autowu.profile_likelihood import Hyperparameters
from autowu.settings import Fit

LENGTH_SCALE = 0.2  # paper, fraction of the observed window
MIN_NOISE = 1e-8  # ours, in units of the variance of the losses; GPyTorch's default is 1e-4
NUM_BEGINNING = 15  # losses that tell the level at which the run began
ADAM_LR, ADAM_STEPS = 0.01, 100  # paper
ADAM_INITIAL_NOISE, ADAM_MIN_NOISE = 1e-3, 1e-4  # published code; GPyTorch's default constraint
ADAM_JITTER = 1e-4  # published code: added to var(f(x) - f(1)), loss units squared

_SETTINGS_LOCK = threading.Lock()  # of GPyTorch, which are the whole process's


class Posterior(NamedTuple):
    """`f` given the losses, on a grid over [0, 1] whose last point is 1. All float64 (g,)."""

    mean: Tensor  # E f(x)
    variance: Tensor  # var f(x)
    difference_variance: Tensor  # var(f(1) - f(x)); exactly 0 at x = 1
    gain: float  # log p(losses) less that of the best constant with noise, nats


class SmoothedCurve(NamedTuple):
    """The GP's view of a loss curve, for people to look at. Tensors are float64 (g,)."""

    x: Tensor  # grid over [0, 1]; 1 is the end of the curve
    mean: Tensor  # loss units
    std: Tensor  # loss units, of f, without the noise
    ceiling: float  # loss units; higher losses count as this in the fit


class GPModel(gpytorch.models.ExactGP):
    """The prior: constant mean and a scaled kernel, with Gaussian noise.

    Args:
        kernel: taken as it is, its hyperparameters are not fitted.
        min_noise: lower bound of the noise variance.
        dtype: of all parameters.
    """

    def __init__(
        self, kernel: gpytorch.kernels.Kernel, min_noise: float, dtype: torch.dtype
    ) -> None:
        likelihood = gpytorch.likelihoods.GaussianLikelihood(
            noise_constraint=gpytorch.constraints.GreaterThan(min_noise)
        )
        super().__init__(None, None, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(kernel)
        self.to(device="cpu", dtype=dtype)
        # Anew in the final precision: the caller's default dtype may be a half.
        constraint = gpytorch.constraints.GreaterThan(min_noise).to(device="cpu", dtype=dtype)
        constraint.lower_bound = torch.tensor(min_noise, dtype=dtype, device="cpu")
        likelihood.noise_covar.register_constraint("raw_noise", constraint)

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The values in force."""
        return Hyperparameters(
            float(self.mean_module.constant),
            float(self.covar_module.outputscale),
            float(self.likelihood.noise),
        )

    @hyperparameters.setter
    def hyperparameters(self, values: Hyperparameters) -> None:
        # As tensors: GPyTorch would turn a float into one of the caller's default dtype and device.
        mean, outputscale, noise = torch.tensor(
            values, dtype=self.mean_module.raw_constant.dtype, device="cpu"
        )
        with torch.device("cpu"):
            self.mean_module.constant = mean
            self.covar_module.outputscale = outputscale
            self.likelihood.noise = noise


def default_kernel() -> gpytorch.kernels.Kernel:
    """The paper's kernel: squared-exponential, length-scale 0.2, float64."""
    kernel = gpytorch.kernels.RBFKernel().to(device="cpu", dtype=torch.float64)
    kernel.lengthscale = torch.tensor(LENGTH_SCALE, dtype=torch.float64, device="cpu")
    return kernel.requires_grad_(False)


@contextmanager
def fenced() -> Iterator[None]:
    """Shut out what the caller may have switched on around `scheduler.step()`.

    Inference mode would poison tensors that are kept, autocast would lower the precision.
    """
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        yield


class LossGP:
    """Fit the GP to some losses, then condition it on others.

    The fit works on losses of any scale: for `mle` they are standardised, and what is returned
    is in loss units again. `adam` sees them raw, as published.

    Args:
        fit: "mle" (exact maximum likelihood; ours, because it is equivariant to `a * loss + b`)
            or "adam" (100 Adam steps from the last test's values; published).
        kernel: another GPyTorch kernel in place of the default, taken as it is.
        grid_size: points of [0, 1] the posterior is evaluated on; 500 (paper).

    Raises:
        TypeError, ValueError: `kernel` is no usable GPyTorch kernel.
    """

    def __init__(
        self,
        fit: Fit = "mle",
        kernel: gpytorch.kernels.Kernel | None = None,
        grid_size: int = 500,
    ) -> None:
        self.mode = fit
        with fenced(), torch.device("cpu"):
            self.features = _default_features() if kernel is None else KernelFeatures(kernel)
            self.grid = torch.linspace(0.0, 1.0, grid_size, dtype=torch.float64, device="cpu")
            self._grid_features = self.features(self.grid) if self.features.rank else None
            self._adam = _AdamFit(self.features.kernel) if fit == "adam" else None
            self._model = (
                self._adam.model
                if self._adam
                else GPModel(self.features.kernel, MIN_NOISE, torch.float64)
            )
            self._estimate: Hyperparameters | None = None  # of the last fit by "mle"

    @property
    def model(self) -> GPModel:
        """The GPyTorch model with the values of the last fit (for "mle" in standard units)."""
        if self._estimate is not None:
            with fenced():
                self._model.hyperparameters = self._estimate
        return self._model

    def fit(self, x: Tensor, losses: Tensor, mean: float | None = None) -> Hyperparameters:
        """Estimate mean, output scale and noise.

        Args:
            x: float64 (n,) in [0, 1].
            losses: float64 (n,), finite, not all equal.
            mean: where the constant mean starts, for "adam" alone.

        Returns:
            The estimate, in loss units. The model holds it too (for "mle" in standard units).
        """
        if self._adam:
            return self._adam.fit(x, losses, float(losses.mean()) if mean is None else mean)
        center, scale = losses.mean(), losses.std()
        standard = (losses - center) / scale
        if self.features.rank:
            estimate = profile_likelihood.maximize(standard, features=self.features(x))
        else:
            estimate = profile_likelihood.maximize(standard, matrix=self.features.matrix(x, x))
        # The model cannot hold less noise than its constraint allows.
        estimate = estimate._replace(noise=max(estimate.noise, 1.001 * MIN_NOISE))
        self._estimate = estimate
        return Hyperparameters(
            float(center + scale * estimate.mean),
            float(scale.square() * estimate.outputscale),
            float(scale.square() * estimate.noise),
        )

    def posterior(self, x: Tensor, losses: Tensor, values: Hyperparameters) -> Posterior:
        """Condition on losses: exact GP regression on the grid.

        Args:
            x: float64 (n,) in [0, 1].
            losses: float64 (n,), finite.
            values: hyperparameters in loss units.
        """
        if self.features.rank:
            return self._posterior_from_features(x, losses, values)
        return self._dense_posterior(x, losses, values)

    def state_dict(self) -> dict[str, Any]:
        """What the next fit starts from: nothing for "mle"."""
        return self._adam.state_dict() if self._adam else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._adam:
            with fenced():
                self._adam.load_state_dict(state)

    def _posterior_from_features(
        self, x: Tensor, losses: Tensor, values: Hyperparameters
    ) -> Posterior:
        # f = mu + phi w, w ~ N(0, s2 I): Bayesian linear regression. With the QR factors of
        # [phi; sqrt(rho) I] the posterior of w is R^-1 Q'y and noise * R^-1 R^-T; the normal
        # equations would square the condition number.
        assert self._grid_features is not None
        features = self.features(x)
        n, rank = features.shape
        ratio = values.noise / values.outputscale
        ridge = torch.eye(rank, dtype=torch.float64, device="cpu") * ratio**0.5
        q, r = torch.linalg.qr(torch.cat([features, ridge]))
        residual = losses - values.mean
        projected = q[:n].T @ residual
        weights = torch.linalg.solve_triangular(r, projected.unsqueeze(1), upper=True)
        mean = values.mean + (self._grid_features @ weights).squeeze(1)
        # One solve for both: R^-T phi(x) is linear in phi, and the difference g of two features
        # is taken before it is squared, so var(f(1) - f(x)) does not cancel as x nears 1.
        whitened = torch.linalg.solve_triangular(r.T, self._grid_features.T, upper=False)
        differences = torch.linalg.solve_triangular(
            r.T, (self._grid_features[-1:] - self._grid_features).T, upper=False
        )
        # |K| = noise^n |I + phi'phi / rho| and y'K^-1 y = (y - phi w)'y / noise.
        log_det = (
            n * math.log(values.noise)
            - rank * math.log(ratio)
            + 2.0 * r.diagonal().abs().log().sum()
        )
        misfit = residual - (features @ weights).squeeze(1)
        return Posterior(
            mean,
            values.noise * whitened.square().sum(0),
            values.noise * differences.square().sum(0),
            _gain_over_constant(losses, log_det, misfit @ residual / values.noise),
        )

    def _dense_posterior(self, x: Tensor, losses: Tensor, values: Hyperparameters) -> Posterior:
        matrix, grid = self.features.matrix, self.grid
        covariance = values.outputscale * matrix(x, x)
        covariance.diagonal().add_(values.noise)
        factor = torch.linalg.cholesky(covariance)
        cross = values.outputscale * matrix(x, grid)  # (n, g)
        prior = values.outputscale * matrix(grid, grid)  # (g, g)
        residual = torch.cholesky_solve((losses - values.mean).unsqueeze(1), factor)
        mean = values.mean + (cross.T @ residual).squeeze(1)
        explained = torch.linalg.solve_triangular(factor, cross, upper=False)
        diagonal = prior.diagonal()
        difference = diagonal + diagonal[-1] - 2.0 * prior[:, -1]
        difference = difference - (explained - explained[:, -1:]).square().sum(0)
        log_det = 2.0 * factor.diagonal().log().sum()
        return Posterior(
            mean,
            (diagonal - explained.square().sum(0)).clamp_min(0.0),
            difference.clamp_min(0.0),
            _gain_over_constant(losses, log_det, (losses - values.mean) @ residual.squeeze(1)),
        )


def _gain_over_constant(losses: Tensor, log_det: Tensor, quadratic: Tensor) -> float:
    """Log likelihood of the GP, from |K| and y'K^-1 y, less that of a constant with noise."""
    n = len(losses)
    variance = (losses - losses.mean()).square().mean()
    return float(0.5 * (n * variance.log() + n - log_det - quadratic))


class FitError(ArithmeticError):
    """The published fit has no result in float32, for losses of very different size, say."""


@contextmanager
def _exact_and_unchecked() -> Iterator[None]:
    """GPyTorch's likelihood without its checks, and beyond 800 losses without random numbers.

    Without the lock these settings would stay behind where threads take turns.
    """
    settings = gpytorch.settings
    with _SETTINGS_LOCK, settings.max_cholesky_size(10**6), settings.debug(False):
        yield


class _AdamFit:
    """The published fit: float32, raw losses, values and Adam's moments carried over."""

    def __init__(self, kernel: gpytorch.kernels.Kernel) -> None:
        kernel = copy.deepcopy(kernel).requires_grad_(False)
        self.model = GPModel(kernel, ADAM_MIN_NOISE, torch.float32)
        noise = torch.tensor(ADAM_INITIAL_NOISE, dtype=torch.float32)  # not of the default dtype
        self.model.likelihood.noise = noise
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=ADAM_LR)

    def fit(self, x: Tensor, losses: Tensor, mean: float) -> Hyperparameters:
        """100 steps; FitError, with all values as they were before, when they come to nothing."""
        before = copy.deepcopy(self.state_dict())
        try:
            values = self._fit(x, losses, mean)
        except (NanError, NotPSDError):
            values = None
        if values is None or not all(map(math.isfinite, values)):
            self.load_state_dict(before)
            raise FitError("the marginal likelihood of the losses is not a number in float32")
        return values

    def _fit(self, x: Tensor, losses: Tensor, mean: float) -> Hyperparameters:
        model = self.model
        inputs, targets = x.float().unsqueeze(-1), losses.float()
        with torch.device("cpu"):
            model.mean_module.constant = torch.tensor(mean, dtype=torch.float32)
        model.set_train_data(inputs, targets, strict=False)
        model.train()
        likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        with torch.enable_grad(), torch.device("cpu"), _exact_and_unchecked():
            for _ in range(ADAM_STEPS):
                self.optimizer.zero_grad()
                loss = -likelihood(model(inputs), targets)
                loss.backward()
                self.optimizer.step()
        self.optimizer.zero_grad()
        return model.hyperparameters

    def state_dict(self) -> dict[str, Any]:
        parameters = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        return {"parameters": parameters, "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


def spike_ceiling(losses: Tensor, beginning: Tensor) -> float:
    """The highest loss that still says something.

    `max(median + 5 * (median - 5 % quantile), median of the beginning)`; where the lowest half of
    the losses is the same, as with a hinge loss that is 0, `median + 5 * (median of the beginning
    - median)`.

    A run that diverges multiplies its loss by any factor within a few steps. Unclipped, these few
    losses are all that a Gaussian model sees, and the minimum before them vanishes. What lies
    above the ceiling is as high as need be to know that the loss has risen. The ceiling moves
    with the losses, `a * loss + b` has the ceiling `a * ceiling + b`; normal noise of deviation
    `s` meets it at 8 `s`; and the level that the run began with is below it (ours).

    Args:
        losses: float64 (n,), finite. Where the lowest half of them is the same, and the beginning
            no higher, the ceiling is infinite.
        beginning: the first losses of the run, (k,); non-finite ones are ignored.

    >>> falling = torch.tensor([2.0, 2.0, 1.0, 1.0, 0.0, 0.0, 1e9], dtype=torch.float64)
    >>> spike_ceiling(falling, falling[:3])
    6.0
    >>> hinge = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1e9], dtype=torch.float64)
    >>> spike_ceiling(hinge, hinge[:3])
    5.0
    """
    low, median = torch.quantile(losses, losses.new_tensor([0.05, 0.5])).tolist()
    beginning = beginning[beginning.isfinite()]
    level = float(beginning.median()) if len(beginning) else -math.inf
    spread = median - low or level - median
    return max(median + 5.0 * spread, level) if spread > 0.0 else math.inf


@lru_cache(maxsize=1)
def _default_features() -> KernelFeatures:
    return KernelFeatures(default_kernel())


def smooth(
    losses: Tensor, *, grid_size: int = 500, kernel: gpytorch.kernels.Kernel | None = None
) -> SmoothedCurve:
    """Smooth a whole loss curve by the GP, fitted by maximum likelihood, for a plot.

    Args:
        losses: (n,), any float dtype; non-finite ones are ignored. Curves of over 2,000 losses
            are thinned evenly.
        grid_size: points of [0, 1] to return.
        kernel: another GPyTorch kernel, taken as it is.

    Raises:
        ValueError: fewer than two distinct finite losses.
    """
    with fenced():
        losses = losses.detach().to(device="cpu", dtype=torch.float64).flatten()
        x = torch.arange(len(losses), dtype=torch.float64, device="cpu") / max(len(losses), 1)
        finite = losses.isfinite().nonzero().squeeze(1)
        if len(finite) == 0 or losses[finite].min() == losses[finite].max():
            raise ValueError(
                f"need at least two distinct finite losses, got {len(finite)} finite of "
                f"{len(losses)}"
            )
        finite = finite[:: max(1, len(finite) // 1000)]
        gp = LossGP("mle", kernel, grid_size)
        beginning = losses[:NUM_BEGINNING]
        x, losses = x[finite], losses[finite]
        ceiling = spike_ceiling(losses, beginning)
        losses = losses.clamp(max=ceiling)
        posterior = gp.posterior(x, losses, gp.fit(x, losses))
        return SmoothedCurve(gp.grid, posterior.mean, posterior.variance.sqrt(), ceiling)
