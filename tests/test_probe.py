"""The probe: what it finds, that nothing of it stays, and where the sweep then begins."""

import copy
import itertools
import math
import random
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autowu import AutoWU, replay
from autowu.offline import OtherSweepError
from autowu.probe import LEVEL, MAX_DISTANCE, Fall, find_fall, probe_losses, probe_lrs
from autowu.settings import PAPER
from autowu.sweep import Sweep, first_lr, growth_where_spread
from tests.helpers import assert_same_state

LRS = [10.0**k for k in range(-6, 2)]


@pytest.mark.parametrize(("low", "high", "number"), [(1e-5, 1.0, 18), (1e-3, 8e-3, 4), (1, 1.1, 2)])
def test_the_lrs_at_most_double_from_the_least_to_the_most(
    low: float, high: float, number: int
) -> None:
    lrs = probe_lrs(low, high)
    assert len(lrs) == number
    assert (lrs[0], lrs[-1]) == pytest.approx((low, high))
    factors = [b / a for a, b in pairwise(lrs)]
    assert factors == pytest.approx([factors[0]] * len(factors))
    assert 1.0 < factors[0] <= 2.0 + 1e-9


@pytest.mark.parametrize(
    ("losses", "half", "last"),
    [
        ([2.0, 2.0, 1.9, 1.4, 1.1, 1.0, 3.0, 9.0], 2, 4),  # brings 1.4, below 1.5; then a rise
        ([2.0, 2.0, 1.9, 1.4, 1.1, 1.0, 1.05, 9.0], 2, 5),  # by less than a tenth: none yet
        ([2.0, 1.0], 0, 0),
        ([2.0, 2.0, 1.0, 7.0, 9.0], 1, 1),  # the lowest alone
        ([2.0, 1.4, 1.9, 1.8, 1.2, 1.0, 9.0], 3, 4),  # one low loss is no fall
        ([2.0, 1.8, 1.3, 1.2, 9.0, 9.0, 1.1, 9.0], 1, 2),  # low by chance after an explosion
        ([2.0, 1.9, 1.2, 1.0, math.nan, 0.1, 0.1], 1, 2),
        ([2.0, 1.9, 1.2, math.inf], 1, 1),
        ([2.0, 1.9, 1.75, 1.7, 1.6], 1, 3),  # never a rise: the last step that a loss stands after
    ],
)
def test_the_lr_is_that_of_half_of_the_fall_or_a_twelfth_of_the_last_before_a_rise(
    losses: list[float], half: int, last: int
) -> None:
    least = LRS[last] / MAX_DISTANCE
    fall = find_fall(LRS, losses)
    assert fall == Fall(max(LRS[half], least), LRS[half])
    assert fall.is_spread == (LRS[half] < least)


@pytest.mark.parametrize(
    "losses", [[2.0, 2.1, 2.2, 2.3], [2.0, 2.0, 2.0], [math.nan, 1.0], [2.0], []]
)
def test_a_loss_that_falls_nowhere_has_no_such_lr(losses: list[float]) -> None:
    assert find_fall(LRS, losses) is None


@given(
    losses=st.lists(st.integers(0, 1000), min_size=1, max_size=8),
    scale=st.sampled_from([0.25, 4.0, 1024.0]),
    offset=st.integers(-1000, 1000),
)
def test_it_is_the_same_for_any_scale_and_offset_of_the_loss(
    losses: list[int], scale: float, offset: int
) -> None:
    values = [float(loss) for loss in losses]
    moved = [scale * (loss + offset) for loss in losses]
    found = find_fall(LRS, values)
    assert find_fall(LRS, moved) == found
    assert (found is None) == (min(values) == values[0])
    if found is not None:
        level = values[0] * LEVEL + min(values) * (1 - LEVEL)
        least = min(lr for lr, after in zip(LRS, values[1:], strict=False) if after < level)
        assert least <= found.lr < LRS[len(losses) - 1]


def test_a_step_that_the_scaler_left_out_is_taken_again_at_the_same_lr() -> None:
    written: list[float] = []
    answers = iter([None, None, 2.0, None, torch.tensor(1.0)])
    assert probe_losses([0.1, 0.2], written.append, lambda: next(answers)) == [2.0, 1.0]
    assert written == [0.1, 0.1, 0.1, 0.2, 0.2]


