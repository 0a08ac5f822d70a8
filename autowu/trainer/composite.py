"""Composite schedules: curves one after the other, as vision SSL libraries describe them.

    schedule:
      name: composite
      curves:
        - {name: linear, length: 0.1, start: 0.125, end: 1.0}
        - {name: cosine, length: 0.9, interval: fixed, end: 0.001}

Torch is not imported here.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from autowu import schedules
from autowu.curves.cycles import Wave
from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import closest, squash

Interval = Literal["rescaled", "fixed"]
# As in fvcore, whose schedules VISSL uses: its recipe for IG-1B has lengths that sum to 1.00008.
LENGTHS_TOLERANCE = 1e-3
# Of the run: a boundary that lies on a step is met there, whatever its sum of fractions comes to.
_ROUNDING = 1e-9


class Kind(NamedTuple):
    """What a piece may be: its curve, whether it goes to an `end`, and its own keywords."""

    curve: Callable[..., float]
    has_end: bool
    own: tuple[str, ...] = ()  # keywords of the piece


# Keywords of a piece that are fractions of its interval, and steps for the curve.
IN_STEPS = {
    "cooldown": "cooldown_steps",
    "cycle_length": "cycle_steps",
    "milestones": "milestones",
    "step_length": "step_size",
    "timescale": "timescale",
}
KINDS: dict[str, Kind] = {
    "constant": Kind(schedules.constant, False),
    "linear": Kind(schedules.linear, True),
    "exponential": Kind(schedules.exponential, True),
    "polynomial": Kind(schedules.polynomial, True, ("power",)),
    "cosine": Kind(schedules.cosine, True),
    "one_minus_sqrt": Kind(schedules.one_minus_sqrt, True),
    "inverse_sqrt": Kind(schedules.inverse_sqrt, False, ("timescale",)),
    "step": Kind(schedules.step_decay, False, ("step_length", "gamma")),
    "multistep": Kind(schedules.multistep, False, ("milestones", "gamma", "factors")),
    "cosine_restarts": Kind(
        schedules.cosine_restarts, True, ("num_cycles", "cycle_length", "cycle_mult", "wave")
    ),
    "constant_cosine": Kind(schedules.constant_cosine, True, ("cooldown",)),
    "wsd_linear": Kind(schedules.wsd_linear, True, ("cooldown",)),
    "wsd_one_minus_sqrt": Kind(schedules.wsd_one_minus_sqrt, True, ("cooldown",)),
}


@dataclass(frozen=True)
class CurvePiece:
    """One curve of a composite; `start` and `end` are multiples of the peak LR."""

    name: str  # of KINDS
    length: float  # fraction of the run
    interval: Interval = "rescaled"
    start: float = 1.0
    end: float = 0.0  # of curves that go to an end
    own: dict[str, Any] = field(default_factory=dict)  # keywords of the curve, fractions

    @property
    def is_ramp(self) -> bool:
        """Whether it is a rise: what stands before another curve as its warmup."""
        return self.name in ("linear", "exponential") and self.end > self.start

    def __call__(self, step: float, num_steps: float) -> float:
        """The multiple of the peak after `step` of the `num_steps` steps that the curve spans."""
        kind = KINDS[self.name]
        keywords: dict[str, Any] = {"end_lr": self.end} if kind.has_end else {}
        for key, value in self.own.items():
            if key not in IN_STEPS:
                keywords[key] = value
            elif key == "milestones":
                keywords[key] = [fraction * num_steps for fraction in value]
            else:
                keywords[IN_STEPS[key]] = value * num_steps
        return kind.curve(step, num_steps, self.start, **keywords)


def boundaries(pieces: Sequence[CurvePiece], num_steps: float) -> list[float]:
    """Where each piece ends, in steps, real numbers: they are not rounded to whole steps."""
    lengths = [piece.length for piece in pieces]
    total = math.fsum(lengths)
    ends = [num_steps * math.fsum(lengths[: index + 1]) / total for index in range(len(pieces))]
    return [*ends[:-1], float(num_steps)]


def composite(step: float, num_steps: float, pieces: Sequence[CurvePiece]) -> float:
    """Follow the pieces one after the other.

    Piece `i` has the steps `b[i] <= t < b[i + 1]`, `b` being its lengths added up times
    `num_steps`, not rounded: so the last whole step before a boundary still belongs to the piece
    that ends there, and a step on a boundary begins the next one. Step `num_steps` is the end of
    the last piece.

    - `rescaled`: the curve runs over its interval, `lr(t) = curve(t - b[i], b[i + 1] - b[i])`;
    - `fixed`: it runs over the whole run, and the interval shows a part of it,
      `lr(t) = curve(t, num_steps)`.

    Lengths that do not sum to 1 are divided by their sum.

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps of the whole run.
        pieces: at least one, of positive length.

    >>> pieces = [CurvePiece("linear", 0.25, start=0.0, end=1.0), CurvePiece("cosine", 0.75)]
    >>> [round(composite(t, 8, pieces), 4) for t in range(9)]
    [0.0, 0.5, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0]
    >>> pieces = [CurvePiece("constant", 0.5), CurvePiece("linear", 0.5, "fixed")]
    >>> [composite(t, 8, pieces) for t in range(9)]
    [1.0, 1.0, 1.0, 1.0, 0.5, 0.375, 0.25, 0.125, 0.0]
    """
    step = min(max(step, 0.0), num_steps)
    *inner, end = boundaries(pieces, num_steps)
    index = bisect_right(inner, step + _ROUNDING * num_steps)
    begin = inner[index - 1] if index else 0.0
    end = inner[index] if index < len(inner) else end
    piece = pieces[index]
    if piece.interval == "fixed":
        return piece(step, num_steps)
    return piece(step - begin, end - begin)


def warmup_end(pieces: Sequence[CurvePiece], num_steps: int) -> int:
    """The first step after a leading rise; 0 where there is none."""
    if len(pieces) < 2 or not pieces[0].is_ramp:
        return 0
    return math.ceil(boundaries(pieces, num_steps)[0] - _ROUNDING * num_steps)


def read_pieces(curves: Sequence[Any]) -> tuple[CurvePiece, ...]:
    """The pieces that the dicts of `schedule.curves` describe.

    Raises:
        ConfigError: naming the entry and its value, for anything that is no piece.
    """
    if not isinstance(curves, list | tuple) or not curves:
        raise ConfigError(
            f"schedule.curves={curves}: must be a list of curves, for example"
            " [{name: linear, length: 0.1, start: 0.1, end: 1}, {name: cosine, length: 0.9}]"
        )
    pieces = tuple(_Entry(f"schedule.curves[{index}]", curve).read()
                   for index, curve in enumerate(curves))  # fmt: skip
    total = math.fsum(piece.length for piece in pieces)
    if abs(total - 1.0) >= LENGTHS_TOLERANCE:
        lengths = ", ".join(f"{piece.length:g}" for piece in pieces)
        raise ConfigError(
            f"schedule.curves: lengths must sum to 1, got {lengths}, which sum to {total:g}"
        )
    return pieces


class _Entry:
    """One dict of `schedule.curves`, with its place in the settings for the messages."""

    def __init__(self, place: str, entry: Any) -> None:
        if not isinstance(entry, dict):
            raise ConfigError(f"{place}={entry}: must be a mapping with a name and a length")
        self.place = place
        self.entry = entry

    def read(self) -> CurvePiece:
        for key in ("name", "length"):
            if key not in self.entry:
                raise ConfigError(f"{self.place}.{key}: missing, in {self.entry}")
        name = self._kind()
        kind = KINDS[name]
        allowed = ["name", "length", "interval", "start", *["end"] * kind.has_end, *kind.own]
        for key, value in self.entry.items():
            if key not in allowed:
                hint = closest(str(key), allowed)
                raise self._error(key, f"unknown{hint}; {name} takes {', '.join(allowed)}", value)
        interval = self.entry.get("interval", "rescaled")
        if interval not in get_args(Interval):
            raise self._error("interval", f"must be {' or '.join(get_args(Interval))}")
        piece = CurvePiece(
            name,
            length=self._number("length", above=0.0, at_most=1.0),
            interval=interval,
            start=self._number("start", 1.0, at_least=0.0),
            end=self._number("end", 0.0, at_least=0.0),
            own={key: self._own(key) for key in kind.own if key in self.entry},
        )
        if name == "exponential":
            for key in ("start", "end"):
                if getattr(piece, key) <= 0.0:
                    raise self._error(key, "must be above 0 for exponential", getattr(piece, key))
        self._check_together(piece)
        return piece

    def _check_together(self, piece: CurvePiece) -> None:
        if piece.name == "multistep":
            milestones, factors = piece.own.get("milestones"), piece.own.get("factors")
            if milestones is None:
                raise ConfigError(f"{self.place}.milestones: missing, in {self.entry}")
            if factors is not None and "gamma" in piece.own:
                raise self._error("factors", "not together with gamma")
            if factors is not None and len(factors) != len(milestones):
                raise self._error("factors", f"must be {len(milestones)}, one for each milestone")
        if "num_cycles" in piece.own and "cycle_length" in piece.own:
            raise self._error("cycle_length", "not together with num_cycles")
        if piece.name in ("constant_cosine", "wsd_linear", "wsd_one_minus_sqrt"):
            piece.own.setdefault("cooldown", 0.2)

    def _kind(self) -> str:
        usual = {squash(name): name for name in KINDS}
        name = self.entry["name"]
        if not isinstance(name, str) or squash(name) not in usual:
            hint = closest(str(name), KINDS, most=3)
            raise self._error("name", f"must be one of {', '.join(KINDS)}{hint}")
        return usual[squash(name)]

    def _own(self, key: str) -> Any:
        if key == "milestones":
            return self._milestones()
        if key == "factors":
            return tuple(self._checked(key, value, at_least=0.0) for value in self._list(key))
        if key == "wave":
            if self.entry[key] not in get_args(Wave):
                raise self._error(key, f"must be {' or '.join(get_args(Wave))}")
            return self.entry[key]
        if key == "num_cycles":
            value = self.entry[key]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self._error(key, "must be an integer, at least 1")
            return value
        if key == "gamma":
            return self._number(key, at_least=0.0)
        if key == "cycle_mult":
            return self._number(key, at_least=1.0)
        if key == "power":
            return self._number(key, above=0.0)
        return self._number(key, above=0.0, at_most=1.0)  # a fraction of the interval

    def _milestones(self) -> tuple[float, ...]:
        values = self._list("milestones")
        milestones = tuple(self._checked("milestones", value, above=0.0) for value in values)
        ascending = all(a < b for a, b in pairwise(milestones))
        if not milestones or not ascending or milestones[-1] >= 1.0:
            raise self._error(
                "milestones", "must be fractions of the interval, ascending, above 0 and below 1"
            )
        return milestones

    def _list(self, key: str) -> list[Any]:
        value = self.entry[key]
        if not isinstance(value, list | tuple):
            raise self._error(key, "must be a list of numbers")
        return list(value)

    def _number(self, key: str, default: float | None = None, **limits: float) -> float:
        return self._checked(key, self.entry.get(key, default), **limits)

    def _checked(
        self,
        key: str,
        value: Any,
        at_least: float = -math.inf,
        above: float = -math.inf,
        at_most: float = math.inf,
    ) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._error(key, "must be a number")
        if not (math.isfinite(value) and at_least <= value <= at_most and value > above):
            limits = (("at least", at_least), ("above", above), ("at most", at_most))
            words = [f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit)]
            raise self._error(key, f"must be {' and '.join(words)}")
        return float(value)

    def _error(self, key: Any, reason: str, value: Any = None) -> ConfigError:
        shown = self.entry.get(key) if value is None else value
        return ConfigError(f"{self.place}.{key}={shown}: {reason}")
