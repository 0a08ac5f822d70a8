"""Optimizers by name, from the libraries that have them; each is imported when it is asked for.

A name that several libraries have means the first of: the table below (torch.optim for the
classics, the authors' adamp, timm's large-batch and Lion and Muon, pytorch-optimizer's
learning-rate-free ones), then whatever timm registers, then whatever pytorch-optimizer does. Case,
`-` and `_` do not matter: `AdamW`, `adam_w` and `adamw` are one name.

`bnb_` before a name means the 8-bit class of bitsandbytes. timm calls the 32-bit ones so
(`bnbadam`); where the two collide, ours is meant.
"""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch.optim import Optimizer

from autowu.trainer.limits import closest, squash

EXTRAS = {  # package: what installs it
    "timm": "pip install '.[timm]' in a clone",
    "adamp": "pip install '.[train]' in a clone",
    "pytorch-optimizer": "pip install '.[optimizers]' in a clone",
    "bitsandbytes": "pip install '.[bitsandbytes]' in a clone",
    "deepspeed": "pip install '.[deepspeed]' in a clone",
    "apex": "build it from https://github.com/NVIDIA/apex, it is on no package index",
}
MODULES = {"pytorch-optimizer": "pytorch_optimizer"}  # where the package is called otherwise


class MissingPackage(ModuleNotFoundError, ValueError):
    """The optimizer exists, but what it comes from is not installed; the message says how to."""


@dataclass(frozen=True)
class Entry:
    """Where an optimizer comes from.

    Args:
        name: canonical.
        package: as pip calls it.
        path: `module:class`.
        defaults: what differs from the defaults of the class.
    """

    name: str
    package: str
    path: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_installed(self) -> bool:
        return find_spec(MODULES.get(self.package, self.package)) is not None

    def load(self) -> type[Optimizer]:
        """The class; MissingPackage where it cannot be had."""
        needed = _REQUIRES.get(self.name)
        if needed and not find_spec(needed):
            raise MissingPackage(
                f"optimizer.name={self.name}: needs {needed}, which is not installed: "
                f"pip install {needed}"
            )
        module, _, attribute = self.path.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if self.is_installed:
                reason = f"the installed {self.package} does not have it ({error})"
                raise MissingPackage(f"optimizer.name={self.name}: {reason}") from error
            how = EXTRAS.get(self.package, f"pip install {self.package}")
            raise MissingPackage(
                f"optimizer.name={self.name}: from {self.package}, which is not installed: {how}"
            ) from error


