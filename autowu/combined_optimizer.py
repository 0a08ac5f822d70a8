"""Several optimizers as one: Muon for the matrices and AdamW for the rest, for example."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer


class CombinedOptimizer(Optimizer):
    """Takes the steps of several optimizers, each with parameters of its own, as one optimizer.

    So that one scheduler, one GradScaler and one checkpoint serve them all:

        muon = torch.optim.Muon(matrices, lr=0.02)
        optimizer = CombinedOptimizer(muon, torch.optim.AdamW(others, lr=0.003))
        scheduler = AutoWU(optimizer, total_steps)

    AutoWU keeps the ratios of the LRs that the groups come with; the LRs that it is given and that
    it tells are those of the first optimizer. Its probe is a probe of all of them together.

    Groups and state are those of the optimizers, the same objects; a group that is added to one of
    them later comes after all others. DCP, which looks into optimizers itself, takes `optimizers`.

    Args:
        optimizers: one or more of any kind, without a parameter in common. In `step` they go one
            after the other, in this order.

    Attributes:
        optimizers: as given, a tuple.

    Raises:
        TypeError: one is no Optimizer.
        ValueError: there is none, or two have a parameter in common.
    """

    optimizers: tuple[Optimizer, ...]
    _order: list[tuple[int, int]]

    def __init__(self, *optimizers: Optimizer) -> None:
        if not optimizers:
            raise ValueError("CombinedOptimizer takes one optimizer or more, got none")
        for each in optimizers:
            if not isinstance(each, Optimizer):
                raise TypeError(
                    "CombinedOptimizer takes torch Optimizers, one after the other, got "
                    f"{type(each).__name__}"
                )
        owners: dict[Tensor, int] = {}
        for index, each in enumerate(optimizers):
            for parameter in _parameters(each):
                if owners.setdefault(parameter, index) != index:
                    raise ValueError(
                        f"optimizers {owners[parameter]} and {index} have a parameter in common, "
                        f"of shape {tuple(parameter.shape)}: give each parameter to one of them"
                    )
        # The base class's __init__ would make groups of its own; this sets up the hooks alone.
        self.__setstate__({"optimizers": optimizers, "_order": []})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """All groups in a new list, in the order in which they came."""
        return [self.optimizers[owner].param_groups[group] for owner, group in self._known_order()]

    @property
    def state(self) -> MutableMapping[Tensor, Any]:  # type: ignore[override]
        """What the optimizers note of each parameter; writing to it writes to theirs."""
        return _States(self.optimizers)

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """Those of the first optimizer."""
        return self.optimizers[0].defaults

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers, "_order": self._order}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.optimizers))})"

    def add_param_group(self, param_group: dict[str, Any]) -> NoReturn:
        raise TypeError(
            "CombinedOptimizer cannot tell which of its optimizers a group is for: add it to one, "
            "optimizer.optimizers[0].add_param_group(...)"
        )

    def state_dict(self) -> dict[str, Any]:
        """The `state_dict` of each optimizer, and the order of the groups."""
        order = [list(place) for place in self._known_order()]
        return {"optimizers": [each.state_dict() for each in self.optimizers], "order": order}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, with as many optimizers.

        Raises:
            ValueError: it is no such state, or has another number of optimizers.
        """
        states = state_dict.get("optimizers")
        if not isinstance(states, list) or "order" not in state_dict:
            raise ValueError(
                f"not a state_dict of CombinedOptimizer: it holds {sorted(state_dict)[:8]}"
            )
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"the state is that of {len(states)} optimizers, these are {len(self.optimizers)}"
            )
        for each, state in zip(self.optimizers, states, strict=True):
            each.load_state_dict(state)
        places = sorted(self._known_order())
        order = [(owner, group) for owner, group in state_dict["order"]]
        if sorted(order) != places:
            raise ValueError(f"the order of the groups in the state is {order}, expected {places}")
        self._order = order

    def zero_grad(self, set_to_none: bool = True) -> None:
        for each in self.optimizers:
            each.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of each optimizer.

        Args:
            closure: computes the gradients anew and returns the loss; called once, before them.
                An optimizer that must call it itself, as L-BFGS does, cannot be combined.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for each in self.optimizers:
            each.step()
        return loss

    def _known_order(self) -> list[tuple[int, int]]:
        """Of each group its optimizer and its place there; those that are new come last."""
        for index, each in enumerate(self.optimizers):
            num_known = sum(owner == index for owner, _ in self._order)
            self._order += [(index, group) for group in range(num_known, len(each.param_groups))]
        return self._order

    def _no_hook(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "CombinedOptimizer has no hooks of its state_dict: register it with one of `optimizers`"
        )

    register_state_dict_pre_hook = register_state_dict_post_hook = _no_hook
    register_load_state_dict_pre_hook = register_load_state_dict_post_hook = _no_hook


class _States(MutableMapping[Tensor, Any]):
    """The states of several optimizers by parameter; what else they note stays theirs alone."""

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self._owners = {each: owner for owner in optimizers for each in _parameters(owner)}

    def __getitem__(self, parameter: Tensor) -> Any:
        return self._owners[parameter].state[parameter]

    def __setitem__(self, parameter: Tensor, state: Any) -> None:
        self._owners[parameter].state[parameter] = state

    def __delitem__(self, parameter: Tensor) -> None:
        del self._owners[parameter].state[parameter]

    def __iter__(self) -> Iterator[Tensor]:
        return iter([each for each, owner in self._owners.items() if each in owner.state])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, parameter: object) -> bool:
        owner = self._owners.get(parameter)  # type: ignore[call-overload]
        return owner is not None and parameter in owner.state


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
