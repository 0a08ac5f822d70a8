"""Optimizers by name."""

from typing import Any

import torch
from torch import nn


def build_optimizer(
    model: nn.Module,
    name: str,
    lr: float | None,
    weight_decay: float,
    no_decay_norms: bool = False,
    **settings: Any,
) -> torch.optim.Optimizer:
    """Build an optimizer of a network's parameters.

    Args:
        model: what is optimised.
        name: `adamp` (Heo et al. 2021, arXiv:2006.08217) or `lamb` (You et al. 2020,
            arXiv:1904.00962), the two that arXiv:2107.05855 trains with; `adamw`; `sgd`.
        lr: the peak LR of a schedule that does not find its own; None when AutoWU
            will set it, which reads nothing from it.
        weight_decay: decoupled in all but sgd, where it is an L2 term of the gradient.
        no_decay_norms: do without it for biases and the weights of norms, and for what the network
            itself names (position embeddings), in a group of its own.
        settings: of that optimizer, as in `autowu.trainer.settings`.

    Raises:
        ValueError: for an unknown name, or settings that the optimizer refuses.
    """
    if lr is None:
        lr = 1e-3
    parameters: Any = [each for each in model.parameters() if each.requires_grad]
    if no_decay_norms:
        from timm.optim import param_groups_weight_decay

        own: Any = getattr(model, "no_weight_decay", tuple)()  # timm's networks have it
        parameters = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=own)
        parameters = [group for group in parameters if group["params"]]
    if name == "adamp":
        from adamp import AdamP

        return AdamP(parameters, lr=lr, weight_decay=weight_decay, **settings)
    if name == "lamb":
        from timm.optim import Lamb

        return Lamb(parameters, lr=lr, weight_decay=weight_decay, **settings)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, **settings)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, **settings)
    raise ValueError(f"optimizer.name={name}: must be one of adamp, adamw, lamb, sgd")
