"""The losses of the warmup: gathered on the device, then kept on the CPU.

`Interval` takes a loss per optimizer step without looking at it, so the device is never waited
for; at a test it is reduced over the ranks and its losses move to the `LossCurve`. Everything
the test asks of the curve is kept up to date as losses arrive, so that a test costs the same
after a thousand and after a million of them.
"""

import bisect
import math
from array import array
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from autowu.ranks import num_ranks

NUM_VIEWS = 256  # views of slots that are made at a time
_MAX_FLOAT32 = torch.finfo(torch.float32).max


class LossCurve:
    """Warmup losses averaged over ranks, in the order of the steps.

    Args:
        capacity: most losses it will ever hold. The memory is reserved, not touched.
    """

    def __init__(self, capacity: int) -> None:
        self._values = _reserved(capacity)
        self._capacity = capacity
        self._num_losses = 0
        self._non_finite = array("q")  # positions, ascending
        self.unweighted: list[int] = []  # those of them of steps in which nothing had a weight
        self._sum = 0.0
        self._lowest = math.inf
        self._highest = -math.inf
        self.index_of_lowest = 0  # position of the lowest finite loss, 0 if there is none

    def __len__(self) -> int:
        return self._num_losses

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what is reserved and not used stays behind."""
        return self.__dict__ | {"_values": self.values.clone()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._values = _reserved(self._capacity)
        self.values.copy_(state["_values"])

    @property
    def values(self) -> Tensor:
        """float32 CPU (n,), a view."""
        return self._values[: self._num_losses]

    @property
    def num_finite(self) -> int:
        return self._num_losses - len(self._non_finite)

    @property
    def is_constant(self) -> bool:
        """Whether there are not two different finite losses."""
        return self._lowest >= self._highest

    @property
    def finite_mean(self) -> float:
        return self._sum / self.num_finite if self.num_finite else 0.0

    def extend(self, losses: Tensor, has_weight: Tensor | None = None) -> None:
        """Append losses.

        Args:
            losses: float32 CPU (k,), NaN where nothing had a weight.
            has_weight: bool CPU (k,); None: all have one.
        """
        start, stop = self._num_losses, self._num_losses + len(losses)
        self._values[start:stop] = losses
        self._num_losses = stop
        finite = losses.isfinite()
        if not finite.all():
            self._non_finite.extend((start + (~finite).nonzero().squeeze(1)).tolist())
        if has_weight is not None and not has_weight.all():
            self.unweighted += (start + (~has_weight).nonzero().squeeze(1)).tolist()
        finite_losses = losses[finite].double()
        if len(finite_losses) == 0:
            return
        self._sum += float(finite_losses.sum())
        self._highest = max(self._highest, float(finite_losses.max()))
        lowest = float(finite_losses.min())
        if lowest < self._lowest:
            self._lowest = lowest
            self.index_of_lowest = start + int((losses == lowest).nonzero()[0])

    def is_dead(self, num_newest: int) -> bool:
        """Whether the newest losses, at least two, hold nothing finite: the run has diverged.

        A step in which nothing had a weight says nothing, and does not count.
        """
        num_losses = self._num_losses
        begin_of_two = bisect.bisect_left(
            range(num_losses + 1), True, key=lambda start: self._num_weighted_since(start) < 2
        )
        start = min(num_losses - num_newest, begin_of_two - 1)
        return start >= 0 and _num_since(self._non_finite, start) == num_losses - start

    def _num_weighted_since(self, start: int) -> int:
        return self._num_losses - start - _num_since(self.unweighted, start)

    @property
    def end_of_finite(self) -> int:
        """One past the position of the last finite loss."""
        end = self._num_losses
        for position in reversed(self._non_finite):
            if position != end - 1:
                break
            end -= 1
        return end

    def sample(
        self, num_samples: int, num_losses: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw finite losses without replacement, in O(num_samples).

        Args:
            num_samples: how many; all of them if there are not more.
            num_losses: draw among the first so many losses.
            rng: draws; not used when all losses are taken.

        Returns:
            Positions and losses, float64 (k,) each.
        """
        non_finite = self._non_finite[: bisect.bisect_left(self._non_finite, num_losses)]
        num_finite = num_losses - len(non_finite)
        if num_finite <= num_samples:
            ranks = np.arange(num_finite)
        else:
            ranks = rng.choice(num_finite, size=num_samples, replace=False, shuffle=False)
        if len(non_finite):
            # The k-th finite loss lies behind every gap that has at most k finite ones before it.
            finite_before = np.asarray(non_finite) - np.arange(len(non_finite))
            ranks = ranks + np.searchsorted(finite_before, ranks, side="right")
        positions = torch.from_numpy(ranks)
        return positions.double(), self._values[positions].double()


