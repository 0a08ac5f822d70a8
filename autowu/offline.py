"""The scheduler over a recorded loss curve: no model, no training."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from autowu.probe import MAX_DISTANCE, probe_lrs
from autowu.recorded_lrs import RecordedLRs
from autowu.scheduler import AutoWU, Phase
from autowu.settings import LEAST_PROBED_STEPS, SchedulerSettings, check_number
from autowu.sweep import MAX_RUN_UP, first_fall_step

LR_TOLERANCE = 6e-3  # ours, relative: a log may round its LRs to three digits
LEAST_TOLERANCE = 1e-6  # ours, relative: to tell one pace from another by all digits there are
MOST_TOLERANCE = 1.01e-2  # ours: a row and the first LR, each rounded to three digits
NUM_COMPARED = 10  # ours: recorded steps, at least, that tell which other sweep it was


class OtherSweepError(ValueError):
    """The recorded LRs are not those of the sweep that the replay has.

    Attributes:
        difference: the first step that differs, and both LRs.
        fitting: keywords of `replay` whose sweep begins as recorded; empty: none are known.
    """

    def __init__(self, difference: str, fitting: dict[str, Any]) -> None:
        keywords = [f"{name}={value!r}" for name, value in fitting.items()]
        super().__init__(f"{difference}; {advice(', '.join(keywords))}")
        self.difference = difference
        self.fitting = fitting


def advice(settings: str) -> str:
    """What would be right in place of another sweep; `settings` as the user writes them."""
    if settings:
        return f"it begins as recorded with {settings}"
    return (
        "the settings have to be those of the run that was recorded, the steps of an epoch among"
        " them, which say where its tests were"
    )


def replay(
    losses: Iterable[float] | Tensor,
    total_steps: int,
    steps_per_epoch: int | None = None,
    *,
    lrs: Iterable[float] | Tensor | None = None,
    first_lr: float | None = None,
    **settings: Any,
) -> AutoWU:
    """Run AutoWU over recorded losses: when, and at which LR, would the warmup have ended?

    The answer means something when the LR behind the losses grew as the sweep does. Recorded
    losses cannot answer to a sweep that changes its pace, so it is a fixed one here, unless
    `sweep="adaptive"` or `first_lr` says that they come from a run with such a sweep.

    Args:
        losses: (n,), one for each optimizer step from the first on, floats or integers, NaN and
            infinity allowed; those after `total_steps` are ignored. With fewer than `total_steps`
            the scheduler is left where they end.
        total_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of an epoch.
        lrs: (n,), the LRs of these steps. In the warmup, up to the end that is found, each must
            be that of the sweep to 0.6 %. One that comes again in the next row, though the sweep
            has moved on, is that of a step that a GradScaler skipped: as in train.py it is no
            step, and its loss is averaged into the next; at most 24 in a row. At `max_lr`, where
            the LR rests, none can be told, nor where a step changes no digit. None: the LRs are
            taken to be the sweep's, row by row.
        first_lr: where a probe let the sweep of that run begin, the LR of its first step (with
            `lrs` of three digits unrounded, or these may not match). None: there was no probe, or
            `sweep="adaptive"` and it is the first of `lrs`. Whether its fall was spread, and how
            far (`AutoWU.begin_at`), `lrs` alone tell: without them, and where their digits hide
            it, it is taken not to be.
        settings: keywords of `AutoWU`; `**autowu.settings.PAPER` for the published behaviour.

    Returns:
        The scheduler, with `phase`, `switch_step`, `start_lr`, `tests`, `losses`.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range; a loss or an LR that
            is no number; `first_lr` with a fixed sweep; not as many LRs as losses.
        OtherSweepError: a ValueError: an LR of the warmup is not that of the sweep.

    >>> import math
    >>> curve = [2.0 + abs(math.log10(10 ** (-5 + t / 40)) + 2) for t in range(200)]
    >>> scheduler = replay(curve, total_steps=400)  # lowest at step 120, LR 1e-2
    >>> scheduler.switch_step, round(scheduler.start_lr, 3)
    (132, 0.01)
    """
    settings = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch} | settings
    scheduler = _begun(first_lr, settings)
    numbers: Iterable[float] = _numbers("losses", losses, scheduler)
    recorded: RecordedLRs | None = None
    if lrs is not None:
        numbers, recorded = list(numbers), RecordedLRs.of(list(_numbers("lrs", lrs, scheduler)))
        if len(recorded.lrs) != len(numbers):
            raise ValueError(f"got {len(recorded.lrs)} learning rates for {len(numbers)} losses")
        if first_lr is None and numbers and _has_probed(recorded.lrs[0], scheduler):
            first_lr = recorded.lrs[0]
        if first_lr is not None:
            _begin_as_recorded(scheduler, first_lr, recorded)
    scheduler.optimizer.step()
    for row, number in enumerate(numbers):
        if recorded is not None and scheduler.phase is Phase.WARMUP:
            _check_lr(row, recorded, scheduler, settings)
            if recorded.was_skipped(row, scheduler, scheduler.last_epoch):
                scheduler.observe(number)
                continue
        scheduler.step(number)
    if recorded is not None and _is_longer(recorded, scheduler):
        raise OtherSweepError(
            f"the longest warmup of this replay ends after step {scheduler.switch_step}, as"
            f" probed_warmup_fraction={scheduler.settings.probed_warmup_fraction:g} says, and the"
            " record sweeps on: that run had a longer one",
            _beginning(recorded) | {"probed_warmup_fraction": 1.0},
        )
    return scheduler


def follows_decay(scheduler: AutoWU, lrs: Sequence[float]) -> bool:
    """Whether a replayed run went on as the scheduler would: with the LR that its decay begins at.

    Args:
        scheduler: that `replay` returned.
        lrs: the `lrs` that it was given, all of them.
    """
    if scheduler.switch_step is None:
        return True
    num_rows = min(len(lrs), scheduler.settings.total_steps)
    first = scheduler.switch_step + num_rows - scheduler.last_epoch  # and those that were skipped
    if first >= num_rows:
        return True
    return math.isclose(lrs[first], scheduler.lr_at(scheduler.switch_step), rel_tol=LR_TOLERANCE)


def _begun(first_lr: float | None, settings: dict[str, Any]) -> AutoWU:
    """A scheduler before its first step, on an optimizer of nothing."""
    for name, default in (("last_epoch", -1), ("process_group", None)):
        if settings.get(name, default) != default:
            raise TypeError(f"replay takes no {name}: it is one run, from its first step on")
    parameter = torch.zeros(1, requires_grad=True, device="cpu")
    sweep = {"sweep": "fixed" if first_lr is None else "adaptive"}
    scheduler = AutoWU(torch.optim.SGD([parameter], lr=1.0), **(sweep | settings))
    if first_lr is not None:
        check_number("first_lr", first_lr)
        try:
            scheduler.begin_at(first_lr)
        except ValueError as error:
            raise ValueError(f"first_lr={first_lr}: {error}") from None
    return scheduler


def _begin_as_recorded(scheduler: AutoWU, first_lr: float, recorded: RecordedLRs) -> None:
    """With the pace that fits most of the record: whether the fall of the probe was spread."""
    tolerance = min(MOST_TOLERANCE, max(recorded.resolution, LEAST_TOLERANCE))

    def num_fitting(spread_lr: float | None) -> int:
        scheduler.begin_at(first_lr, spread_lr=spread_lr)
        return _num_fitting(scheduler, recorded, tolerance)[0]

    is_whole = num_fitting(None) >= scheduler.warmup_steps
    if is_whole and not _rises_beyond(recorded, scheduler):
        return  # a decay that begins slowly would look like more of a longer sweep
    # Of those that fit alike the first: without a spread fall.
    paces = [None, *_spread_lrs(first_lr, scheduler.settings)]
    scheduler.begin_at(first_lr, spread_lr=max(paces, key=num_fitting))


def _rises_beyond(recorded: RecordedLRs, scheduler: AutoWU) -> bool:
    """Whether the record has LRs above all that the longest warmup of the scheduler reaches."""
    return max(recorded.lrs) > 1.05 * scheduler.lr_at(scheduler.warmup_steps - 1)


def _is_longer(recorded: RecordedLRs, replayed: AutoWU) -> bool:
    """Whether a replay ended at a cap that a probe has made shorter, and the record goes on."""
    cap = replayed.warmup_steps
    is_at_cap = replayed.switch_step == cap < replayed.settings.warmup_steps
    return is_at_cap and not replayed.found_minimum and _rises_beyond(recorded, replayed)


def _beginning(recorded: RecordedLRs) -> dict[str, Any]:
    """Keywords of `replay` whose sweep begins as recorded, after a probe."""
    return {"sweep": "adaptive", "first_lr": float(f"{recorded.lrs[0]:.6g}")}


def _spread_lrs(first_lr: float, settings: SchedulerSettings) -> list[float]:
    """The LRs of probes with a spread fall after which a sweep can begin at `first_lr`.

    That is so near below them, and 12 times as much is an LR of the probe's steps.
    """
    lrs = (lr / MAX_DISTANCE for lr in probe_lrs(settings.min_lr, settings.max_lr))
    near = (1.0 - LR_TOLERANCE, (1.0 + LR_TOLERANCE) * MAX_RUN_UP)
    return [max(lr, first_lr) for lr in lrs if near[0] <= lr / first_lr <= near[1]]


def _numbers(name: str, values: Iterable[float] | Tensor, scheduler: AutoWU) -> Iterator[float]:
    """The values of the run, as floats."""
    if isinstance(values, Tensor):
        if values.ndim == 0 or values.numel() > len(values):
            shape = tuple(values.shape)
            raise ValueError(f"{name} must be those of one run, one a step, got shape {shape}")
        values = values.detach().cpu().flatten().tolist()
    for index, value in enumerate(islice(values, scheduler.settings.total_steps)):
        try:
            if isinstance(value, bool) or getattr(value, "dtype", None) in (bool, torch.bool):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"{name}[{index}] must be a number, got {value!r}") from None
        yield number


def _has_probed(lr: float, scheduler: AutoWU) -> bool:
    """Whether an adaptive sweep can have begun at this LR by a probe alone."""
    settings = scheduler.settings
    is_above = settings.min_lr * (1.0 + LR_TOLERANCE) < lr < settings.max_lr
    return is_above and first_fall_step(settings) is None


def _check_lr(row: int, recorded: RecordedLRs, scheduler: AutoWU, settings: dict[str, Any]) -> None:
    (lr,) = scheduler.get_last_lr()
    if not math.isclose(recorded.lrs[row], lr, rel_tol=LR_TOLERANCE):
        why = ""
        if row > 0 and recorded.lrs[row] < recorded.lrs[row - 1]:
            why = ", as if no test had ended it, or set it back"
            is_probed = scheduler.lr_at(0) > scheduler.settings.min_lr
            if is_probed and scheduler.last_epoch >= LEAST_PROBED_STEPS:
                why += ", or probed_warmup_fraction were larger than in that run"
        raise OtherSweepError(
            f"step {row} was recorded at LR {recorded.lrs[row]:.6g}, and the sweep of this replay"
            f" has {lr:.6g} there{why}",
            _fitting(recorded, row, settings),
        )


def _fitting(recorded: RecordedLRs, row: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `replay` whose sweep, as long as no test changes it, has the LRs up to `row`."""
    after_probe = _beginning(recorded)
    first = after_probe["first_lr"]
    candidates: list[dict[str, Any]] = [
        {"sweep": "fixed"},
        {"sweep": "adaptive"},
        after_probe,
        {"sweep": "fixed", "min_lr": first},
        {"sweep": "adaptive", "min_lr": first},
    ]
    for keywords in candidates:
        changed = settings | keywords
        try:
            first_lr = changed.pop("first_lr", None)
            sweep = _begun(first_lr, changed)
            if first_lr is not None:
                _begin_as_recorded(sweep, first_lr, recorded)
        except ValueError:  # no sweep begins there
            continue
        num_rows, num_steps = _num_fitting(sweep, recorded, LR_TOLERANCE)
        is_long = num_rows > row and num_steps >= NUM_COMPARED
        if is_long or num_rows == len(recorded.lrs):
            return keywords
    return {}


def _num_fitting(sweep: AutoWU, recorded: RecordedLRs, tolerance: float) -> tuple[int, int]:
    """So many rows, from the first on, and steps have the LRs of a warmup that no test ends."""
    step = 0
    for row, lr in enumerate(recorded.lrs):
        is_over = step >= sweep.warmup_steps
        if is_over or not math.isclose(lr, sweep.lr_at(step), rel_tol=tolerance):
            return row, step
        step += not recorded.was_skipped(row, sweep, step)
    return len(recorded.lrs), step
