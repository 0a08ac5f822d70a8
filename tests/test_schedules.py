"""The curves against closed forms that are worked out another way, and at their edges."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from autowu import schedules
from autowu.curves import cooldowns, cycles, smooth, stepwise, warmups
from autowu.schedules import (
    constant,
    constant_cosine,
    cosine,
    cosine_restarts,
    exponential,
    exponential_decay,
    gamma_decay,
    inverse_sqrt,
    linear,
    multistep,
    one_cycle,
    one_minus_sqrt,
    polynomial,
    step_decay,
    warmup,
    wsd_linear,
    wsd_one_minus_sqrt,
)

STEPS = 40
START, END = 3e-4, 0.7
WARMUPS: list[Callable[[float, float, float, float], float]] = [
    exponential,
    linear,
    cosine,
    polynomial,
    one_minus_sqrt,
]


def lrs_of_torch(build: Callable[[torch.optim.Optimizer], Any], num_steps: int) -> list[float]:
    """The LR at steps 0 to `num_steps` of a scheduler of PyTorch's, base LR `START`."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=START)
    scheduler = build(optimizer)
    lrs = [scheduler.get_last_lr()[0]]
    for _ in range(num_steps):
        optimizer.step()
        scheduler.step()
        lrs.append(scheduler.get_last_lr()[0])
    return lrs


def test_the_sweep_multiplies_by_one_factor_a_step() -> None:
    gamma = (END / START) ** (1 / STEPS)
    expected = START * np.cumprod([1.0, *[gamma] * STEPS])  # step by step
    curve = [exponential(t, STEPS, START, END) for t in range(STEPS + 1)]
    np.testing.assert_allclose(curve, expected, rtol=1e-12)
    np.testing.assert_allclose(curve, np.geomspace(START, END, STEPS + 1), rtol=1e-12)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.1), (1e-5, 1.0), (0.5, 0.1), (0.3, 0.3)])
def test_the_linear_curve_adds_one_amount_a_step(start: float, end: float) -> None:
    curve = [linear(t, STEPS, start, end) for t in range(STEPS + 1)]
    np.testing.assert_allclose(curve, np.linspace(start, end, STEPS + 1), rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("end", [0.0, 0.01])
def test_the_cosine_is_a_squared_cosine_of_half_the_angle(end: float) -> None:
    curve = [cosine(t, STEPS, END, end) for t in range(STEPS + 1)]
    half_angles = np.linspace(0, math.pi / 2, STEPS + 1)
    np.testing.assert_allclose(curve, end + (END - end) * np.cos(half_angles) ** 2, atol=1e-16)


@pytest.mark.parametrize("cooldown", [0, 1, 8, 7.5, 40, 1_000])
def test_the_cooldown_is_the_end_of_a_constant(cooldown: float) -> None:
    length = min(cooldown, STEPS)
    for t in range(STEPS + 3):
        left = STEPS - t  # steps to go
        if left <= 0:
            expected = 0.0
        elif left >= length:
            expected = END
        else:
            expected = END * math.sin(math.pi / 2 * left / length) ** 2
        assert constant_cosine(t, STEPS, END, cooldown) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("curve", WARMUPS)
@pytest.mark.parametrize(("start", "end"), [(START, END), (END, START), (0.1, 0.3)])
def test_outside_its_steps_a_curve_has_its_first_and_its_last_value(
    curve: Callable[[float, float, float, float], float], start: float, end: float
) -> None:
    for num_steps in (1, 3, 7, 49, 10**6, 2.5):
        before = [curve(t, num_steps, start, end) for t in (-5, -1e-9, 0)]
        assert before == pytest.approx([start] * 3, rel=1e-12)
        assert [curve(t, num_steps, start, end) for t in (num_steps, num_steps + 9)] == [end] * 2


@pytest.mark.parametrize("curve", WARMUPS)
def test_a_curve_of_no_steps_is_at_its_end(
    curve: Callable[[float, float, float, float], float],
) -> None:
    assert curve(0, 0, START, END) == END
    assert constant_cosine(0, 0, END, 0) == constant_cosine(0, 0, END, 5) == 0.0


@pytest.mark.parametrize("curve", WARMUPS)
def test_a_curve_never_turns_and_is_defined_between_two_steps(
    curve: Callable[[float, float, float, float], float],
) -> None:
    for start, end in ((START, END), (END, START)):
        values = [curve(t, 7, start, end) for t in np.linspace(-1, 8, 181)]
        direction = np.sign(end - start)
        assert (direction * np.diff(values) >= 0).all()
        inside = [curve(t, 7, start, end) for t in (3, 3.5, 4)]
        assert direction * inside[0] < direction * inside[1] < direction * inside[2]
    assert exponential(3.5, 7, START, END) == pytest.approx(math.sqrt(START * END))
    assert linear(3.5, 7, START, END) == pytest.approx((START + END) / 2)
    assert cosine(3.5, 7, START, END) == pytest.approx((START + END) / 2)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 30, 90])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 3, 7, 30])
