"""AutoWU decays along any of the curves: each against its closed form, from the switch on."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from autowu import AutoWU, Phase, replay
from autowu.schedules import DECAYS
from autowu.settings import COOLDOWN_DECAYS, DEFAULT_COOLDOWN_FRACTION, Decay, SchedulerSettings
from autowu.trainer.schedule_settings import AutoWUSettings

TOTAL, SWITCH = 200, 40
LENGTH = TOTAL - SWITCH
# Of the LR at the switch after the fraction `u` of the decay; the cooldown is the last 20 % of
# the 200 steps, the last quarter of the 160.
SHARES: dict[str, Callable[[float], float]] = {
    "cosine": lambda u: math.cos(math.pi * u / 2) ** 2,
    "constant_cosine": lambda u: math.cos(math.pi / 2 * max(0.0, 4 * u - 3)) ** 2,
    "linear": lambda u: 1 - u,
    "polynomial": lambda u: (1 - u) ** 2,
    "one_minus_sqrt": lambda u: 1 - math.sqrt(u),
    "wsd_linear": lambda u: 1 - max(0.0, 4 * u - 3),
    "wsd_one_minus_sqrt": lambda u: 1 - math.sqrt(max(0.0, 4 * u - 3)),
    "constant": lambda u: 1.0,
    "inverse_sqrt": lambda u: 1 / math.sqrt(1 + 100 * u),
    "exponential": lambda u: 10 ** (-3 * u),
    "step": lambda u: 0.1 ** math.floor(3 * u + 1e-9),
    "multistep": lambda u: 0.1 ** ((u >= 0.5) + (u >= 0.75)),
    "cosine_restarts": lambda u: (
        0.0 if u == 1 else math.cos(math.pi / 2 * math.fmod(3 * u + 1e-12, 1.0)) ** 2
    ),
}
TO_ZERO = {
    "cosine", "constant_cosine", "linear", "polynomial", "one_minus_sqrt", "wsd_linear",
    "wsd_one_minus_sqrt", "cosine_restarts",
}  # fmt: skip


def after_the_switch(decay: Any, lr: float = 1.0, **settings: Any) -> AutoWU:
    """A scheduler whose warmup ended at its cap, after 40 steps of equal losses."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = AutoWU(optimizer, TOTAL, max_warmup_fraction=0.2, decay=decay, test_interval=40,
                       at_cap="current", **settings)  # fmt: skip
    for _ in range(SWITCH):
        optimizer.step()
        scheduler.step(1.0)
    assert scheduler.phase is Phase.DECAY and scheduler.switch_step == SWITCH
    return scheduler


def test_the_choices_are_the_same_everywhere() -> None:
    assert set(get_args(Decay)) == set(DECAYS) == set(SHARES)
    assert set(COOLDOWN_DECAYS) <= set(DECAYS)
    assert AutoWUSettings().cooldown_fraction == DEFAULT_COOLDOWN_FRACTION


@pytest.mark.parametrize("decay", SHARES)
def test_the_decay_is_its_curve_over_what_is_left(decay: str) -> None:
    scheduler = after_the_switch(decay)
    start = scheduler.start_lr
    assert start is not None
    for step in range(SWITCH, TOTAL + 1):
        expected = start * SHARES[decay]((step - SWITCH) / LENGTH)
        assert scheduler.lr_at(step) == pytest.approx(expected, rel=1e-6, abs=1e-9 * start), step
        assert scheduler.get_last_lr() == [scheduler.lr_at(step)]
        scheduler.optimizer.step()
        scheduler.step()
    end = scheduler.lr_at(TOTAL)
    assert scheduler.get_last_lr() == [end]  # and stays there
    assert (end == 0.0) == (decay in TO_ZERO)


@pytest.mark.parametrize("decay", SHARES)
def test_a_decay_goes_on_from_its_state(decay: str) -> None:
    scheduler = after_the_switch(decay)
    for _ in range(50):
        scheduler.optimizer.step()
        scheduler.step()
    resumed = after_the_switch("cosine" if decay != "cosine" else "linear")
    resumed.load_state_dict(scheduler.state_dict())
    for _ in range(TOTAL - SWITCH - 50):
        assert resumed.get_last_lr() == scheduler.get_last_lr()
        for each in (scheduler, resumed):
            each.optimizer.step()
            each.step()


@pytest.mark.parametrize("decay", COOLDOWN_DECAYS)
def test_the_cooldown_is_a_fraction_of_the_whole_run(decay: str) -> None:
    scheduler = after_the_switch(decay, cooldown_fraction=0.1)
    assert scheduler.lr_at(TOTAL - 20) == scheduler.start_lr
    assert scheduler.lr_at(TOTAL - 19) < scheduler.lr_at(TOTAL - 20)


@pytest.mark.parametrize("decay", sorted(SHARES.keys() - set(COOLDOWN_DECAYS)))
def test_a_cooldown_fraction_that_would_be_ignored_is_an_error(decay: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    for build in (AutoWU, AutoWU.paper):
        with pytest.raises(ValueError, match=f"cooldown_fraction=0.3 acts only.*{decay}"):
            build(optimizer, 100, 10, decay=decay, cooldown_fraction=0.3)
        build(optimizer, 100, 10, decay=decay, cooldown_fraction=0.2)
    with pytest.raises(ValueError, match="cooldown_fraction"):
        replay([1.0] * 10, 100, decay=decay, cooldown_fraction=0.3)


@pytest.mark.parametrize("decay", SHARES)
def test_a_replay_takes_every_decay(decay: Any) -> None:
    scheduler = replay([1.0] * 60, 100, decay=decay)
    assert isinstance(scheduler.settings, SchedulerSettings)
    assert scheduler.settings.decay == decay
    assert scheduler.phase is Phase.DECAY
