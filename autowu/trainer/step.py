"""One optimizer step: micro-batches forward and backward, precision, clipping, skipped steps."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autowu.trainer.data import Batch
from autowu.trainer.errors import ConfigError, some
from autowu.trainer.nonfinite import FiniteCheck

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}  # of autocast; fp32 needs none


class OptimizerStep:
    """Takes a step for the micro-batches of this rank.

    Gradients are averaged over the ranks once a step, in the last micro-batch. Nothing waits for
    the device, but in fp16, where the scaler must look whether the gradient overflowed.

    Args:
        replica: the module to call, DistributedDataParallel with several ranks.
        optimizer: of its parameters.
        precision: `fp32`; `bf16` or `fp16` for forward passes under autocast, the latter with a
            loss that is scaled so that small gradients survive.
        clip_grad_norm: largest L2 norm of the gradient of all parameters; None: no limit.
        clip_grad_value: largest absolute value of an element of the gradient; None: no limit.
        label_smoothing: of the cross-entropy (Szegedy et al. 2016).
        layer_norms: measure the norms of every parameter and its gradient when the gradient is.
        check_finite: stop at the first value that is not finite; waits for the device every step.
        create_graph: keep the graph of the gradient, for optimizers that look at the curvature.
    """

    def __init__(
        self,
        replica: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str = "fp32",
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        label_smoothing: float = 0.0,
        layer_norms: bool = False,
        check_finite: bool = False,
        create_graph: bool = False,
    ) -> None:
        self.replica = replica
        self.optimizer = optimizer
        self.precision = precision
        self.clip_grad_norm = clip_grad_norm
        self.clip_grad_value = clip_grad_value
        self.label_smoothing = label_smoothing
        self.create_graph = create_graph
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        if create_graph and (self._ddp is not None or precision == "fp16"):
            # DistributedDataParallel copies gradients into buckets, where their graphs end.
            raise ConfigError(
                f"optimizer.name: {type(optimizer).__name__} looks at the curvature of the loss,"
                " which needs a single rank, and precision=fp32 or bf16"
            )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.skipped = False  # whether the scaler left the last step out
        self.gradient_norm: Tensor | None = None  # of the last step that measured it, unclipped
        # L2 norms by parameter, (its own, its gradient's): of the last step that measured them.
        self.layer_norms: dict[str, tuple[Tensor, Tensor]] | None = {} if layer_norms else None
        self.without_gradient: list[str] | None = None  # parameters, known after the first step
        self.finite_check = FiniteCheck(self._network) if check_finite else None
        # A fused optimizer leaves a step out on the device, and its hook runs all the same.
        is_fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        self._scale_tells = self.scaler.is_enabled() and is_fused
        optimizer.register_step_post_hook(self._note_step)

    def __call__(
        self, micro_batches: Sequence[Batch], measure_gradient: bool = False, step: int = 0
    ) -> Tensor:
        """Take one step.

        Args:
            micro_batches: of this rank.
            measure_gradient: keep the gradient's norm, and those of the layers if asked for.
            step: optimizer steps done before, for messages.

        Returns:
            The loss before the step, averaged over the micro-batches: 0-d, no graph.
        """
        self.optimizer.zero_grad(set_to_none=True)
        scale = self.scaler.get_scale() if self._scale_tells else 1.0
        # A forward pass that overflows ruins running statistics, whatever becomes of the step.
        buffers = self._copy_buffers() if self.scaler.is_enabled() else []
        loss: Tensor | None = None
        num_parts = len(micro_batches)
        for number, (images, labels) in enumerate(micro_batches, 1):
            with self._no_sync() if number < num_parts else nullcontext():
                logits = forward(self.replica, images, self.precision)
                part = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
                part = part / num_parts if num_parts > 1 else part
                self._backward(part)
            loss = part.detach() if loss is None else loss + part.detach()
        assert loss is not None
        if self.without_gradient is None:
            self.without_gradient = self._find_without_gradient()
        if self.finite_check is not None:
            self.finite_check.check(step, with_gradients=not self.scaler.is_enabled())
        clips = self.clip_grad_norm is not None or self.clip_grad_value is not None
        if clips or measure_gradient:
            self.scaler.unscale_(self.optimizer)
        if self.clip_grad_norm is not None or measure_gradient:
            self._measure_and_clip(measure_gradient)
        if self.clip_grad_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.clip_grad_value)
        self.skipped = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._scale_tells:  # one that was halved until it is 0 cannot fall, nor train
            new_scale = self.scaler.get_scale()
            self.skipped = new_scale < scale or new_scale == 0
        if self.skipped:
            self._restore_buffers(buffers)
        return loss

    def warm_up(self, batch_shape: tuple[int, ...]) -> None:
        """Let DistributedDataParallel settle how it groups gradients, before the first step.

        It groups them anew after the first backward pass that it sees, and with more than two ranks
        the order of a sum depends on the grouping: a run that goes on would round its first steps
        differently from one that was never stopped. Weights, statistics and random states are as
        they were afterwards.

        Args:
            batch_shape: of the images of a forward pass, (batch, channels, height, width).
        """
        if self._ddp is None:
            return
        self.replica.train()
        buffers = self._copy_buffers()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            images = torch.zeros(batch_shape, device=self.device)
            forward(self.replica, images, self.precision).sum().backward()
        missing = self._find_without_gradient()
        if missing:
            raise ConfigError(
                f"{some(missing, most=5)} get no gradient from the loss: several ranks cannot train"
                " with such parameters (freeze them, or use one rank)"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self._restore_buffers(buffers)

    def _copy_buffers(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self.replica.buffers()]

    def _restore_buffers(self, copies: list[Tensor]) -> None:
        for buffer, copied in zip(self.replica.buffers(), copies, strict=True):
            buffer.copy_(copied)

    @property
    def _uncompiled(self) -> nn.Module:
        return getattr(self.replica, "_orig_mod", self.replica)  # inside torch.compile

    @property
    def _ddp(self) -> DistributedDataParallel | None:
        replica = self._uncompiled
        return replica if isinstance(replica, DistributedDataParallel) else None

    def _no_sync(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ddp is None else self._ddp.no_sync()

    @property
    def _network(self) -> nn.Module:
        """The network itself, inside of what compiles it and averages its gradients."""
        return self._uncompiled if self._ddp is None else self._ddp.module

    def _backward(self, loss: Tensor) -> None:
        if not self.create_graph:
            self.scaler.scale(loss).backward()
            return
        with warnings.catch_warnings():
            # The cycle that it speaks of is broken by zero_grad(set_to_none=True).
            warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")
            loss.backward(create_graph=True)

    def _find_without_gradient(self) -> list[str]:
        named = self._network.named_parameters()
        return [name for name, p in named if p.requires_grad and p.grad is None]

    def _measure_and_clip(self, measure_layers: bool) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.gradient_norm = nn.utils.get_total_norm(gradients).detach()
        if measure_layers and self.layer_norms is not None:
            self.layer_norms = layer_norms(self._network)
        if self.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad_norm, self.gradient_norm)

    def _note_step(self, *_: object) -> None:
        self.skipped = False


@torch.no_grad()
def layer_norms(network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The L2 norms of each parameter that has a gradient, and of its gradient: 0-d tensors."""
    named = {name: p for name, p in network.named_parameters() if p.grad is not None}
    weights = torch._foreach_norm(list(named.values()))
    gradients = torch._foreach_norm([p.grad for p in named.values() if p.grad is not None])
    return dict(zip(named, zip(weights, gradients, strict=True), strict=True))


def missing_gradients(names: list[str]) -> str:
    """The warning for parameters that the loss does not depend on."""
    return f"warning: {some(names, most=5)} get no gradient from the loss, and will not be trained"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context of forward passes in `precision`; fp32 needs none."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


def forward(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """The logits in float32, whatever the precision of the forward pass."""
    with autocast(images.device, precision):
        logits = model(images)
    return logits.float()
