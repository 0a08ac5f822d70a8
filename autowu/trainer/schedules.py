"""Learning-rate schedules by name, all driven alike: `optimizer.step(); schedule.step(loss)`."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, Protocol, get_args, get_origin

from torch import Tensor
from torch.optim import Optimizer

from autowu import AutoWU, MinimumTest, Phase
from autowu.trainer import schedule_settings as kinds
from autowu.trainer.composite import composite, read_pieces, warmup_end
from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import closest
from autowu.trainer.lr_scaling import scale_factor, scale_pieces
from autowu.trainer.named_curves import named_curve, sweep_lr
from autowu.trainer.phased_curve import LateOneCycle, PhasedCurve, WarmedUp, one_cycle_rise
from autowu.trainer.plateau import PlateauSchedule
from autowu.trainer.schedule_settings import SCHEDULES, canonical
from autowu.trainer.validation import field_of, outside_limits, wrong_type

__all__ = ["Schedule", "available", "canonical", "create"]


class Schedule(Protocol):
    """What the trainer asks of a schedule; `autowu.AutoWU` is one, `PhasedCurve` another."""

    last_epoch: int  # optimizer steps done, without those that the scaler skipped

    @property
    def warmup_steps(self) -> int: ...  # optimizer steps of the warmup, of AutoWU's longest one
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


@dataclasses.dataclass(frozen=True)
class Run:
    """How long a run is, and the size of its steps."""

    epochs: int
    steps_per_epoch: int  # optimizer steps
    batch_size: int | None  # images per optimizer step, over all ranks

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


def available() -> list[str]:
    """The name of every schedule, in the order in which they are told."""
    return list(SCHEDULES)


def create(
    name: str,
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int | None = None,
    **settings: Any,
) -> Schedule:
    """Build the schedule `name` over `epochs * steps_per_epoch` optimizer steps.

    Args:
        name: one of `available()`; case, `-` and `_` do not matter.
        optimizer: its LR is the peak; `autowu` and the range tests find the peak themselves.
        epochs: passes over the data.
        steps_per_epoch: optimizer steps in a pass.
        batch_size: images per optimizer step, for `scale_lr`; None when it is not used.
        settings: of that schedule, as in `autowu.trainer.schedule_settings`; those left out take
            their defaults.

    `plateau` looks at epochs: call its `end_epoch(train_loss)` after each of them, too. The peak of
    `range_test_onecycle` is set by its `set_peak(lr)`. The probe of `autowu` is left to the caller:
    `AutoWU.probe`.

    Raises:
        ValueError: an unknown name or keyword, with the nearest names or those that exist; a bad
            value, which the message names.
    """
    name = canonical(name)
    if batch_size is not None:
        batch_size = _count("batch_size", batch_size)
    run = Run(_count("epochs", epochs), _count("steps_per_epoch", steps_per_epoch), batch_size)
    try:
        chosen = _read(name, settings)
        chosen.check_values(epochs)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if isinstance(chosen, kinds.AutoWUSettings):
        return _autowu(optimizer, run, chosen)
    if isinstance(chosen, kinds.LRRangeTestSettings):
        curve = partial(
            sweep_lr,
            num_steps=chosen.num_steps,
            min_lr=chosen.min_lr,
            max_lr=chosen.max_lr,
            growth=chosen.growth,
        )
        return PhasedCurve(optimizer, curve, peak=chosen.min_lr, absolute=True)
    if isinstance(chosen, kinds.RangeTestOneCycleSettings):
        return LateOneCycle(optimizer, run.num_steps, **chosen.shape_keywords())
    assert isinstance(chosen, kinds.PeakSettings)
    if chosen.scale_lr != "none" and batch_size is None:
        raise ValueError(f"schedule.scale_lr={chosen.scale_lr}: needs batch_size, got None")
    if isinstance(chosen, kinds.CompositeSettings):
        return _composite(optimizer, run, chosen)
    assert isinstance(chosen, kinds.WarmupSettings)
    return _with_warmup(optimizer, run, chosen)


def _autowu(optimizer: Optimizer, run: Run, chosen: kinds.AutoWUSettings) -> AutoWU:
    if run.num_steps < 2:
        of_batch = f" of data.batch_size={run.batch_size}" if run.batch_size is not None else ""
        raise ValueError(
            f"epochs={run.epochs}: makes {run.num_steps} optimizer step{of_batch},"
            " schedule.name=autowu needs at least 2"
        )
    settings = dataclasses.asdict(chosen)
    del settings["name"], settings["probe"]  # `lr_search.py` makes the probe
    return AutoWU(optimizer, run.num_steps, run.steps_per_epoch, **settings)


def _composite(optimizer: Optimizer, run: Run, chosen: kinds.CompositeSettings) -> PhasedCurve:
    pieces = read_pieces(chosen.curves)
    if run.batch_size is not None:
        pieces = scale_pieces(pieces, chosen.scale_lr, run.batch_size, chosen.base_batch_size)
    per_unit = run.steps_per_epoch if chosen.update == "epoch" else 1
    num_units = run.num_steps // per_unit
    rise = warmup_end(pieces, num_units)
    curve = WarmedUp(
        partial(composite, num_steps=num_units, pieces=pieces), steps_per_unit=per_unit
    )
    peak = pieces[0].end if rise else pieces[0].start
    return PhasedCurve(optimizer, curve, warmup_steps=rise * per_unit, peak=peak)


def _with_warmup(optimizer: Optimizer, run: Run, chosen: kinds.WarmupSettings) -> PhasedCurve:
    """A curve over what a warmup leaves of the run, in units of steps or of epochs."""
    per_unit = run.steps_per_epoch if chosen.update == "epoch" else 1
    num_units = run.num_steps // per_unit
    units_per_epoch = run.steps_per_epoch // per_unit
    rise = round(chosen.warmup_length(run.epochs) * units_per_epoch)
    if rise >= num_units:
        raise ValueError(
            f"schedule.warmup_epochs={chosen.warmup_epochs}: makes {rise} steps of warmup, and"
            f" must leave one of the {num_units} steps of the run"
        )
    scale = 1.0
    if run.batch_size is not None:
        scale = scale_factor(chosen.scale_lr, run.batch_size, chosen.base_batch_size)
    curve = named_curve(chosen, scale, rise, num_units, units_per_epoch)
    warmed = WarmedUp(curve, rise, chosen.warmup, chosen.warmup_start_ratio, per_unit)
    if isinstance(chosen, kinds.PlateauSettings):
        return PlateauSchedule(
            optimizer,
            warmed,
            warmup_steps=rise * per_unit,
            peak=scale,
            factor=chosen.factor,
            patience=chosen.patience,
            threshold=chosen.threshold,
            cooldown=chosen.cooldown,
            min_lr=chosen.min_lr,
        )
    if isinstance(chosen, kinds.OneCycleSettings):
        rise += one_cycle_rise(num_units - rise, chosen.pct_start)
    return PhasedCurve(optimizer, warmed, warmup_steps=rise * per_unit, peak=scale)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer, at least 1, got {value!r}")
    return int(value)


def _read(name: str, settings: dict[str, Any]) -> kinds.ScheduleSettings:
    """The dataclass of keywords, every one of its type and within its limits."""
    kind = SCHEDULES[name]
    fields = {field.name: field for field in dataclasses.fields(kind) if field.name != "name"}
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in fields:
            taken = ", ".join(fields)
            near = closest(key, fields)
            raise ConfigError(
                f"schedule.{key}={value}: unknown setting{near}; {name} takes {taken}"
            )
        field = field_of(kind, fields[key])
        if not _admits(field.type, value):
            raise ConfigError(wrong_type(f"schedule.{key}", value, field))
        values[key] = tuple(value) if get_origin(field.type) is tuple else value
        error = outside_limits(f"schedule.{key}", value, field.limits)
        if error:
            raise ConfigError(error)
    return kind(**values)


def _admits(kind: Any, value: Any) -> bool:
    """Whether a value may stand for a setting of that type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        is_list = isinstance(value, list | tuple)
        return is_list and all(_admits(get_args(kind)[0], each) for each in value)
    if get_origin(kind) is list:
        return isinstance(value, list | tuple)
    if get_args(kind):  # a union
        return any(_admits(option, value) for option in get_args(kind))
    if kind in (int, float):
        wanted = Integral if kind is int else Real
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(value, kind)
