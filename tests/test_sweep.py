"""The adaptive sweep: fast until the loss falls, slow from there; and what it is built of."""

import math
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD

from autowu import AutoWU, Phase, replay
from autowu.intervals import next_test_point
from autowu.loss_curve import LossCurve
from autowu.minimum_test import has_exploded
from autowu.saved_state import unboxed
from autowu.settings import PAPER
from autowu.sweep import MAX_SLOW_GROWTH, PLATEAU_GROWTH, Sweep, fast_steps, first_fall_step
from tests.helpers import assert_same_state


def build(total_steps: int = 120, steps_per_epoch: int | None = 10, **settings: Any) -> AutoWU:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    return AutoWU(optimizer, total_steps, steps_per_epoch, **settings)


def loss_at(lr: float, step: int, *, fall: float = 1e-3, minimum: float = 0.1) -> float:
    """2.3 below the LR `fall`, lowest at `minimum`, with a little noise."""
    decades = math.log10(minimum / fall)
    u = math.log10(lr / fall) / decades
    value = 2.3 - min(max(u, 0.0), 1.0) + (3.0 * (u - 1.0) ** 2 if u > 1.0 else 0.0)
    return value + 0.01 * math.sin(12.9898 * step * step)


def go_on(scheduler: AutoWU, stop: int, **curve: float) -> None:
    while scheduler.last_epoch < stop:
        lr, step = scheduler.get_last_lr()[0], scheduler.last_epoch
        scheduler.optimizer.step()
        scheduler.step(loss_at(float(lr), step, **curve))


def run_through(scheduler: AutoWU, **curve: float) -> list[float]:
    """To the end of the warmup; the LR of each of its steps."""
    lrs = []
    while scheduler.phase is Phase.WARMUP:
        lrs.append(float(scheduler.get_last_lr()[0]))
        go_on(scheduler, scheduler.last_epoch + 1, **curve)
    return lrs


@pytest.mark.parametrize("total_steps", [60, 120, 500, 5_000])
def test_it_is_fast_until_the_loss_falls_and_slow_after_it(total_steps: int) -> None:
    scheduler = build(total_steps)
    lrs = run_through(scheduler)
    fall, longest = scheduler.fall_step, scheduler.warmup_steps
    assert fall is not None and scheduler.switch_step is not None
    assert 1e-3 <= lrs[fall] < 0.03
    steps = [math.log(b / a) for a, b in pairwise(lrs)]
    fixed = math.log(1e5) / longest
    fast = min(4 * fixed, math.log(2.0))
    assert steps[:fall] == pytest.approx([fast] * fall)
    slow = min(math.log(1.0 / lrs[fall]) / (longest - fall), math.log(MAX_SLOW_GROWTH))
    assert steps[fall:] == pytest.approx([slow] * (len(steps) - fall))
    assert slow < fixed < fast
    if total_steps >= 500:  # there is time enough to pass the minimum
        assert scheduler.start_lr == pytest.approx(0.1, rel=0.35)


@pytest.mark.parametrize("total_steps", [60, 500])
def test_a_fixed_sweep_spends_its_steps_where_nothing_moves(total_steps: int) -> None:
    adaptive, fixed = build(total_steps), build(total_steps, sweep="fixed")
    num_dead = [sum(lr < 1e-3 for lr in run_through(each)) for each in (adaptive, fixed)]
    assert num_dead[0] < 0.6 * num_dead[1]
    assert fixed.fall_step is None


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_when_the_loss_falls_does_not_depend_on_its_scale_and_offset(scale: float) -> None:
    scheduler = build(500)
    while scheduler.fall_step is None:
        loss = loss_at(float(scheduler.get_last_lr()[0]), scheduler.last_epoch)
        scheduler.optimizer.step()
        scheduler.step(scale * loss + 7.0 * scale)
    other = build(500)
    run_through(other)
    assert scheduler.fall_step == other.fall_step


def test_a_loss_that_never_falls_leaves_it_at_max_lr() -> None:
    scheduler = build(200, max_lr=0.1)
    lrs = run_through(scheduler, fall=1.0, minimum=10.0)
    assert scheduler.fall_step is None
    assert lrs[26:] == [0.1] * 74 and lrs[24] < 0.1
    assert scheduler.switch_step == 100


