"""What several test modules need."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class FailOnSync(TorchDispatchMode):
    """Fails on every operation that makes the host wait for a device."""

    NAMES = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "unique", "_to_copy")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in self.NAMES, func
        return func(*args, **(kwargs or {}))


def join_world(folder: str, rank: int, size: int, timeout: float) -> None:
    """Be a rank of a gloo group of processes on this machine, with one thread each."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store{size}", size)
    limit = timedelta(seconds=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)


def assert_same_state(one: Any, other: Any, path: str = "state") -> None:
    """Equal bit for bit, through nested dicts, lists and tensors; NaN equals NaN."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same_state(one[key], other[key], f"{path}[{key!r}]")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_state(a, b, f"{path}[{index}]")
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other or (one != one and other != other), path
