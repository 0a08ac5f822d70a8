"""Random numbers: the global state of every library, and states that are keyed by what they serve.

An augmentation must not depend on which process makes it, so it never draws from the global state
as it stands: the state is set from (seed, epoch, index) first, and put back afterwards.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

ACCELERATORS = ("cuda", "xpu", "mps")  # devices with a random state of their own
# What somebody may hold to draw from, apart from the global states.
GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def get_random_state(device: torch.device) -> dict[str, Any]:
    """The global states of Python, NumPy, torch and the device: numbers, tuples and tensors.

    Of a device that is none of `ACCELERATORS` there is none, and only that of the CPU is kept. That
    of another generator than NumPy's own, which somebody has set, may hold arrays, too.
    """
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    version, numbers, gauss = random.getstate()
    return {
        "python": (version, list(numbers), gauss),
        "numpy": _plain_numpy_state(state),
        "torch": torch.get_rng_state(),
        **{
            name: _get_device_state(device) if device.type == name else None
            for name in ACCELERATORS
        },
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    numbers = state["numpy"]
    if "key" in numbers:
        key = numbers["key"].numpy().astype(np.uint32)
        numbers = ("MT19937", key, numbers["pos"], numbers["has_gauss"], numbers["gauss"])
    np.random.set_state(numbers)
    torch.set_rng_state(state["torch"])
    own = state.get(device.type) if device.type in ACCELERATORS else None
    if own is not None:
        _set_device_state(own, device)


def rewinder(generator: Any) -> Callable[[], None]:
    """A function that puts one of `GENERATORS` back to where it is now."""
    if isinstance(generator, random.SystemRandom):  # draws from the system, which nobody rewinds
        return lambda: None
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return partial(setattr, bits, "state", bits.state)
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state(legacy=False))
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state())


def _plain_numpy_state(state: dict[str, Any]) -> dict[str, Any]:
    """Without arrays; that of another generator than NumPy's own, which somebody set, as it is."""
    if state["bit_generator"] != "MT19937":
        return state
    return {
        "key": torch.from_numpy(state["state"]["key"].astype(np.int64)),
        "pos": state["state"]["pos"],
        "has_gauss": state["has_gauss"],
        "gauss": state["gauss"],
    }


def _get_device_state(device: torch.device) -> Tensor:
    if device.type == "mps":  # there is but one
        return torch.mps.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def _set_device_state(state: Tensor, device: torch.device) -> None:
    if device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


def seed_everything(seed: int, rank: int, device: torch.device) -> None:
    """Set the global states; ranks differ, so that they drop out different units."""
    number = seed if rank == 0 else _fold(seed, rank)
    _seed_cpu(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)


@contextmanager
def keyed_states() -> Iterator[Any]:
    """Give a function `key(*numbers)` that sets the CPU's global states; put them back at the end.

    The state of a GPU is left alone: the augmentations that need this run on the CPU.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def key(*numbers: int) -> None:
        _seed_cpu(_fold(*numbers))

    try:
        yield key
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _seed_cpu(number: int) -> None:
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)  # torch.manual_seed would seed GPUs, too


def _fold(*numbers: int) -> int:
    """One 63-bit number from several."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
