"""AutoWU in Hugging Face's Trainer: a subclass, because callbacks never see the loss of a step.

    trainer = AutoWUTrainer(model, args, train_dataset=dataset)

`AutoWUMixin` does the same to a subclass of Trainer: `class Mine(AutoWUMixin, SFTTrainer): ...`.
Its state is in every checkpoint, so `trainer.train(resume_from_checkpoint=...)` goes on with the
same LRs.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import BatchEncoding, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import has_length

from autowu.integrations.checks import build, check_keywords, check_same_settings
from autowu.probe import NUM_SAMPLES
from autowu.scheduler import AutoWU
from autowu.settings import SchedulerSettings, check_integer
from autowu.sweep import first_fall_step

_ARGUMENTS_OF_OTHERS = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio")


class AutoWUMixin(Trainer):
    """Trains as the class does that it is mixed into, with the LR set by AutoWU.

    Args:
        *args, **kwargs: of that class. Those of the TrainingArguments that shape another schedule
            stay at their defaults; `learning_rate` sets the ratios of parameter groups alone, and
            another than the default gives a warning.
        autowu: keywords of `AutoWU`; None: none. `total_steps` is the Trainer's, and so is
            `steps_per_epoch` unless it is given (None for a dataset without a length).
        probe: samples of the first batch for `AutoWU.probe`, which an adaptive sweep begins with
            (the whole batch where not all in it is a tensor of as many samples); 0: it begins at
            `min_lr`, as with DeepSpeed, FSDP and devices that are neither CPUs nor CUDA's.
            `compute_loss` is called for it, too.

    Attributes:
        lr_scheduler: the `AutoWU`; None before training starts.

    Raises:
        TypeError: a keyword that AutoWU does not have.
        TypeError, ValueError: when training starts, for a wrong setting, another scheduler, or
            a checkpoint without a state, or of a run with other settings.
    """

    lr_scheduler: Any
    _steps_per_epoch: int | None = None
    _is_to_probe = False

    def __init__(
        self,
        *args: Any,
        autowu: dict[str, Any] | None = None,
        probe: int = NUM_SAMPLES,
        **kwargs: Any,
    ) -> None:
        if not isinstance(autowu, dict | None):
            raise TypeError(f"autowu must be a dict of AutoWU's keywords, got {autowu!r}")
        instead = {
            "total_steps": "set max_steps or num_train_epochs of the TrainingArguments",
            "probe": "give it to the Trainer itself, probe=0",
        }
        check_keywords("autowu", autowu or {}, instead)
        self._autowu: dict[str, Any] = autowu or {}
        self._num_probe_samples = check_integer("probe", probe, 0)
        super().__init__(*args, **kwargs)
        self.add_callback(_SkippedSteps())

    def set_initial_training_values(self, args: Any, dataloader: Any, *others: Any) -> Any:
        values = super().set_initial_training_values(args, dataloader, *others)
        self._steps_per_epoch = values[1] if has_length(dataloader) else None
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        _check_arguments(self.args)
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            # The shortest run of AutoWU has two steps; a trial of one ends in its warmup.
            total_steps = max(2, num_training_steps)
            self.lr_scheduler = build(optimizer, total_steps, self._steps_per_epoch, self._autowu)
            self._created_lr_scheduler = True  # so that the next train() makes a new one
            self._is_to_probe = self._num_probe_samples > 0
        elif self._autowu or not isinstance(self.lr_scheduler, AutoWU):
            raise ValueError(
                "AutoWUTrainer makes its scheduler itself, with the settings in `autowu`, and got "
                f"one, {type(self.lr_scheduler).__name__}: pass optimizers=(optimizer, None)"
            )
        return self.lr_scheduler

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        if self._is_to_probe:
            self._is_to_probe = False
            self._probe(model, inputs, *args, **kwargs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        # What a window's steps return adds up to its mean, and AutoWU averages what it observes.
        self.lr_scheduler.observe(loss * self.current_gradient_accumulation_steps)
        return loss

    def _probe(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> None:
        """Let an adaptive sweep begin where a few samples say that the loss falls."""
        scheduler, accelerator = self.lr_scheduler, self.accelerator
        plain = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
        if (
            scheduler.last_epoch
            or first_fall_step(scheduler.settings) == 0
            or accelerator.distributed_type not in plain
        ):
            return
        # torch.compile would make kernels for the few samples, and then others for any number.
        model = getattr(model, "_orig_mod", model)
        inputs = self._prepare_inputs(inputs)
        few = _first(inputs, self._num_probe_samples)
        if num_items_in_batch is not None:  # labels of a whole window, by which a model divides
            window = _num_samples(inputs) * self.current_gradient_accumulation_steps
            num_items_in_batch = num_items_in_batch * _num_samples(few) / window
        optimizer: Any = self.optimizer

        def take_step() -> Tensor | None:
            with self.compute_loss_context_manager():
                loss: Any = self.compute_loss(model, few, num_items_in_batch=num_items_in_batch)
            loss = loss.mean()  # of several GPUs in one process
            accelerator.backward(loss)
            if self.args.max_grad_norm:
                accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
            optimizer.step()
            skipped = optimizer.step_was_skipped
            optimizer.zero_grad()
            return None if skipped else loss.detach()

        model.train()
        state, is_last = accelerator.gradient_state, accelerator.gradient_state.sync_gradients
        state._set_sync_gradients(True)  # or nobody takes a step before the window's last batch
        try:
            scheduler.probe(model, take_step)
        finally:
            state._set_sync_gradients(is_last)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self.lr_scheduler.synchronize()  # all ranks come here, and rank 0 writes for all
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        wanted = self.lr_scheduler.settings
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.state.global_step:
            _check_settings(self.lr_scheduler.settings, wanted)


class _SkippedSteps(TrainerCallback):
    """Tells AutoWU of the steps that the GradScaler left out, which the Trainer does not."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        if getattr(of_trainer["optimizer"], "step_was_skipped", False):
            of_trainer["lr_scheduler"].skip()


