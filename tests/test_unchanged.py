"""What a block leaves as it was, and what that costs."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autowu.random_state import get_random_state, set_random_state
from autowu.unchanged import unchanged

CPU = torch.device("cpu")


class CountClones(TorchDispatchMode):
    """Of how many elements copies are made."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "clone":
            self.num_elements += args[0].numel()
        return func(*args, **(kwargs or {}))


def adagrad() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Adagrad has its moments from the beginning."""
    network = nn.Linear(30, 20, bias=False)
    return network, torch.optim.Adagrad(network.parameters())


def test_the_state_of_an_optimizer_is_copied_once() -> None:
    network, optimizer = adagrad()
    with CountClones() as count, unchanged(network, optimizer, CPU):
        pass
    assert 1200 <= count.num_elements < 1210  # weights, moments, and the count of steps


def test_a_state_that_is_replaced_in_the_block_is_the_same_object_afterwards() -> None:
    network, optimizer = adagrad()
    held, before = optimizer.state, optimizer.state[network.weight]["sum"].clone()
    with unchanged(network, optimizer, CPU):
        optimizer.load_state_dict(optimizer.state_dict())
        network(torch.ones(30)).sum().backward()
        optimizer.step()
        assert optimizer.state is not held
    assert optimizer.state is held
    assert list(held) == [network.weight]
    assert torch.equal(held[network.weight]["sum"], before)


@pytest.mark.parametrize("name", ["cuda", "xpu", "mps"])
def test_the_random_state_of_any_device_comes_back(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"of the device": torch.tensor([1], dtype=torch.uint8)}

    def write(state: Any, *device: Any) -> None:
        states["of the device"] = state

    module = getattr(torch, name)
    monkeypatch.setattr(module, "get_rng_state", lambda *device: states["of the device"])
    monkeypatch.setattr(module, "set_rng_state", write)
    device = torch.device(name)
    saved = get_random_state(device)
    states["of the device"] = torch.tensor([2], dtype=torch.uint8)
    set_random_state(saved, CPU)
    assert states["of the device"].item() == 2
    set_random_state(saved, device)
    assert states["of the device"].item() == 1
    # A checkpoint from before others than CUDA were known goes on.
    set_random_state({key: saved[key] for key in ("python", "numpy", "torch")}, device)


@pytest.mark.parametrize("make", [np.random.PCG64, np.random.Philox])
def test_the_random_state_of_another_generator_of_numpy_comes_back(make: Any) -> None:
    own = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(make(0))
        with unchanged(*adagrad(), CPU):
            drawn = np.random.random(3)
        assert np.array_equal(np.random.random(3), drawn)
    finally:
        np.random.set_bit_generator(own)


def draw(source: Any) -> Any:
    if isinstance(source, torch.Generator):
        return torch.rand((), generator=source)
    return source.random()


@pytest.mark.parametrize("hold", [lambda source: source, lambda source: {"sources": [(source,)]}])
@pytest.mark.parametrize(
    "make", [torch.Generator, random.Random, np.random.default_rng, np.random.RandomState]
)
def test_the_generators_of_modules_come_back(make: Any, hold: Any) -> None:
    network, source = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), make()
    network[0].held = held = hold(source)
    optimizer = torch.optim.SGD(network.parameters())
    with unchanged(network, optimizer, CPU):
        drawn = [draw(source) for _ in range(3)]
    assert network[0].held is held
    assert [draw(source) for _ in range(3)] == drawn


def test_a_generator_without_a_state_and_a_list_that_holds_itself_are_no_error() -> None:
    network, optimizer = adagrad()
    network.source = random.SystemRandom()
    network.cycle = cycle = [network]
    cycle.append(cycle)
    with unchanged(network, optimizer, CPU):
        pass


def test_the_generators_of_an_optimizer_are_the_same_objects_afterwards() -> None:
    network, optimizer = adagrad()
    optimizer.source = source = np.random.default_rng(0)
    with unchanged(network, optimizer, CPU):
        drawn = draw(source)
    assert optimizer.source is source
    assert draw(source) == drawn


class Annealed(nn.Linear):
    """Holds numbers and tensors that forward passes replace, and a buffer that the first makes."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.temperature = 1.0
        self.scale = torch.ones(2)
        self.is_ready = False
        self.first_mean: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.temperature *= 0.9
        self.scale = self.scale * 2.0
        if not self.is_ready:
            self.register_buffer("mask", torch.ones(2))
            self.first_mean = inputs.mean()
            self.is_ready = True
        return super().forward(inputs) * self.scale * self.mask / self.temperature


@pytest.mark.parametrize("is_parametrized", [False, True])
def test_numbers_flags_and_tensors_that_a_module_replaces_come_back(is_parametrized: bool) -> None:
    network = nn.Sequential(Annealed())
    inner: Any = network[0]
    if is_parametrized:  # its class is one of torch's then
        torch.nn.utils.parametrizations.weight_norm(inner)
    held = inner.scale
    with unchanged(network, torch.optim.SGD(network.parameters(), lr=0.1), CPU):
        network(torch.ones(2))
        assert (inner.temperature, inner.is_ready) == (0.9, True)
        assert inner.mask is not None
    assert (inner.temperature, inner.is_ready, inner.first_mean) == (1.0, False, None)
    assert inner.scale is held and held.tolist() == [1.0, 1.0]
    network(torch.ones(2))  # makes its mask again


def test_a_scripted_network_is_as_it_was() -> None:
    network = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with unchanged(network, optimizer, CPU):
        network(torch.randn(4, 2)).square().sum().backward()
        optimizer.step()
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_is_frozen_in_the_block_is_not_frozen_afterwards() -> None:
    network, optimizer = adagrad()
    with unchanged(network, optimizer, CPU):
        network.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_lazy_layers_without_weights_are_refused() -> None:
    network = nn.Sequential(nn.LazyLinear(2))
    optimizer = torch.optim.SGD(network.parameters())
    said = "lazy layers that have no weights yet"
    with pytest.raises(ValueError, match=said), unchanged(network, optimizer, CPU):
        pass


def test_a_frozen_parameter_that_takes_part_in_a_graph_afterwards_is_no_error() -> None:
    network, optimizer = adagrad()
    network.weight.requires_grad_(False)
    scale = torch.ones(1, requires_grad=True)
    with unchanged(network, optimizer, CPU):
        network.weight.mul_(scale)
        assert not network.weight.is_leaf
