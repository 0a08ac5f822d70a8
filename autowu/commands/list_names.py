"""`python -m autowu list`: the optimizers, schedules, models and data sets of this environment."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

KINDS = ("optimizers", "schedules", "models", "data")
# What a package that train.py works without would add: its module, its extra, and the kinds.
OPTIONAL: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "timm": ("timm", "timm", ("optimizers", "models")),
    "adamp": ("adamp", "train", ("optimizers",)),
    "pytorch-optimizer": ("pytorch_optimizer", "optimizers", ("optimizers",)),
    "torchvision": ("torchvision", "train", ("models", "data")),
    "scikit-learn": ("sklearn", "train", ("data",)),
    "pyarrow": ("pyarrow", "parquet", ("data",)),
}
# Who reads a data set, or has a model of ours; autowu itself where nothing is said.
DATA_SOURCES = {
    "digits": "scikit-learn",
    "imagenet": "torchvision",
    "folder": "torchvision",
    "parquet": "pyarrow",
}
MODEL_SOURCES = {"cifar_resnet18": "torchvision"}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "list",
        help="list the optimizers, schedules, models and data sets there are",
        description="List what this environment has, by the names that train.py takes, and the"
        " package that each comes from.",
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, help="whose names to list")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    kinds = KINDS if options.kind is None else (options.kind,)
    found = {kind: READERS[kind]() for kind in kinds}
    refused = reasons(found["optimizers"]) if "optimizers" in found else {}
    if options.json:
        document: dict[str, Any] = {kind: list(sources) for kind, sources in found.items()}
        document["sources"] = merge(found)
        if refused:
            document["refused"] = refused
        print(json.dumps(document, indent=2))
    elif options.kind is None:
        print(overview(found))
    else:
        print(to_text(found[options.kind], refused))
    hint = what_is_missing(kinds)
    if hint:
        print(f"python -m autowu list: {hint}", file=sys.stderr)


def merge(found: dict[str, dict[str, str]]) -> dict[str, str]:
    """The package of every name; a name of several kinds has those of all, in their order.

    >>> merge({"schedules": {"step": "autowu"}, "models": {"step": "timm", "vit": "timm"}})
    {'step': 'autowu, timm', 'vit': 'timm'}
    """
    packages: dict[str, list[str]] = {}
    for sources in found.values():
        for name, package in sources.items():
            known = packages.setdefault(name, [])
            if package not in known:
                known.append(package)
    return {name: ", ".join(known) for name, known in packages.items()}


def overview(found: dict[str, dict[str, str]]) -> str:
    """A line for each kind: its name, how many there are of it, and the command that lists them.

    >>> print(overview({"data": {"digits": "scikit-learn", "cifar10": "autowu"}}))
    data            2  python -m autowu list data
    """
    return "\n".join(
        f"{kind:<10}  {len(sources):>5}  python -m autowu list {kind}"
        for kind, sources in found.items()
    )


def to_text(sources: dict[str, str], refused: dict[str, str]) -> str:
    """A line for each name: the name, its package, and in short why train.py refuses it.

    >>> print(to_text({"sgd": "torch", "lbfgs": "torch"}, {"lbfgs": "it needs this, and not that"}))
    sgd    torch
    lbfgs  torch  (refused: it needs this)
    """
    width = max(map(len, sources))
    lines = []
    for name, package in sources.items():
        mark = f"  (refused: {re.split('[,;]', refused[name])[0]})" if name in refused else ""
        lines.append(f"{name:<{width}}  {package}{mark}")
    return "\n".join(lines)


def reasons(names: Iterable[str]) -> dict[str, str]:
    """Those of the optimizers that train.py refuses, and why."""
    from autowu.trainer.optimizers import why_refused

    found = {name: why_refused(name) for name in names}
    return {name: reason for name, reason in found.items() if reason}


def what_is_missing(kinds: tuple[str, ...]) -> str | None:
    """Which packages are not installed that would add names, and what installs them."""
    missing = [
        (package, extra)
        for package, (module, extra, adds_to) in OPTIONAL.items()
        if not _is_installed(module) and set(adds_to) & set(kinds)
    ]
    if not missing:
        return None
    extras = ",".join(dict.fromkeys(extra for _, extra in missing))
    packages = ", ".join(package for package, _ in missing)
    return f"there is more with {packages}: pip install '.[{extras}]' in a clone"


def _optimizers() -> dict[str, str]:
    from autowu.trainer import optimizers

    return {name: optimizers.source(name) for name in optimizers.available()}


def _schedules() -> dict[str, str]:
    from autowu.trainer.schedule_settings import SCHEDULES

    return dict.fromkeys(SCHEDULES, "autowu")


def _models() -> dict[str, str]:
    from autowu.trainer.models import OWN_MODELS

    found = {name: MODEL_SOURCES.get(name, "autowu") for name in OWN_MODELS}
    found = {name: package for name, package in found.items() if _has(package)}
    if _is_installed("timm"):
        import timm

        found |= {name: "timm" for name in timm.list_models() if name not in found}
    return found


def _data() -> dict[str, str]:
    from autowu.trainer.settings import DATA_SETS

    found = {name: DATA_SOURCES.get(name, "autowu") for name in DATA_SETS}
    return {name: package for name, package in found.items() if _has(package)}


def _has(package: str) -> bool:
    return package == "autowu" or _is_installed(OPTIONAL[package][0])


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


READERS: dict[str, Callable[[], dict[str, str]]] = {
    "optimizers": _optimizers,
    "schedules": _schedules,
    "models": _models,
    "data": _data,
}