_MOMENTUM = {"momentum": 0.9}
_NESTEROV = {"momentum": 0.9, "nesterov": True}
_TORCH: dict[str, tuple[str, Mapping[str, Any]]] = {
    "sgd": ("SGD", _NESTEROV),
    "momentum": ("SGD", _MOMENTUM),
    "nesterov": ("SGD", _NESTEROV),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
    "adagrad": ("Adagrad", {}),
    "adadelta": ("Adadelta", {}),
    "rmsprop": ("RMSprop", {}),
    "adamax": ("Adamax", {}),
    "adafactor": ("Adafactor", {}),
    "asgd": ("ASGD", {}),
    "rprop": ("Rprop", {}),
    "sparseadam": ("SparseAdam", {}),
    "lbfgs": ("LBFGS", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", {}),
}
_TIMM: dict[str, tuple[str, Mapping[str, Any]]] = {
    "lamb": ("Lamb", {}),
    "lars": ("Lars", _MOMENTUM),
    "larc": ("Lars", _MOMENTUM | {"trust_clip": True}),
    "lion": ("Lion", {}),
    "muon": ("Muon", {}),
}
_PYTORCH_OPTIMIZER = {
    "sophia": "SophiaH",
    "dadaptadam": "DAdaptAdam",
    "dadaptadagrad": "DAdaptAdaGrad",
    "dadaptsgd": "DAdaptSGD",
    "prodigy": "Prodigy",
    "schedulefree": "ScheduleFreeAdamW",
}
_BITSANDBYTES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "bnb_adam": ("Adam8bit", {}),
    "bnb_adamw": ("AdamW8bit", {}),
    "bnb_adagrad": ("Adagrad8bit", {}),
    "bnb_ademamix": ("AdEMAMix8bit", {}),
    "bnb_lamb": ("LAMB8bit", {}),
    "bnb_lars": ("LARS8bit", _MOMENTUM),
    "bnb_lion": ("Lion8bit", {}),
    "bnb_rmsprop": ("RMSprop8bit", {}),
    "bnb_sgd": ("SGD8bit", _NESTEROV),
    "bnb_momentum": ("SGD8bit", _MOMENTUM),
    "bnb_nesterov": ("SGD8bit", _NESTEROV),
}
_DEEPSPEED = {
    "deepspeed_fusedadam": "deepspeed.ops.adam:FusedAdam",
    "deepspeed_cpuadam": "deepspeed.ops.adam:DeepSpeedCPUAdam",
    "deepspeed_fusedlamb": "deepspeed.ops.lamb:FusedLamb",
    "deepspeed_onebitadam": "deepspeed.runtime.fp16.onebit.adam:OnebitAdam",
    "deepspeed_onebitlamb": "deepspeed.runtime.fp16.onebit.lamb:OnebitLamb",
}
# What needs a little to be like the rest, see there.
_ADAPTERS = "autowu.trainer.optimizer_adapters"
_TIMM_ADAPTED = {"adahessian": "autowu.trainer.timm_adapters:Adahessian"}
_ADAPTED = {
    "adago": "AdaGO",
    "adalomo": "AdaLOMO",
    "adammini": "AdamMini",
    "adashift": "AdaShift",
    "alig": "AliG",
    "conda": "Conda",
    "distributedmuon": "DistributedMuon",
    "lomo": "LOMO",
    "magma": "Magma",
    "muonclip": "MuonClip",
    "normuon": "NorMuon",
    "ranger21": "Ranger21",
    "scalableshampoo": "ScalableShampoo",
    "scion": "SCION",
    "scionlight": "SCIONLight",
}
# Own defaults of ours: what a class requires, or what would keep it from following a schedule.
_DEFAULTS: dict[str, Mapping[str, Any]] = {
    "apollodqn": {"warmup_steps": 0},
    "csgdp": {"lr": 1e-3},
    "ranger21": {"num_iterations": 1, "disable_lr_scheduler": True},
    "sara": {"lr": 1e-3},
}
_REQUIRES = {"demo": "einops"}  # what a class imports when it is built


def _table() -> dict[str, Entry]:
    entries = [Entry(n, "torch", f"torch.optim:{kind}", own) for n, (kind, own) in _TORCH.items()]
    entries += [
        Entry("adamp", "adamp", "adamp:AdamP"),
        Entry("sgdp", "adamp", "adamp:SGDP", {"lr": 1e-3, **_NESTEROV}),
    ]
    entries += [Entry(n, "timm", f"timm.optim:{kind}", own) for n, (kind, own) in _TIMM.items()]
    entries += [
        Entry(n, "pytorch-optimizer", f"pytorch_optimizer:{kind}")
        for n, kind in _PYTORCH_OPTIMIZER.items()
    ]
    entries += [
        Entry(n, "bitsandbytes", f"bitsandbytes.optim:{kind}", own)
        for n, (kind, own) in _BITSANDBYTES.items()
    ]
    entries += [Entry(n, "deepspeed", path) for n, path in _DEEPSPEED.items()]
    return {squash(entry.name): entry for entry in entries}


TABLE = _table()


@cache
def _timm_entries() -> dict[str, Entry]:
    """What timm registers, with the defaults that it registers it with."""
    try:
        from timm.optim._optim_factory import default_registry
    except ImportError:
        return {}
    entries = {}
    for name in map(str, default_registry.list_optimizers()):
        info = default_registry.get_optimizer_info(name)
        kind = info.opt_class
        if isinstance(kind, str):
            path = ":".join(kind.rsplit(".", 1))
        else:
            path = f"{kind.__module__}:{kind.__qualname__}"
        package = path.partition(".")[0]
        path = _TIMM_ADAPTED.get(name, path)
        # timm's factory gives momentum to all that have it.
        defaults = dict(_MOMENTUM) if info.has_momentum else {}
        defaults = {**defaults, **(info.defaults or {}), **_DEFAULTS.get(name, {})}
        entries[squash(name)] = Entry(name, package, path, defaults)
    return entries


