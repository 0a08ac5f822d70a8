"""Simulated loss curves with a known minimum: what the test has to find, and what it must not.

A curve is a function of the progress `u` of the sweep, 0 at `min_lr` and 1 at `max_lr`, in units
of its whole fall: 1 before the loss moves, 0 at its lowest. The loss of step `t` is

    OFFSET + curve(t / W) + noise * normal

so that losses are around 1, where the published procedure is at its best.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

OFFSET = 0.3  # the lowest true loss
FALL_BEGINS = 0.25  # below that LR nothing moves: the dead decades of a sweep from 1e-5

Curve = Callable[[np.ndarray], np.ndarray]


class Shape(NamedTuple):
    curve: Curve  # progress of the sweep (n,) in [0, 1] -> true loss (n,), in [0, ...)
    minimum: float | None  # progress at the lowest point; None: it falls, or stays, to the end


def _fall(u: np.ndarray, begin: float, end: float) -> np.ndarray:
    """From 1 to 0 along half a cosine wave between `begin` and `end`."""
    return 0.5 * (1.0 + np.cos(np.pi * np.clip((u - begin) / (end - begin), 0.0, 1.0)))


def _valley(minimum: float, rise: float, length: float) -> Curve:
    """Fall to `minimum`, then rise quadratically: by `rise` over a `length` of the sweep."""

    def curve(u: np.ndarray) -> np.ndarray:
        return (
            _fall(u, FALL_BEGINS, minimum) + rise * (np.clip(u - minimum, 0.0, None) / length) ** 2
        )

    return curve


def _shelf(u: np.ndarray) -> np.ndarray:
    """Half of the fall, a shelf over a fifth of the sweep, and the other half."""
    return 0.5 * (_fall(u, 0.2, 0.45) + _fall(u, 0.65, 1.0))


SHAPES = {
    "early minimum": Shape(_valley(0.5, 0.5, 0.3), 0.5),
    "late minimum": Shape(_valley(0.75, 0.5, 0.2), 0.75),
    "sharp minimum": Shape(_valley(0.6, 1.0, 0.15), 0.6),
    "shallow minimum": Shape(_valley(0.6, 0.3, 0.4), 0.6),
    "steady fall": Shape(lambda u: _fall(u, FALL_BEGINS, 1.0), None),
    "fall to a plateau": Shape(lambda u: _fall(u, FALL_BEGINS, 0.6), None),
    "fall with a shelf": Shape(_shelf, None),
}


def true_losses(shape: Shape, num_steps: int) -> np.ndarray:
    """The curve without noise at steps 0 .. num_steps - 1 of a sweep over num_steps: (n,)."""
    return OFFSET + shape.curve(np.arange(num_steps) / num_steps)


def noisy_losses(shape: Shape, num_steps: int, noise: float, seed: int) -> np.ndarray:
    """The curve with Gaussian noise of that deviation, in units of the whole fall: (n,)."""
    rng = np.random.default_rng(seed)
    return true_losses(shape, num_steps) + noise * rng.standard_normal(num_steps)


def fallen_fraction(shape: Shape, num_steps: int, switch_step: int) -> float:
    """How much of its whole fall the true curve has behind it after `switch_step` steps."""
    curve = true_losses(shape, num_steps)
    return float((curve[0] - curve[:switch_step].min()) / (curve[0] - curve.min()))
