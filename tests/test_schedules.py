"""The curves against closed forms that are worked out another way, and at their edges."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from autowu.schedules import constant_cosine, cosine, exponential, linear

STEPS = 40
START, END = 3e-4, 0.7
WARMUPS: list[Callable[[float, float, float, float], float]] = [exponential, linear, cosine]


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
