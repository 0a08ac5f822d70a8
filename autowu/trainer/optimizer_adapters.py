"""Optimizers of pytorch-optimizer that need a little to be like the rest: each says what and why.

Like the rest means: built from parameters or group dicts, following the LR in its groups, and with
a state of plain values and tensors that goes on bit for bit after `torch.load(weights_only=True)`.
"""

from collections import deque
from collections.abc import Callable, Iterable
from enum import IntEnum
from functools import wraps
from inspect import signature
from typing import Any

import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.scion import LMONorm
from pytorch_optimizer.optimizer.utils import galore, graft, partition, preconditioner
from torch import Tensor, nn

GroupDicts = list[dict[str, Any]]


def as_groups(params: Iterable[Any]) -> GroupDicts:
    """Group dicts, whatever of what torch optimizers take `params` is; the dicts are new."""
    found = list(params)
    if found and isinstance(found[0], dict):
        return [group | {"params": _as_list(group["params"])} for group in found]
    return [{"params": [_unnamed(each) for each in found]}]


def _as_list(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else [_unnamed(each) for each in params]


def _unnamed(param: Any) -> Any:
    """The parameter of what `named_parameters()` gives, or the parameter itself."""
    return param[1] if isinstance(param, tuple) else param


def _prepared(
    kind: Any, prepare: Callable[[Iterable[Any]], Any], follows_lr: str | None = None
) -> Any:
    """A subclass that calls `prepare` on its first argument; its signature stays.

    `follows_lr` is another LR that it takes, which is `lr` unless it is given.
    """

    @wraps(kind.__init__)
    def init(self: Any, params: Iterable[Any], *args: Any, **settings: Any) -> None:
        if follows_lr is not None:
            bound = signature(kind.__init__).bind(self, params, *args, **settings)
            bound.apply_defaults()
            settings.setdefault(follows_lr, bound.arguments["lr"])
        kind.__init__(self, prepare(params), *args, **settings)

    return type(kind.__name__, (kind,), {"__init__": init, "__doc__": kind.__doc__})


def split_for_muon(params: Iterable[Any]) -> GroupDicts:
    """Groups with the `use_muon` that these classes ask for: weights of two dimensions or more."""
    groups = []
    for group in as_groups(params):
        for use_muon in (True, False):
            chosen = [p for p in group["params"] if (p.ndim >= 2) == use_muon]
            if chosen:
                groups.append(group | {"params": chosen, "use_muon": use_muon})
    return groups


AdaGO = _prepared(pytorch_optimizer.AdaGO, split_for_muon, "adamw_lr")
DistributedMuon = _prepared(pytorch_optimizer.DistributedMuon, split_for_muon, "adamw_lr")
MuonClip = _prepared(pytorch_optimizer.MuonClip, split_for_muon, "adamw_lr")
NorMuon = _prepared(pytorch_optimizer.NorMuon, split_for_muon, "adamw_lr")


def as_module(params: Iterable[Any]) -> nn.Module:
    """A module that holds the parameters, for classes that take one; they see no names."""
    holder = nn.Module()
    holder.parameters_of_groups = nn.ParameterList(
        [p for group in as_groups(params) for p in group["params"]]
    )
    return holder


LOMO = _prepared(pytorch_optimizer.LOMO, as_module)
AdaLOMO = _prepared(pytorch_optimizer.AdaLOMO, as_module)


class AdamMini(pytorch_optimizer.AdamMini):
    """Takes parameters, no network: each is a block of its own, attention heads are not split."""

    @wraps(pytorch_optimizer.AdamMini.__init__)  # type: ignore[misc]
    def __init__(self, params: Iterable[Any], *args: Any, **settings: Any) -> None:
        groups = as_groups(params)
        super().__init__(as_module(groups), *args, **settings)
        given = {id(p): group for group in groups for p in group["params"]}
        for group in self.param_groups:
            options = given[id(group["params"][0])]
            group.update({key: value for key, value in options.items() if key != "params"})


class AliG(pytorch_optimizer.AliG):
    """Its largest step, `max_lr` in the library, is the `lr` of the groups: schedules reach it."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.0,
        adjusted_momentum: bool = False,
        projection_fn: Callable[[], None] | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(
            as_groups(params),
            max_lr=lr,
            momentum=momentum,
            adjusted_momentum=adjusted_momentum,
            projection_fn=projection_fn,
            maximize=maximize,
            foreach=foreach,
        )
        self.defaults["lr"] = lr
        for group in self.param_groups:
            group.setdefault("lr", lr)

    def step(self, closure: Any = None) -> Any:
        def loss() -> float:
            with torch.enable_grad():
                return float(closure())

        for group in self.param_groups:
            group["max_lr"] = float(group["lr"])
        return super().step(None if closure is None else loss)


class Magma(pytorch_optimizer.Magma):
    """Around AdamW, as the library has it by default, whose keywords stand in the signature."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        mask_prob: float = 0.5,
        tau: float = 2.0,
        momentum_beta: float = 0.9,
        alignment_ema: float = 0.9,
        foreach: bool | None = None,
    ) -> None:
        base = torch.optim.AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(base, mask_prob, tau, momentum_beta, alignment_ema, foreach=foreach)


