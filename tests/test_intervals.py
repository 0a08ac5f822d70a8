"""When tests are made: at epoch ends, evenly, and as rarely as a growth of 1.2x allows."""

import math
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from autowu.intervals import is_tested_at_cap, next_test_point
from autowu.settings import SchedulerSettings


def settings_of(total_steps: int, steps_per_epoch: int | None, **changes: Any) -> SchedulerSettings:
    defaults: dict[str, Any] = {
        "min_lr": 1e-5, "max_lr": 1.0, "max_warmup_fraction": 0.5, "probed_warmup_fraction": 0.3,
        "growth": "exponential", "sweep": "fixed", "decay": "cosine", "cooldown_fraction": 0.2,
        "patience": 3, "confidence": 0.95, "num_tests": 5, "test_interval": "auto", "fit": "mle",
        "at_cap": "minimum", "num_fit_samples": 100, "num_posterior_samples": 500,
        "grid_size": 500, "seed": 0,
    }  # fmt: skip
    return SchedulerSettings(total_steps, steps_per_epoch, **(defaults | changes))


def points(chosen: SchedulerSettings) -> list[int]:
    step, found = 0, []
    while step < chosen.warmup_steps:
        step = next_test_point(step, chosen)
        found.append(step)
    return found


def lr_at(step: int, chosen: SchedulerSettings) -> float:
    progress = step / chosen.warmup_steps
    if chosen.growth == "exponential":
        return 1e-5 * 1e5**progress
    return 1e-5 + (1 - 1e-5) * progress


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 2_000), st.integers(1, 400), st.sampled_from(["exponential", "linear"]))
def test_auto_divides_epochs_evenly_into_the_fewest_short_intervals(
    total_steps: int, epoch: int, growth: str
) -> None:
    chosen = settings_of(total_steps, epoch, growth=growth)
    cap = chosen.warmup_steps
    found = points(chosen)
    assert found == sorted(set(found)) and found[-1] == cap
    for a, b in zip([0, *found], found, strict=False):
        assert b == a + 1 or lr_at(b, chosen) <= 1.2 * lr_at(a, chosen) * (1 + 1e-9)
        # Epoch ends are passed over only on the way to a later one.
        assert b in (a + 1, cap) or b % epoch == 0 or b // epoch == a // epoch
    if growth == "linear":
        return
    if 2 * epoch <= math.floor(math.log(1.2) / (math.log(1e5) / cap) * (1 + 1e-12)):
        for a, b in pairwise([0, *found[:-1]]):
            assert a % epoch == b % epoch == 0
            assert lr_at(b + epoch, chosen) > 1.2 * lr_at(a, chosen) * (1 - 1e-9)
        return
    assert set(range(epoch, cap + 1, epoch)) <= set(found)
    for start in range(0, cap - epoch + 1, epoch):
        inside = [start, *(p for p in found if start < p <= start + epoch)]
        lengths = [b - a for a, b in pairwise(inside)]
        assert max(lengths) - min(lengths) <= 1
        fewer = len(lengths) - 1
        if fewer:  # with one interval less, the first of them would grow too much
            longest = math.ceil(epoch / fewer)
            assert lr_at(start + longest, chosen) > 1.2 * lr_at(start, chosen) * (1 - 1e-9)


def test_without_epochs_the_growth_alone_decides() -> None:
    found = points(settings_of(2_000, None))
    longest = math.floor(math.log(1.2) / (math.log(1e5) / 1_000))
    assert found == [*range(longest, 1_000, longest), 1_000]


def test_epochs_of_few_steps_have_no_test_each() -> None:
    """Three tests a step apart see the same losses, and patience is for nothing."""
    for growth in ("exponential", "linear"):
        without_epochs = points(settings_of(3_000, None, growth=growth))
        assert points(settings_of(3_000, 1, growth=growth)) == without_epochs
    assert points(settings_of(3_000, 7))[:4] == [21, 42, 63, 84]  # 1.2x takes 23.75 steps


def test_the_regime_of_the_paper_has_tests_at_epoch_ends_alone() -> None:
    assert points(settings_of(200 * 391, 391)) == list(range(391, 100 * 391 + 1, 391))


def test_epochs_or_a_number_of_steps() -> None:
    assert points(settings_of(100, 15, test_interval="epoch")) == [15, 30, 45, 50]
    assert points(settings_of(100, None, test_interval=20)) == [20, 40, 50]
    assert points(settings_of(2, None)) == [1]


def test_as_published_the_cap_is_a_test_only_where_an_epoch_ends() -> None:
    published = {"test_interval": "epoch", "at_cap": "current"}
    assert is_tested_at_cap(settings_of(100, 25, **published), 50)
    assert not is_tested_at_cap(settings_of(100, 20, **published), 50)
    assert is_tested_at_cap(settings_of(100, 20, **published), 40)
    assert is_tested_at_cap(settings_of(100, 20, test_interval="epoch"), 50)
    assert is_tested_at_cap(settings_of(100, 20), 50)


def test_a_shorter_longest_warmup_changes_its_end_alone() -> None:
    chosen = settings_of(400, 30)
    whole = points(chosen)
    step, found = 0, []
    while step < 77:
        step = next_test_point(step, chosen, cap=77)
        found.append(step)
    assert found == [*(point for point in whole if point < 77), 77]


def test_of_linear_growth_each_interval_is_as_long_as_it_may_be() -> None:
    """At the beginning of an epoch the LR grows by 1.2x in fewer steps than at its end.

    Late in the warmup 1.2x would be a sixth of it, and three tests half.
    """
    chosen = settings_of(16_000, 400, growth="linear")
    found = points(chosen)
    without_epochs = points(settings_of(16_000, None, growth="linear"))
    assert set(range(400, 8_001, 400)) <= set(found)
    assert len(found) <= len(without_epochs) + 20
    for a, b in pairwise([0, *found]):
        growth = 1.2 * lr_at(a, chosen)
        assert b == a + 1 or lr_at(b, chosen) <= growth * (1 + 1e-9)
        # 126 steps: of an exponential sweep of 8,000, in which the LR grows by 1.2x.
        assert b % 400 == 0 or b - a == 126 or lr_at(b + 1, chosen) > growth * (1 - 1e-9)
        assert b - a <= 126
