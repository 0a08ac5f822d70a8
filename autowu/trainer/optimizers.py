"""Optimizers by name."""

from collections.abc import Iterable

import torch
from torch.nn import Parameter


def build_optimizer(
    parameters: Iterable[Parameter], name: str, lr: float | None, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimizer over one parameter group.

    Args:
        parameters: what is optimised.
        name: `adamp` (Heo et al. 2021, arXiv:2006.08217, the one the paper trains with), `adamw`,
            or `sgd` with Nesterov momentum 0.9.
        lr: the peak LR of a schedule that does not find its own; None when AutoWU
            will set it, which reads nothing from it.
        weight_decay: decoupled in adamp and adamw, an L2 term of the gradient in sgd.

    Raises:
        ValueError: for an unknown name.
    """
    if lr is None:
        lr = 1e-3
    if name == "adamp":
        from adamp import AdamP

        return AdamP(parameters, lr=lr, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True
        )
    raise ValueError(f"optimizer.name={name}: must be one of adamp, adamw, sgd")
