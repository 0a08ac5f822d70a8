"""The ranks that train together: how many, which of them this is, and what rank 0 tells them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks(group: dist.ProcessGroup | None) -> int:
    """Ranks that share the run; 1 without an initialised process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def is_first_rank(group: dist.ProcessGroup | None) -> bool:
    """Whether this is the group's rank 0, or the only one."""
    return num_ranks(group) == 1 or dist.get_rank(group) == 0


def from_first_rank(
    message: Tensor, device: torch.device, group: dist.ProcessGroup | None
) -> Tensor:
    """The message of the group's rank 0, on the CPU: one broadcast, none if there is one rank.

    Args:
        message: on the CPU; of the others the shape alone counts.
        device: where collectives run.
        group: the ranks; None: all of them.
    """
    if num_ranks(group) == 1:
        return message
    message = message.to(device)
    dist.broadcast(message, group=group, group_src=0)
    return message.cpu()


def object_from_first_rank(
    value: dict[str, Any], device: torch.device, group: dist.ProcessGroup | None
) -> dict[str, Any]:
    """The dict of the group's rank 0: two broadcasts, none if there is one rank.

    Args:
        value, device, group: as for `from_first_rank`.
    """
    if num_ranks(group) == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, group=group, device=device, group_src=0)
    return values[0]


def check_process_group(group: object) -> None:
    """Refuse what is no process group of this rank; None, all ranks, is fine.

    Raises:
        TypeError: something else.
        ValueError: torch.distributed has not begun, or this rank is not in the group.
    """
    if group is None:
        return
    if not dist.is_initialized():
        raise ValueError("process_group needs torch.distributed.init_process_group() first")
    # An integer; new_group() gives it to ranks that are not in the group.
    outside: object = dist.GroupMember.NON_GROUP_MEMBER
    if type(group) is type(outside) and group == outside:
        raise ValueError("process_group must contain this rank, and it does not")
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            "process_group must come from torch.distributed.new_group(), or from get_group() of a "
            f"device mesh, got {type(group).__name__} {group!r}"
        )
