"""AutoWU in Lightning's Trainer: a callback, because Lightning steps a scheduler without the loss.

    callback = AutoWUCallback()
    trainer = Trainer(max_epochs=20, callbacks=[callback])

`configure_optimizers` returns the optimizer alone. The callback's state is in every checkpoint, so
`trainer.fit(model, ckpt_path=...)` goes on with the same LRs.
"""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from autowu.integrations.checks import build, check_keywords, check_same_settings
from autowu.scheduler import AutoWU


class AutoWUCallback(Callback):
    """Sets the LR of Lightning's optimizer from the loss that `training_step` returns.

    Args:
        **settings: keywords of `AutoWU` but `total_steps`, which is Lightning's
            `estimated_stepping_batches`; `steps_per_epoch` is taken from the Trainer, too.

    Attributes:
        scheduler: the `AutoWU`; None before training starts.

    Raises:
        TypeError: `total_steps` among the settings, or what is no keyword of AutoWU.
        ValueError: when training starts, with manual optimization (and so with several
            optimizers), another scheduler, a callback that changes the LR or the accumulation, a
            Trainer that does not know how many steps it will make, or a checkpoint without a
            state of this callback or of a run with other settings.
    """

    def __init__(self, **settings: Any) -> None:
        instead = {
            "total_steps": "set max_steps or max_epochs of the Trainer",
            "probe": "call the probe of its scheduler in a hook on_train_start of the module",
        }
        check_keywords("AutoWUCallback", settings, instead)
        self.scheduler: AutoWU | None = None
        self._settings = settings
        self._saved: dict[str, Any] = {}  # Lightning loads it before the scheduler can be made
        self._is_due = False  # a step of the optimizer, since the last batch
        self._has_stepped = False  # the optimizer made it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # By now Lightning has restored the optimizer, the LR in it included.
        total_steps = _check(trainer, pl_module)
        num_batches = trainer.num_training_batches  # of an epoch, on this rank
        if num_batches < math.inf:
            steps_per_epoch = math.ceil(num_batches / trainer.accumulate_grad_batches)
        else:
            steps_per_epoch = None
        optimizer = trainer.optimizers[0]
        self.scheduler = build(optimizer, total_steps, steps_per_epoch, self._settings)
        if self._saved:
            wanted = self.scheduler.settings
            self.scheduler.load_state_dict(self._saved)
            check_same_settings(self.scheduler.settings, wanted)
        elif trainer.global_step:
            raise ValueError(
                f"the run goes on after step {trainer.global_step} without a state of "
                f"{self.state_key}, and AutoWU would start its warmup again: resume from a "
                "checkpoint that was saved with this callback"
            )
        # Is not called for a step that the GradScaler skips, unless the optimizer is fused.
        optimizer.register_step_post_hook(self._note_step)
        self._is_due = self._has_stepped = False

    def on_train_batch_start(self, *_: Any) -> None:
        self._is_due = self._has_stepped = False  # a probe made steps that are none of the run

    def on_before_optimizer_step(self, *_: Any) -> None:
        self._is_due = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert self.scheduler is not None
        if outputs:
            # Lightning divided it by the length of a whole window, in a short last one as well.
            self.scheduler.observe(outputs["loss"] * trainer.accumulate_grad_batches)
        else:  # training_step returned None
            self.scheduler.observe(0.0, weight=0)
        if self._has_stepped:
            self.scheduler.step()
        elif self._is_due:
            self.scheduler.skip()
        self._is_due = self._has_stepped = False

    def state_dict(self) -> dict[str, Any]:
        if self.scheduler is None:
            return self._saved
        self.scheduler.synchronize()  # all ranks come here, and rank 0 writes for all
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._saved = {}  # it was for this run, be it one of `trainer.test(ckpt_path=...)`

    def _note_step(self, *_: Any) -> None:
        self._has_stepped = True


def _check(trainer: Trainer, pl_module: LightningModule) -> int:
    """The optimizer steps of the whole run, when it is one that the callback can serve."""
    if not pl_module.automatic_optimization:
        raise ValueError(
            "AutoWUCallback needs automatic optimization, with one optimizer, and the module sets "
            "automatic_optimization=False: without the callback, make an AutoWU for an optimizer "
            "in the module and call its step(loss) after each optimizer.step()"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler | StochasticWeightAveraging):
            raise ValueError(
                f"AutoWUCallback sets the LR, for a number of steps that it must know, and "
                f"{type(callback).__name__} changes one of them: leave it out (for accumulation: "
                "Trainer(accumulate_grad_batches=...))"
            )
    if trainer.lr_scheduler_configs:
        name = type(trainer.lr_scheduler_configs[0].scheduler).__name__
        raise ValueError(
            f"AutoWUCallback sets the LR, and configure_optimizers returned a scheduler, {name}, "
            "that would set it too: return the optimizer alone"
        )
    total_steps = trainer.estimated_stepping_batches
    if not 0 < total_steps < math.inf:
        raise ValueError(
            f"AutoWUCallback needs the number of optimizer steps of the whole run, and the Trainer "
            f"estimates {total_steps}: set max_steps, or max_epochs with a dataloader that has a "
            "length"
        )
    return max(2, int(total_steps))  # one with fast_dev_run, and AutoWU's shortest run has two