def test_step_decay_is_torchs_steplr(num_steps: int, gamma: float, size: int) -> None:
    expected = lrs_of_torch(lambda opt: lr_scheduler.StepLR(opt, size, gamma), num_steps)
    curve = [step_decay(t, num_steps, START, size, gamma) for t in range(num_steps + 1)]
    assert curve == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("milestones", [(3,), (1, 2), (10, 20, 39), (40,), (5, 50)])
def test_multistep_is_torchs_multisteplr(milestones: tuple[int, ...]) -> None:
    build = lambda opt: lr_scheduler.MultiStepLR(opt, list(milestones), 0.3)  # noqa: E731
    curve = [multistep(t, STEPS, START, milestones, 0.3) for t in range(STEPS + 1)]
    assert curve == pytest.approx(lrs_of_torch(build, STEPS), rel=1e-12)


def test_multistep_takes_a_factor_for_each_milestone() -> None:
    curve = [multistep(t, 6, 2.0, (1, 4), factors=(0.5, 0.75)) for t in range(7)]
    assert curve == [2.0, 1.0, 1.0, 1.0, 1.5, 1.5, 1.5]


@pytest.mark.parametrize("fraction", [0.07, 0.1, 0.14, 0.29, 0.55, 0.57])
def test_a_drop_on_a_whole_step_is_met_there_whatever_its_fraction_rounds_to(
    fraction: float,
) -> None:
    step = round(fraction * 100)
    for curve in (
        partial(multistep, num_steps=100, start_lr=1.0, milestones=[fraction * 100]),
        partial(step_decay, num_steps=100, start_lr=1.0, step_size=fraction * 100),
    ):
        assert curve(step - 1) == 1.0
        assert curve(step) == 0.1


def test_gamma_decay_is_torchs_exponentiallr() -> None:
    expected = lrs_of_torch(lambda opt: lr_scheduler.ExponentialLR(opt, 0.9), STEPS)
    curve = [gamma_decay(t, STEPS, START, 0.9) for t in range(STEPS + 1)]
    assert curve == pytest.approx(expected, rel=1e-12)
    assert gamma_decay(STEPS + 5, STEPS, START, 0.9) == curve[-1]
    assert gamma_decay(-3, STEPS, START, 0.9) == START
    assert gamma_decay(20, STEPS, START, 0.9, period=10) == pytest.approx(START * 0.81)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_polynomial_is_torchs_polynomiallr(power: float) -> None:
    expected = lrs_of_torch(lambda opt: lr_scheduler.PolynomialLR(opt, STEPS, power), STEPS)
    curve = [polynomial(t, STEPS, START, power=power) for t in range(STEPS + 1)]
    assert curve == pytest.approx(expected, rel=1e-9, abs=1e-18)
    ending = [polynomial(t, STEPS, START, END, power) for t in range(STEPS + 1)]
    left = 1 - np.arange(STEPS + 1) / STEPS
    np.testing.assert_allclose(ending, END + (START - END) * left**power, rtol=1e-12)


