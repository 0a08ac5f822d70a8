"""The losses on their way: gathered without a look, drawn without bias."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autowu.loss_curve import Interval, LossCurve

CPU = torch.device("cpu")
SPECIAL = st.sampled_from([math.nan, math.inf, -math.inf, 0.5, 1.5, -2.0])


def curve_of(losses: list[float], chunk: int = 3) -> LossCurve:
    curve = LossCurve(len(losses))
    for start in range(0, len(losses), chunk):
        curve.extend(torch.tensor(losses[start : start + chunk]))
    return curve


@settings(deadline=None, max_examples=150)
@given(st.lists(SPECIAL, max_size=40), st.integers(1, 12), st.integers(1, 40), st.integers(0, 9))
def test_what_is_known_of_a_curve_is_what_a_look_at_it_shows(
    losses: list[float], chunk: int, num_samples: int, seed: int
) -> None:
    curve = curve_of(losses, chunk)
    finite = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
    values = [losses[i] for i in finite]
    assert len(curve) == len(losses)
    assert curve.num_finite == len(finite)
    assert curve.is_constant == (len(set(values)) < 2)
    assert curve.finite_mean == pytest.approx(sum(values) / len(values) if values else 0.0)
    assert curve.index_of_lowest == (losses.index(min(values)) if values else 0)
    assert curve.end_of_finite == (finite[-1] + 1 if finite else 0)
    for newest in (1, 2, 5):
        tail = losses[-max(newest, 2) :]
        dead = len(tail) == max(newest, 2) and not any(map(math.isfinite, tail))
        assert curve.is_dead(newest) == dead
    positions, drawn = curve.sample(num_samples, len(losses), np.random.default_rng(seed))
    assert len(set(positions.tolist())) == len(positions) == min(num_samples, len(finite))
    assert set(positions.tolist()) <= set(finite)
    assert drawn.tolist() == [losses[int(i)] for i in positions]


def test_every_finite_loss_is_drawn_equally_often() -> None:
    losses = [float(i) for i in range(30)]
    losses[4] = losses[5] = losses[29] = math.nan
    curve, rng = curve_of(losses), np.random.default_rng(0)
    counts = np.zeros(30)
    for _ in range(4_000):
        counts[curve.sample(6, 30, rng)[0].int().numpy()] += 1
    assert (counts[[4, 5, 29]] == 0).all()
    expected = 4_000 * 6 / 27
    assert (np.abs(counts[counts > 0] - expected) < 5 * math.sqrt(expected)).all()


def filled(*losses: Any, slots: int = 8) -> Interval:
    interval = Interval()
    interval.reserve(slots)
    for loss in losses:
        interval.add(loss)
        interval.commit()
    return interval


def test_floats_and_tensors_are_taken_and_reduced_in_order() -> None:
    losses = [1.0, torch.tensor(2.0), torch.tensor(3.0, dtype=torch.bfloat16), np.float32(4.0)]
    interval = filled(*losses)
    assert interval.reduce(None, CPU)[0].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert interval.reduce(None, CPU)[0].tolist() == []


def test_more_slots_than_are_viewed_at_once() -> None:
    values = torch.rand(1_000)
    interval = filled(*values, slots=1_000)
    assert torch.equal(interval.reduce(None, CPU)[0], values)
    for value in values[:300]:
        interval.add(value)
        interval.commit()
    assert torch.equal(interval.reduce(None, CPU)[0], values[:300])


def test_an_open_slot_survives_a_reduction_with_its_weight() -> None:
    interval = filled(1.0, 2.0)
    interval.add(10.0, 3)
    assert interval.reduce(None, CPU)[0].tolist() == [1.0, 2.0]
    interval.add(2.0)
    interval.commit()
    interval.add(5.0)
    interval.commit()
    assert interval.reduce(None, CPU)[0].tolist() == [8.0, 5.0]


def test_all_weights_zero_is_nan_and_a_nan_of_weight_zero_is_nothing() -> None:
    interval = filled()
    interval.add(math.nan, 0)
    interval.commit()
    interval.add(torch.tensor(math.nan), torch.tensor(0.0))
    interval.add(2.0, 0.5)
    interval.commit()
    losses, has_weight = interval.reduce(None, CPU)
    assert math.isnan(losses[0])
    assert losses[1] == 2.0
    assert has_weight.tolist() == [False, True]


@pytest.mark.parametrize(
    ("losses", "num_newest", "dead"),
    [
        ("1--", 2, False),
        ("-", 1, False),
        ("1n-", 2, False),  # one that is not finite is not enough
        ("1n-n", 1, True),
        ("1nn---", 3, True),
        ("1n1-n", 2, False),
        ("n-1--", 4, False),
        ("n---n", 2, True),
    ],
)
def test_a_step_without_weight_is_no_divergence(losses: str, num_newest: int, dead: bool) -> None:
    """`1` is a loss, `n` one that is not finite, `-` none that had a weight."""
    curve = LossCurve(len(losses))
    values = torch.tensor([1.0 if each == "1" else math.nan for each in losses])
    curve.extend(values, torch.tensor([each != "-" for each in losses]))
    assert curve.is_dead(num_newest) == dead


def test_what_a_curve_reserves_is_not_copied() -> None:
    curve = LossCurve(10**8)
    curve.extend(torch.tensor([3.0, math.nan, 2.0]))
    pickled = pickle.dumps(curve)
    assert len(pickled) < 2_000
    twin = pickle.loads(pickled)
    for each in (curve, twin):
        each.extend(torch.tensor([1.0, 5.0]))
    torch.testing.assert_close(twin.values, curve.values, rtol=0, atol=0, equal_nan=True)
    assert twin.index_of_lowest == curve.index_of_lowest == 3


@pytest.mark.parametrize("is_open", [False, True])
def test_a_saved_interval_goes_on(is_open: bool) -> None:
    interval = filled(1.0, torch.tensor(2.0))
    if is_open:
        interval.add(7.0, 2)
    other = Interval()
    other.load_state_dict(interval.state_dict())
    other.reserve(9)
    for each in (interval, other):
        each.add(4.0)
        each.commit()
    assert torch.equal(interval.reduce(None, CPU)[0], other.reduce(None, CPU)[0])


def test_a_step_in_inference_mode_and_one_outside_go_together() -> None:
    interval = filled()
    with torch.inference_mode():
        interval.add(torch.tensor(1.0))
        interval.commit()
    interval.add(torch.tensor(2.0, requires_grad=True) * 1.0)
    interval.commit()
    assert interval.reduce(None, CPU)[0].tolist() == [1.0, 2.0]