def test_a_probe_ends_where_the_loss_is_lost() -> None:
    answers = iter([2.0, 1.0, math.inf])
    losses = probe_losses([0.1, 0.2, 0.3, 0.4, 0.5], lambda lr: None, lambda: next(answers))
    assert losses[:3] == [2.0, 1.0, math.inf]
    assert all(math.isnan(loss) for loss in losses[3:])


def test_a_probe_ends_where_a_scaler_skips_every_step() -> None:
    answers = itertools.chain([None] * 20, [2.0], [None] * 20, [1.0], itertools.repeat(None))
    losses = probe_losses([0.1, 0.2, 0.3, 0.4], lambda lr: None, lambda: next(answers))
    assert losses[:2] == [2.0, 1.0]
    assert all(math.isnan(loss) for loss in losses[2:])


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, RuntimeError, "25 steps of the probe were left out"),
        (3, TypeError, "take_step must return the loss.*got 3"),
        (torch.zeros(2), TypeError, r"shape \(2,\)"),
    ],
)
def test_a_step_that_gives_no_loss_is_an_error(
    answer: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        probe_losses([0.1], lambda lr: None, lambda: answer)


def test_a_probe_without_a_finite_loss_says_so() -> None:
    network = nn.Linear(2, 1)
    scheduler = AutoWU(torch.optim.SGD(network.parameters(), lr=0.1), 100)
    with pytest.warns(UserWarning, match=r"the first loss of the probe is nan: it says nothing"):
        assert scheduler.probe(network, lambda: math.nan) is None
    assert scheduler.get_last_lr() == [1e-5]


def test_a_loss_of_numpy_is_a_loss() -> None:
    assert probe_losses([0.1], lambda lr: None, lambda: np.float32(0.5)) == [0.5]  # type: ignore[arg-type, return-value]


def fall_at(lr: float, spread: float = 1.0) -> Fall:
    """Half of it comes before an LR so many times lower."""
    return Fall(lr, lr / spread)


class Training:
    """A small network with batch norm and dropout, and AutoWU for it."""

    def __init__(self, total_steps: int = 60, optimizer: str = "AdamW", **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4)
        )
        groups = [
            {"params": self.model[0].parameters(), "lr_scale": 0.5},
            {"params": [*self.model[1].parameters(), *self.model[4].parameters()]},
        ]
        self.optimizer = getattr(torch.optim, optimizer)(groups, lr=torch.tensor(0.25))
        self.scheduler = AutoWU(self.optimizer, total_steps, 10, **settings)
        self.inputs = torch.randn(64, 8)
        self.targets = self.inputs[:, :4].argmax(1)
        self.lrs: list[list[float]] = []  # of each step

    def step_on(self, number: int) -> Tensor:
        loss = F.cross_entropy(self.model(self.inputs[:number]), self.targets[:number])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.lrs.append([float(group["lr"]) for group in self.optimizer.param_groups])
        return loss

    def probe(self) -> float | None:
        return self.scheduler.probe(self.model, lambda: self.step_on(32))

    def state(self) -> Any:
        groups = [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]
        weights = copy.deepcopy(self.model.state_dict())
        moments = copy.deepcopy(self.optimizer.state_dict()["state"])
        return [dict(weights), moments, copy.deepcopy(groups), torch.get_rng_state()]

    def run(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.scheduler.step(self.step_on(64))


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_probe_leaves_the_lr_alone_behind(optimizer: str) -> None:
    training = Training(optimizer=optimizer)
    training.step_on(64)  # moments that a probe must not change
    before = training.state()
    tensor_lrs = [group["lr"] for group in training.optimizer.param_groups]
    gradients = [p.grad for p in training.model.parameters()]
    training.lrs.clear()
    fall_lr = training.probe()
    assert_same_state(training.state(), before)
    after = [p.grad for p in training.model.parameters()]
    assert all(a is b for a, b in zip(after, gradients, strict=True))
    assert fall_lr is not None
    first = first_lr(training.scheduler.settings, fall_at(fall_lr))
    assert 1e-3 < first <= fall_lr < 1.0
    for group, tensor, scale in zip(
        training.optimizer.param_groups, tensor_lrs, (0.5, 1.0), strict=True
    ):
        assert group["lr"] is tensor, "a tensor LR is filled, never replaced"
        assert float(tensor) == pytest.approx(scale * first)
    assert training.scheduler.get_last_lr() == pytest.approx([0.5 * first, first])
    # The probe kept the ratio of the groups.
    expected = probe_lrs(1e-5, 1.0)
    assert [pair[1] for pair in training.lrs] == pytest.approx(expected)
    assert [pair[0] for pair in training.lrs] == pytest.approx([0.5 * lr for lr in expected])


def test_a_run_after_a_probe_is_that_which_begins_at_its_lr_bit_for_bit() -> None:
    probed, told = Training(), Training()
    probed.probe()
    told.scheduler.begin_at(probed.scheduler.lr_at(0))
    for training in (probed, told):
        training.lrs.clear()
        torch.manual_seed(1)  # of the dropout
        training.run(60)
    assert probed.lrs == told.lrs
    assert_same_state(probed.state(), told.state())
    assert_same_state(probed.scheduler.state_dict(), told.scheduler.state_dict())


def test_the_order_of_the_calls_is_still_watched_after_a_probe() -> None:
    training = Training()
    training.probe()
    with pytest.warns(UserWarning, match="`lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`"):
        training.scheduler.step(1.0)


def test_what_goes_wrong_in_a_probe_leaves_all_as_it_was() -> None:
    training = Training()
    before = training.state()
    calls = 0

    def fails() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return training.step_on(32)

    with pytest.raises(KeyboardInterrupt):
        training.scheduler.probe(training.model, fails)
    assert_same_state(training.state(), before)
    assert training.scheduler.get_last_lr()[1] == pytest.approx(1e-5)
    assert training.probe() is not None, "it can be tried again"


@pytest.mark.parametrize("call", ["step", "observe"])
def test_a_step_of_a_probe_that_moves_the_scheduler_is_an_error(call: str) -> None:
    training = Training()

    def take_step() -> Tensor:
        loss = training.step_on(32)
        getattr(training.scheduler, call)(loss)
        return loss

    before = training.state()
    with pytest.raises(RuntimeError, match=r"called step\(\) or observe\(\).*construct another"):
        training.scheduler.probe(training.model, take_step)
    assert len(training.lrs) == 1
    assert_same_state(training.state(), before)


def test_a_probe_whose_steps_change_nothing_says_so() -> None:
    model = nn.Linear(2, 1)
    scheduler = AutoWU(torch.optim.SGD(model.parameters(), lr=1.0), 100)
    inputs = torch.ones(4, 2)
    with pytest.warns(UserWarning, match=r"changed nothing. Does take_step call optimizer\.step"):
        assert scheduler.probe(model, lambda: model(inputs).square().mean()) is None


def test_a_probe_with_its_arguments_exchanged_is_refused() -> None:
    model = nn.Linear(2, 1)
    scheduler = AutoWU(torch.optim.SGD(model.parameters(), lr=1.0), 100)
    with pytest.raises(TypeError, match=r"the model, an nn\.Module.*got function and Linear"):
        scheduler.probe(lambda: 1.0, model)  # type: ignore[arg-type]


def test_a_loss_that_never_falls_leaves_the_sweep_at_min_lr() -> None:
    training = Training()
    losses = iter(range(18))
    assert training.scheduler.probe(training.model, lambda: float(next(losses))) is None
    assert training.scheduler.lr_at(0) == 1e-5
    assert training.scheduler.fall_step is None
    training.run(5)
    assert training.scheduler.lr_at(5) > 2e-4, "fast, until the loss is seen to fall"


@pytest.mark.parametrize(
    ("total_steps", "share", "reach"),
    [(14, 1.0, 3.0), (60, 1.0, 3.0), (120, 1.0, 1.02**60), (200, 6 / 1.02**100, 6.0)],
)
def test_where_a_sweep_begins_and_how_far_it_gets_in_the_longest_warmup(
    total_steps: int, share: float, reach: float
) -> None:
    scheduler = Training(total_steps).scheduler
    first = first_lr(scheduler.settings, fall_at(2e-3))
    assert first == pytest.approx(share * 2e-3)
    scheduler.begin_at(first)
    end = scheduler.lr_at(scheduler.warmup_steps)
    assert end == pytest.approx(2e-3 * reach if share < 1 else first * reach)


def test_a_long_sweep_begins_ten_times_lower_and_goes_evenly_to_max_lr() -> None:
    scheduler = Training(10_000).scheduler
    first = first_lr(scheduler.settings, fall_at(2e-3))
    assert first == pytest.approx(2e-4)
    scheduler.begin_at(first)
    for step in (0, 1, 100, 4999, 5000):
        assert scheduler.lr_at(step) == pytest.approx(2e-4 * 5000 ** (step / 5000))
        assert scheduler.sweep_step(scheduler.lr_at(step)) == pytest.approx(step)


@pytest.mark.parametrize(
    ("total_steps", "spread", "share", "growth"),
    [
        (40, 1.25, 1.0, 1.02),
        (200, 1.25, 6 / 1.02**100, 1.02),
        (400, 1.25, 1.25**1.5 / 10, 1.02),
        (490, 1.25, 1.25**1.5 / 10, (120 / 1.25**1.5) ** (1 / 245)),
        (2_000, 1.25, 1.25**1.5 / 10, (120 / 1.25**1.5) ** (1 / 1_000)),
        (2_000, 2.5, 2.5**1.5 / 10, (120 / 2.5**1.5) ** (1 / 1_000)),
        (240, 5.0, 1.0, 1.02),
        (260, 5.0, 1.0, 12 ** (1 / 130)),
        (2_000, 5.0, 1.0, 12 ** (1 / 1_000)),
    ],
)
def test_after_a_spread_fall_a_long_sweep_goes_evenly_to_twelve_times_its_lr(
    total_steps: int, spread: float, share: float, growth: float
) -> None:
    scheduler = Training(total_steps).scheduler
    first = first_lr(scheduler.settings, fall_at(5e-4, spread))
    assert first == pytest.approx(share * 5e-4)
    scheduler.begin_at(first, spread_lr=5e-4)
    if total_steps > 40:  # there it grows by more, to make a factor of 3
        assert scheduler.lr_at(7) / scheduler.lr_at(6) == pytest.approx(growth)
    assert scheduler.lr_at(scheduler.warmup_steps) <= 12 * 5e-4 * (1 + 1e-9)
    if growth < 1.02:
        assert scheduler.lr_at(scheduler.warmup_steps) == pytest.approx(12 * 5e-4)


def run_on_a_fall_that_pauses(
    spread_lr: float | None, num_steps: int = 300, max_lr: float = 1.0, first: float = 5e-5
) -> AutoWU:
    """Losses that rise at LRs below 5e-4, and once more, for good, above 3e-3."""
    scheduler = Training(600, max_lr=max_lr).scheduler
    scheduler.begin_at(first, spread_lr=spread_lr)
    scheduler.optimizer.step()
    for _ in range(num_steps):
        lr = scheduler.lr_at(scheduler.last_epoch)
        early, late = math.log(lr / 1e-4), math.log(lr / 3e-3)
        scheduler.step(2.0 + 0.1 * abs(early) if lr < 3e-4 else 1.0 + 0.3 * abs(late))
    return scheduler


@pytest.mark.parametrize("first", [5e-5, 1e-4])
def test_no_test_counts_below_the_lr_of_a_spread_fall(first: float) -> None:
    stopped = run_on_a_fall_that_pauses(None, first=first)
    warned = run_on_a_fall_that_pauses(5e-4, first=first)
    assert stopped.start_lr == pytest.approx(1e-4, rel=0.3)
    assert warned.start_lr == pytest.approx(3e-3, rel=0.1)
    assert warned.found_minimum
    assert stopped.tests[-1].lr < 5e-4
    assert all(max(test.probabilities) == 0.0 for test in warned.tests if test.lr < 5e-4)


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("warmup_steps", [300, 100_000])
def test_the_least_lr_of_a_spread_fall_is_that_of_its_probe(
    share: float, warmup_steps: int
) -> None:
    settings = Training(2 * warmup_steps).scheduler.settings
    growth = growth_where_spread(warmup_steps, share * 5e-4, 5e-4)
    assert Sweep(settings, 0, share * 5e-4, growth).least_lr == pytest.approx(5e-4)
    # As a state holds it that was saved when all began at a tenth.
    assert Sweep(settings, 0, 5e-5, 120 ** (1 / warmup_steps)).least_lr == pytest.approx(5e-4)


def test_a_spread_fall_changes_nothing_where_the_sweep_is_not_slower_for_it() -> None:
    alike = [run_on_a_fall_that_pauses(spread_lr, max_lr=4e-3) for spread_lr in (None, 5e-4)]
    assert alike[0].tests == alike[1].tests
    assert alike[0].switch_step == alike[1].switch_step < 300


@pytest.mark.parametrize("first", [5e-5, 2e-4, 5e-4])
def test_a_sweep_after_a_spread_fall_is_saved_and_goes_on(first: float) -> None:
    whole = run_on_a_fall_that_pauses(5e-4, first=first)
    part = run_on_a_fall_that_pauses(5e-4, 60, first=first)
    other = Training(600).scheduler
    other.load_state_dict(copy.deepcopy(part.state_dict()))
    assert other.lr_at(299) == part.lr_at(299)
    for loss in whole.losses[60:].tolist():
        other.optimizer.step()
        other.step(loss)
    assert (other.switch_step, other.start_lr) == (whole.switch_step, whole.start_lr)
    assert other.tests == whole.tests
    assert other.tests[-1].lr > 5e-4
    assert (min(test.lr for test in other.tests) < 5e-4) == (first < 5e-4)


SPREAD_LR = probe_lrs(1e-5, 1.0)[9] / MAX_DISTANCE  # 3.7e-4, one that a probe can find


@pytest.mark.parametrize(
    ("first", "spread_lr", "max_lr", "digits", "skipped"),
    [
        (SPREAD_LR / 10, SPREAD_LR, 1.0, 17, 0),
        (2e-4, SPREAD_LR, 1.0, 4, 0),
        (2e-4, SPREAD_LR, 1.0, 6, 3),
        (SPREAD_LR, SPREAD_LR, 1.0, 17, 3),
        (5e-5, None, 1.0, 17, 0),
        (5e-5, None, 4e-3, 17, 0),
        (5e-5, None, 4e-3, 3, 3),
    ],
)
def test_a_replay_is_told_by_the_recorded_lrs_how_far_the_fall_was_spread(
    first: float, spread_lr: float | None, max_lr: float, digits: int, skipped: int
) -> None:
    found = run_on_a_fall_that_pauses(spread_lr, max_lr=max_lr, first=first)
    assert found.switch_step is not None
    rows = [step for step in range(found.switch_step) for _ in range(1 + skipped * (step == 20))]
    lrs = [float(f"{found.lr_at(step):.{digits}g}") for step in [*rows, found.switch_step]]
    losses = [*(float(found.losses[step]) for step in rows), 1.0]
    for keywords in ({"sweep": "adaptive"}, {"first_lr": lrs[0]}):
        again = replay(losses, 600, 10, lrs=lrs, max_lr=max_lr, **keywords)
        assert again.switch_step == found.switch_step
        assert again.start_lr == pytest.approx(found.start_lr, rel=0.02)
        if digits == 17 and not skipped:
            assert again.tests == found.tests
            assert again.start_lr == found.start_lr
    with pytest.raises(OtherSweepError) as caught:
        replay(losses, 600, 10, lrs=lrs, max_lr=max_lr, sweep="fixed")
    assert caught.value.fitting == {"sweep": "adaptive", "first_lr": pytest.approx(lrs[0])}


@pytest.mark.parametrize("total_steps", [484, 485])
def test_a_replay_tells_paces_apart_that_differ_by_less_than_few_digits_do(
    total_steps: int,
) -> None:
    for spread_lr in (None, SPREAD_LR):
        run = Training(total_steps).scheduler
        run.begin_at(SPREAD_LR / 10, spread_lr=spread_lr)
        lrs = [run.lr_at(step) for step in range(100)]
        again = replay([2.0] * 100, total_steps, 10, lrs=lrs, sweep="adaptive", patience=10**6)
        assert again.lr_at(240) == run.lr_at(240)


def test_three_digits_tell_how_far_the_fall_was_spread() -> None:
    spread_lr = probe_lrs(1e-5, 1.0)[14] / MAX_DISTANCE  # 0.01093, whose digits hide most
    run = Training(260).scheduler
    run.begin_at(spread_lr, spread_lr=spread_lr)
    lrs = [float(f"{run.lr_at(step):.3g}") for step in range(100)]
    settings: dict[str, Any] = {"lrs": lrs, "sweep": "adaptive", "patience": 10**6}
    again = replay([2.0] * 100, 260, 10, first_lr=spread_lr, **settings)
    assert again.lr_at(130) == pytest.approx(run.lr_at(130), rel=1e-9)


@pytest.mark.parametrize("spread_lr", [None, SPREAD_LR])
@pytest.mark.parametrize("wrong", [{"max_lr": 0.05}, {"total_steps": 1_500}])
def test_another_pace_is_not_taken_for_that_of_a_spread_fall(
    spread_lr: float | None, wrong: dict[str, Any]
) -> None:
    run = AutoWU(Training().optimizer, **{"total_steps": 2_000, "max_lr": 0.2})
    run.begin_at(1e-4, spread_lr=spread_lr)
    lrs = [run.lr_at(step) for step in range(300)]
    settings = {"total_steps": 2_000, "max_lr": 0.2} | wrong
    if spread_lr is not None and "max_lr" in wrong:
        settings["min_lr"] = 2e-5  # else its probe has other LRs, and the same pace may be its own
    with pytest.raises(OtherSweepError) as caught:
        replay([2.0] * 300, lrs=lrs, sweep="adaptive", **settings)
    assert caught.value.fitting == {}


@pytest.mark.parametrize(
    "lrs",
    [
        [0.0] * 30,
        [math.nan] * 30,
        [1e-3] * 30,
        [1e-3, *[math.inf] * 29],
        [1e-3 * 0.9**step for step in range(30)],
        [-1e-3] * 30,
        [1e-3 * 9.0**step for step in range(30)],
    ],
)
def test_lrs_that_are_of_no_sweep_are_an_error(lrs: list[float]) -> None:
    with pytest.raises(OtherSweepError):
        replay([2.0] * 30, 600, 10, lrs=lrs, sweep="adaptive")


def test_a_probe_hands_on_that_its_fall_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    for spread, share, top in ((1.0, 0.1, 1.0), (2.5, 2.5**1.5 / 10, 0.024), (5.0, 1.0, 0.024)):
        fall = fall_at(2e-3, spread)
        monkeypatch.setattr("autowu.scheduler.find_fall", lambda *_, fall=fall: fall)
        training = Training(10_000)
        assert training.probe() == 2e-3
        assert training.scheduler.lr_at(0) == pytest.approx(share * 2e-3)
        assert training.scheduler.lr_at(5_000) == pytest.approx(top)


@pytest.mark.parametrize("lr", [1e-5, 0.5, 0.99])
def test_no_warmup_is_so_short_or_start_so_high_that_the_lr_passes_max_lr(lr: float) -> None:
    scheduler = Training(4).scheduler
    scheduler.begin_at(lr)
    assert scheduler.lr_at(0) == lr
    assert max(scheduler.lr_at(step) for step in range(5)) <= 1.0


def test_first_lr_never_leaves_the_sweep() -> None:
    assert first_lr(Training(5_000).scheduler.settings, fall_at(2e-5)) == 1e-5
    assert first_lr(Training(10**9).scheduler.settings, fall_at(1e-2)) == pytest.approx(1e-3)
    for spread in (1.0, 2.5, 1e3):
        assert first_lr(Training(5_000).scheduler.settings, fall_at(1e-3, spread)) <= 1e-3


def test_a_spread_fall_near_min_lr_is_swept_to_twelve_times_its_lr_too() -> None:
    scheduler = Training(2_000, min_lr=4e-4).scheduler
    first = first_lr(scheduler.settings, fall_at(1e-3, 1.25))
    assert first == 4e-4
    scheduler.begin_at(first, spread_lr=1e-3)
    assert scheduler.lr_at(1_000) == pytest.approx(12e-3)


@pytest.mark.parametrize(
    "spread_lr", [1e-4, 0.0, -1.0, 1.0, math.nan, math.inf, pytest.param(10**400, id="huge")]
)
def test_a_spread_fall_outside_of_the_sweep_is_refused(spread_lr: float) -> None:
    message = f"from the first one, 0.001, to below max_lr=1, got {spread_lr}"
    with pytest.raises(ValueError, match=message):
        Training().scheduler.begin_at(1e-3, spread_lr=spread_lr)


@pytest.mark.parametrize("spread_lr", ["1e-3", True])
def test_a_spread_lr_that_is_no_number_is_refused(spread_lr: Any) -> None:
    with pytest.raises(
        TypeError, match=f"spread_lr of begin_at must be a number, got .* {spread_lr!r}"
    ):
        Training().scheduler.begin_at(1e-3, spread_lr=spread_lr)


def test_a_probed_run_is_saved_and_goes_on() -> None:
    whole, part = Training(), Training()
    for training in (whole, part):
        training.probe()
        training.lrs.clear()
    torch.manual_seed(1)
    whole.run(60)
    torch.manual_seed(1)
    part.run(13)
    saved = copy.deepcopy(part.scheduler.state_dict())
    part.scheduler = AutoWU(part.optimizer, 60, 10)
    part.scheduler.load_state_dict(saved)
    part.run(47)
    assert part.lrs == whole.lrs
    assert_same_state(part.scheduler.state_dict(), whole.scheduler.state_dict())


def test_a_replay_that_is_told_the_first_lr_decides_as_the_run_did() -> None:
    training = Training(300)
    training.probe()
    training.run(300)
    found = training.scheduler
    again = replay(found.losses, 300, 10, first_lr=found.lr_at(0))
    assert again.switch_step == found.switch_step
    assert again.start_lr == found.start_lr
    assert again.tests == found.tests
    with pytest.raises(ValueError, match='begin_at is for sweep="adaptive"'):
        replay(found.losses, 300, 10, first_lr=1e-3, sweep="fixed")


def stepped(training: Training) -> Training:
    training.run(1)
    return training


def observed(training: Training) -> Training:
    training.scheduler.observe(1.0)
    return training


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Training(sweep="fixed"), "sweep='fixed', growth='exponential'"),
        (lambda: Training(growth="linear"), "growth='linear'"),
        (lambda: Training(**PAPER), "sweep='fixed'"),
        (lambda: stepped(Training()), "before the first step, and the run stands at step 1"),
        (lambda: observed(Training()), "at step 0 with a loss observed"),
    ],
)
def test_a_probe_where_it_makes_no_sense_is_refused(
    make: Callable[[], Training], message: str
) -> None:
    training = make()
    lr = training.scheduler.get_last_lr()
    with pytest.raises(ValueError, match=message):
        training.probe()
    with pytest.raises(ValueError, match=message):
        training.scheduler.begin_at(1e-3)
    assert training.scheduler.get_last_lr() == lr


