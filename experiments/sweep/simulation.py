"""A noisy quadratic: a loss that answers to the LR with a lag, exactly and at once computed.

The model of Zhang et al. 2019 (arXiv:1907.04164): independent directions with curvatures `h_i`,
SGD with Gaussian gradient noise of variance `noise * h_i`. The second moment of a direction obeys

    m_i <- (1 - lr * h_i)^2 * m_i + lr^2 * noise * h_i

and the training loss is `0.5 * sum(h_i * m_i)`, seen with the deviation `jitter` (relative). From
`lr * h_max > 2` on it diverges.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from autowu import AutoWU

NUM_DIRECTIONS = 20
CONDITION = 1e3  # largest over smallest curvature
CURVATURES = (3.0, 30.0, 300.0, 3000.0)  # the largest: LRs above 2 / h diverge
NOISE = 1e-4  # of the gradients, in units of the first loss
JITTER = 0.05  # of a loss, relative
PEAK_LRS = np.logspace(-5, 0.5, 23)  # of the warmup-cosine


def final_loss(
    make: Callable[[SGD, int, int], AutoWU],
    total_steps: int,
    curvature: float,
    seed: int,
    is_probed: bool = False,
) -> tuple[float, AutoWU]:
    """Run to the end; log10 of the last true loss over the first, and the scheduler.

    With a probe, if it is to be: on a quadratic of its own, and with the same noise of the loss.
    """
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer, total_steps, max(1, total_steps // 10))
    rng = np.random.default_rng(seed)
    model = Quadratic(curvature)
    if is_probed:
        tried = Quadratic(curvature)

        def take_step() -> float:
            loss = tried.loss * (1.0 + JITTER * rng.standard_normal())
            tried.step(float(optimizer.param_groups[0]["lr"]))
            return loss

        scheduler.probe(nn.Module(), take_step)
    optimizer.step()
    for _ in range(total_steps):
        loss = model.loss * (1.0 + JITTER * rng.standard_normal())
        model.step(float(scheduler.get_last_lr()[0]))
        scheduler.step(loss)
    return math.log10(max(model.loss, 1e-12)), scheduler


def tuned_loss(total_steps: int, curvature: float) -> tuple[float, float]:
    """Of the best peak LR of a warmup-cosine with 10 % warmup: log10 of the loss, and the LR.

    Only LRs are tried with which every direction converges: what a quadratic forgives above that
    no network does.
    """
    outcomes = []
    for peak in PEAK_LRS[2.0 / curvature > PEAK_LRS]:
        model = Quadratic(curvature)
        warmup = max(1, total_steps // 10)
        optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=float(peak))
        curve = LambdaLR(
            optimizer,
            lambda t, w=warmup: (
                (t + 1) / w
                if t < w
                else 0.5 * (1 + math.cos(math.pi * (t - w) / (total_steps - w)))
            ),
        )
        optimizer.step()
        for _ in range(total_steps):
            model.step(float(curve.get_last_lr()[0]))
            curve.step()
        outcomes.append((math.log10(max(model.loss, 1e-12)), float(peak)))
    return min(outcomes)


class Quadratic:
    """Second moments of the directions; the first loss is 1."""

    def __init__(self, curvature: float) -> None:
        self._h = curvature * np.logspace(0, -math.log10(CONDITION), NUM_DIRECTIONS)
        self._m = 2.0 / (NUM_DIRECTIONS * self._h)

    @property
    def loss(self) -> float:
        return float(0.5 * (self._h * self._m).sum())

    def step(self, lr: float) -> None:
        decay = (1.0 - lr * self._h) ** 2
        self._m = np.minimum(decay * self._m + lr**2 * NOISE * self._h, 1e30)