class AutoWUTrainer(AutoWUMixin):
    """Hugging Face's Trainer with the LR set by AutoWU; arguments as for `AutoWUMixin`."""


def _first(inputs: Any, num_samples: int) -> Any:
    """The first samples of a batch; the whole batch where not all in it is a tensor of as many."""
    if type(inputs) not in (dict, BatchEncoding):
        return inputs
    tensors = [value for value in inputs.values() if isinstance(value, Tensor) and value.dim()]
    if len(tensors) < len(inputs) or len({len(tensor) for tensor in tensors}) != 1:
        return inputs
    if len(tensors[0]) <= num_samples:
        return inputs
    return type(inputs)({name: value[:num_samples] for name, value in inputs.items()})


def _num_samples(inputs: Any) -> int:
    """Of the first tensor in a batch."""
    values = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return next((len(v) for v in values if isinstance(v, Tensor) and v.dim()), 1)


def _check_arguments(args: TrainingArguments) -> None:
    """Refuse what was set for a schedule that AutoWU takes the place of."""
    for name in _ARGUMENTS_OF_OTHERS:
        value, default = (getattr(where, name, None) for where in (args, type(args)))
        if value not in (default, None, {}):
            raise ValueError(
                f"AutoWUTrainer finds the warmup and the LR itself, and the TrainingArguments have "
                f"{name}={getattr(value, 'value', value)!r}: leave it at its default, {default!r}"
            )
    if args.learning_rate != type(args).learning_rate:
        warnings.warn(
            f"AutoWUTrainer finds the LR itself, from min_lr to max_lr of autowu={{...}}: "
            f"learning_rate={args.learning_rate!r} of the TrainingArguments plays no part, but for "
            "the ratios of parameter groups that are made with it",
            stacklevel=2,
        )


def _check_settings(loaded: SchedulerSettings, wanted: SchedulerSettings) -> None:
    """Refuse to resume with other settings, or with none: the Trainer passes over what it lacks."""
    if loaded is wanted:  # a state brings its own
        raise ValueError(
            "the checkpoint does not hold optimizer.pt and scheduler.pt, and AutoWU would start "
            "its warmup again: save with save_only_model=False"
        )
    check_same_settings(loaded, wanted)
