"""What the adapters refuse, with one message for all of them; and what they do not ask."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from autowu.scheduler import AutoWU
from autowu.settings import SchedulerSettings
from autowu.trainer.limits import closest

KEYWORDS = [*inspect.signature(AutoWU).parameters][2:]  # without the optimizer and the total_steps


def build(
    optimizer: Optimizer, total_steps: int, steps_per_epoch: int | None, given: Mapping[str, Any]
) -> AutoWU:
    """An AutoWU with lengths that a trainer has counted, not asked whether they are swapped.

    Args:
        optimizer, total_steps, steps_per_epoch: as for `AutoWU`.
        given: keywords from the user, among them perhaps another `steps_per_epoch`.
    """
    if "steps_per_epoch" in given:
        return AutoWU(optimizer, total_steps, **given)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a run of total_steps=")
        return AutoWU(optimizer, total_steps, steps_per_epoch, **given)


def check_keywords(owner: str, given: Mapping[str, Any], instead: Mapping[str, str]) -> None:
    """Refuse what is no keyword of AutoWU before the training starts.

    Args:
        owner: whom they were given to, for the message.
        given: their names and values.
        instead: names that the adapter does not take -> what to do instead.

    Raises:
        TypeError: naming the keyword, and the nearest right one.
    """
    for name, value in given.items():
        if name in instead:
            raise TypeError(f"{owner} takes no {name}, got {value!r}: {instead[name]}")
        if name not in KEYWORDS:
            hint = closest(str(name), KEYWORDS) or f", which has {', '.join(KEYWORDS)}"
            raise TypeError(f"{owner} got {name}={value!r}, which is no keyword of AutoWU{hint}")


def check_same_settings(loaded: SchedulerSettings, wanted: SchedulerSettings) -> None:
    """Refuse a state of other settings: the LR of a longer run would be 0 where the old one ended.

    Raises:
        ValueError: naming the first setting that differs.
    """
    old, new = loaded.as_dict(), wanted.as_dict()
    for name in old:
        if old[name] != new[name]:
            raise ValueError(
                f"the checkpoint is that of a run with {name}={old[name]!r}, and this one has "
                f"{new[name]!r}: AutoWU resumes with the same settings and the same length alone"
            )
