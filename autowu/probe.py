"""The probe: a few steps, all of them taken back, that show where the loss begins to fall.

A sweep from 1e-5 spends its first steps at LRs that train nothing, and a run of 20 or 100 steps
has none to spend. Where weights can be put back those LRs can be passed on a small part of one
batch: the LR doubles from step to step, from `min_lr` to `max_lr`, always on the same few samples,
so that the loss is a smooth function of the LR. At some LR `h` a step takes it below half of all
that it falls, and `u` is the last LR before it rises again. Near

    p = max(h, u / 12)

the sweep of the run can begin, and be slow from its first step on (`sweep.py`). In small networks
`p` is `h`. But a wide one learns a few samples by heart at LRs far below those that train it: a
ResNet-18 of half the width at 1.5e-4, where its best peak LR is 0.003 (`experiments/sweep`). Where
`h` lies below `u / 12` the fall is spread: the good LRs may lie anywhere between the two. There the
sweep of a long run takes its time, and the further apart the two lie, the nearer to `p` it begins.
The steps of an optimizer like Adam do not depend on the size of a batch, and those of SGD little as
long as the weights are random.

All of it means the same for `a * loss + b`, and all of it is ours: the paper has no probe.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from autowu.random_state import get_random_state, rewinder, set_random_state
from autowu.ranks import num_ranks
from autowu.unchanged import generators_of, unchanged

GROWTH = 2.0  # ours: at most so much the LR grows from step to step
LEVEL = 0.5  # ours: of the fall; earlier nothing is learnt yet, later it is too much soon
RISE = 0.1  # ours: of the fall; a loss that rises by less than that still rests
MAX_DISTANCE = 12.0  # ours: at most so many times the fall begins below the last LR before a rise
# In fp16 the scaler begins at 2^16 and halves: so many steps left out in a row are not its search.
MOST_SKIPPED = 24
NUM_SAMPLES = 32  # ours: of a batch; 16 to 256 give nearly the same LR (`experiments/probe`)

TakeStep = Callable[[], Tensor | float | None]


class Fall(NamedTuple):
    """Where the loss of a probe falls."""

    lr: float  # `p` of the module's docstring: near it the loss begins to
    half_lr: float  # `h`: its step takes the loss below half of the fall

    @property
    def is_spread(self) -> bool:
        """Whether half of the fall comes before `p`, which is `u / 12` then."""
        return self.half_lr < self.lr


def probe_lrs(min_lr: float, max_lr: float) -> list[float]:
    """From `min_lr` to `max_lr` in the fewest equal factors of at most 2.

    >>> [round(lr, 6) for lr in probe_lrs(1e-3, 8e-3)]
    [0.001, 0.002, 0.004, 0.008]
    """
    # A little less than what rounding adds to a whole number of doublings.
    num_factors = max(1, math.ceil(math.log(max_lr / min_lr) / math.log(GROWTH) - 1e-9))
    return [min_lr * (max_lr / min_lr) ** (k / num_factors) for k in range(num_factors + 1)]


def losses_taken_back(
    model: nn.Module,
    optimizer: Optimizer,
    lrs: Sequence[float],
    set_lr: Callable[[float], None],
    take_step: TakeStep,
    *,
    device: torch.device,
    group: dist.ProcessGroup | None,
) -> list[float]:
    """`probe_losses`, averaged over the ranks, of steps that change nothing in the end.

    Every step draws the same random numbers: dropout would make the losses noisy.

    Args:
        model: what the steps change, with the optimizer and the random states.
        device: of the model's first parameter.
        group: the ranks; None for the default group.
    """
    random_state = get_random_state(device)
    rewinders = [rewinder(generator) for generator in generators_of(model)]

    def step() -> Tensor | float | None:
        set_random_state(random_state, device)
        for rewind in rewinders:
            rewind()
        return _mean_over_ranks(take_step(), device, group)

    with unchanged(model, optimizer, device), torch.enable_grad():
        losses = probe_losses(lrs, set_lr, step)
    if not math.isfinite(losses[0]):
        warnings.warn(
            f"the first loss of the probe is {losses[0]:g}: it says nothing, and the sweep begins "
            "at min_lr",
            stacklevel=3,
        )
    if len(set(losses)) == 1 and math.isfinite(losses[0]):
        warnings.warn(
            f"all losses of the probe are {losses[0]:g}: its steps changed nothing. Does "
            "take_step call optimizer.step()?",
            stacklevel=3,
        )
    return losses


def probe_losses(
    lrs: Sequence[float], set_lr: Callable[[float], None], take_step: TakeStep
) -> list[float]:
    """The loss before a step at each of the LRs (n,), one step after the other.

    The first loss that is not finite is the last step: NaN stands for those after it. So it is
    where a GradScaler skips every step from some LR on, as it does with a network that has
    exploded.

    Args:
        lrs: (n,).
        set_lr: writes an LR into the optimizer.
        take_step: takes a step and returns the loss before it; None: a GradScaler left the step
            out, and it is taken again.

    Raises:
        TypeError: `take_step` returns something that is no scalar.
        RuntimeError: no step is ever taken.
    """
    losses: list[float] = []
    num_skipped = 0  # in a row
    while len(losses) < len(lrs) and num_skipped <= MOST_SKIPPED:
        set_lr(lrs[len(losses)])
        loss = take_step()
        if loss is None:
            num_skipped += 1
            continue
        num_skipped = 0
        losses.append(checked_loss(loss))
        if not math.isfinite(losses[-1]):
            break
    if not losses:
        raise RuntimeError(
            f"{num_skipped} steps of the probe were left out: take_step must return the"
            " loss, a float or a 0-d tensor, and None only for a step that a GradScaler"
            " skipped"
        )
    return losses + [math.nan] * (len(lrs) - len(losses))


def find_fall(lrs: Sequence[float], losses: Sequence[float]) -> Fall | None:
    """Where the loss begins to fall.

    The fall is that from the first loss to the lowest one; losses from the first one that is not
    finite on are left out. A loss stands before its step. Without a rise `u` is the last LR that a
    loss stands after.

    Args:
        lrs: (n,) growing.
        losses: (n,).

    Returns:
        Its LR is not always one of `lrs`; None where the loss falls nowhere.

    >>> find_fall([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.2, 1.0, 7.0])
    Fall(lr=0.001, half_lr=0.001)
    >>> find_fall([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 0.9, 0.2, 0.1, 7.0])
    Fall(lr=0.0008333333333333334, half_lr=0.0001)
    >>> find_fall([1e-4, 1e-3, 1e-2], [2.0, 2.1, 2.2])
    """
    finite = list(itertools.takewhile(math.isfinite, losses))
    half = _step_of_half_fall(finite)
    if half is None:
        return None
    lowest_lr = lrs[_last_step_before_rise(finite, half)] / MAX_DISTANCE
    return Fall(max(lrs[half], lowest_lr), lrs[half])


def _step_of_half_fall(losses: Sequence[float]) -> int | None:
    """The step that brings the loss below half of its fall.

    Of several such steps the first after which the loss stays below for another step, or is the
    lowest: one noisy loss is no fall, and after an explosion a loss may be low by chance.
    """
    if not losses:
        return None
    lowest = losses.index(min(losses))
    level = losses[0] * LEVEL + losses[lowest] * (1.0 - LEVEL)
    for after in range(1, lowest + 1):
        if losses[after] < level and (after == lowest or losses[after + 1] < level):
            return after - 1
    return None


def _last_step_before_rise(losses: Sequence[float], half: int) -> int:
    """The last step, from `half` on, that leaves the loss near the lowest one so far.

    A single high loss is a rise: noise makes `u` too low, and then `h` counts alone.
    """
    rise = RISE * (losses[0] - min(losses))
    lowest = losses[half + 1]
    for after in range(half + 2, len(losses)):
        if losses[after] - lowest > rise:
            return after - 2
        lowest = min(lowest, losses[after])
    return len(losses) - 2


def _mean_over_ranks(
    loss: Tensor | float | None, device: torch.device, group: dist.ProcessGroup | None
) -> Tensor | float | None:
    """Of the losses of one step; None where the step of a rank was skipped."""
    world_size = num_ranks(group)
    if world_size == 1:
        return loss
    values = [0.0, 1.0] if loss is None else [checked_loss(loss), 0.0]
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=group)
    mean, skipped = (total / world_size).tolist()
    return None if skipped else mean


def checked_loss(loss: object) -> float:
    """A loss that `take_step` returned; TypeError for anything else."""
    if isinstance(loss, Tensor) and loss.dim() == 0:
        return float(loss.detach())
    if isinstance(loss, Real) and not isinstance(loss, Integral):  # NumPy's, too
        return float(loss)
    what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise TypeError(f"take_step must return the loss, a float or a 0-d tensor, got {what}")
