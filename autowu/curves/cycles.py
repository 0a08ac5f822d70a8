"""Curves that go down and up: cosines with restarts, and the one-cycle policy."""

import math
from typing import Literal

from autowu.curves.smooth import cosine, linear

Wave = Literal["half", "full"]
Anneal = Literal["cos", "linear"]
DEFAULT_NUM_CYCLES = 3  # ours, because the first restarts of SGDR bring the most


def cosine_restarts(
    step: float,
    num_steps: float,
    start_lr: float,
    end_lr: float = 0.0,
    *,
    cycle_steps: float | None = None,
    num_cycles: int | None = None,
    cycle_mult: float = 1.0,
    wave: Wave = "half",
) -> float:
    """Cosine waves one after the other: SGDR, Loshchilov and Hutter 2017, arXiv:1608.03983.

    `lr(t) = end_lr + (start_lr - end_lr) * (1 + cos(pi * c * u)) / 2`, where `u` in [0, 1) is what
    is done of the cycle; `c = 1` for half a wave, which jumps back to `start_lr` at a restart
    (SGDR), and `c = 2` for a whole wave, which comes back without a jump.

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: length of the whole curve in steps. There a cycle that ends at this step is at
            its end, and does not begin anew; a cycle that it cuts off is where it is.
        start_lr: learning rate at the beginning of a cycle.
        end_lr: learning rate at the lowest point.
        cycle_steps: length of the first cycle in steps, real, positive; not with `num_cycles`.
        num_cycles: whole cycles in `num_steps`; None without `cycle_steps`: 3 (ours).
        cycle_mult: length of a cycle over that of the one before, at least 1.
        wave: "half" or "full".

    Raises:
        ValueError: `cycle_mult` is below 1.

    >>> [round(cosine_restarts(t, 8, 1.0, num_cycles=2), 4) for t in range(9)]
    [1.0, 0.8536, 0.5, 0.1464, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    >>> [round(cosine_restarts(t, 8, 1.0, num_cycles=2, wave="full"), 4) for t in range(9)]
    [1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0]
    >>> [round(cosine_restarts(t, 6, 1.0, cycle_steps=2, cycle_mult=2), 4) for t in range(7)]
    [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    if not cycle_mult >= 1.0:
        raise ValueError(f"cycle_mult must be at least 1, got {cycle_mult}")
    if cycle_steps is None:
        cycles = num_cycles or DEFAULT_NUM_CYCLES
        cycle_steps = num_steps / _in_first_cycles(cycles, cycle_mult)
    done = min(max(step, 0.0), num_steps)
    # At the very end the cycle that ends there counts, before it the one that begins.
    cycle, position = _locate(done, cycle_steps, cycle_mult, at_end=step >= num_steps)
    length = cycle_steps * cycle_mult**cycle
    if position == 0.0 and length > 0.0:
        return start_lr  # exactly, which the cosine between two values is not
    if wave == "half":
        return cosine(position, length, start_lr, end_lr)
    return cosine(abs(2 * position - length), length, end_lr, start_lr)


def _in_first_cycles(num_cycles: int, cycle_mult: float) -> float:
    """Length of the first `num_cycles` cycles when that of the first is 1."""
    if cycle_mult == 1.0:
        return float(num_cycles)
    return (cycle_mult**num_cycles - 1.0) / (cycle_mult - 1.0)


def _locate(step: float, cycle_steps: float, cycle_mult: float, at_end: bool) -> tuple[int, float]:
    """The cycle that a step lies in, from 0, and the steps done in it."""
    if cycle_steps <= 0.0:
        return 0, 0.0
    # In cycles of the first length; on a boundary as exact as the divisions allow.
    place = step / cycle_steps
    place += (-1e-9 if at_end else 1e-12) * max(place, 1.0)
    if cycle_mult == 1.0:
        cycle = max(0, math.floor(place))
    else:
        cycle = 0
        while place >= _in_first_cycles(cycle + 1, cycle_mult):
            cycle += 1
    return cycle, max(0.0, step - cycle_steps * _in_first_cycles(cycle, cycle_mult))


def one_cycle(
    step: float,
    num_steps: float,
    peak_lr: float,
    *,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    pct_start: float = 0.3,
    anneal: Anneal = "cos",
    three_phase: bool = False,
) -> float:
    """Rise to the peak and fall far below the start: Smith and Topin 2018, arXiv:1708.07120.

    From `peak_lr / div_factor` to `peak_lr`, then to `peak_lr / div_factor / final_div_factor`;
    with three phases first back to the start, in as many steps as the rise took. The step of the
    peak is that of PyTorch's `OneCycleLR(total_steps=num_steps + 1)`: `pct_start * (num_steps + 1)
    - 1`, a real number, so that both agree at every step; where that is below 0 it is 0 here.

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps to the end of the cycle; 0 gives the end at once.
        peak_lr: highest learning rate.
        div_factor: peak over start, positive; 25 (PyTorch, fastai).
        final_div_factor: start over end, positive; 1e4 (PyTorch).
        pct_start: fraction of the steps that rise, in [0, 1]; with three phases at most 0.5.
        anneal: "cos", half waves, or "linear".
        three_phase: as in the paper: back to the start, then down to the end.

    >>> [round(one_cycle(t, 9, 1.0), 4) for t in (0, 1, 2, 9, 10)]
    [0.04, 0.52, 1.0, 0.0, 0.0]
    >>> [round(one_cycle(t, 9, 1.0, anneal="linear", three_phase=True), 4) for t in (0, 2, 3, 4, 9)]
    [0.04, 1.0, 0.52, 0.04, 0.0]
    """
    curve = cosine if anneal == "cos" else linear
    start_lr = peak_lr / div_factor
    end_lr = start_lr / final_div_factor
    up = max(0.0, pct_start * (num_steps + 1) - 1)
    if step >= num_steps:
        return end_lr
    if step <= 0.0 < up:
        return start_lr  # exactly, which the cosine between two values is not
    if step < up:
        return curve(step, up, start_lr, peak_lr)
    if not three_phase:
        return curve(step - up, num_steps - up, peak_lr, end_lr)
    if step < 2 * up:
        return curve(step - up, up, peak_lr, start_lr)
    return curve(step - 2 * up, num_steps - 2 * up, start_lr, end_lr)
