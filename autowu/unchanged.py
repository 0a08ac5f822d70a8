"""A block after which a network and its optimizer are as they were, bit for bit."""

import copy
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from autowu.random_state import GENERATORS, get_random_state, rewinder, set_random_state

# What an optimizer notes of itself.
PLAIN = (int, float, str, type(None), Tensor, *GENERATORS)
BUILT_IN = ("torch", "builtins")  # where the classes of a module come from that is torch's own
WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel")
OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # its train mode, and what torch notes of hooks

Restore = Callable[[], Any]  # puts back what a value was, and returns that value


@contextmanager
def unchanged(network: nn.Module, optimizer: Optimizer, device: torch.device) -> Iterator[None]:
    """A block after which, however it ends, all that training changes is as it was, bit for bit.

    Parameters, of a momentum encoder too, their gradients, and buffers; the train or eval mode of
    each module, and which numbers, flags and tensors its other attributes are (a tensor there that
    is changed in place stays changed); what is frozen; moments, LRs and whatever else stands in the
    optimizer's groups; the random states of Python, NumPy, torch, the device (CUDA, XPU or MPS) and
    the generators of any of these that modules hold. A copy of them lies on the device meanwhile.
    Tensors and dicts stay the same objects, for whoever else holds them. Of a network that FSDP2
    shards the whole weights, which a forward pass may leave behind, are given up before and after,
    and gradients that it has not reduced yet are lost.

    Raises:
        ValueError: a parameter or buffer of a lazy layer has no shape yet.
    """
    _reshard(network)  # or what it has for parameters are copies that the next step frees
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    parameters = list(dict.fromkeys([*network.parameters(), *groups]))
    if any(map(is_lazy, [*parameters, *network.buffers()])):
        raise ValueError(
            "the network has lazy layers that have no weights yet: give it a batch first, "
            "model(inputs), and construct the optimizer after that"
        )
    by_id = {id(parameter) for parameter in parameters}
    with ExitStack() as afterwards:  # all of it happens, in reverse order, even if some of it fails
        afterwards.callback(set_random_state, get_random_state(device), device)
        for each in _with_inner(optimizer):
            afterwards.callback(_restore_optimizer(each, by_id))
        for module in network.modules():
            afterwards.callback(setattr, module, "training", module.training)
            afterwards.callback(vars(module).update, _values_of(module))
            afterwards.callback(_restore_buffers(module))
        for generator in generators_of(network):
            afterwards.callback(rewinder(generator))
        for parameter in parameters:
            afterwards.callback(_restore_requires_grad, parameter, parameter.requires_grad)
            afterwards.callback(setattr, parameter, "grad", parameter.grad)
            afterwards.callback(_restore_tensor(parameter))
            # Whoever adds to a gradient in place would add to the caller's.
            parameter.grad = None
        afterwards.callback(_reshard, network)  # first of all, or the copies outlive the block
        yield


def _reshard(network: nn.Module) -> None:
    """What `fully_shard` made of a module, and its children, holds only this rank's part after."""
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:  # nothing is sharded by it
        return
    for module in network.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def _restore_requires_grad(parameter: Tensor, requires_grad: bool) -> None:
    if parameter.is_leaf:  # torch forbids it of others
        parameter.requires_grad_(requires_grad)


def generators_of(network: nn.Module) -> list[Any]:
    """Those of `GENERATORS` that its modules hold as attributes, or in lists, tuples and dicts."""
    held: list[Any] = [vars(module) for module in network.modules()]
    found, known = [], set()
    for each in held:
        if isinstance(each, GENERATORS):
            found.append(each)
        elif isinstance(each, dict | list | tuple) and id(each) not in known:
            known.add(id(each))  # it may hold itself
            held += _entries(each)
    return found


def _values_of(module: nn.Module) -> dict[str, Any]:
    """Attributes of a user's module, such as a temperature, or whether it has its first statistics.

    Not those of torch's own modules, some of which are wrappers that set themselves up once.
    """
    classes = type(module).__mro__  # FSDP and parametrizations make a class of torch's of a user's
    is_wrapper = any(each.__name__ in WRAPPERS for each in classes)
    if is_wrapper or all(each.__module__.partition(".")[0] in BUILT_IN for each in classes):
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if name not in OF_EVERY_MODULE
        and (type(value) in (bool, int, float, type(None)) or isinstance(value, Tensor))
    }