@pytest.mark.parametrize("end", [0.0, 1e-5])
def test_cosine_and_linear_are_torchs(end: float) -> None:
    expected = lrs_of_torch(lambda opt: lr_scheduler.CosineAnnealingLR(opt, STEPS, end), STEPS)
    curve = [cosine(t, STEPS, START, end) for t in range(STEPS + 1)]
    assert curve == pytest.approx(expected, rel=1e-9, abs=1e-18)
    build = lambda opt: lr_scheduler.LinearLR(opt, 1.0, end / START, STEPS)  # noqa: E731
    curve = [linear(t, STEPS, START, end) for t in range(STEPS + 1)]
    assert curve == pytest.approx(lrs_of_torch(build, STEPS), rel=1e-9, abs=1e-18)


@pytest.mark.parametrize(("first", "mult"), [(10, 1), (40, 1), (7, 1), (5, 2), (1, 3), (100, 1)])
def test_half_waves_are_torchs_warm_restarts(first: int, mult: int) -> None:
    build = lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(  # noqa: E731
        opt, first, mult, 1e-5
    )
    curve = [
        cosine_restarts(t, STEPS, START, 1e-5, cycle_steps=first, cycle_mult=mult)
        for t in range(STEPS)
    ]
    assert curve == pytest.approx(lrs_of_torch(build, STEPS - 1), rel=1e-9)


def test_cycles_that_become_shorter_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cycle_mult must be at least 1, got 0\.5"):
        cosine_restarts(50, 100, 1.0, cycle_steps=10, cycle_mult=0.5)


@pytest.mark.parametrize("num_cycles", [1, 2, 3, 5, 7, 11])
@pytest.mark.parametrize("num_steps", [10, 77, 210, 1000])
def test_whole_cycles_end_low_as_half_waves_and_high_as_full_ones(
    num_cycles: int, num_steps: int
) -> None:
    for mult in (1.0, 1.5, 2.0):
        curve = partial(
            cosine_restarts, num_steps=num_steps, start_lr=END, end_lr=START,
            num_cycles=num_cycles, cycle_mult=mult,
        )  # fmt: skip
        assert curve(0) == curve(-1) == END
        assert curve(num_steps) == curve(num_steps + 9) == pytest.approx(START, rel=1e-9)
        full = partial(curve, wave="full")
        assert full(0) == pytest.approx(END)
        assert full(num_steps) == pytest.approx(END)


def test_full_waves_fall_and_rise_as_a_cosine_of_twice_the_angle() -> None:
    curve = [cosine_restarts(t, 60, END, START, num_cycles=4, wave="full") for t in range(61)]
    angles = 2 * math.pi * np.arange(61) / 15
    np.testing.assert_allclose(curve, START + (END - START) * (1 + np.cos(angles)) / 2, rtol=1e-9)


def test_a_cycle_that_the_end_cuts_off_stays_where_it_is() -> None:
    curve = [cosine_restarts(t, 10, 1.0, cycle_steps=8) for t in range(13)]
    assert curve[8] == 1.0
    assert curve[10] == curve[12] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize("num_steps", [9, 10, 39, 100, 333])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("pct_start", [0.2, 0.3, 0.5])
def test_one_cycle_is_torchs_onecyclelr(
    num_steps: int, anneal: Any, three_phase: bool, pct_start: float
) -> None:
    build = lambda opt: lr_scheduler.OneCycleLR(  # noqa: E731
        opt, END, total_steps=num_steps + 1, pct_start=pct_start, anneal_strategy=anneal,
        three_phase=three_phase, cycle_momentum=False, div_factor=20.0, final_div_factor=100.0,
    )  # fmt: skip
    curve = [
        one_cycle(
            t, num_steps, END, pct_start=pct_start, anneal=anneal, three_phase=three_phase,
            div_factor=20.0, final_div_factor=100.0,
        )
        for t in range(num_steps + 1)
    ]  # fmt: skip
    assert curve == pytest.approx(lrs_of_torch(build, num_steps), rel=1e-9)


def test_one_cycle_has_torchs_defaults() -> None:
    build = lambda opt: lr_scheduler.OneCycleLR(  # noqa: E731
        opt, END, total_steps=STEPS + 1, cycle_momentum=False
    )
    curve = [one_cycle(t, STEPS, END) for t in range(STEPS + 1)]
    assert curve == pytest.approx(lrs_of_torch(build, STEPS), rel=1e-9)
    assert one_cycle(-2, STEPS, END) == END / 25
    assert one_cycle(STEPS + 3, STEPS, END) == END / 25 / 1e4