@cache
def _pytorch_optimizer_entries() -> dict[str, Entry]:
    try:
        from pytorch_optimizer import get_supported_optimizers, load_optimizer
    except ImportError:
        return {}
    entries = {}
    for name in get_supported_optimizers():
        kind = load_optimizer(name)
        path = f"{kind.__module__}:{kind.__qualname__}"
        if name in _ADAPTED:
            path = f"{_ADAPTERS}:{_ADAPTED[name]}"
        entries[squash(name)] = Entry(name, "pytorch-optimizer", path, _DEFAULTS.get(name, {}))
    return entries


@cache
def _all_entries() -> dict[str, Entry]:
    """Every name, whether installed or not, the first library that has it winning."""
    return _pytorch_optimizer_entries() | _timm_entries() | TABLE


def find(name: str) -> Entry:
    """The entry of a name in any spelling.

    Raises:
        ValueError: there is none; the message has the nearest names.
    """
    if not isinstance(name, str):
        raise ValueError(f"optimizer.name={name!r}: must be a name")
    key = squash(name)
    if key == "lookahead":
        raise ValueError(
            "optimizer.name=lookahead: is a wrapper around any other one, optimizer.lookahead=true"
        )
    entry = TABLE.get(key) or _timm_entries().get(key) or _all_entries().get(key)
    if entry is None:
        names = [each.name for each in _all_entries().values()]
        hint = closest(name.lower(), names, most=3) or "; autowu.trainer.optimizers.available()"
        if not find_spec("pytorch_optimizer"):
            hint += f"; more with {EXTRAS['pytorch-optimizer']}"
        raise ValueError(f"optimizer.name={name}: unknown{hint}")
    return entry


def canonical(name: str) -> str:
    """The name as `available()` has it; ValueError with the nearest names for an unknown one."""
    return find(name).name


def source(name: str) -> str:
    """The package that an optimizer comes from, as pip calls it."""
    return find(name).package


def available() -> list[str]:
    """The canonical names of what can be built here, sorted."""
    return sorted(entry.name for entry in _all_entries().values() if _can_load(entry))


def _can_load(entry: Entry) -> bool:
    if not entry.is_installed:
        return False
    try:
        entry.load()
    except MissingPackage:
        return False
    return True


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The keyword parameters of an optimizer with our defaults, without that of the parameters."""
    entry = find(name)
    found = list(inspect.signature(entry.load().__init__).parameters.values())[2:]
    return {
        each.name: each.replace(default=entry.defaults.get(each.name, each.default))
        for each in found
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }


def keywords(name: str) -> dict[str, Any]:
    """What an optimizer takes besides parameters, with the default of each."""
    return {key: each.default for key, each in parameters(name).items()}


def create(name: str, params: Iterable[Any], **settings: Any) -> Optimizer:
    """Build an optimizer.

    Args:
        name: in any spelling, see `available()`.
        params: parameters or group dicts, as for any torch optimizer.
        **settings: its own keywords, see `keywords(name)`; what is left out has the default there.
            `weight_decay=0` is accepted by those without weight decay too.

    Raises:
        ValueError: an unknown name or keyword, or a value that the optimizer refuses.
        MissingPackage: it is not installed; the message says what installs it. A
            ModuleNotFoundError and a ValueError.
    """
    entry = find(name)
    kind = entry.load()
    known = keywords(name)
    if "weight_decay" not in known and settings.get("weight_decay") in (0, None):
        settings.pop("weight_decay", None)
    for key, value in settings.items():
        if key == "weight_decay" and key not in known:
            raise ValueError(f"optimizer.weight_decay={value}: {entry.name} has no weight decay")
        if key not in known:
            raise ValueError(
                f"optimizer.{key}={value}: {entry.name} does not take it{closest(key, known)}; "
                f"it takes {', '.join(known)}"
            )
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty]
    for key in missing:
        if key not in settings:
            raise ValueError(f"optimizer.{key}: {entry.name} needs it")
    for key in ("lr", "weight_decay"):
        _check_number(entry.name, key, settings.get(key))
    arguments = dict(entry.defaults) | {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    try:
        return kind(params, **arguments)
    except (ValueError, TypeError, AssertionError, ArithmeticError) as error:
        raise ValueError(f"optimizer.name={entry.name}: {error}") from error


def _check_number(name: str, key: str, value: Any) -> None:
    if value is None or isinstance(value, torch.Tensor):
        return
    if not isinstance(value, int | float):
        raise ValueError(f"optimizer.{key}={value!r}: must be a number ({name})")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"optimizer.{key}={value}: must be at least 0 and finite ({name})")
