"""Learning-rate schedules by name, all driven alike: `optimizer.step(); schedule.step(loss)`."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from autowu import AutoWU, MinimumTest, Phase
from autowu.schedules import cosine, linear


class Schedule(Protocol):
    """What the trainer asks of a schedule; `autowu.AutoWU` is one, `WarmupCosine` another."""

    @property
    def phase(self) -> Phase: ...
    @property
    def switch_step(self) -> int | None: ...  # optimizer steps done when the warmup ended
    @property
    def start_lr(self) -> float | None: ...  # LR that the decay started from
    @property
    def diverged(self) -> bool: ...
    @property
    def tests(self) -> Sequence[MinimumTest]: ...
    def step(self, loss: Tensor) -> None: ...
    def observe(self, loss: Tensor) -> None: ...  # a loss of a step that was not taken
    def get_last_lr(self) -> list[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def warmup_cosine(
    step: int, num_steps: int, warmup_steps: int, peak_lr: float, end_lr: float = 0.0
) -> float:
    """The paper's baseline: rise linearly to the peak, then fall along half a cosine wave.

    `lr(t) = peak_lr * (t + 1) / (warmup_steps + 1)` for `t < warmup_steps`: the first step is not
    lost to an LR of 0, and step `warmup_steps` is the only one at the peak.

    >>> [round(warmup_cosine(t, 7, 3, 1.0), 4) for t in range(8)]
    [0.25, 0.5, 0.75, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    if step < warmup_steps:
        return linear(step + 1, warmup_steps + 1, 0.0, peak_lr)
    return cosine(step - warmup_steps, num_steps - warmup_steps, peak_lr, end_lr)


class WarmupCosine(LambdaLR):
    """`warmup_cosine` as a schedule; its peak is the optimizer's LR times `scale`."""

    tests: Sequence[MinimumTest] = ()
    diverged = False

    def __init__(
        self,
        optimizer: Optimizer,
        num_steps: int,
        warmup_steps: int,
        end_lr_ratio: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self.warmup_steps = warmup_steps
        self.scale = scale
        super().__init__(
            optimizer,
            lambda step: warmup_cosine(step, num_steps, warmup_steps, scale, scale * end_lr_ratio),
        )

    @property
    def phase(self) -> Phase:
        return Phase.WARMUP if self.last_epoch < self.warmup_steps else Phase.DECAY

    @property
    def switch_step(self) -> int | None:
        return self.warmup_steps if self.phase is Phase.DECAY else None

    @property
    def start_lr(self) -> float | None:
        return float(self.base_lrs[0]) * self.scale if self.phase is Phase.DECAY else None

    def observe(self, loss: object) -> None:
        """Nothing: the loss is not looked at."""

    def step(self, loss: object = None) -> None:
        """One step further; the loss is taken, and not looked at, so that schedules are alike."""
        super().step()


def build_schedule(
    name: str,
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    **settings: Any,
) -> Schedule:
    """Build the schedule `name` over `epochs * steps_per_epoch` optimizer steps.

    Args:
        name: `autowu` or `warmup_cosine`.
        optimizer: its LR is the peak of `warmup_cosine`; `autowu` finds the peak itself.
        epochs: passes over the data.
        steps_per_epoch: optimizer steps in a pass.
        batch_size: images per optimizer step, for `scale_lr`.
        settings: of that schedule, as in `autowu.trainer.settings`.

    Raises:
        ValueError: for an unknown name, or settings that the schedule refuses.
    """
    num_steps = epochs * steps_per_epoch
    if name == "autowu":
        if num_steps < 2:
            raise ValueError(
                f"epochs={epochs}: makes {num_steps} optimizer step of data.batch_size="
                f"{batch_size}, schedule.name=autowu needs at least 2"
            )
        return AutoWU(optimizer, num_steps, steps_per_epoch, **settings)
    if name != "warmup_cosine":
        raise ValueError(f"schedule.name={name}: must be one of autowu, warmup_cosine")
    warmup_epochs = settings["warmup_epochs"]
    if warmup_epochs is None:
        warmup_epochs = min(5, 0.1 * epochs)
    ratio = batch_size / settings["base_batch_size"]
    return WarmupCosine(
        optimizer,
        num_steps,
        warmup_steps=round(warmup_epochs * steps_per_epoch),
        end_lr_ratio=settings["end_lr_ratio"],
        scale={"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[settings["scale_lr"]],
    )
