"""Which parameters of a network decay, and which have an LR of their own.

A group's own LR is a factor, `lr_scale`, beside a base LR that all groups share, as timm's
layer-wise decay has it; AutoWU and the schedules here multiply by it.
"""

import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    decay_norms: bool = True,
    decay_biases: bool = True,
    head_lr_mult: float = 1.0,
    head_weight_decay: float | None = None,
    lr_mult: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The groups of a network's parameters; frozen ones are in none.

    Args:
        model: the network.
        weight_decay: of what is not left out of the decay.
        decay_norms: also for weights and biases of normalisation layers, for other parameters
            of one dimension that are no biases (layer scales), and for what the network itself
            names in `no_weight_decay()` (position embeddings).
        decay_biases: also for the biases of all other layers.
        head_lr_mult: LR of the head, times that of the trunk. The head is what timm's
            `get_classifier()` gives, else the last linear layer.
        head_weight_decay: of the head, None: the same; its biases are left out as others are.
        lr_mult: factors by the beginning of a parameter's name (`blocks.0`), all that match
            multiplied.
        layer_decay: factor on the LR from each layer to the one before it, the head having 1
            (Bao et al. 2022, arXiv:2106.08254), for networks whose layers timm knows.

    Returns:
        Group dicts. When nothing differs a single one that has nothing but `params`; otherwise
        with `weight_decay`, what does not decay first, and with `lr_scale` if that differs.

    Raises:
        ValueError: a name that no parameter begins with, a network without a head or without
            layers, a factor that is negative or not finite.
    """
    lr_mult = dict(lr_mult or {})
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if "" in lr_mult:
        raise ValueError("optimizer.lr_mult: a part without a name, write lr_mult.PART=FACTOR")
    _check_factors(lr_mult | {"": head_lr_mult}, list(names))
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"optimizer.layer_decay={layer_decay}: must be above 0 and at most 1")
    has_own_head = head_lr_mult != 1 or head_weight_decay is not None
    head = {id(p) for p in find_head(model).parameters()} if has_own_head else set()
    scales = layer_scales(model, layer_decay) if layer_decay is not None else {}
    without_decay = names_without_decay(model, norms=not decay_norms, biases=not decay_biases)

    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in names.items():
        is_head = id(parameter) in head
        decay = head_weight_decay if is_head and head_weight_decay is not None else weight_decay
        scale = scales.get(id(parameter), 1.0) * (head_lr_mult if is_head else 1.0)
        scale *= math.prod(mult for part, mult in lr_mult.items() if is_part(name, part))
        key = (0.0 if name in without_decay else decay, scale)
        groups.setdefault(key, []).append(parameter)

    if len(groups) == 1:
        ((decay, scale), parameters) = next(iter(groups.items()))
        if (decay, scale) == (weight_decay, 1.0):
            return [{"params": parameters}]
    has_scales = any(scale != 1 for _, scale in groups)
    ordered = sorted(groups.items(), key=lambda item: item[0][0] != 0)
    return [
        {"params": parameters, "weight_decay": decay} | ({"lr_scale": scale} if has_scales else {})
        for (decay, scale), parameters in ordered
    ]


def is_part(name: str, part: str) -> bool:
    """Whether a parameter belongs to a named part: `blocks.1` has `blocks.1.w`, not `blocks.10.w`.

    >>> is_part("blocks.1.weight", "blocks.1"), is_part("blocks.10.weight", "blocks.1")
    (True, False)
    """
    return name == part or name.startswith(part + ".")


def _check_factors(factors: Mapping[str, float], names: Collection[str]) -> None:
    parts = {name.rsplit(".", n)[0] for name in names for n in range(name.count(".") + 1)}
    for part, factor in factors.items():
        key = f"optimizer.lr_mult.{part}" if part else "optimizer.head_lr_mult"
        if not (math.isfinite(factor) and factor >= 0):
            raise ValueError(f"{key}={factor}: must be at least 0 and finite")
        if part and part not in parts:
            near = get_close_matches(part, parts, n=3) or sorted(
                {name.partition(".")[0] for name in names}
            )
            raise ValueError(
                f"{key}={factor}: no trained parameter's name begins with {part} (there are "
                f"{', '.join(near)})"
            )


def names_without_decay(model: nn.Module, norms: bool, biases: bool) -> set[str]:
    """The names of the parameters that are left out of the decay, see `parameter_groups`."""
    found = set()
    own: Any = getattr(model, "no_weight_decay", tuple)() if norms else ()
    for prefix, module in model.named_modules():
        in_norm = is_norm(module)
        for last, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{last}" if prefix else last
            is_bias = not in_norm and (last == "bias" or last.endswith("_bias"))
            is_scale = in_norm or (parameter.ndim <= 1 and not is_bias)
            named = any(fnmatch(name, pattern) for pattern in own)
            if (is_bias and biases) or ((is_scale or named) and norms):
                found.add(name)
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: torch's layers, their subclasses, and others named so."""
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return isinstance(module, kinds) or "norm" in type(module).__name__.lower()


def find_head(model: nn.Module) -> nn.Module:
    """The classifier of a network: what timm calls so, else the last linear layer."""
    get_classifier: Any = getattr(model, "get_classifier", None)
    head = get_classifier() if get_classifier else None
    if isinstance(head, tuple | list):  # distilled networks have two
        head = nn.ModuleList(head)
    if head is None:
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        head = linear[-1] if linear else nn.Identity()
    if not any(True for _ in head.parameters()):
        kind = type(model).__name__
        raise ValueError(
            f"optimizer.head_lr_mult, optimizer.head_weight_decay: {kind} has no linear head"
        )
    return head


def layer_scales(model: nn.Module, layer_decay: float) -> dict[int, float]:
    """timm's factor of layer-wise decay by the id of the parameter: 1 for the last layer."""
    from timm.optim import param_groups_layer_decay

    if not hasattr(model, "group_matcher"):
        raise ValueError(
            f"optimizer.layer_decay={layer_decay}: needs one of timm's networks, which say what "
            f"their layers are; {type(model).__name__} does not"
        )
    groups = param_groups_layer_decay(model, weight_decay=0.0, layer_decay=layer_decay)
    return {id(p): group["lr_scale"] for group in groups for p in group["params"]}
