"""Several optimizers as one: Muon for the matrices and AdamW for the rest, for example."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer

from autowu.group_lrs import COMBINED_RATIO as RATIO
from autowu.group_lrs import reference_lr, separate_default_lr, to_ratio

# What stands in each group, so that it is saved wherever groups are: which optimizer has it, its
# place among all groups, and the LR of its optimizer over that of the first.
OWNER, PLACE = "combined_owner", "combined_place"


class CombinedOptimizer(Optimizer):
    """Takes the steps of several optimizers, each with parameters of its own, as one optimizer.

    So that one scheduler, one GradScaler and one checkpoint serve them all:

        muon = torch.optim.Muon(matrices, lr=0.02)
        optimizer = CombinedOptimizer(muon, torch.optim.AdamW(others, lr=0.003))
        scheduler = AutoWU(optimizer, total_steps)

    AutoWU keeps the ratios of the LRs that the groups come with; the LRs that it is given and that
    it tells are those of the first optimizer: of its groups with the LR that is its default, or of
    the one with the largest. A group's `lr_scale` is a factor on the LR of its own optimizer. The
    probe is one of all of them together.

    Groups and state are those of the optimizers, the same objects; a group that is added to one of
    them later comes after all others, in a new list. The state_dict has torch's form, as that of
    one optimizer with all groups. Wrappers such as Lookahead go around the optimizers, not around
    this one.

    Args:
        optimizers: one or more of any kind, without a parameter in common. In `step` they go one
            after the other, in this order.

    Attributes:
        optimizers: as given, a tuple; those of a CombinedOptimizer in place of it.

    Raises:
        TypeError: one is no Optimizer.
        ValueError: there is none, or two have a parameter in common.
    """

    optimizers: tuple[Optimizer, ...]
    _places: dict[tuple[int, int], int]  # of a group, by its optimizer and its index there
    _ratios: list[float]  # of the LR of each optimizer to that of the first
    _states: "_States"

    def __init__(self, *optimizers: Optimizer) -> None:
        if not optimizers:
            raise ValueError("CombinedOptimizer takes one optimizer or more, got none")
        given: list[Optimizer] = []
        for each in optimizers:
            if not isinstance(each, Optimizer):
                raise TypeError(
                    "CombinedOptimizer takes torch Optimizers, one after the other, got "
                    f"{type(each).__name__}"
                )
            if any(isinstance(value, CombinedOptimizer) for value in vars(each).values()):
                raise ValueError(
                    f"{type(each).__name__} goes around a CombinedOptimizer: put it around the "
                    "optimizers of that"
                )
            given += each.optimizers if isinstance(each, CombinedOptimizer) else [each]
        owners: dict[Tensor, int] = {}
        for index, each in enumerate(given):
            for parameter in _parameters(each):
                if owners.setdefault(parameter, index) != index:
                    raise ValueError(
                        f"optimizers {owners[parameter]} and {index} have a parameter in common, "
                        f"of shape {tuple(parameter.shape)}: give each parameter to one of them"
                    )
            for group in each.param_groups:  # of another combination
                for name in (OWNER, PLACE, RATIO):
                    group.pop(name, None)
            separate_default_lr(each)  # a schedule would fill it with the LR of a group
        # The base class's __init__ would make groups of its own; this sets up the hooks alone.
        lrs = list(map(_lr_of, given))
        ratios = [to_ratio(lr, lrs[0]) for lr in lrs]
        self.__setstate__({"optimizers": tuple(given), "_places": {}, "_ratios": ratios})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._states = _States(self.optimizers)
        super().__setstate__({})
        self._place_groups()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("optimizers", "_places", "_ratios")}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups, in a new list, by their places."""
        self._place_groups()
        groups = [group for each in self.optimizers for group in each.param_groups]
        return sorted(groups, key=lambda group: group[PLACE])

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        for owner, each in enumerate(self.optimizers):
            each.param_groups = [group for group in groups if group[OWNER] == owner]

    @property
    def state(self) -> Any:
        """What the optimizers note of each parameter; writing to it writes to theirs."""
        return self._states

    @state.setter
    def state(self, state: Mapping[Tensor, Any]) -> None:
        for each in self.optimizers:
            own = {p: state[p] for p in _parameters(each) if p in state}
            each.state = defaultdict(dict, own)

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """What all optimizers have defaults of, as the first has it; `lr`: that of its groups."""
        first, *others = self.optimizers
        common = {
            name: value
            for name, value in first.defaults.items()
            if all(name in each.defaults for each in others)
        }
        return common | {"lr": _lr_of(first) or max(map(_lr_of, self.optimizers))}

    def __getattr__(self, name: str) -> Any:
        if name in ("train", "eval"):  # of those that have two sets of weights, as Schedule-Free
            optimizers = self.__dict__.get("optimizers", ())
            methods = [getattr(each, name) for each in optimizers if hasattr(each, name)]
            if methods:
                return partial(_call_all, methods)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.optimizers))})"

    def add_param_group(self, param_group: dict[str, Any]) -> NoReturn:
        raise TypeError(
            "CombinedOptimizer cannot tell which of its optimizers a group is for: add it to one, "
            "optimizer.optimizers[0].add_param_group(...)"
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        for each in self.optimizers:
            each.zero_grad() if set_to_none else each.zero_grad(set_to_none=False)

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

    def state_dict(self) -> dict[str, Any]:
        """In torch's form: all groups by their places, the parameters numbered in this order.

        Where the state_dict of an optimizer has another form: `optimizers`, each one's own.
        """
        self._place_groups()
        states = [each.state_dict() for each in self.optimizers]
        if not all(map(_has_torchs_form, states)):
            return {"optimizers": states}
        groups = [(group, own["state"]) for own in states for group in own["param_groups"]]
        return _renumbered(sorted(groups, key=lambda entry: entry[0][PLACE]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, with as many optimizers, groups and parameters.

        Raises:
            ValueError: it is no such state, or does not fit; before anything is loaded.
        """
        states = state_dict.get("optimizers") or _of_each(state_dict)
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"the state is that of {len(states)} optimizers, these are {len(self.optimizers)}"
            )
        for owner, (each, state) in enumerate(zip(self.optimizers, states, strict=True)):
            sizes = [len(group["params"]) for group in each.param_groups]
            saved = [len(group["params"]) for group in state.get("param_groups", ())]
            if "param_groups" in state and sizes != saved:
                raise ValueError(
                    f"optimizer {owner} has groups of {sizes} parameters, in the state of {saved}"
                )
        for each, state in zip(self.optimizers, states, strict=True):
            each.load_state_dict(state)

    def _place_groups(self) -> None:
        """Note in each group whose it is and its place, as loaded or as before; new ones last."""
        places = self._places.copy()
        for owner, each in enumerate(self.optimizers):
            for index, group in enumerate(each.param_groups):
                group[OWNER], group[RATIO] = owner, self._ratios[owner]
                place = places.get((owner, index))
                if place is None:  # whatever it says, for it may be the copy of another group
                    place = group[PLACE] = max(places.values(), default=-1) + 1
                places[owner, index] = group.setdefault(PLACE, place)
        if places == self._places:
            return
        before, self._places = self._places, places
        if sorted(before, key=before.__getitem__) != sorted(before, key=places.__getitem__):
            warnings.warn(
                "the groups of a CombinedOptimizer stand in another order by the state that was "
                "loaded, and schedulers go by it: load the scheduler's state, too",
                stacklevel=3,
            )

    def _no_hook(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "CombinedOptimizer has no hooks of its state_dict: register it with one of `optimizers`"
        )

    register_state_dict_pre_hook = register_state_dict_post_hook = _no_hook
    register_load_state_dict_pre_hook = register_load_state_dict_post_hook = _no_hook


class _States(MutableMapping[Tensor, Any]):
    """The states of several optimizers by parameter; what else they note stays theirs alone."""

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self._optimizers = optimizers
        self._owners: dict[Tensor, Optimizer] = {}

    def _owner(self, parameter: Tensor) -> Optimizer:
        if parameter not in self._owners:  # of a new group, unless it is nobody's
            self._owners = {p: owner for owner in self._optimizers for p in _parameters(owner)}
        return self._owners[parameter]

    def __getitem__(self, parameter: Tensor) -> Any:
        return self._owner(parameter).state[parameter]

    def __setitem__(self, parameter: Tensor, state: Any) -> None:
        self._owner(parameter).state[parameter] = state

    def __delitem__(self, parameter: Tensor) -> None:
        del self._owner(parameter).state[parameter]

    def __iter__(self) -> Iterator[Tensor]:
        own = [(p, owner) for owner in self._optimizers for p in _parameters(owner)]
        return iter([parameter for parameter, owner in own if parameter in owner.state])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        for parameter in list(self):
            del self[parameter]

    def __contains__(self, parameter: object) -> bool:
        return any(parameter in each.state for each in self._optimizers)


def _call_all(functions: Iterable[Callable[[], Any]]) -> None:
    for function in functions:
        function()


def _lr_of(optimizer: Optimizer) -> float:
    """The LR that those of its groups are ratios of; 0 without any."""
    lrs = [group.get("initial_lr", group.get("lr")) for group in optimizer.param_groups]
    return reference_lr(lrs, optimizer.defaults.get("lr"))


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _of_each(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a state in torch's form that of each optimizer.

    Its groups may be in another order than they are saved in: DCP sorts them as those of the new
    optimizer.
    """
    groups = sorted(state.get("param_groups", ()), key=lambda group: group.get(PLACE, 0))
    if not groups or not all(OWNER in group and PLACE in group for group in groups):
        found = sorted(map(str, state))[:8]
        raise ValueError(f"not a state_dict of CombinedOptimizer: it holds {found}")
    return [
        _renumbered([(group, state["state"]) for group in groups if group[OWNER] == owner])
        for owner in range(1 + max(group[OWNER] for group in groups))
    ]


def _renumbered(groups: Iterable[tuple[dict[str, Any], dict[int, Any]]]) -> dict[str, Any]:
    """A state_dict of these groups, each with the states of its parameters by their old numbers."""
    state: dict[int, Any] = {}
    packed: list[dict[str, Any]] = []
    begin = 0
    for group, known in groups:
        numbers = range(begin, begin + len(group["params"]))
        pairs = zip(numbers, group["params"], strict=True)
        state |= {number: known[old] for number, old in pairs if old in known}
        packed.append(group | {"params": list(numbers)})
        begin = numbers.stop
    return {"state": state, "param_groups": packed}


def _has_torchs_form(state: dict[str, Any]) -> bool:
    """`state`, by the numbers of the parameters, and `param_groups`, with all of them."""
    if state.keys() != {"state", "param_groups"}:
        return False
    return all(isinstance(key, int) for key in state["state"])