def _restore_tensor(tensor: Tensor) -> Restore:
    """In place, where it can be."""
    saved = tensor.detach().clone()

    @torch.no_grad()
    def restore() -> Tensor:
        if tensor.layout != torch.strided or tensor.is_nested:
            return tensor.copy_(saved)
        overlaps = any(
            n > 1 and step == 0 for n, step in zip(saved.shape, tensor.stride(), strict=False)
        )
        if tensor.shape != saved.shape or tensor.dtype != saved.dtype or overlaps:
            is_same = tensor.dtype == saved.dtype and torch.equal(tensor, saved)
            return tensor if is_same else saved
        return tensor.copy_(saved)

    return restore


def _restore_buffers(module: nn.Module) -> Restore:
    """Those that it has, whether they are changed, replaced or added to meanwhile."""
    buffers = module._buffers
    saved = {name: _restore_value(buffer, ()) for name, buffer in buffers.items()}

    def restore() -> None:
        restored = {name: each() for name, each in saved.items()}
        if isinstance(module, torch.jit.ScriptModule):  # can neither replace nor add one
            return
        buffers.clear()
        buffers.update(restored)

    return restore


def _with_inner(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, as Lookahead does, or holds in a list or a dict."""
    found = [optimizer]
    for each in found:
        held = [entry for value in vars(each).values() for entry in _entries(value)]
        inner = [entry for entry in held if isinstance(entry, Optimizer)]
        found += [value for value in inner if all(value is not known for known in found)]
    return found


def _entries(value: Any) -> Iterable[Any]:
    """Of a dict, a list or a tuple; of another value itself."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else (value,)


def _restore_optimizer(optimizer: Optimizer, parameters: Collection[int]) -> Restore:
    """Its state by parameter, its groups, and the attributes that are data.

    Not its `state_dict`, through which moments may come back in the dtype of the weights.

    Args:
        optimizer: what is put back.
        parameters: `id` of each of those that somebody else puts back.
    """
    own = vars(optimizer)
    held = optimizer.state
    state = {key: _restore_value(value, parameters) for key, value in held.items()}
    groups = [
        {k: _restore_value(value, parameters) for k, value in group.items() if k != "params"}
        for group in optimizer.param_groups
    ]
    # Hooks are in dicts of other types, and belong to whoever registered them.
    attributes = {
        name: _restore_value(value, parameters)
        for name, value in own.items()
        if name not in ("defaults", "param_groups", "state")
        and (type(value) is dict or _is_data(value))
    }
    names = set(own)

    def restore() -> None:
        known = {key: value() for key, value in state.items()}
        held.clear()
        held.update(known)
        if "state" in own:  # not where a wrapper passes on that of another
            own["state"] = held  # load_state_dict replaces it
        del optimizer.param_groups[len(groups) :]
        for group, saved in zip(optimizer.param_groups, groups, strict=True):
            entries = {key: value() for key, value in saved.items()}
            members = group["params"]
            group.clear()
            group.update({"params": members} | entries)
        for name in set(own) - names:  # torch notes `_opt_called` at the first step
            del own[name]
        own.update({name: value() for name, value in attributes.items()})

    return restore


def _is_data(value: Any) -> bool:
    if type(value) in (list, tuple) or isinstance(value, dict):
        return all(_is_data(entry) for entry in _entries(value))
    return isinstance(value, PLAIN)


def _restore_value(value: Any, parameters: Collection[int]) -> Restore:
    """Of nested dicts, lists, tensors and what else an optimizer holds."""
    if isinstance(value, Optimizer) or id(value) in parameters:
        return lambda: value
    if isinstance(value, Tensor):
        return _restore_tensor(value)
    if isinstance(value, GENERATORS):
        rewind = rewinder(value)

        def restore_generator() -> Any:
            rewind()
            return value  # an optimizer may have made another one on its device

        return restore_generator
    if isinstance(value, dict):
        entries = {key: _restore_value(entry, parameters) for key, entry in value.items()}

        def restore_dict() -> Any:
            restored = {key: entry() for key, entry in entries.items()}
            value.clear()
            value.update(restored)
            return value

        return restore_dict
    if type(value) in (list, tuple):
        parts = [_restore_value(entry, parameters) for entry in value]

        def restore_sequence() -> Any:
            restored = [entry() for entry in parts]
            if type(value) is tuple:
                return tuple(restored)
            value[:] = restored
            return value

        return restore_sequence
    saved = copy.deepcopy(value)
    return lambda: saved