class Ranger21(pytorch_optimizer.Ranger21):
    """Saves when its lookahead is due; its own schedule is off, so that its LR is the group's."""

    @wraps(pytorch_optimizer.Ranger21.__init__)  # type: ignore[misc]
    def __init__(self, params: Iterable[Any], num_iterations: int = 1, **settings: Any) -> None:
        super().__init__(params, num_iterations, **settings)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lookahead_step": self.lookahead_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.lookahead_step = state_dict.get("lookahead_step", 0)


# The objects in a state that `weights_only=True` refuses; only these are ever built from a file.
_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        galore.GaLoreProjector,
        graft.Graft,
        graft.SGDGraft,
        graft.SQRTNGraft,
        graft.AdaGradGraft,
        graft.RMSPropGraft,
        partition.BlockPartitioner,
        preconditioner.PreConditioner,
    )
}
_ENUMS: dict[str, type[IntEnum]] = {
    kind.__name__: kind for kind in (LMONorm, partition.PreConditionerType)
}
_TAG = "object of"


def to_plain(value: Any) -> Any:
    """The same without objects: dicts that say what class they were of, deques as dicts too."""
    if isinstance(value, dict):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, deque):
        return {_TAG: "deque", "maxlen": value.maxlen, "items": [to_plain(each) for each in value]}
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return type(value)([to_plain(each) for each in value])
    name = type(value).__name__
    if name in _ENUMS:
        return {_TAG: name, "value": int(value)}
    if name in _CLASSES:
        return {_TAG: name, "attributes": to_plain(vars(value))}
    return value


def from_plain(value: Any) -> Any:
    """The inverse of `to_plain`."""
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return type(value)([from_plain(each) for each in value])
    if not isinstance(value, dict):
        return value
    name = value.get(_TAG)
    if name is None:
        return {key: from_plain(each) for key, each in value.items()}
    if name == "deque":
        return deque([from_plain(each) for each in value["items"]], maxlen=value["maxlen"])
    if name in _ENUMS:
        return _ENUMS[name](value["value"])
    made: Any = object.__new__(_CLASSES[name])
    made.__dict__.update(from_plain(value["attributes"]))
    return made


def _with_plain_state(kind: Any) -> Any:
    """A subclass whose state dict has plain values and tensors alone."""

    def state_dict(self: Any) -> dict[str, Any]:
        return to_plain(kind.state_dict(self))

    def load_state_dict(self: Any, saved: dict[str, Any]) -> None:
        kind.load_state_dict(self, from_plain(saved))

    methods = {"state_dict": state_dict, "load_state_dict": load_state_dict}
    return type(kind.__name__, (kind,), methods | {"__doc__": kind.__doc__})


AdaShift = _with_plain_state(pytorch_optimizer.AdaShift)
Conda = _with_plain_state(pytorch_optimizer.Conda)
SCION = _with_plain_state(pytorch_optimizer.SCION)
SCIONLight = _with_plain_state(pytorch_optimizer.SCIONLight)
ScalableShampoo = _with_plain_state(pytorch_optimizer.ScalableShampoo)
