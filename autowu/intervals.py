"""After which optimizer steps the minimum test is made: a pure function of the step.

The published code tests at epoch ends. That is often enough where an epoch changes the LR little,
and far too rarely in a short budget, where an epoch changes it tenfold. So tests are spaced by
the growth of the LR instead (section 2, "When to test", in the project's design; ours).
"""

import math
from dataclasses import replace

from autowu.settings import SchedulerSettings

MAX_GROWTH = 1.2  # ours: the LR grows by at most this factor between two tests


def next_test_point(
    step: int,
    settings: SchedulerSettings,
    *,
    cap: int | None = None,
    is_fast: bool = False,
    growth: float = 0.0,
) -> int:
    """The first test after `step` optimizer steps; never later than the longest warmup.

    "epoch" tests after each epoch, a number `k` after each `k` steps. "auto" divides each epoch
    evenly into the fewest intervals within which the LR grows by at most 1.2x (a single step may
    grow it more). Where several epochs fit into that, it tests at the end of the last of them:
    tests at every end would see nearly the same losses, and patience would guard against nothing.
    Of linear growth, which slows down within an epoch, each interval is as long as it may be, but
    no longer than that of an exponential sweep as long: late in the warmup the LR needs a sixth of
    it to grow by 1.2x. Without epochs the growth alone decides. The last test is at the cap.

    Args:
        step: optimizer steps done, a test point or the step where the warmup began; below the cap.
        cap: the longest warmup in steps; None: `W`, that of the settings.
        is_fast: the sweep waits for the loss to fall: tests are as frequent as "auto" has them, at
            least, or the LR would be past the good ones at the first.
        growth: what the log of the LR grows by in a step from now on. Where that is less than in
            the fixed sweep, tests are as frequent as there.
    """
    cap = settings.warmup_steps if cap is None else cap
    interval, epoch_steps = settings.test_interval, settings.steps_per_epoch
    if is_fast and interval != "auto":
        auto = replace(settings, test_interval="auto")
        own = next_test_point(step, settings, cap=cap)
        return min(own, next_test_point(step, auto, cap=cap, growth=growth))
    if interval == "epoch":
        assert epoch_steps is not None
        interval = epoch_steps
    if isinstance(interval, int):
        point = (step // interval + 1) * interval
    elif epoch_steps is None or settings.growth == "linear":
        point = step + _longest_interval(step, settings, growth)
        if epoch_steps is not None and point // epoch_steps > step // epoch_steps:
            point = point // epoch_steps * epoch_steps  # the last epoch end on the way
    else:
        start = step // epoch_steps * epoch_steps
        longest = _longest_interval(start, settings, growth)
        num_epochs = max(1, longest // epoch_steps)
        num_intervals = math.ceil(epoch_steps / longest)
        # Interval i of the epoch ends after floor(i * epoch_steps / num_intervals) of its steps.
        done = ((step - start + 1) * num_intervals - 1) // epoch_steps
        point = start + num_epochs * (done + 1) * epoch_steps // num_intervals
    return min(point, cap)


def is_tested_at_cap(settings: SchedulerSettings, cap: int) -> bool:
    """Whether the warmup's longest possible end is a test too.

    As published (tests at epoch ends, decay from the current LR) nothing is asked there, unless
    an epoch ends there.
    """
    if settings.test_interval == "epoch" and settings.at_cap == "current":
        assert settings.steps_per_epoch is not None
        return cap % settings.steps_per_epoch == 0
    return True


def _longest_interval(step: int, settings: SchedulerSettings, growth: float) -> int:
    """Steps from `step` on within which the sweep grows by at most 1.2x; at least 1.

    Of linear growth no more than an exponential sweep of that length takes for it.
    """
    cap = settings.warmup_steps
    least = math.log(settings.max_lr / settings.min_lr) / cap  # of log(LR) in a step
    if settings.growth == "exponential":
        steps = math.log(MAX_GROWTH) / max(growth, least)
    else:
        slope = (settings.max_lr - settings.min_lr) / cap
        steps = (MAX_GROWTH - 1.0) * (settings.min_lr / slope + step)
        steps = min(steps, math.log(MAX_GROWTH) / least)
    return max(1, math.floor(steps * (1.0 + 1e-12)))
