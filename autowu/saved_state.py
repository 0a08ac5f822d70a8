"""A saved state of AutoWU: whether it is whole and undamaged, and those of earlier versions."""

import math
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from autowu.group_lrs import check_saved_lrs
from autowu.settings import (
    DEFAULT_PROBED_WARMUP_FRACTION,
    SchedulerSettings,
    check_integer,
    check_number,
)

STATE_VERSION = 9
# Each in a tuple of its own: what grows in a run, and what only some states have. DCP, PyTorch's
# distributed checkpoint, loads tensors, lists and dicts entry by entry into those of the new
# scheduler's state, which are shorter; a tuple it takes whole.
BOXED = ("tests", "losses", "interval", "gp")


@contextmanager
def loaded_whole(scheduler: Any) -> Iterator[None]:
    """A block that loads a state: where it fails the scheduler is as it was before.

    What is loaded must replace objects, and change none.

    Raises:
        ValueError: whatever a damaged state leads to.
    """
    before = scheduler.__dict__.copy()
    try:
        yield
    except Exception as error:
        scheduler.__dict__.clear()
        scheduler.__dict__.update(before)
        if isinstance(error, ValueError):
            raise
        raise ValueError(
            f"not a state_dict of {type(scheduler).__name__}, or a damaged one: {error!r}"
        ) from error


def boxed(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it is saved, from one whose `BOXED` entries are as they are worked with."""
    return state | {name: (state[name],) for name in BOXED}


def unboxed(state: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `boxed`.

    Raises:
        ValueError: an entry is in no box.
    """
    boxes = {name: state[name] for name in BOXED if name in state}
    for name, box in boxes.items():
        if not isinstance(box, tuple) or len(box) != 1:
            raise ValueError(f"{name} of the state must be a tuple of one, got {box!r:.60}")
    return state | {name: box[0] for name, box in boxes.items()}


def of_this_version(state: Any) -> Any:
    """A state of any version as one of this, out of its boxes.

    It goes on as it would have gone on then.

    Version 1 knows fixed sweeps alone. After a probe the LR grew by 3 % a step in version 2, and
    by 2 % in 3. Until version 4 a loss without a weight was taken for one that is not finite, until
    5 skipped steps were not counted, until 6 an LR that another had written was not kept, until
    7 there was no shorter warmup after a probe, and until 8 nothing was boxed. Only after a late
    set-back, and of linear growth, are the tests more frequent now.
    """
    if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
        return state
    version = state.get("version")
    if version == 1:
        settings = {"sweep": "fixed"} | state["settings"]
        state = state | {"settings": settings, "fall_step": 0, "slow_lr": None}
    if version in (1, 2, 3):
        state = state | {"probed_growth": 1.02 if version == 3 else 1.03}
    if version in (1, 2, 3, 4):
        state = state | {"unweighted": []}
    if version in (1, 2, 3, 4, 5):
        state = state | {"num_skipped": 0}
    if version in (1, 2, 3, 4, 5, 6):
        state = state | {"other_lrs": []}
    if version in (1, 2, 3, 4, 5, 6, 7):
        # It plays no part once the sweep has begun: the longest warmup is `W`, whatever it is.
        settings = {"probed_warmup_fraction": DEFAULT_PROBED_WARMUP_FRACTION} | state["settings"]
        state = state | {"settings": settings, "warmup_steps": None}
    if version in (1, 2, 3, 4, 5, 6, 7, 8):
        return state | {"version": STATE_VERSION}
    return unboxed(state) if version == STATE_VERSION else state


def checked_settings(state: Any, keys: Set[str], num_groups: int) -> SchedulerSettings:
    """The settings of a state of this version, after a look at all that is in it.

    Args:
        state: what is to be loaded.
        keys: of a whole state.
        num_groups: parameter groups of the optimizer.

    Raises:
        ValueError: it is none, lacks something, contradicts itself, or has more groups.
    """
    if not isinstance(state, dict) or "settings" not in state or "interval" not in state:
        found = sorted(state)[:8] if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"not a state_dict of AutoWU: it holds {found}")
    if state.get("version") != STATE_VERSION:
        raise ValueError(
            f"a state_dict of version {state.get('version')}, this autowu reads {STATE_VERSION}"
        )
    missing = sorted(keys - state.keys())
    if missing:
        raise ValueError(f"not a whole state_dict of AutoWU: {', '.join(missing)} missing")
    check_saved_lrs(state, num_groups)
    try:
        settings = SchedulerSettings(**state["settings"])
    except TypeError as error:
        raise ValueError(f"the settings of the state are not those of AutoWU: {error}") from None
    _check_steps(state, settings)
    _check_lrs(state, settings)
    return settings


def _check_steps(state: dict[str, Any], settings: SchedulerSettings) -> None:
    # -1: in a SequentialLR, before its turn.
    last_epoch = check_integer("last_epoch", state["last_epoch"], -1)
    first_step, last_test_step, *_ = (
        check_integer(name, state[name], 0)
        for name in ("first_step", "last_test_step", "step_count", "num_skipped")
    )
    num_steps = max(last_epoch, 0)
    if last_test_step > num_steps:
        raise ValueError(
            f"the state has a test at step {last_test_step}, and is of step {last_epoch}"
        )
    fall_step = state["fall_step"]
    if fall_step is not None and not 0 <= fall_step < settings.warmup_steps:
        raise ValueError(f"fall_step={fall_step} of the state is no step of the warmup")
    cap, longest = state["warmup_steps"], settings.warmup_steps
    if cap is not None and not (type(cap) is int and 1 <= cap <= longest):
        raise ValueError(f"warmup_steps={cap} of the state: its settings allow 1 to {longest}")
    if cap is not None and state["switch_step"] is None and last_epoch > cap:
        raise ValueError(f"a state in the warmup at step {last_epoch}, which ends at {cap}")
    interval = state["interval"]
    num_losses = len(state["losses"]) + len(interval["sums"]) - bool(interval["is_open"])
    if state["switch_step"] is None and first_step + num_losses != num_steps:
        raise ValueError(
            f"a state of {num_losses} losses since step {first_step}, at step {last_epoch}: it is "
            "damaged"
        )


def _check_lrs(state: dict[str, Any], settings: SchedulerSettings) -> None:
    slow_lr, switch_step, start_lr = state["slow_lr"], state["switch_step"], state["start_lr"]
    slack = 1.0 + 1e-9  # until version 6 rounding could take it out of the bounds
    least, most = settings.min_lr / slack, settings.max_lr * slack
    if slow_lr is not None and not least <= slow_lr <= most:
        raise ValueError(f"slow_lr={slow_lr} of the state lies outside of [min_lr, max_lr]")
    if start_lr is not None and not 0.0 <= check_number("start_lr of the state", start_lr) <= most:
        raise ValueError(f"start_lr={start_lr} of the state lies outside of [0, max_lr]")
    if (switch_step is None) != (start_lr is None):
        raise ValueError(f"the state has switch_step={switch_step}, start_lr={start_lr}")
    diverged = state["diverged"]
    if not isinstance(diverged, bool) or (diverged and switch_step is None):
        raise ValueError(f"the state has diverged={diverged!r}, switch_step={switch_step}")
    reference = float(state["reference_lr"])
    if not 0.0 <= reference < math.inf:
        raise ValueError(f"reference_lr={reference} of the state is no learning rate")
