"""Losses of every kind, how they are copied and weighted, and what is refused."""

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autowu.loss_curve import Interval, LossCurve
from autowu.ranks import num_ranks

CPU = torch.device("cpu")
LARGEST = torch.finfo(torch.float32).max


def interval_of(num_slots: int = 8) -> Interval:
    interval = Interval()
    interval.reserve(num_slots)
    return interval


def reduced(interval: Interval) -> list[float]:
    return interval.reduce(None, CPU)[0].tolist()


FLOATS = st.floats(-100, 100, width=32)
WEIGHTS = st.sampled_from([0, 1, 1, 1, 3, 0.5, 128])
SLOT = st.lists(st.tuples(FLOATS, WEIGHTS, st.booleans(), st.booleans()), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(st.lists(SLOT, max_size=9), st.integers(0, 9))
def test_a_slot_is_the_weighted_mean_of_what_was_added(slots: list[Any], cut: int) -> None:
    """With floats and tensors mixed, and a reduction in the middle that must change nothing."""
    interval = interval_of(10)
    found: list[float] = []
    for index, slot in enumerate(slots):
        for loss, weight, is_tensor, weight_is_tensor in slot:
            interval.add(
                torch.tensor(loss) if is_tensor else loss,
                torch.tensor(float(weight)) if weight_is_tensor else weight,
            )
            if index == cut:
                found += reduced(interval)
        interval.commit()
    found += reduced(interval)
    expected = []
    for slot in slots:
        total = sum(weight for _, weight, *_ in slot)
        weighted = sum(loss * weight for loss, weight, *_ in slot)
        expected.append(weighted / total if total else math.nan)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("weight", [1, 2, torch.tensor(2.0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_losses_of_every_dtype_are_summed_in_float32(dtype: torch.dtype, weight: Any) -> None:
    interval = interval_of()
    losses = [torch.tensor(1.0 + i / 64, dtype=dtype) for i in range(5)]  # exact in all of them
    for loss in losses:
        interval.add(loss, weight)
    interval.commit()
    assert reduced(interval) == pytest.approx([1 + 2 / 64], rel=1e-6)
    assert interval.state_dict()["sums"].dtype is torch.float32


class Watched(torch.autograd.Function):
    """The identity; its node in the graph is a Python object, so that its end can be seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize("weight", [1, 2, torch.tensor(2.0)])
def test_a_loss_is_copied_and_its_graph_is_not_kept(weight: Any) -> None:
    interval = interval_of()
    parameter = torch.ones(3, requires_grad=True)
    for _ in range(2):  # the second is added to an open slot
        loss = Watched.apply((parameter**2).sum())
        graph = weakref.ref(loss.grad_fn)
        interval.add(loss, weight)
        loss.backward()
        assert parameter.grad is not None
        loss.data.fill_(99.0)  # a CUDA graph would reuse the storage
        del loss
        gc.collect()
        assert graph() is None
    interval.commit()
    assert not interval.state_dict()["sums"].requires_grad
    assert reduced(interval) == [3.0]


def test_a_weight_with_a_graph_keeps_none() -> None:
    interval = interval_of()
    interval.add(torch.tensor(3.0), torch.tensor(2.0, requires_grad=True) * 1)
    interval.commit()
    assert not interval.reduce(None, CPU)[0].requires_grad


def test_what_reduce_returns_is_not_overwritten_by_the_next_losses() -> None:
    interval = interval_of()
    interval.add(1.0)
    interval.commit()
    first = interval.reduce(None, CPU)[0]
    state = interval.state_dict()
    interval.add(torch.tensor(7.0), 5)
    interval.commit()
    assert first.tolist() == [1.0] and first.dtype is torch.float32
    assert state["sums"].tolist() == [] and state["is_open"] is False


def test_a_weight_does_not_outlive_its_interval() -> None:
    """The slot is used again by a loss without a weight."""
    interval = interval_of()
    for _ in range(3):
        interval.add(2.0, 8)
        interval.commit()
    assert reduced(interval) == [2.0] * 3
    for loss in (4.0, torch.tensor(5.0), 6.0):
        interval.add(loss)
        interval.commit()
    assert reduced(interval) == [4.0, 5.0, 6.0]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_room_is_made_without_losing_a_loss(as_tensor: bool) -> None:
    interval, rng = interval_of(0), np.random.default_rng(0)
    expected = []
    for size in (1, 3, 2, 300, 700):  # over more than one batch of views
        interval.reserve(size)
        while interval.num_committed < size:
            loss = float(np.float32(rng.random()))
            interval.add(torch.tensor(loss) if as_tensor else loss)
            interval.commit()
            expected.append(loss)
    interval.reserve(701)
    interval.add(3.0, 2)
    interval.reserve(900)  # with a slot open
    interval.commit()
    assert reduced(interval) == [*expected, 3.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_tensors_fill_more_slots_than_are_viewed_at_once(
    dtype: torch.dtype, is_weighted: bool
) -> None:
    interval = interval_of(600)
    for i in range(600):
        interval.add(torch.tensor(float(i % 200), dtype=dtype))
        if is_weighted and i % 7 == 0:
            interval.add(torch.tensor(float(i % 200), dtype=dtype), 2)
        interval.commit()
    assert reduced(interval) == pytest.approx([float(i % 200) for i in range(600)])


def test_a_state_is_a_snapshot_of_plain_tensors(tmp_path: Any) -> None:
    interval = interval_of()
    interval.add(1.0)
    interval.commit()
    interval.add(2.0, 3)
    torch.save(interval.state_dict(), tmp_path / "interval.pt")
    state = interval.state_dict()
    interval.add(100.0)
    interval.commit()
    loaded = torch.load(tmp_path / "interval.pt", weights_only=True)
    for each in (state, loaded):
        other = interval_of(20)
        other.add(9.0)  # is forgotten
        other.load_state_dict(each)
        assert (other.num_committed, other.is_open) == (1, True)
        other.add(6.0)
        other.commit()
        assert reduced(other) == [1.0, 3.0]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1e39, -1e300, np.float64(1e200)])
@pytest.mark.parametrize("weight", [1, 2, torch.tensor(2.0)])
def test_what_float32_cannot_hold_is_not_finite_and_no_error(loss: float, weight: Any) -> None:
    for kind in (float, np.float64, lambda value: torch.tensor(value, dtype=torch.float64)):
        interval = interval_of()
        interval.add(kind(loss), weight)
        interval.commit()
        interval.add(1.0)
        interval.commit()
        found = reduced(interval)
        assert not math.isfinite(found[0]) and found[1] == 1.0
    interval = interval_of()
    interval.add(LARGEST)
    interval.commit()
    assert reduced(interval) == [LARGEST]


class Spread(Tensor):
    """What tells a DTensor, without ranks."""

    def full_tensor(self) -> Tensor:
        return self.as_subclass(Tensor)


@pytest.mark.parametrize("weight", [1, 2])
def test_a_loss_that_is_spread_over_ranks_is_refused(weight: int) -> None:
    interval = interval_of()
    with pytest.raises(TypeError, match=r"DTensor: pass loss\.full_tensor"):
        interval.add(torch.tensor(1.0).as_subclass(Spread), weight)
    assert not interval.is_open


@pytest.mark.parametrize(
    ("loss", "error", "said"),
    [
        (3, TypeError, "int 3"),
        (True, TypeError, "bool True"),
        (np.int64(3), TypeError, "int64"),
        ("1.0", TypeError, "str '1.0'"),
        (None, TypeError, "NoneType None"),
        (1j, TypeError, "complex 1j"),
        (np.ones(1), TypeError, "ndarray"),
        (torch.tensor(3), TypeError, "floating-point tensor, got torch.int64"),
        (torch.tensor(True), TypeError, "floating-point tensor, got torch.bool"),
        (torch.tensor(1j), TypeError, "floating-point tensor, got torch.complex64"),
        (torch.ones(1), ValueError, r"shape \(1,\).*loss.mean\(\)"),
        (torch.ones(2, 3), ValueError, r"shape \(2, 3\)"),
    ],
)
@pytest.mark.parametrize("weight", [1, 2])
def test_what_is_no_loss_is_refused_and_leaves_no_trace(
    loss: Any, error: type[Exception], said: str, weight: int
) -> None:
    interval = interval_of()
    with pytest.raises(error, match=said):
        interval.add(loss, weight)
    assert not interval.is_open
    interval.add(2.0)
    interval.commit()
    assert reduced(interval) == [2.0]


@pytest.mark.parametrize(
    ("weight", "error", "said"),
    [
        (-1, ValueError, "got -1"),
        (-0.5, ValueError, "got -0.5"),
        (math.nan, ValueError, "got nan"),
        (math.inf, ValueError, "got inf"),
        (1e39, ValueError, r"got 1e\+39"),
        ("2", TypeError, "weight must be .*str '2'"),
        (None, TypeError, "weight must be .*NoneType"),
        (torch.ones(2), ValueError, r"weight must be a scalar, got a tensor of shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("loss", [1.0, torch.tensor(1.0)])
def test_what_is_no_weight_is_refused(
    loss: Any, weight: Any, error: type[Exception], said: str
) -> None:
    interval = interval_of()
    with pytest.raises(error, match=said):
        interval.add(loss, weight)
    assert not interval.is_open


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.floats(0, 1), st.integers(1, 300), st.integers(0, 99))
def test_among_many_gaps_the_positions_are_those_of_a_brute_force(
    n: int, share: float, num_samples: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    losses = torch.from_numpy(rng.standard_normal(n)).float()
    losses[torch.from_numpy(rng.random(n) < share)] = torch.nan
    curve = LossCurve(n)
    curve.extend(losses)
    window = int(rng.integers(1, n + 1))
    positions, drawn = curve.sample(num_samples, window, np.random.default_rng(seed))
    finite = losses[:window].isfinite().nonzero().squeeze(1).double()
    if len(finite) <= num_samples:
        expected = finite
    else:
        chosen = np.random.default_rng(seed).choice(
            len(finite), size=num_samples, replace=False, shuffle=False
        )
        expected = finite[torch.from_numpy(chosen)]
    assert torch.equal(positions, expected)
    assert torch.equal(drawn, losses[positions.long()].double())
    assert positions.dtype is drawn.dtype is torch.float64


def test_every_pair_of_losses_is_drawn_equally_often() -> None:
    """Uniform over subsets, not only over losses: the gaps in between do not tilt it."""
    losses = torch.tensor([0.0, torch.nan, 1.0, 2.0, torch.inf, 3.0])
    curve, rng = LossCurve(6), np.random.default_rng(1)
    curve.extend(losses)
    counts: dict[frozenset[float], int] = {}
    for _ in range(3_000):
        pair = frozenset(curve.sample(2, 6, rng)[1].tolist())
        counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 6
    assert max(abs(count - 500) for count in counts.values()) < 5 * math.sqrt(500)


def test_a_curve_copies_what_it_is_given() -> None:
    curve = LossCurve(4)
    losses: Tensor = torch.tensor([2.0, 1.0])
    curve.extend(losses)
    losses.fill_(9.0)
    curve.extend(torch.tensor([]))
    assert curve.values.tolist() == [2.0, 1.0] and len(curve) == 2


def test_a_run_without_a_process_group_has_one_rank() -> None:
    assert num_ranks(None) == 1
