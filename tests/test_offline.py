"""A replay is the scheduler stepped over a recorded curve, and nothing else."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD

from autowu import AutoWU, Phase, replay
from autowu.offline import OtherSweepError, follows_decay
from autowu.settings import PAPER
from tests.helpers import assert_same_state

TOTAL_STEPS, STEPS_PER_EPOCH = 80, 10
U = np.arange(TOTAL_STEPS) / TOTAL_STEPS
LOSSES = np.abs(U - 0.25) + 0.02 * np.random.default_rng(0).standard_normal(TOTAL_STEPS)


def step_by_hand(losses: Any, **settings: Any) -> AutoWU:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(optimizer, TOTAL_STEPS, STEPS_PER_EPOCH, **({"sweep": "fixed"} | settings))
    for loss in losses:
        optimizer.step()
        scheduler.step(float(loss))
    return scheduler


@pytest.mark.parametrize("num_losses", [0, 7, 25, 80])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        PAPER,
        {"growth": "linear", "patience": 1, "seed": 3},
        {"max_lr": 0.1},
        {"sweep": "adaptive"},
    ],
)
def test_a_replay_equals_stepping_by_hand(num_losses: int, settings: dict[str, Any]) -> None:
    losses = LOSSES[:num_losses]
    replayed = replay(losses, TOTAL_STEPS, STEPS_PER_EPOCH, **settings)
    assert_same_state(replayed.state_dict(), step_by_hand(losses, **settings).state_dict())


def test_a_record_follows_the_decay_if_it_goes_on_with_the_lr_that_the_decay_begins_at() -> None:
    scheduler = replay(LOSSES, TOTAL_STEPS)
    assert scheduler.switch_step is not None and scheduler.start_lr is not None
    sweep = [min(1.0, 1e-5 * 1e5 ** (step / 40)) for step in range(TOTAL_STEPS)]
    run = sweep[: scheduler.switch_step] + [scheduler.start_lr] * TOTAL_STEPS
    assert not follows_decay(replay(LOSSES, TOTAL_STEPS, lrs=sweep), sweep)
    assert follows_decay(replay(LOSSES, TOTAL_STEPS, lrs=run[:TOTAL_STEPS]), run)
    with_skipped = [run[0], run[0], *run]  # two rows that a GradScaler skipped
    losses = [LOSSES[0], LOSSES[0], *LOSSES][:TOTAL_STEPS]
    replayed = replay(losses, TOTAL_STEPS, lrs=with_skipped[:TOTAL_STEPS])
    assert replayed.last_epoch == TOTAL_STEPS - 2
    assert follows_decay(replayed, with_skipped)
    assert follows_decay(replay(LOSSES[:5], TOTAL_STEPS, lrs=sweep[:5]), sweep[:5])


def test_the_losses_may_come_in_any_container() -> None:
    plain = LOSSES.astype(np.float32).tolist()
    expected = replay(plain, TOTAL_STEPS).state_dict()
    containers: list[Any] = [
        tuple(plain),
        iter(plain),
        np.array(plain),
        torch.tensor(plain),
        torch.tensor(plain, requires_grad=True),
        torch.tensor(plain).reshape(-1, 1),
    ]
    for losses in containers:
        assert_same_state(replay(losses, TOTAL_STEPS).state_dict(), expected)


def test_losses_after_total_steps_are_not_even_read() -> None:
    def endless() -> Any:
        yield from LOSSES
        yield 1.0  # one more may be drawn, to see that it is too many
        raise AssertionError("read on after total_steps")

    scheduler = replay(endless(), TOTAL_STEPS)
    assert scheduler.last_epoch == TOTAL_STEPS
    assert scheduler.get_last_lr() == [0.0]


def test_a_curve_that_stops_early_leaves_the_scheduler_where_it_ends() -> None:
    scheduler = replay(LOSSES[:5], TOTAL_STEPS)
    assert scheduler.phase is Phase.WARMUP
    assert scheduler.switch_step is None and scheduler.start_lr is None
    assert scheduler.last_epoch == len(scheduler.losses) == 5
    assert scheduler.get_last_lr() == [pytest.approx(1e-5 * 1e5 ** (5 / 40))]


def test_integers_and_numbers_in_text_are_losses() -> None:
    # An integer is refused by step(), where it would be an epoch; here it cannot be one.
    assert replay([3, 2, 1], TOTAL_STEPS).losses.tolist() == [3.0, 2.0, 1.0]
    assert replay(["3", "2e0"], TOTAL_STEPS).losses.tolist() == [3.0, 2.0]


def test_losses_that_are_not_finite_are_allowed() -> None:
    scheduler = replay([1.0, math.nan, 0.5, math.inf, 0.4], TOTAL_STEPS, test_interval=5)
    assert scheduler.num_nonfinite == 2
    assert not scheduler.diverged


@pytest.mark.parametrize(
    "loss", ["high", None, [1.0], 1j, 10**400, True, np.True_, torch.tensor(True)]
)
def test_a_loss_that_is_no_number_is_named_with_its_place(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"losses\[2\] must be a number, got "):
        replay([1.0, 2.0, loss], TOTAL_STEPS)


@pytest.mark.parametrize("losses", [torch.ones(3, 2), torch.tensor(1.0)])
def test_losses_of_several_ranks_are_not_those_of_a_longer_run(losses: Any) -> None:
    with pytest.raises(ValueError, match=r"losses must be those of one run, one a step, got shape"):
        replay(losses, TOTAL_STEPS)


def test_settings_are_those_of_autowu() -> None:
    assert replay([], 100, 10, patience=7, seed=5).settings.patience == 7
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        replay([], 100, patience=0)
    with pytest.raises(TypeError, match="patiense"):
        replay([], 100, patiense=3)
    for name in ("last_epoch", "process_group"):
        with pytest.raises(TypeError, match=f"replay takes no {name}"):
            replay([], 100, **{name: 3})
    with pytest.raises(ValueError, match=r"^first_lr=2\.0: .*from min_lr=1e-05 to below max_lr=1"):
        replay([], 100, first_lr=2.0)
    with pytest.raises(ValueError, match=r"^first_lr=0\.1: .*got sweep='fixed'"):
        replay([], 100, first_lr=0.1, sweep="fixed")
    with pytest.raises(TypeError, match=r"^first_lr must be a number, got str '0\.1'"):
        replay([], 100, first_lr="0.1")  # type: ignore[arg-type]


def recorded(num_steps: int = TOTAL_STEPS, **settings: Any) -> list[float]:
    """The LR of each step of a run on LOSSES."""
    run = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, **settings)
    return [run.lr_at(step) for step in range(num_steps)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        PAPER,
        {"growth": "linear"},
        {"sweep": "adaptive"},
        {"first_lr": 1e-3},
        {"first_lr": 1e-5},  # a probe can find that the loss falls at min_lr
        {"min_lr": 1e-3, "max_lr": 3.0},
        {"first_lr": 0.5, "patience": 100},  # rests at max_lr
        {"patience": 100, "at_cap": "current"},  # the decay begins with the last LR of the sweep
    ],
)
def test_the_lrs_of_a_run_change_nothing_in_its_replay(settings: dict[str, Any]) -> None:
    plain = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, **settings)
    lrs = [float(f"{lr:.3g}") for lr in recorded(**settings)]
    checked = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs, **settings)
    assert plain.switch_step is not None and plain.switch_step < TOTAL_STEPS
    assert_same_state(checked.state_dict(), plain.state_dict())


def test_an_lr_that_few_digits_repeat_is_a_step() -> None:
    losses, total = np.abs(np.arange(1000) / 4000 - 0.2), 4000  # the LR grows by 0.6 % a step
    plain = replay(losses, total)
    lrs = [float(f"{plain.lr_at(step):.3g}") for step in range(1000)]
    assert len(set(lrs)) < 1000
    assert_same_state(replay(losses, total, lrs=lrs).state_dict(), plain.state_dict())


@pytest.mark.parametrize("digits", [17, 3])
@pytest.mark.parametrize(
    "settings", [{}, PAPER, {"growth": "linear"}, {"sweep": "adaptive"}, {"first_lr": 1e-3}]
)
def test_the_loss_of_a_skipped_step_is_averaged_into_the_next(
    settings: dict[str, Any], digits: int
) -> None:
    """Recorded as train.py does: a skipped step has a row, with the LR of the next one."""
    keywords = settings.copy()
    first_lr = keywords.pop("first_lr", None)
    run = step_by_hand([], **({"sweep": "adaptive"} if first_lr else {}), **keywords)
    if first_lr:
        run.begin_at(first_lr)
    lrs = []
    for row, loss in enumerate(LOSSES):
        lrs.append(float(f"{run.lr_at(run.last_epoch):.{digits}g}"))
        if row in (0, 3, 4, 15):
            run.observe(float(loss))
        else:
            run.optimizer.step()
            run.step(float(loss))
    replayed = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs, **settings)
    assert run.switch_step is not None and run.switch_step > 15
    assert_same_state(replayed.state_dict(), run.state_dict())


def test_after_24_skipped_steps_in_a_row_others_are_steps() -> None:
    """As in train.py; losses that are lost have to be seen."""
    skipped, rest = [7.0] * 30, LOSSES[:20].tolist()
    run = step_by_hand([])
    lrs = [1e-5] * 24 + [run.lr_at(step) for step in range(26)]
    run.observe(7.0, weight=24)
    for loss in [*skipped[24:], *rest]:
        run.optimizer.step()
        run.step(loss)
    replayed = replay([*skipped, *rest], TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs)
    assert replayed.last_epoch == 26
    assert replayed.losses.tolist() == run.losses.tolist()
    assert replayed.switch_step == run.switch_step


def test_lrs_after_the_warmup_are_not_compared() -> None:
    switch_step = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH).switch_step
    assert switch_step is not None
    lrs = recorded()
    lrs[switch_step:] = [math.nan] * (TOTAL_STEPS - switch_step)
    assert replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs).switch_step == switch_step
    lrs[switch_step - 1] *= 1.01
    with pytest.raises(OtherSweepError, match=f"^step {switch_step - 1} was recorded at LR "):
        replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs)


@pytest.mark.parametrize(
    ("of_run", "of_replay", "fitting"),
    [
        ({"first_lr": 1e-3}, {}, {"sweep": "adaptive", "first_lr": 1e-3}),
        ({"first_lr": 1e-3}, {"first_lr": 2e-3}, {"sweep": "adaptive", "first_lr": 1e-3}),
        ({"first_lr": 1e-5}, {"sweep": "adaptive"}, {"sweep": "adaptive", "first_lr": 1e-5}),
        ({"sweep": "adaptive"}, {}, {"sweep": "adaptive"}),
        ({}, {"sweep": "adaptive"}, {"sweep": "fixed"}),
        ({"min_lr": 1e-6}, {}, {"sweep": "fixed", "min_lr": 1e-6}),
        ({"min_lr": 1e-4}, {"sweep": "adaptive"}, {"sweep": "fixed", "min_lr": 1e-4}),
        ({"min_lr": 1e-4, "sweep": "adaptive"}, {}, {"sweep": "adaptive", "min_lr": 1e-4}),
        ({"growth": "linear"}, {}, {}),
        ({"max_warmup_fraction": 0.25}, {}, {}),
    ],
)
def test_lrs_of_another_sweep_are_an_error_that_names_the_keywords_that_fit(
    of_run: dict[str, Any], of_replay: dict[str, Any], fitting: dict[str, Any]
) -> None:
    lrs = recorded(**of_run)
    with pytest.raises(OtherSweepError, match=r"^step [01] was recorded at LR ") as error:
        replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs, **of_replay)
    assert error.value.fitting == fitting
    for name, value in fitting.items():
        assert f"{name}={value!r}" in str(error.value)
    if fitting:
        replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs, **fitting)


def test_other_sweeps_are_told_by_their_steps_and_not_by_those_that_were_skipped() -> None:
    lrs = recorded(sweep="adaptive")
    lrs = [lrs[0]] * 12 + lrs[: TOTAL_STEPS - 12]
    with pytest.raises(OtherSweepError, match=r"^step 13 was recorded at LR ") as error:
        replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs)
    assert error.value.fitting == {"sweep": "adaptive"}


@pytest.mark.parametrize("total_steps", [200, 300, 390, 440, 600, 1_000])
@pytest.mark.parametrize("first_lr", [1e-3, 0.05])
@pytest.mark.parametrize("digits", [3, 17])
def test_a_warmup_that_its_cap_ended_is_told_from_a_longer_one(
    total_steps: int, first_lr: float, digits: int
) -> None:
    """Where its decay begins slowly from the last LR, which looks like more of the sweep."""
    losses = [-float(step) for step in range(total_steps)]
    settings: dict[str, Any] = {"sweep": "adaptive", "probed_warmup_fraction": 0.3}
    run = replay(losses, total_steps, first_lr=first_lr, **settings)
    assert run.switch_step == run.warmup_steps and not run.found_minimum
    lrs = [float(f"{run.lr_at(step):.{digits}g}") for step in range(total_steps)]
    again = replay(losses, total_steps, lrs=lrs, first_lr=first_lr, **settings)
    assert (again.switch_step, again.start_lr) == (run.switch_step, run.start_lr)


@pytest.mark.parametrize(("total_steps", "is_known"), [(300, True), (600, False)])
def test_a_warmup_that_was_longer_than_that_of_the_replay(total_steps: int, is_known: bool) -> None:
    """In a short run it is taken for that of a spread fall."""
    losses = [-float(step) for step in range(total_steps)]
    run = replay(losses, total_steps, first_lr=1e-3, sweep="adaptive")
    lrs = [run.lr_at(step) for step in range(total_steps)]
    assert run.switch_step == total_steps // 2
    settings: dict[str, Any] = {"sweep": "adaptive", "probed_warmup_fraction": 0.3}
    if is_known:
        again = replay(losses, total_steps, lrs=lrs, **settings)
        assert (again.switch_step, again.start_lr) == (run.switch_step, run.start_lr)
    else:
        message = "ends after step 180, .*the record sweeps on"
        with pytest.raises(OtherSweepError, match=message) as caught:
            replay(losses, total_steps, lrs=lrs, **settings)
        assert caught.value.fitting["probed_warmup_fraction"] == 1.0
    told = replay(losses, total_steps, sweep="adaptive", lrs=lrs)
    assert told.tests == run.tests


def test_a_warmup_that_was_shorter_than_that_of_the_replay_is_told_by_its_keyword() -> None:
    losses = [-float(step) for step in range(600)]
    run = replay(losses, 600, first_lr=1e-3, probed_warmup_fraction=0.3)
    lrs = [run.lr_at(step) for step in range(600)]
    with pytest.raises(
        OtherSweepError, match="or probed_warmup_fraction were larger than in that run"
    ):
        replay(losses, 600, sweep="adaptive", lrs=lrs)


def test_a_warmup_that_ended_before_that_of_the_replay_is_an_error_at_its_end() -> None:
    impatient = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, patience=1)
    lrs = recorded(patience=1)
    message = rf"^step {impatient.switch_step} .* the settings have to be those of the run"
    with pytest.raises(OtherSweepError, match=message):
        replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, lrs=lrs)


@pytest.mark.parametrize("sweep", ["fixed", "adaptive"])
def test_a_constant_lr_is_no_sweep(sweep: Any) -> None:
    with pytest.raises(OtherSweepError) as error:
        replay(LOSSES, TOTAL_STEPS, lrs=[0.1] * TOTAL_STEPS, sweep=sweep)
    assert error.value.fitting == {}


def test_lrs_that_are_too_few_or_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 learning rates for 3 losses"):
        replay([1.0, 2.0, 3.0], TOTAL_STEPS, lrs=[1e-5, 2e-5])
    with pytest.raises(TypeError, match=r"lrs\[1\] must be a number, got 'high'"):
        replay([1.0, 2.0], TOTAL_STEPS, lrs=[1e-5, "high"])  # type: ignore[list-item]
