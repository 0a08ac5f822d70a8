"""One test of the published procedure in plain GPyTorch, as the yardstick for ours.

Section 2.1.2 of arXiv:2107.05855: 100 Adam steps on the marginal likelihood of 100 losses, then 5
posteriors on 500 losses each, each with the full covariance of 500 grid points.
"""

import gpytorch
import torch
from torch import Tensor

NUM_FIT, NUM_POSTERIOR, NUM_TESTS, GRID_SIZE = 100, 500, 5, 500
ADAM_LR, ADAM_STEPS = 0.01, 100
LENGTH_SCALE, NOISE, JITTER = 0.2, 1e-3, 1e-4


class Model(gpytorch.models.ExactGP):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ConstantMean()
        kernel = gpytorch.kernels.RBFKernel()
        kernel.lengthscale = LENGTH_SCALE
        kernel.requires_grad_(False)
        self.covar_module = gpytorch.kernels.ScaleKernel(kernel)

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def published_test(losses: Tensor) -> list[float]:
    """The five probabilities of eq. (4) for losses (n,), float32."""
    n = len(losses)
    x = torch.arange(n) / n
    chosen = torch.randperm(n)[:NUM_FIT]
    model = Model(x[chosen], losses[chosen])
    model.likelihood.noise = NOISE
    model.mean_module.constant = float(losses.mean())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=ADAM_LR)
    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    model.train()
    for _ in range(ADAM_STEPS):
        optimizer.zero_grad()
        loss = -likelihood(model(x[chosen]), losses[chosen])
        loss.backward()
        optimizer.step()
    model.eval()
    grid = torch.linspace(0.0, 1.0, GRID_SIZE)
    probabilities = []
    for _ in range(NUM_TESTS):
        chosen = torch.randperm(n)[:NUM_POSTERIOR]
        model.set_train_data(x[chosen], losses[chosen], strict=False)
        with torch.no_grad():
            posterior = model(grid)
            mean, covariance = posterior.mean, posterior.covariance_matrix
        variance = covariance.diagonal() + covariance[-1, -1] - 2 * covariance[-1] + JITTER
        z = (mean[-1] - mean) / variance.clamp_min(JITTER).sqrt()
        probabilities.append(float(torch.special.ndtr(z).max()))
    return probabilities
