"""Where values stop being finite: the first layer, in the order in which layers are used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autowu.trainer.errors import TrainingDiverged


def describe_weights(network: nn.Module) -> str:
    """The first parameter or buffer with a value that is not finite, in words.

    >>> layer = nn.Linear(2, 1)
    >>> describe_weights(layer)
    'all weights are finite; check_finite=true names the layer where it begins'
    >>> _ = layer.bias.data.fill_(torch.nan)
    >>> describe_weights(layer)
    'the first weights that are not finite are those of bias (1 of 2 tensors)'
    """
    named = [*network.named_parameters(), *network.named_buffers()]
    finite = torch.stack([tensor.isfinite().all() for _, tensor in named]).tolist()
    lost = [name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite]
    if not lost:
        return "all weights are finite; check_finite=true names the layer where it begins"
    return (
        f"the first weights that are not finite are those of {lost[0]}"
        f" ({len(lost)} of {len(named)} tensors)"
    )


@contextmanager
def explained(network: nn.Module) -> Iterator[None]:
    """Add to a TrainingDiverged of the block which weights are not finite first."""
    try:
        yield
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{error}; {describe_weights(network)}") from None


class FiniteCheck:
    """Watches every layer's output and every gradient, and names the first that is not finite.

    Outputs are looked at on the device as they are made; `check` waits for it once a step. Layers
    are the modules without submodules, so that the name is as exact as it can be.

    Args:
        network: to be watched; not compiled.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._seen: list[tuple[str, Tensor]] = []
        for name, module in network.named_modules():
            if not any(module.children()):
                module.register_forward_hook(self._watch(name or type(module).__name__))

    def forget(self) -> None:
        """Drop what was seen since the last check."""
        self._seen = []

    def check(self, step: int, with_gradients: bool = True) -> None:
        """Raise TrainingDiverged for what is not finite since the last check.

        Args:
            step: optimizer steps done, for the message.
            with_gradients: False in fp16, whose scaler deals with gradients that overflow.
        """
        seen, self._seen = self._seen, []
        found = [("the output", name, flag) for name, flag in seen]
        if with_gradients:
            found += [
                ("the gradient", name, parameter.grad.isfinite().all())
                # The backward pass begins at the last layer.
                for name, parameter in reversed(list(self.network.named_parameters()))
                if parameter.grad is not None
            ]
        if not found:
            return
        flags = torch.stack([flag for *_, flag in found]).tolist()
        for (what, name, _), is_finite in zip(found, flags, strict=True):
            if not is_finite:
                raise TrainingDiverged(
                    f"check_finite: {what} of {name} is not finite in step {step}, the first in the"
                    " order of computation"
                )

    def _watch(self, name: str) -> Any:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if module.training and isinstance(output, Tensor) and output.is_floating_point():
                self._seen.append((name, output.detach().isfinite().all()))

        return look
