"""The learning rates of an optimizer's groups: their copies, their reference, their ratios."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

# In groups of a CombinedOptimizer: the LR of their optimizer over that of its first.
COMBINED_RATIO = "combined_ratio"


def copy_lr(lr: Any) -> Any:
    """The same as a plain number, or a tensor that nobody else fills."""
    if isinstance(lr, Tensor):
        return lr.detach().clone()
    return float(lr) if isinstance(lr, Real) else lr


def to_cpu(lr: Any) -> Any:
    """A copy for a state."""
    copy = copy_lr(lr)
    return copy.cpu() if isinstance(copy, Tensor) else copy


def to_number(lr: Any) -> float:
    """A learning rate as a number; none is 0."""
    return 0.0 if lr is None else float(lr)


def set_lr(group: dict[str, Any], lr: Any) -> None:
    """Put a learning rate into a group; a tensor there is filled, never replaced, nor put there."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = to_number(lr) if isinstance(lr, Tensor) else lr


def reference_lr(base_lrs: Sequence[Any], default: Any) -> float:
    """The LR of the group whose ratio is 1: the optimizer's default if some group has it.

    Otherwise the largest; 0 without groups.
    """
    lrs = [to_number(lr) for lr in base_lrs]
    return to_number(default) if to_number(default) in lrs else max(lrs, default=0.0)


def to_ratio(base_lr: Any, reference: float) -> float:
    """A group's LR over that of the reference group; 1 where there is nothing to divide."""
    lr = to_number(base_lr)
    return lr / reference if lr and reference else 1.0


def lr_scale(group: dict[str, Any]) -> float:
    """The factor on a group's LR that the group gives; 1 where it has none, or None."""
    scale = group.get("lr_scale")
    return 1.0 if scale is None else float(scale)


def scaled_ratio(group: dict[str, Any], ratio: float) -> Any:
    """What AutoWU multiplies its LR by: the group's `lr_scale`, or its ratio where it has none."""
    scale = group.get("lr_scale")
    return ratio if scale is None else scale * group.get(COMBINED_RATIO, 1.0)


def check_added_groups(groups: Sequence[dict[str, Any]], num_known: int) -> None:
    """Look at the LR and the `lr_scale` of all groups but the first ones; either may be None.

    Raises:
        TypeError: one is neither a number nor a tensor of one element.
        ValueError: one is negative or not finite.
    """
    for index, group in enumerate(groups[num_known:], num_known):
        for key in ("initial_lr" if "initial_lr" in group else "lr", "lr_scale"):
            where = f"of parameter group {index}"
            note = ": it is the lr that the group came with" * (key == "initial_lr")
            _check_lr(f"{key} {where}", group.get(key), note)


def check_saved_lrs(state: dict[str, Any], num_groups: int) -> None:
    """Look at the `base_lrs` and `other_lrs` of a state, each a sequence of LRs, any of them None.

    Raises:
        TypeError: an LR is neither a number nor a tensor of one element.
        ValueError: a base LR is negative or not finite, or there are more than the optimizer's
            groups.
    """
    for name in ("base_lrs", "other_lrs"):
        lrs = state[name]
        if len(lrs) > num_groups:
            raise ValueError(
                f"the state is that of {len(lrs)} parameter groups, the optimizer has {num_groups}"
            )
        for index, lr in enumerate(lrs):
            # What another writes is its own affair.
            _check_lr(f"{name}[{index}] of the state", lr, may_be_any=name == "other_lrs")


def _check_lr(name: str, value: Any, note: str = "", *, may_be_any: bool = False) -> None:
    if value is None:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, Tensor) and value.numel() == 1):
        raise TypeError(
            f"{name} must be a number or a 0-d tensor, got {type(value).__name__} {value!r}"
        )
    if not may_be_any and not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}{note}")


def lrs_of_others(optimizer: Optimizer, last_lrs: Sequence[Any]) -> tuple[Any, ...]:
    """The LR of each group in which another than the scheduler has written, None for the rest.

    Of a group that came in since its last step, too, or after its turn in a SequentialLR.

    Args:
        optimizer: whose groups.
        last_lrs: what the scheduler wrote last into its first groups.
    """
    others: list[Any] = []
    for index, group in enumerate(optimizer.param_groups):
        is_known = index < len(last_lrs)
        is_own = is_known and to_number(group["lr"]) == to_number(last_lrs[index])
        others.append(None if is_own else to_cpu(group["lr"]))
    return tuple(others)


def put_back(optimizer: Optimizer, lrs: Sequence[Any]) -> None:
    """Write what `lrs_of_others` said."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=False):
        if lr is not None:
            set_lr(group, lr)


def with_added_groups(optimizer: Optimizer, base_lrs: Sequence[Any]) -> list[Any]:
    """The base LRs of all groups, given those of the first ones; each group has an `initial_lr`.

    Raises:
        ValueError: a group was removed.
    """
    groups = optimizer.param_groups
    if len(groups) < len(base_lrs):
        raise ValueError(
            f"the optimizer has {len(groups)} parameter groups, and had {len(base_lrs)}: groups "
            "can be added during a run, not removed"
        )
    separate_shared_lrs(optimizer)
    added = groups[len(base_lrs) :]
    for group in added:
        group.setdefault("initial_lr", copy_lr(group["lr"]))
    return [*base_lrs, *(copy_lr(group["initial_lr"]) for group in added)]


def separate_shared_lrs(optimizer: Optimizer) -> None:
    """Clone a tensor LR that groups share, or that is the optimizer's default: each has its own."""
    separate_default_lr(optimizer)
    seen: set[int] = set()
    for group in optimizer.param_groups:
        lr = group.get("lr")
        if isinstance(lr, Tensor):
            if id(lr) in seen:
                group["lr"] = lr.clone()
            seen.add(id(group["lr"]))


def separate_default_lr(optimizer: Optimizer) -> None:
    """Clone the optimizer's default LR, if it is a tensor, which groups may have for theirs."""
    default = optimizer.defaults.get("lr")
    if isinstance(default, Tensor):
        optimizer.defaults["lr"] = default.clone()
