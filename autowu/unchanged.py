"""A block after which a network and its optimizer are as they were, bit for bit."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autowu.random_state import get_random_state, set_random_state

PLAIN = (int, float, str, type(None), Tensor, random.Random)  # what an optimizer notes of itself


@contextmanager
def unchanged(network: nn.Module, optimizer: Optimizer, device: torch.device) -> Iterator[None]:
    """A block after which, however it ends, all that training changes is as it was, bit for bit.

    Parameters, their gradients and buffers; the train or eval mode of each module; moments, LRs and
    whatever else stands in the optimizer's groups; the random states of Python, NumPy, torch and
    the device. A copy of them lies on the device meanwhile.
    """
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    parameters = list(dict.fromkeys([*network.parameters(), *groups]))
    tensors = [*parameters, *network.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    gradients = [parameter.grad for parameter in parameters]
    modes = [(module, module.training) for module in network.modules()]
    random_state = get_random_state(device)
    optimizers = [(each, _copy_optimizer(each)) for each in _with_inner(optimizer)]
    generators = [_generators(each) for each, _ in optimizers]
    names = [set(vars(each)) for each, _ in optimizers]
    try:
        # Whoever adds to a gradient in place would add to the caller's.
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        with torch.no_grad():
            for tensor, saved in zip(tensors, copies, strict=True):
                tensor.copy_(saved)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        for (each, (state, entries, attributes)), known in zip(optimizers, names, strict=True):
            _restore_optimizer(each, state, entries, attributes)
            # torch notes `_opt_called` at the first step, to warn of one that comes too late.
            for name in set(vars(each)) - known:
                if isinstance(vars(each)[name], PLAIN):
                    del vars(each)[name]
        for (each, _), own in zip(optimizers, generators, strict=True):
            for name, (generator, numbers) in own.items():
                generator.set_state(numbers)
                vars(each)[name] = generator  # an optimizer may make another one on its device
        set_random_state(random_state, device)


def _with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, as Lookahead does."""
    found = [optimizer]
    for each in found:
        inner = [value for value in vars(each).values() if isinstance(value, Optimizer)]
        found += [value for value in inner if all(value is not known for known in found)]
    return found


def _copy_optimizer(optimizer: Optimizer) -> tuple[dict[Any, Any], list[dict[str, Any]], Any]:
    """Its state by parameter, its groups without their parameters, and its plain attributes.

    Not its `state_dict`, through which moments may come back in the dtype of the weights.
    """
    state = {key: _copy(value) for key, value in optimizer.state.items()}
    entries = [
        {key: _copy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    attributes = {
        key: _copy(value)
        for key, value in vars(optimizer).items()
        # Of dicts plain ones: hooks are in others, and belong to whoever registered them.
        if isinstance(value, PLAIN) or (type(value) is dict and key != "defaults")
    }
    return state, entries, attributes


def _generators(optimizer: Optimizer) -> dict[str, tuple[torch.Generator, Tensor]]:
    """Those that it draws from, and their states, by the names of its attributes."""
    own = vars(optimizer).items()
    return {name: (g, g.get_state()) for name, g in own if isinstance(g, torch.Generator)}


def _restore_optimizer(
    optimizer: Optimizer,
    state: dict[Any, Any],
    entries: list[dict[str, Any]],
    attributes: dict[str, Any],
) -> None:
    optimizer.state.clear()
    optimizer.state.update(state)
    for group, kept in zip(optimizer.param_groups, entries, strict=True):
        lr = group["lr"]
        parameters = group["params"]
        group.clear()
        group.update({"params": parameters} | kept)
        if isinstance(lr, Tensor) and isinstance(kept["lr"], Tensor):
            group["lr"] = lr.copy_(kept["lr"])  # whoever holds that tensor still does
    vars(optimizer).update(attributes)


def _copy(value: Any) -> Any:
    """A copy of nested dicts, lists, tensors and what else an optimizer holds."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        copied = copy.copy(value)  # of its own type, with its default factory if it has one
        copied.update((key, _copy(entry)) for key, entry in value.items())
        return copied
    if type(value) in (list, tuple):
        return type(value)(_copy(entry) for entry in value)
    return copy.deepcopy(value)