def test_a_fall_at_max_lr_leaves_it_there() -> None:
    sweep = Sweep(build(200).settings, 40)
    assert [sweep.lr(step) for step in (40, 41, 99, 100, 150)] == [1.0] * 5
    assert sweep.step_of(1.0) == 40


def test_a_rise_from_the_very_beginning_ends_it() -> None:
    """Fine-tuning: the weights are at the minimum already."""
    scheduler = build(400)
    while scheduler.phase is Phase.WARMUP:
        lr, step = float(scheduler.get_last_lr()[0]), scheduler.last_epoch
        scheduler.optimizer.step()
        scheduler.step(1.0 + 10 * lr + 0.01 * math.sin(12.9898 * step * step))
    fall = scheduler.fall_step
    assert fall is not None and scheduler.switch_step is not None
    # It has passed the minimum: the slow piece begins there.
    assert scheduler.lr_at(fall) < 0.1 * scheduler.lr_at(fall - 1)
    assert scheduler.switch_step <= 120
    assert scheduler.start_lr is not None and scheduler.start_lr < 0.003


def test_a_loss_that_explodes_in_the_fast_piece_sets_the_lr_back() -> None:
    """The fall and the edge lie so close together that no test sees the one before the other."""
    scheduler = build(120)
    loss, lrs = 2.0, []
    while scheduler.phase is Phase.WARMUP:
        lr = float(scheduler.get_last_lr()[0])
        lrs.append(lr)
        scheduler.optimizer.step()
        noise = 0.02 * math.sin(12.9898 * len(lrs) ** 2)
        scheduler.step(loss + noise)
        if lr > 1e-3:
            loss = min(5.0 * loss, 1e30)
    fall = scheduler.fall_step
    assert fall is not None and fall <= 12
    assert lrs[fall] < 2e-3 < lrs[fall - 1]
    assert scheduler.start_lr is not None and scheduler.start_lr < 2e-3


def test_two_losses_above_the_ceiling_are_an_explosion_and_one_is_none() -> None:
    curve = LossCurve(10)
    curve.extend(torch.tensor([2.0, 2.1, 1.9, 2.0, 50.0]))
    assert not has_exploded(curve)
    curve.extend(torch.tensor([400.0]))
    assert has_exploded(curve)
    few = LossCurve(10)
    few.extend(torch.tensor([1.0, 2.0, 90.0, 100.0]))
    assert not has_exploded(few)


@pytest.mark.parametrize("stop", [3, 9, 25])
def test_a_resumed_run_goes_on_alike(stop: int) -> None:
    whole, first, second = build(), build(), build(seed=7)
    go_on(whole, 120)
    go_on(first, stop)
    assert (first.fall_step is None) == (stop < 12)
    with pytest.warns(UserWarning, match=r"own settings: seed=0 \(given: 7\)$"):
        second.load_state_dict(torch.load(_saved(first.state_dict()), weights_only=True))
    go_on(second, 120)
    assert_same_state(whole.state_dict(), second.state_dict())


def _saved(state: Any) -> Any:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_a_state_from_before_there_were_adaptive_sweeps_is_one_of_a_fixed_sweep() -> None:
    old = build(sweep="fixed")
    go_on(old, 20)
    state = unboxed(old.state_dict())
    del state["fall_step"], state["slow_lr"], state["settings"]["sweep"]
    scheduler = build()
    with pytest.warns(UserWarning, match="sweep='fixed'"):
        scheduler.load_state_dict(state | {"version": 1})
    assert scheduler.settings.sweep == "fixed"
    go_on(old, 120)
    go_on(scheduler, 120)
    assert_same_state(old.state_dict(), scheduler.state_dict())


