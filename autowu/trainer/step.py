"""One optimizer step: micro-batches forward and backward, precision, clipping, skipped steps."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autowu.trainer.data import Batch

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
        label_smoothing: of the cross-entropy (Szegedy et al. 2016).
    """

    def __init__(
        self,
        replica: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str = "fp32",
        clip_grad_norm: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.replica = replica
        self.optimizer = optimizer
        self.precision = precision
        self.clip_grad_norm = clip_grad_norm
        self.label_smoothing = label_smoothing
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.skipped = False  # whether the scaler left the last step out
        self.gradient_norm: Tensor | None = None  # of the last step that measured it, unclipped
        optimizer.register_step_post_hook(self._note_step)

    def __call__(self, micro_batches: Sequence[Batch], measure_gradient: bool = False) -> Tensor:
        """Returns the loss before the step, averaged over the micro-batches: 0-d, no graph."""
        self.optimizer.zero_grad(set_to_none=True)
        # A forward pass that overflows ruins running statistics, whatever becomes of the step.
        buffers = self._copy_buffers() if self.scaler.is_enabled() else []
        loss: Tensor | None = None
        num_parts = len(micro_batches)
        for number, (images, labels) in enumerate(micro_batches, 1):
            with self._no_sync() if number < num_parts else nullcontext():
                logits = forward(self.replica, images, self.precision)
                part = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
                part = part / num_parts if num_parts > 1 else part
                self.scaler.scale(part).backward()
            loss = part.detach() if loss is None else loss + part.detach()
        assert loss is not None
        if self.clip_grad_norm is not None or measure_gradient:
            self.scaler.unscale_(self.optimizer)
            self._measure_and_clip()
        self.skipped = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
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
        self.optimizer.zero_grad(set_to_none=True)
        self._restore_buffers(buffers)

    def _copy_buffers(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self.replica.buffers()]

    def _restore_buffers(self, copies: list[Tensor]) -> None:
        for buffer, copied in zip(self.replica.buffers(), copies, strict=True):
            buffer.copy_(copied)

    @property
    def _ddp(self) -> DistributedDataParallel | None:
        replica = getattr(self.replica, "_orig_mod", self.replica)  # inside torch.compile
        return replica if isinstance(replica, DistributedDataParallel) else None

    def _no_sync(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ddp is None else self._ddp.no_sync()

    def _measure_and_clip(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.gradient_norm = nn.utils.get_total_norm(gradients)
        if self.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad_norm, self.gradient_norm)

    def _note_step(self, *_: object) -> None:
        self.skipped = False


def forward(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """The logits in float32, whatever the precision of the forward pass."""
    if precision == "fp32":
        return model(images)
    with torch.autocast(images.device.type, dtype=PRECISIONS[precision]):
        logits = model(images)
    return logits.float()
