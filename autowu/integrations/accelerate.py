"""AutoWU in a loop with Accelerate: one call in place of `scheduler.step()`.

    scheduler = accelerator.prepare(AutoWU(optimizer, total_steps))
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            loss = criterion(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            step(accelerator, scheduler, loss)
            optimizer.zero_grad()

`accelerator.save_state` and `load_state` resume with the same LRs.
"""

from weakref import WeakSet

from accelerate import Accelerator
from torch import Tensor

from autowu.scheduler import AutoWU

_registered: WeakSet[AutoWU] = WeakSet()  # those that save_state() synchronizes


def step(accelerator: Accelerator, scheduler: AutoWU, loss: Tensor | float) -> None:
    """Observe the loss of a batch, and step the scheduler if the optimizer was stepped.

    Call it for every batch, after `optimizer.step()`. With accumulation the scheduler gets one
    loss a step, the mean over the batches; a step that the GradScaler skipped is none (see
    `AutoWU.skip`).

    Args:
        accelerator: the one of the loop.
        scheduler: an AutoWU that it prepared.
        loss: training loss of the batch on this rank, as given to `accelerator.backward`.

    Raises:
        TypeError: `scheduler` is no AutoWU.
        ValueError: `scheduler` was not prepared, so that no checkpoint would hold it.
    """
    if scheduler not in _registered:
        _register(accelerator, scheduler)
    scheduler.observe(loss)
    if not accelerator.sync_gradients:
        return
    if accelerator.optimizer_step_was_skipped:
        scheduler.skip()
    else:
        scheduler.step()


def _register(accelerator: Accelerator, scheduler: AutoWU) -> None:
    """Let `save_state`, which all ranks call and rank 0 writes, synchronize the scheduler first."""
    if not isinstance(scheduler, AutoWU):
        raise TypeError(f"scheduler must be an AutoWU, got {type(scheduler).__name__}")
    if scheduler not in accelerator._schedulers:
        raise ValueError(
            "scheduler was not prepared, and accelerator.save_state() would leave it out: call "
            "scheduler = accelerator.prepare(scheduler) before the loop"
        )
    accelerator.register_save_state_pre_hook(lambda *_: scheduler.synchronize())
    _registered.add(scheduler)
