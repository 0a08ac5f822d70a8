"""Optimizers by name, and the optimizer of a network with its parameter groups and wrappers."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autowu.lars import LARS
from autowu.trainer.optimizer_registry import (
    MissingPackage,
    available,
    canonical,
    create,
    keywords,
    source,
)
from autowu.trainer.optimizer_traits import (
    has_modes,
    needs_closure,
    needs_create_graph,
    needs_equal_lrs,
    refusal,
    why_refused,
)
from autowu.trainer.parameter_groups import parameter_groups

__all__ = [
    "MissingPackage",
    "available",
    "build",
    "canonical",
    "create",
    "has_modes",
    "keywords",
    "needs_closure",
    "needs_create_graph",
    "needs_equal_lrs",
    "refusal",
    "source",
    "why_refused",
]


def build(
    model: nn.Module,
    name: str,
    lr: float | None = None,
    weight_decay: float = 0.0,
    *,
    decay_norms: bool = True,
    decay_biases: bool = True,
    head_lr_mult: float = 1.0,
    head_weight_decay: float | None = None,
    lr_mult: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
    lookahead: bool = False,
    lookahead_alpha: float = 0.5,
    lookahead_k: int = 6,
    lars: bool = False,
    lars_trust_coef: float = 0.001,
    lars_eps: float = 1e-8,
    lars_clip: bool = False,
    lars_always_adapt: bool = False,
    **settings: Any,
) -> Optimizer:
    """Build the optimizer of a network's parameters.

    Args:
        model: what is optimised.
        name: of the optimizer, see `available()`.
        lr: the peak LR of a schedule that does not find its own; None when AutoWU will set it,
            which reads nothing from it, or when the optimizer finds it itself.
        weight_decay: as the optimizer means it: decoupled in some, an L2 term in others.
        decay_norms, decay_biases, head_lr_mult, head_weight_decay, lr_mult, layer_decay: as for
            `parameter_groups`. An LR of one's own is the group's `lr_scale`, for the schedule.
        lookahead, lookahead_alpha, lookahead_k: put Lookahead around it.
        lars, lars_trust_coef, lars_eps, lars_clip, lars_always_adapt: put LARS around it.
        settings: the optimizer's own, see `keywords(name)`.

    Raises:
        ValueError: an unknown name, a setting that the optimizer refuses, or a combination that
            cannot work.
        MissingPackage: the optimizer is not installed.
    """
    name = canonical(name)
    if lr is None:
        lr = 1.0 if needs_equal_lrs(name) else 1e-3
    groups: Any = parameter_groups(
        model,
        weight_decay,
        decay_norms=decay_norms,
        decay_biases=decay_biases,
        head_lr_mult=head_lr_mult,
        head_weight_decay=head_weight_decay,
        lr_mult=lr_mult,
        layer_decay=layer_decay,
    )
    _check_groups(name, groups, head_weight_decay)
    known = keywords(name)
    own = {
        key: value
        for key, value in settings.items()
        if not (value is None and known.get(key) == math.inf)  # null in a config
    }
    optimizer = create(name, groups, lr=lr, weight_decay=weight_decay, **own)
    if lars:
        if needs_create_graph(name):
            raise ValueError(
                f"optimizer.lars=true: {name} differentiates the gradient, which LARS scales"
            )
        optimizer = LARS(
            optimizer, lars_eps, lars_trust_coef, lars_clip, always_adapt=lars_always_adapt
        )
    if lookahead:
        from autowu.trainer.timm_adapters import Lookahead

        if has_modes(optimizer):
            raise ValueError(
                f"optimizer.lookahead=true: {name} averages the weights itself, and keeps what it "
                "steps from beside them"
            )
        optimizer = Lookahead(optimizer, lookahead_alpha, lookahead_k)
    return optimizer


def _check_groups(name: str, groups: list[dict[str, Any]], head_weight_decay: float | None) -> None:
    """Raise ValueError for what sets a group apart by something that the optimizer has not."""
    if needs_equal_lrs(name) and any("lr_scale" in group for group in groups):
        raise ValueError(
            f"optimizer.name={name}: estimates one LR for all parameters, so it takes neither "
            "optimizer.lr_mult, optimizer.head_lr_mult nor optimizer.layer_decay"
        )
    if head_weight_decay and "weight_decay" not in keywords(name):
        raise ValueError(
            f"optimizer.head_weight_decay={head_weight_decay}: {name} has no weight decay"
        )