@pytest.mark.parametrize(
    "lr", [1e-6, 1.0, -1.0, math.nan, math.inf, pytest.param(10**400, id="huge")]
)
def test_an_lr_outside_of_the_sweep_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match=f"from min_lr=1e-05 to below max_lr=1, got {lr}"):
        Training().scheduler.begin_at(lr)


@pytest.mark.parametrize("lr", ["1e-3", None, True])
def test_an_lr_that_is_no_number_is_refused(lr: Any) -> None:
    with pytest.raises(TypeError, match=f"lr of begin_at must be a number, got .* {lr!r}"):
        Training().scheduler.begin_at(lr)


def test_a_probe_asks_for_nothing_of_the_callers_modes() -> None:
    training = Training()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert training.probe() is not None
        assert not torch.is_grad_enabled()


def test_a_probe_without_a_fall_forgets_where_the_sweep_was_to_begin() -> None:
    training = Training()
    training.scheduler.begin_at(1e-2)
    losses = itertools.count(1.0)
    assert training.scheduler.probe(training.model, lambda: next(losses)) is None
    assert training.scheduler.lr_at(0) == 1e-5


def test_each_step_of_a_probe_draws_the_same_random_numbers() -> None:
    training = Training()
    drawn: list[float] = []
    layer = training.model[0]
    layer.source = torch.Generator()  # as of a layer with a dropout of its own
    layer.sources = {"numpy": [np.random.default_rng(0)], "python": (random.Random(0),)}

    def take_step() -> float:
        own = torch.rand((), generator=layer.source)
        own += layer.sources["numpy"][0].random() + layer.sources["python"][0].random()
        drawn.append(float(own + torch.rand(())) + random.random())
        return 1.0

    training.scheduler.probe(training.model, take_step)
    assert len(drawn) == 18
    assert len(set(drawn)) == 1


