"""What several test modules need."""

from typing import Any

import torch
from torch import Tensor


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