@pytest.mark.parametrize(("version", "growth"), [(2, 1.03), (3, 1.02)])
def test_a_sweep_that_an_earlier_version_began_after_a_probe_goes_on_as_it_did(
    version: int, growth: float
) -> None:
    old = build(400)
    old.begin_at(1e-3)
    go_on(old, 3)
    state = unboxed(old.state_dict()) | {"version": version}
    del state["probed_growth"]
    scheduler = build(400)
    scheduler.load_state_dict(state)
    assert scheduler.lr_at(50) == pytest.approx(1e-3 * growth**50, rel=1e-9)
    go_on(scheduler, 40)
    again = build(400)
    again.load_state_dict(scheduler.state_dict())  # saved by this version
    for each in (scheduler, again):
        run_through(each)
    assert_same_state(scheduler.state_dict(), again.state_dict())
    assert scheduler.lr_at(50) == pytest.approx(1e-3 * growth**50, rel=1e-9)


SHORTER: Any = {"probed_warmup_fraction": 0.3}  # of the longest warmup after a probe


def test_a_warmup_after_a_probe_can_be_shorter_where_its_fall_is_not_spread() -> None:
    shorter = build(400, **SHORTER)
    shorter.begin_at(1e-3)
    spread = build(400, **SHORTER)
    spread.begin_at(1e-3, spread_lr=1e-3)
    as_before = build(400)
    as_before.begin_at(1e-3)
    assert (
        build(400, **SHORTER).warmup_steps == spread.warmup_steps == as_before.warmup_steps == 200
    )
    assert shorter.warmup_steps == 120
    for scheduler in (shorter, as_before):
        while scheduler.switch_step is None:  # a loss that falls for ever
            scheduler.optimizer.step()
            scheduler.step(-float(scheduler.last_epoch))
        assert scheduler.switch_step == scheduler.warmup_steps
        assert not scheduler.found_minimum
    # The same sweep up to where the shorter one ends.
    assert [test.step for test in shorter.tests] == [
        test.step for test in as_before.tests if test.step < 120
    ] + [120]
    assert shorter.lr_at(119) == as_before.lr_at(119)


def test_a_shorter_warmup_is_saved() -> None:
    whole, part = build(400, **SHORTER), build(400, **SHORTER)
    for scheduler, stop in ((whole, 130), (part, 60)):
        scheduler.begin_at(1e-3)
        while scheduler.last_epoch < stop:
            scheduler.optimizer.step()
            scheduler.step(-float(scheduler.last_epoch))
    resumed = build(400, **SHORTER)
    resumed.load_state_dict(torch.load(_saved(part.state_dict()), weights_only=True))
    assert resumed.warmup_steps == 120
    while resumed.last_epoch < 130:
        resumed.optimizer.step()
        resumed.step(-float(resumed.last_epoch))
    assert_same_state(resumed.state_dict(), whole.state_dict())


def test_a_state_from_before_a_probe_could_shorten_the_warmup_goes_on() -> None:
    old = build(400)
    old.begin_at(1e-3)
    go_on(old, 30)
    state = unboxed(old.state_dict()) | {"version": 7}
    del state["warmup_steps"], state["settings"]["probed_warmup_fraction"]
    scheduler, shorter = build(400), build(400, **SHORTER)
    with warnings.catch_warnings(action="error"):
        scheduler.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"probed_warmup_fraction=1.0 \(given: 0.3\)$"):
        shorter.load_state_dict(state)
    assert scheduler.warmup_steps == shorter.warmup_steps == 200
    for each in (scheduler, shorter, old):
        run_through(each)
    assert_same_state(scheduler.state_dict(), old.state_dict())
    assert_same_state(shorter.state_dict(), old.state_dict())


def test_a_sweep_that_is_slow_because_max_lr_is_near_comes_as_far_all_the_same() -> None:
    scheduler = build(1_000, **SHORTER)  # V = 300
    scheduler.begin_at(0.03)
    assert scheduler.lr_at(1) < 0.03 * 1.01
    assert scheduler.warmup_steps == 500  # 60 times as much lies beyond max_lr
    bounded = build(1_000, max_lr=0.5, **SHORTER)
    bounded.begin_at(5e-3)
    pace = math.log(100) / 500
    assert bounded.warmup_steps == math.ceil(math.log(60) / pace)
    assert bounded.lr_at(bounded.warmup_steps) == pytest.approx(0.3, rel=0.01)


