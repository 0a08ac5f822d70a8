"""Settings are checked once: a bad one is named with its value, a good one becomes plain Python."""

import json
import math
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest

from autowu.settings import PAPER, Decay, SchedulerSettings

GOOD: dict[str, Any] = {
    "total_steps": 100, "steps_per_epoch": 10, "min_lr": 1e-5, "max_lr": 1.0,
    "max_warmup_fraction": 0.5, "probed_warmup_fraction": 0.3, "growth": "exponential",
    "sweep": "adaptive", "decay": "cosine", "cooldown_fraction": 0.2, "patience": 3,
    "confidence": 0.95, "num_tests": 5, "test_interval": "auto", "fit": "mle",
    "at_cap": "minimum", "num_fit_samples": 100, "num_posterior_samples": 500, "grid_size": 500,
    "seed": 0,
}  # fmt: skip
LEAST = {
    "total_steps": 2, "steps_per_epoch": 1, "patience": 1, "num_tests": 1, "test_interval": 1,
    "num_fit_samples": 5, "num_posterior_samples": 5, "grid_size": 2, "seed": 0,
}  # fmt: skip
FRACTIONS = ("max_warmup_fraction", "probed_warmup_fraction", "cooldown_fraction", "confidence")
REALS = ("min_lr", "max_lr", *FRACTIONS)
CHOICES = {
    "growth": ("exponential", "linear"),
    "sweep": ("adaptive", "fixed"),
    "decay": get_args(Decay),
    "fit": ("mle", "adam"),
    "at_cap": ("minimum", "current"),
}


def build(**changes: Any) -> SchedulerSettings:
    return SchedulerSettings(**(GOOD | changes))


@pytest.mark.parametrize("name", LEAST)
def test_a_count_has_a_least_value(name: str) -> None:
    assert getattr(build(**{name: LEAST[name]}), name) == LEAST[name]
    for value in (LEAST[name] - 1, -7):
        with pytest.raises(ValueError, match=f"{name} must be at least {LEAST[name]}, got {value}"):
            build(**{name: value})


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("value", [10.0, 1.5, True, math.nan, [3], b"3", 3 + 0j])
def test_a_count_is_an_integer(name: str, value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        build(**{name: value})
    assert f"{name} must be an integer" in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in LEAST if name != "steps_per_epoch"])
def test_only_the_steps_of_an_epoch_may_be_none(name: str) -> None:
    assert build(steps_per_epoch=None).steps_per_epoch is None
    with pytest.raises(TypeError, match=f"{name} must be an integer, got NoneType None"):
        build(**{name: None})


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf, -math.inf])
def test_a_real_setting_is_positive_and_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        build(**{name: value})


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], 0.5j])
def test_a_real_setting_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        build(**{name: value})
    assert f"{name} must be a number" in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction_is_at_most_1_and_the_confidence_below(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in \(0, 1\], got 1.01"):
        build(**{name: 1.01})
    if name == "confidence":
        with pytest.raises(ValueError, match="confidence must be below 1, got 1"):
            build(confidence=1)
    else:
        decay = "constant_cosine" if name == "cooldown_fraction" else "cosine"
        assert getattr(build(**{name: 1, "decay": decay}), name) == 1.0


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (1e-3, 1e-4)])
def test_the_sweep_rises(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=f"min_lr must be below max_lr={high}, got {low}"):
        build(min_lr=low, max_lr=high)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_that_exist(name: str) -> None:
    for choice in CHOICES[name]:
        assert getattr(build(**{name: choice}), name) == choice
    for value in ("nonsense", "", None, 3, ["mle"], CHOICES[name][0].upper()):
        with pytest.raises((TypeError, ValueError)) as caught:
            build(**{name: value})
        for said in (name, repr(value), *map(repr, CHOICES[name])):
            assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "typo", "right"),
    [("growth", "exponental", "exponential"), ("decay", "constant-cosine", "constant_cosine"),
     ("fit", "adm", "adam"), ("at_cap", "minimun", "minimum"),
     ("test_interval", "epochs", "epoch")],
)  # fmt: skip
def test_a_typo_is_told_what_was_meant(name: str, typo: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"{name} .*{typo!r} .did you mean {right!r}"):
        build(**{name: typo})


def test_tests_at_epoch_ends_need_epochs() -> None:
    assert build(test_interval="epoch").test_interval == "epoch"
    with pytest.raises(ValueError, match='test_interval="epoch" needs steps_per_epoch, got None'):
        build(test_interval="epoch", steps_per_epoch=None)


def test_the_published_settings_are_settings() -> None:
    settings = build(**PAPER)
    assert (settings.fit, settings.test_interval, settings.at_cap) == ("adam", "epoch", "current")


def test_numbers_of_any_kind_become_plain_python() -> None:
    settings = build(
        total_steps=np.int64(50), min_lr=np.float32(0.25), max_lr=2, test_interval=np.int32(4),
        max_warmup_fraction=Fraction(1, 4), steps_per_epoch=np.uint8(9), seed=np.int16(3),
    )  # fmt: skip
    values = settings.as_dict()
    assert {type(value) for value in values.values()} <= {int, float, str}
    assert values == GOOD | {
        "total_steps": 50, "min_lr": 0.25, "max_lr": 2.0, "test_interval": 4,
        "max_warmup_fraction": 0.25, "steps_per_epoch": 9, "seed": 3,
    }  # fmt: skip
    assert SchedulerSettings(**json.loads(json.dumps(values))) == settings


@pytest.mark.parametrize(
    ("total_steps", "fraction", "expected"),
    [
        (100, 0.5, 50),
        (101, 0.5, 50),
        (2, 0.5, 1),
        (3, 0.1, 1),
        (10, 1.0, 10),
        (1_000, 0.999, 999),
        (100, 0.29, 29),
    ],
)
def test_the_longest_warmup_is_the_fraction_rounded_down_and_at_least_1(
    total_steps: int, fraction: float, expected: int
) -> None:
    assert build(total_steps=total_steps, max_warmup_fraction=fraction).warmup_steps == expected


@pytest.mark.parametrize(
    ("total_steps", "fractions", "expected"),
    [
        (390, (0.5, 0.3), 117),
        (390, (0.5, 1.0), 195),
        (390, (0.25, 0.3), 97),
        (200, (0.5, 0.3), 90),
        (180, (0.5, 0.3), 90),
        (179, (0.5, 0.3), 89),
        (2, (0.5, 0.3), 1),
        (1_000, (0.5, 0.29), 290),
    ],
)
def test_after_a_probe_the_longest_warmup_is_shorter_but_90_steps_if_it_had_them(
    total_steps: int, fractions: tuple[float, float], expected: int
) -> None:
    most, probed = fractions
    settings = build(
        total_steps=total_steps, max_warmup_fraction=most, probed_warmup_fraction=probed
    )
    assert settings.probed_warmup_steps == expected
