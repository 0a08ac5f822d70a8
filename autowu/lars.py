"""Layer-wise adaptive rate scaling around any optimizer.

You, Gitman and Ginsburg 2017, "Large Batch Training of Convolutional Networks", arXiv:1708.03888;
with `clip=True` it is LARC, the variant of NVIDIA's apex.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from autowu.optimizer_wrapper import OptimizerWrapper
from autowu.settings import check_number

CPU_BATCH = 2**17  # numbers; with their gradients 1 MiB in float32


class LARS(OptimizerWrapper):
    """Scales the gradient of each parameter to the norm of the parameter before another optimizer.

    For a parameter `w` with gradient `g`, in a group with weight decay `beta`:

        ratio = trust_coef * |w| / (|g| + beta * |w| + eps),   1 where |w| or |g| is 0
        ratio = min(ratio / lr, 1)                             with clip=True
        g <- ratio * (g + beta * w)

    and the base optimizer takes its step on that, with its own weight decay off: it would be
    scaled by nothing. Around SGD this is `timm.optim.Lars`, step by step.

        optimizer = LARS(torch.optim.SGD(parameters, lr=12.8, momentum=0.9, weight_decay=1e-4))

    Groups without weight decay are left to the base optimizer as they are, as in timm: they are
    where one puts biases and norms, whose norms say little. `always_adapt=True` adapts them too.

    Groups, state, defaults and state_dict are those of the base optimizer, the same objects, so
    checkpoints may be exchanged with it; schedulers and GradScaler go on the wrapper. Other
    public attributes of the base are reached through it. Gradients are scaled in place: after a
    step `p.grad` is what the base optimizer saw. That saves a copy of them all, and its time.
    Nothing waits for the device.

    Args:
        base_optimizer: any optimizer; its groups may have different weight decays.
        eps: added to the denominator; 1e-8 (apex, timm).
        trust_coef: eta of the paper; 0.001 (paper).
        clip: keep the local LR `lr * ratio` from exceeding the group's (LARC).
        always_adapt: groups without weight decay as well.

    Raises:
        TypeError: `base_optimizer` is no Optimizer.
        ValueError: `eps` or `trust_coef` is negative or not finite.
        RuntimeError: in a step, for a sparse gradient.
    """

    def __init__(
        self,
        base_optimizer: Optimizer,
        eps: float = 1e-8,
        trust_coef: float = 0.001,
        clip: bool = False,
        *,
        always_adapt: bool = False,
    ) -> None:
        if not isinstance(base_optimizer, Optimizer):
            kind = type(base_optimizer).__name__
            raise TypeError(f"base_optimizer must be a torch Optimizer, got {kind}")
        for name, value in (("eps", eps), ("trust_coef", trust_coef)):
            if not 0.0 <= check_number(name, value) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        decays = [group.get("weight_decay", 0.0) for group in base_optimizer.param_groups]
        if not always_adapt and all(isinstance(each, float | int) and each == 0 for each in decays):
            warnings.warn(
                "LARS leaves groups without weight decay as they are, and none has any: it does "
                "nothing (always_adapt=True adapts them)",
                stacklevel=2,
            )
        # The base class's __init__ would make groups of its own; this sets up the hooks alone.
        self.__setstate__(
            {
                "base_optimizer": base_optimizer,
                "eps": eps,
                "trust_coef": trust_coef,
                "clip": clip,
                "always_adapt": always_adapt,
            }
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        return self.base_optimizer.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.base_optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        return self.base_optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base_optimizer.defaults = defaults

    def __getstate__(self) -> dict[str, Any]:
        names = ("base_optimizer", "eps", "trust_coef", "clip", "always_adapt")
        return {name: self.__dict__[name] for name in names}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(eps={self.eps}, trust_coef={self.trust_coef}, clip={self.clip},"
            f" always_adapt={self.always_adapt}) around {self.base_optimizer!r}"
        )

    def state_dict(self) -> dict[str, Any]:
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base_optimizer.load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Scale the gradients, then take a step of the base optimizer; returns what that returns.

        Args:
            closure: computes the gradients anew and returns the loss; the base optimizer calls it,
                as often as it needs.
        """
        decays = [group.get("weight_decay", 0.0) for group in self.param_groups]

        def scale_gradients() -> None:
            for group, weight_decay in zip(self.param_groups, decays, strict=True):
                if self.always_adapt or isinstance(weight_decay, Tensor) or weight_decay != 0:
                    self._scale_gradients(group, weight_decay)

        def scaling_closure() -> Any:
            assert closure is not None
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                scale_gradients()
            return loss

        try:
            for group in self.param_groups:
                if "weight_decay" in group:
                    group["weight_decay"] = 0.0
            if closure is not None:
                return self.base_optimizer.step(scaling_closure)
            scale_gradients()
            return self.base_optimizer.step()
        finally:
            for group, weight_decay in zip(self.param_groups, decays, strict=True):
                if "weight_decay" in group:
                    group["weight_decay"] = weight_decay

    def _scale_gradients(self, group: dict[str, Any], weight_decay: float | Tensor) -> None:
        for parameters in _batches(group["params"]):
            gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
            ratios = trust_ratios(
                torch.stack(torch._foreach_norm(parameters)),
                torch.stack(torch._foreach_norm(gradients)),
                lr=group["lr"],
                weight_decay=weight_decay,
                eps=self.eps,
                trust_coef=self.trust_coef,
                clip=self.clip,
            )
            # Of a gradient that the base will turn around, the decay must be turned around too.
            decay = -weight_decay if group.get("maximize") else weight_decay
            if isinstance(decay, Tensor):
                torch._foreach_add_(gradients, torch._foreach_mul(parameters, decay))
            else:
                torch._foreach_add_(gradients, parameters, alpha=decay)
            torch._foreach_mul_(gradients, ratios.unbind())


def trust_ratios(
    weight_norms: Tensor,
    gradient_norms: Tensor,
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    eps: float,
    trust_coef: float,
    clip: bool,
) -> Tensor:
    """What LARS multiplies each gradient by.

    `trust_coef * |w| / (|g| + weight_decay * |w| + eps)`, 1 where a norm is 0; with `clip`, over
    `lr` and at most 1.

    Args:
        weight_norms, gradient_norms: (n,), L2 norms of n parameters and their gradients.
        lr, weight_decay: of their group.
        eps, trust_coef, clip: as for `LARS`.

    Returns:
        (n,)
    """
    ratios = trust_coef * weight_norms / (gradient_norms + weight_norms * weight_decay + eps)
    ratios = torch.where((weight_norms > 0) & (gradient_norms > 0), ratios, 1.0)
    return torch.clamp(ratios / lr, max=1.0) if clip else ratios


def _batches(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Those that have a gradient, in lists of one device and data type.

    On the CPU in lists that fit into its cache, so that norms and sums read memory once.
    """
    kinds: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.layout is not torch.strided:
            raise RuntimeError(f"LARS takes dense gradients alone, got one of {gradient.layout}")
        kinds.setdefault((parameter.device, parameter.dtype, gradient.dtype), []).append(parameter)
    for (device, *_), found in kinds.items():
        if device.type != "cpu":
            yield found
            continue
        batch: list[Tensor] = []
        for parameter in found:
            batch.append(parameter)
            if sum(each.numel() for each in batch) >= CPU_BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