def test_a_sweep_that_was_set_back_is_read_from_version_2() -> None:
    old = build(60)
    while old.fall_step is None:
        step = old.last_epoch
        old.optimizer.step()
        old.step(1e6 if step >= 12 else 2.3 + 0.01 * math.sin(12.9898 * step * step))
    state = unboxed(old.state_dict()) | {"version": 2}
    assert state.pop("probed_growth") is None
    assert state["slow_lr"] is not None and state["fall_step"] > 0
    scheduler = build(60)
    scheduler.load_state_dict(state)
    assert_same_state(old.state_dict(), scheduler.state_dict())


@pytest.mark.parametrize(
    "damage",
    [
        {"warmup_steps": 0},
        {"warmup_steps": 10**6},
        {"warmup_steps": "x"},
        {"warmup_steps": True},
        {"warmup_steps": 20},  # of step 25
        {"slow_lr": 0.0},
        {"slow_lr": math.nan},
        {"slow_lr": 5.0},
        {"slow_lr": "a"},
        {"fall_step": 99},
        {"fall_step": -3},
        {"switch_step": 20},
        {"switch_step": 20, "start_lr": torch.zeros(2)},
        {"switch_step": 20, "start_lr": math.nan},
        {"switch_step": 20, "start_lr": 1e9},
        {"tests": ([{"a": 1}],)},
        {"tests": []},
        {"tests": ()},
        {"losses": (torch.zeros(500),)},
        {"losses": torch.zeros(25)},
        {"interval": ({},)},
        {"probed_growth": 1.0, "fall_step": 0, "slow_lr": 1e-3},
        {"settings": None},
        {"settings": 3},
        {"last_epoch": None},
        {"last_epoch": 3.7},
        {"last_epoch": 24},  # 25 losses
        {"last_epoch": 10**9},
        {"last_test_step": math.nan},
        {"last_test_step": 10**6},
        {"step_count": "x"},
        {"first_step": None},
        {"reference_lr": math.nan},
        {"reference_lr": -1.0},
        {"base_lrs": None},
        {"version": torch.zeros(2)},
        {"settings": {"total_steps": 120}},
    ],
)
def test_a_damaged_state_is_one_clear_error_and_changes_nothing(damage: dict[str, Any]) -> None:
    scheduler, other = build(), build()
    go_on(scheduler, 25)
    go_on(other, 9)
    before = other.state_dict()
    with pytest.raises(ValueError, match="state"):
        other.load_state_dict(scheduler.state_dict() | damage)
    assert_same_state(before, other.state_dict())
    assert other.get_last_lr() == [other.lr_at(9)]
    go_on(other, 25)
    assert_same_state(scheduler.state_dict(), other.state_dict())


def test_the_replay_of_a_run_with_an_adaptive_sweep_decides_as_the_run_did() -> None:
    scheduler = build(500)
    run_through(scheduler)
    replayed = replay(scheduler.losses, 500, 10, sweep="adaptive")
    assert (replayed.fall_step, replayed.start_lr) == (scheduler.fall_step, scheduler.start_lr)


def resting(scheduler: AutoWU, *, scale: float = 1.0, end: float = 0.01) -> list[float]:
    """Through the warmup, with a loss that falls from LR 1e-3 to `end`, and rests there."""
    lrs = []
    while scheduler.phase is Phase.WARMUP:
        lr, step = float(scheduler.get_last_lr()[0]), scheduler.last_epoch
        lrs.append(lr)
        scheduler.optimizer.step()
        scheduler.step(scale * (5.0 + loss_at(min(lr, end), step, minimum=end)))
    return lrs


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_loss_that_has_come_to_rest_ends_an_adaptive_sweep(scale: float) -> None:
    scheduler = build(1_000)
    lrs = resting(scheduler, scale=scale)
    assert scheduler.found_minimum and scheduler.switch_step is not None
    assert 0.015 < lrs[-1] < 0.09  # of a sweep to 1
    assert scheduler.start_lr is not None and 0.004 < scheduler.start_lr < 0.04
    fixed = build(1_000, sweep="fixed")
    assert max(resting(fixed, scale=scale)) > 0.95 and not fixed.found_minimum