class Odd(nn.Module):
    """Buffers that are replaced, made late, resized, and that overlap themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("late", None)
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("history", torch.zeros(1))
        self.register_buffer("wide", torch.ones(1).expand(4))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.linear(inputs)
        self.mean = 0.9 * self.mean + outputs.detach().mean(0)
        self.late = outputs.detach()
        with torch.no_grad():
            self.frozen.mul_(0.9)  # as a momentum encoder is
        self.history.resize_(len(self.history) + 1).fill_(1.0)
        return outputs * self.wide


def test_buffers_are_put_back_however_they_change() -> None:
    torch.manual_seed(0)
    model = Odd()
    before = copy.deepcopy(model.state_dict())
    del before["sparse"]
    scheduler = AutoWU(torch.optim.SGD(model.parameters(), momentum=0.9), 60)
    inputs, targets = torch.randn(32, 8), torch.randint(0, 4, (32,))

    def take_step() -> Tensor:
        loss = F.cross_entropy(model(inputs), targets)
        scheduler.optimizer.zero_grad()
        loss.backward()
        scheduler.optimizer.step()
        return loss

    assert scheduler.probe(model, take_step) is not None
    after = dict(model.state_dict())
    assert torch.equal(after.pop("sparse").to_dense(), torch.eye(3))
    assert_same_state(after, dict(before))
    assert model.late is None
    assert not scheduler.optimizer.state


class ByName(torch.optim.SGD):
    """Steps the weights through a dict of its own, and another optimizer in a list."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1)
        self.named = dict(model.named_parameters())
        self.inner = [torch.optim.Adam(model.parameters())]
        self.sums = [torch.zeros(()) for _ in self.named]

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for total, weight in zip(self.sums, self.named.values(), strict=True):
                total += weight.grad.abs().sum()
                weight -= self.param_groups[0]["lr"] * weight.grad
        self.inner[0].step()


def test_what_an_optimizer_refers_to_stays_what_it_refers_to() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = ByName(model)
    scheduler = AutoWU(optimizer, 60)
    inputs, targets = torch.randn(32, 8), torch.randint(0, 4, (32,))
    sums = list(optimizer.sums)

    def take_step() -> Tensor:
        loss = F.cross_entropy(model(inputs), targets)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    scheduler.probe(model, take_step)
    assert optimizer.named["weight"] is model.weight
    assert all(now is then for now, then in zip(optimizer.sums, sums, strict=True))
    assert all(total == 0 for total in sums)
    assert not optimizer.inner[0].state


def test_a_probe_that_fails_leaves_the_sweep_as_it_was() -> None:
    training = Training()
    training.scheduler.begin_at(1e-2)
    with pytest.raises(TypeError):
        training.scheduler.probe(training.model, lambda: "no loss")  # type: ignore[arg-type,return-value]
    assert training.scheduler.lr_at(0) == 1e-2