class Interval:
    """Losses since the last reduction, one slot per optimizer step, on the losses' device.

    A slot holds sums over the micro-batches and calls of `add` up to the `commit` that closes it:
    `weight * loss` and `weight`. Moves: `add` any number of times, `commit`, ...; `reduce` empties
    the committed slots.
    """

    def __init__(self) -> None:
        self.num_committed = 0
        self.is_open = False  # something was added since the last commit
        self._sums = torch.empty(0)
        self._weights = torch.empty(0)
        self._views: tuple[Tensor, ...] = ()
        self._first_view = 0
        self._move(torch.device("cpu"), 0)

    def reserve(self, num_slots: int) -> None:
        """Make room for so many slots in all, keeping what is there."""
        if num_slots > len(self._sums):
            self._move(self._sums.device, num_slots)

    def add(self, loss: Tensor | float, weight: Tensor | float = 1) -> None:
        """Add to the open slot; the loss is copied. Never waits for the device.

        Raises:
            TypeError: an integer, a DTensor or something that is no number.
            ValueError: a tensor that is not 0-d, or a negative weight.
        """
        tensor = None
        if isinstance(loss, Tensor):
            if loss.__class__ is not Tensor and hasattr(loss, "full_tensor"):
                raise TypeError("loss is a DTensor: pass loss.full_tensor(), which communicates")
            if loss.dim() or not loss.dtype.is_floating_point:
                raise _not_a_loss(loss)
            if loss.device != self._device:
                if loss.device.type == "cpu":  # on the host already: no wait
                    self.add(loss.item(), weight)
                    return
                self._move(loss.device, len(self._sums))
            # `data` shares the storage, as `detach()` does in twice the time; it is copied below.
            tensor = loss = loss.data if loss.requires_grad else loss
        else:
            loss = _checked_float(loss)
        slot = self.num_committed
        if self.is_open or weight.__class__ is not int or weight != 1:
            self._add_weighted(slot, loss, weight)
        elif tensor is None and self._host is not None:
            self._host[slot] = loss  # the weights are ones already
        else:
            index = slot - self._first_view
            if index >= len(self._views):
                self._make_views(slot)
                index = 0
            if tensor is not None:
                self._views[index].copy_(tensor)
            else:
                self._views[index].fill_(loss)
        self.is_open = True

    def commit(self) -> None:
        """Close the open slot: an optimizer step was made."""
        self.num_committed += 1
        self.is_open = False

    def reduce(
        self, group: dist.ProcessGroup | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Average the committed slots over the ranks and empty them: one all-reduce.

        Args:
            group: the ranks; None for the default group.
            device: where the collective runs.

        Returns:
            Losses, float32 CPU (n,), NaN where all weights are 0; and where not, bool CPU (n,).
        """
        n = self.num_committed
        stacked = torch.stack([self._sums[:n], self._weights[:n]])  # (2, n)
        if num_ranks(group) > 1 and n:
            stacked = stacked.to(device)
            dist.all_reduce(stacked, dist.ReduceOp.SUM, group=group)
        sums, weights = stacked.cpu()
        if self.is_open:  # a micro-batch of the next step has been seen already
            self._sums[0], self._weights[0] = self._sums[n].clone(), self._weights[n].clone()
            self._weights[1:].fill_(1.0)
        else:
            self._weights.fill_(1.0)
        self.num_committed = 0
        self._views, self._first_view = (), 0
        return sums / weights, weights != 0

    def state_dict(self) -> dict[str, Any]:
        num_slots = self.num_committed + self.is_open
        return {
            "sums": self._sums[:num_slots].detach().cpu().clone(),
            "weights": self._weights[:num_slots].detach().cpu().clone(),
            "is_open": self.is_open,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sums, weights = state["sums"], state["weights"]
        self.is_open = bool(state["is_open"])
        self.num_committed = len(sums) - self.is_open
        self._move(torch.device("cpu"), len(sums) + 1)
        self._sums[: len(sums)] = sums.cpu()
        self._weights[: len(weights)] = weights.cpu()

    def _add_weighted(self, slot: int, loss: Tensor | float, weight: Tensor | float) -> None:
        if isinstance(weight, Tensor):
            if weight.ndim:
                raise ValueError(
                    f"weight must be a scalar, got a tensor of shape {tuple(weight.shape)}"
                )
            weight = weight.detach().to(self._sums.device, torch.float32)
            loss = torch.as_tensor(loss, dtype=torch.float32, device=self._sums.device)
            # A rank without samples has weight 0 and often the mean over nothing, NaN. A negative
            # weight can't be refused without a wait: its loss becomes NaN, and is left out.
            nothing = torch.where(weight == 0, 0.0, math.nan)
            weighted: Tensor | float = torch.where(weight > 0, loss * weight, nothing)
        else:
            given, weight = weight, _checked_float(weight, allow_integers=True, name="weight")
            if not 0 <= weight < math.inf:
                raise ValueError(f"weight must be finite in float32 and not negative, got {given}")
            if isinstance(loss, Tensor):
                weighted = loss.float() * weight if weight else 0.0
            else:
                weighted = _checked_float(loss * weight) if weight else 0.0
        if self.is_open:
            self._sums[slot] += weighted
            self._weights[slot] += weight
        else:
            self._sums[slot] = weighted
            self._weights[slot] = weight

    def __getstate__(self) -> dict[str, Any]:
        """For copies: what shares the storage of the slots is made anew there."""
        return self.__dict__ | {"_views": (), "_first_view": 0, "_host": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._host = self._sums.numpy() if self._device.type == "cpu" else None

    def _make_views(self, slot: int) -> None:
        """The slots from this one on as 0-d tensors: twice as fast to write as by indexing."""
        with torch.inference_mode(False):  # a view made in it could not be written outside
            self._views = self._sums[slot : slot + NUM_VIEWS].unbind()
        self._first_view = slot

    def _move(self, device: torch.device, num_slots: int) -> None:
        """Allocate `num_slots` slots on `device`, and copy what is there as far as it fits."""
        with torch.inference_mode(False):
            sums = torch.zeros(num_slots, dtype=torch.float32, device=device)
            weights = torch.ones(num_slots, dtype=torch.float32, device=device)
            if self.num_committed or self.is_open:
                num_kept = min(num_slots, len(self._sums))
                sums[:num_kept] = self._sums[:num_kept].to(device)
                weights[:num_kept] = self._weights[:num_kept].to(device)
            self._sums, self._weights, self._device = sums, weights, sums.device
            self._views, self._first_view = (), 0
            self._host = sums.numpy() if device.type == "cpu" else None  # for floats


def _reserved(capacity: int) -> Tensor:
    """float32 CPU (capacity,), not touched: torch.empty fills it where all is deterministic."""
    try:
        values = np.empty(capacity, dtype=np.float32)
    except (MemoryError, ValueError, OverflowError):
        raise ValueError(
            f"total_steps is too large: no memory for the {capacity} losses of its warmup"
        ) from None
    with torch.inference_mode(False):
        return torch.from_numpy(values)


def _num_since(positions: Sequence[int], start: int) -> int:
    """How many of the ascending positions lie at `start` or behind."""
    return len(positions) - bisect.bisect_left(positions, start)


def _not_a_loss(loss: Tensor) -> Exception:
    if loss.ndim:
        return ValueError(
            f"loss must be a scalar, got a tensor of shape {tuple(loss.shape)}; "
            "reduce it first, for example loss.mean()"
        )
    return TypeError(
        f"loss must be a floating-point tensor, got {loss.dtype} (step() takes the training loss, "
        "or nothing after observe(loss))"
    )


def _checked_float(value: object, *, allow_integers: bool = False, name: str = "loss") -> float:
    if value.__class__ is float and -_MAX_FLOAT32 <= value <= _MAX_FLOAT32:
        return value
    if not isinstance(value, Real) or (isinstance(value, Integral) and not allow_integers):
        raise TypeError(
            f"{name} must be a float or a 0-d floating-point tensor, got "
            f"{type(value).__name__} {value!r}"
            + " (an epoch? step() takes the training loss, or nothing after observe(loss))"
            * isinstance(value, Integral)
        )
    number = float(value)
    if abs(number) > _MAX_FLOAT32:
        return math.copysign(math.inf, number)
    return number