def test_a_loss_that_goes_on_falling_ends_no_sweep() -> None:
    scheduler = build(1_000)
    assert max(resting(scheduler, end=3.0)) > 0.9
    assert not scheduler.found_minimum


def test_a_small_fall_after_a_great_one_ends_no_sweep() -> None:
    """As of a language model: at once to the frequencies of the tokens, then on and on."""
    scheduler = build(2_000)
    lrs = []
    while scheduler.phase is Phase.WARMUP:
        lr, step = float(scheduler.get_last_lr()[0]), scheduler.last_epoch
        lrs.append(lr)
        great = 3.0 * min(max(math.log10(1e-4 / lr), 0.0), 1.0)
        small = 0.15 * min(max(math.log10(0.03 / lr), 0.0), 2.5)
        scheduler.optimizer.step()
        scheduler.step(2.0 + great + small + 0.03 * math.sin(12.9898 * step * step))
    assert max(lrs) > 0.03


def test_a_divergence_after_a_set_back_is_one_and_no_error() -> None:
    """Its finite losses end before the slow piece begins."""
    scheduler = build(2_000)
    count = 0
    with pytest.warns(UserWarning, match="the run has diverged"):
        while scheduler.phase is Phase.WARMUP:
            lr, step = float(scheduler.get_last_lr()[0]), scheduler.last_epoch
            loss = 2.3 + 0.03 * math.sin(12.9898 * step * step)
            count += lr > 0.1 or count > 0
            if count:
                loss = 1e6 if count <= 2 else math.inf
            scheduler.optimizer.step()
            scheduler.step(loss)
    assert scheduler.diverged
    assert scheduler.start_lr is not None and scheduler.start_lr <= 0.11


@given(
    fall=st.integers(1, 999),
    set_back=st.floats(1e-5, 1.0) | st.none(),
    step=st.integers(0, 1_000),
)
def test_a_plateau_lies_in_the_slow_piece(fall: int, set_back: float | None, step: int) -> None:
    sweep = Sweep(build(2_000).settings, fall, set_back)
    begin = sweep.plateau_begin(step)
    assert begin is None or fall <= begin + 1e-6 < step


@pytest.mark.parametrize("stop", [60, 150])
def test_a_run_that_ends_by_a_plateau_is_resumed_alike(stop: int) -> None:
    whole, first, second = build(1_000), build(1_000), build(1_000)
    resting(whole)
    while first.last_epoch < stop:
        lr, step = float(first.get_last_lr()[0]), first.last_epoch
        first.optimizer.step()
        first.step(5.0 + loss_at(min(lr, 0.01), step, minimum=0.01))
    second.load_state_dict(first.state_dict())
    resting(second)
    assert_same_state(whole.state_dict(), second.state_dict())
    assert whole.switch_step is not None and whole.switch_step > stop


def test_a_plateau_is_asked_for_once_the_lr_has_grown_enough_since_the_fall() -> None:
    settings = build(2_000).settings
    assert Sweep(settings, None).plateau_begin(900) is None
    assert Sweep(settings, 0).plateau_begin(900) is None
    sweep = Sweep(settings, 100)
    first = sweep.step_of(PLATEAU_GROWTH * sweep.lr(100))
    assert sweep.plateau_begin(first - 1e-3) is None
    begin = sweep.plateau_begin(first + 50.0)
    assert begin == pytest.approx(150.0)
    assert sweep.lr(first + 50.0) == pytest.approx(PLATEAU_GROWTH * sweep.lr(150.0))
    assert Sweep(build(200).settings, 40).plateau_begin(90) is None  # at max_lr since step 40