def test_a_one_cycle_may_begin_at_its_peak() -> None:
    assert one_cycle(0, 10, 1.0, pct_start=0.0) == 1.0
    assert one_cycle(0, 0, 1.0) == 1.0 / 25 / 1e4


def test_the_inverse_square_root_goes_on_from_the_transformers_warmup() -> None:
    # Vaswani et al.: peak * sqrt(warmup / t), t counted from the start of the run.
    for t in range(8, 60):
        expected = END * math.sqrt(8 / t)
        assert inverse_sqrt(t - 8, 100, END, timescale=8) == pytest.approx(expected, rel=1e-12)
    assert inverse_sqrt(-4, 100, END, 8) == END
    assert inverse_sqrt(101, 100, END, 8) == inverse_sqrt(100, 100, END, 8)
    assert inverse_sqrt(0, 0, END) == END


def test_one_minus_the_root_falls_as_the_root_of_what_is_done() -> None:
    done = np.arange(STEPS + 1) / STEPS
    curve = [one_minus_sqrt(t, STEPS, END, START) for t in range(STEPS + 1)]
    np.testing.assert_allclose(curve, END - (END - START) * done**0.5, rtol=1e-12)


def test_an_exponential_decay_ends_at_its_ratio() -> None:
    curve = [exponential_decay(t, STEPS, END, 0.01) for t in range(STEPS + 1)]
    np.testing.assert_allclose(curve, np.geomspace(END, 0.01 * END, STEPS + 1), rtol=1e-12)
    assert exponential_decay(STEPS, STEPS, END) == 1e-3 * END


def test_a_constant_stays() -> None:
    assert {constant(t, 5, END) for t in (-1, 0, 3.5, 5, 99)} == {END}


@pytest.mark.parametrize("cooldown", [0, 1, 8, 7.5, 40, 1_000])
@pytest.mark.parametrize("end", [0.0, 0.01])
def test_wsd_is_a_constant_with_a_cooldown_at_its_end(cooldown: float, end: float) -> None:
    length = min(cooldown, STEPS)
    for t in range(-1, STEPS + 3):
        left = min(STEPS - t, length)  # steps to go, of the cooldown
        done = 1 - left / length if length else float(t >= STEPS)
        done = min(done, 1.0)
        straight, root = END - (END - end) * done, END - (END - end) * math.sqrt(max(done, 0.0))
        assert wsd_linear(t, STEPS, END, cooldown, end) == pytest.approx(straight, abs=1e-12)
        assert wsd_one_minus_sqrt(t, STEPS, END, cooldown, end) == pytest.approx(root, abs=1e-7)


def test_a_warmup_ends_exactly_at_its_end() -> None:
    for shape in ("linear", "exponential"):
        for ratio in (None, 0.125):
            for num_steps in (0, 1, 3, 7, 49):
                curve = partial(
                    warmup, num_steps=num_steps, end_lr=END, shape=shape, start_ratio=ratio
                )
                assert curve(num_steps) == curve(num_steps + 4) == END
                if num_steps and ratio:
                    assert curve(0) == curve(-3) == pytest.approx(0.125 * END)


@pytest.mark.parametrize("start_ratio", [0.0, 0.25, 1.0])
def test_a_linear_warmup_is_torchs(start_ratio: float) -> None:
    build = lambda opt: lr_scheduler.LinearLR(opt, max(start_ratio, 1e-12), 1.0, 9)  # noqa: E731
    curve = [warmup(t, 9, START, start_ratio=start_ratio) for t in range(13)]
    assert curve == pytest.approx(lrs_of_torch(build, 12), rel=1e-9, abs=1e-14)


def test_every_curve_is_exported_and_has_a_doctest() -> None:
    modules = (cooldowns, cycles, smooth, stepwise, warmups)
    defined = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if callable(value)
        and getattr(value, "__module__", "") == module.__name__
        and not name.startswith("_")
    }
    del defined["progress"]  # what the curves are made of
    assert defined.keys() == set(schedules.__all__) - {"DECAYS"}
    for name, curve in defined.items():
        assert ">>>" in (curve.__doc__ or ""), name
        assert "lr" in (curve.__doc__ or ""), name