def test_a_plateau_is_asked_for_after_a_probe_too() -> None:
    sweep = Sweep(build(2_000).settings, 0, 1e-3)
    first = 1_000 * math.log(3.0) / math.log(1e3)  # steps in which the LR grows threefold
    assert sweep.plateau_begin(first - 0.1) is None
    assert sweep.plateau_begin(first + 50.0) == pytest.approx(50.0)
    for total_steps in range(4, 108):  # it grows threefold by its longest warmup, and no more
        short = Sweep(build(total_steps).settings, 0, 1e-3)
        assert short.plateau_begin(total_steps // 2) == pytest.approx(0.0, abs=1e-6)


def test_a_loss_that_rests_ends_a_warmup_after_a_probe() -> None:
    scheduler = build(1_000)
    scheduler.begin_at(1e-4)
    resting(scheduler)
    assert scheduler.found_minimum
    assert scheduler.tests[-1].lr == pytest.approx(0.01 * PLATEAU_GROWTH, rel=0.5)


def test_linear_growth_and_the_published_procedure_are_fixed() -> None:
    assert first_fall_step(build(growth="linear").settings) == 0
    assert PAPER["sweep"] == "fixed"
    published = AutoWU.paper(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 100, 10)
    assert first_fall_step(published.settings) == 0


@pytest.mark.parametrize(
    ("total_steps", "expected"), [(10, 5), (30, 15), (60, 16.61), (132, 16.61), (134, 16.75)]
)
def test_fast_steps(total_steps: int, expected: float) -> None:
    assert fast_steps(build(total_steps).settings) == pytest.approx(expected, abs=5e-3)


@given(
    total_steps=st.integers(2, 3_000),
    fall=st.integers(0, 1_400),
    low=st.floats(1e-8, 1e-2),
    decades=st.floats(0.1, 7.0),
)
def test_it_never_falls_nor_jumps_and_can_be_inverted(
    total_steps: int, fall: int, low: float, decades: float
) -> None:
    settings = build(total_steps, min_lr=low, max_lr=low * 10**decades).settings
    longest = settings.warmup_steps
    for fall_step in (None, min(fall, longest - 1)):
        sweep = Sweep(settings, fall_step)
        steps = [longest * i / 50 for i in range(51)]
        lrs = [sweep.lr(step) for step in steps]
        assert lrs[0] == low and lrs == sorted(lrs) and lrs[-1] <= settings.max_lr
        if fall_step:
            assert sweep.lr(fall_step - 1e-9) == pytest.approx(sweep.lr(fall_step), rel=1e-6)
        for lr in lrs:
            if lr < settings.max_lr:
                assert sweep.lr(sweep.step_of(lr)) == pytest.approx(lr, rel=1e-9)


def test_a_late_set_back_is_tested_as_often_as_its_growth_asks_for() -> None:
    """The LR grows by a quarter with each step there, as little of the longest warmup is left."""
    scheduler = build(400)
    while scheduler.phase is Phase.WARMUP:
        step = scheduler.last_epoch
        scheduler.optimizer.step()
        scheduler.step(1e6 if step >= 150 else 2.3 + 0.05 * math.cos(7.1 * step * step))
    back = scheduler.fall_step
    assert back is not None
    after = [test.step for test in scheduler.tests if test.step >= back]
    lrs = [scheduler.lr_at(step) for step in after]
    assert len(after) > 1 and lrs[1] / lrs[0] > 1.2
    assert after == list(range(back, after[-1] + 1))


@pytest.mark.parametrize("steps_per_epoch", [None, 40])
def test_tests_are_spaced_by_the_growth_of_the_fast_piece(steps_per_epoch: int | None) -> None:
    settings = build(4_000, steps_per_epoch).settings
    point, fast = 0, Sweep(settings, None)
    while point < 400:
        following = next_test_point(point, settings, is_fast=True, growth=fast.growth)
        assert fast.lr(following) / fast.lr(point) <= 1.2 * (1 + 1e-9)
        point = following
    often = next_test_point(0, settings, is_fast=True, growth=fast.growth)
    assert next_test_point(0, settings) > often


@pytest.mark.parametrize("test_interval", [100, "epoch"])
def test_a_fast_sweep_is_tested_as_often_as_auto_whatever_the_interval(test_interval: Any) -> None:
    auto = build(500, 50).settings
    sparse = build(500, 50, test_interval=test_interval).settings
    growth = Sweep(sparse, None).growth
    for step in range(0, 100, 7):
        expected = next_test_point(step, auto, is_fast=True, growth=growth)
        assert next_test_point(step, sparse, is_fast=True, growth=growth) == expected
    assert next_test_point(0, sparse) == (100 if test_interval == 100 else 50)
