"""Composite schedules and LR scaling against tables worked out by hand."""

import math
from typing import Any

import pytest

from autowu.trainer.composite import (
    KINDS,
    CurvePiece,
    boundaries,
    composite,
    read_pieces,
    warmup_end,
)
from autowu.trainer.errors import ConfigError
from autowu.trainer.lr_scaling import scale_factor, scale_pieces

# VISSL's recipe for one epoch of IG-500M, as multiples of its peak 4.8.
RECIPE = [
    {"name": "linear", "length": 0.0256, "start": 0.6 / 4.8, "end": 1.0},
    {"name": "cosine", "length": 0.48722, "start": 1.0, "end": 0.0048 / 4.8},
    {"name": "linear", "length": 0.0256, "start": 0.0048 / 4.8, "end": 2.114 / 4.8},
    {"name": "cosine", "length": 0.46166, "start": 2.114 / 4.8, "end": 0.0048 / 4.8},
]


def table(curves: list[dict[str, Any]], num_steps: int) -> list[float]:
    pieces = read_pieces(curves)
    return [composite(step, num_steps, pieces) for step in range(num_steps + 1)]


def test_rescaled_pieces_run_over_their_intervals() -> None:
    curves = [{"name": "linear", "length": 0.2, "start": 0.0, "end": 1.0},
              {"name": "cosine", "length": 0.8, "end": 0.0}]  # fmt: skip
    expected = [0.0, 0.5]  # 2 steps up
    expected += [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)]  # 8 steps down
    assert table(curves, 10) == pytest.approx(expected, abs=1e-15)


def test_a_fixed_piece_shows_its_part_of_the_curve_over_the_whole_run() -> None:
    # VISSL's "linear warmup + cosine" with interval_scaling: [rescaled, fixed].
    curves = [{"name": "linear", "length": 0.2, "start": 0.0, "end": 1.0},
              {"name": "cosine", "length": 0.8, "end": 0.0, "interval": "fixed"}]  # fmt: skip
    expected = [0.0, 0.5]
    expected += [(1 + math.cos(math.pi * k / 10)) / 2 for k in range(2, 11)]
    assert table(curves, 10) == pytest.approx(expected, abs=1e-15)


def test_the_last_step_before_a_boundary_belongs_to_the_piece_that_ends_there() -> None:
    # Boundaries at 3.3 and 6.6 of 10 steps: three pieces of 4, 3 and 4 values.
    curves = [{"name": "constant", "length": 0.33, "start": level} for level in (1.0, 2.0)]
    curves.append({"name": "constant", "length": 0.34, "start": 3.0})
    assert table(curves, 10) == [1.0] * 4 + [2.0] * 3 + [3.0] * 4


@pytest.mark.parametrize("num_pieces", [1, 2, 3, 7, 10])
def test_a_step_on_a_boundary_begins_the_next_piece(num_pieces: int) -> None:
    curves = [{"name": "constant", "length": 1 / num_pieces, "start": float(index)}
              for index in range(num_pieces)]  # fmt: skip
    values = table(curves, 10 * num_pieces)
    assert values == [step // 10 for step in range(10 * num_pieces)] + [num_pieces - 1]


def test_a_piece_that_stands_twice_is_followed_twice() -> None:
    up, down = CurvePiece("linear", 0.25, start=0.0, end=1.0), CurvePiece("linear", 0.25)
    values = [composite(step, 8, [up, down, up, down]) for step in range(9)]
    assert values == [0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 0.5, 0.0]


def test_the_four_pieces_of_vissls_recipe() -> None:
    num_steps = 10_000
    values = [4.8 * value for value in table(RECIPE, num_steps)]
    total = 1.00008  # what its lengths sum to
    ends = [num_steps * each / total for each in (0.0256, 0.51282, 0.53842, 1.00008)]

    def wave(step: int, begin: float, end: float, high: float) -> float:
        done = (step - begin) / (end - begin)
        return 0.0048 + (high - 0.0048) * (1 + math.cos(math.pi * done)) / 2

    expected = {
        0: 0.6,
        100: 0.6 + 4.2 * 100 / ends[0],
        255: 0.6 + 4.2 * 255 / ends[0],  # ends at 255.98: still the first ramp
        256: wave(256, ends[0], ends[1], 4.8),
        2_500: wave(2_500, ends[0], ends[1], 4.8),
        5_127: wave(5_127, ends[0], ends[1], 4.8),  # ends at 5,127.79
        5_128: 0.0048 + 2.1092 * (5_128 - ends[1]) / (ends[2] - ends[1]),
        5_383: 0.0048 + 2.1092 * (5_383 - ends[1]) / (ends[2] - ends[1]),  # ends at 5,383.77
        5_384: wave(5_384, ends[2], ends[3], 2.114),
        8_000: wave(8_000, ends[2], ends[3], 2.114),
        10_000: 0.0048,
    }
    for step, lr in expected.items():
        assert values[step] == pytest.approx(lr, rel=1e-9), step
    assert boundaries(read_pieces(RECIPE), num_steps) == pytest.approx(ends)
    assert warmup_end(read_pieces(RECIPE), num_steps) == 256


def test_every_kind_of_piece_goes_from_its_start() -> None:
    own: dict[str, dict[str, Any]] = {
        "multistep": {"milestones": [0.5, 0.75]},
        "exponential": {"end": 0.01},
    }
    ends = {
        "constant": 1.0, "linear": 0.0, "exponential": 0.01, "polynomial": 0.0, "cosine": 0.0,
        "one_minus_sqrt": 0.0, "inverse_sqrt": 1 / math.sqrt(101), "step": 1e-3,
        "multistep": 0.01, "cosine_restarts": 0.0, "constant_cosine": 0.0, "wsd_linear": 0.0,
        "wsd_one_minus_sqrt": 0.0,
    }  # fmt: skip
    assert ends.keys() == KINDS.keys()
    for name, end in ends.items():
        values = table([{"name": name, "length": 1.0, **own.get(name, {})}], 60)
        assert values[0] == 1.0
        assert values[-1] == pytest.approx(end, abs=1e-15), name


def test_the_keywords_of_a_piece_are_fractions_of_its_interval() -> None:
    half = {"name": "constant", "length": 0.5}
    drops = {"name": "multistep", "length": 0.5, "milestones": [0.2, 0.6], "factors": [0.5, 0.25]}
    assert table([half, drops], 20)[10:] == [1.0] * 2 + [0.5] * 4 + [0.25] * 5
    steps = {"name": "step", "length": 0.5, "step_length": 0.3, "gamma": 0.5}
    assert table([half, steps], 20)[10:] == [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125] * 2
    cooldown = {"name": "wsd-linear", "length": 0.5, "cooldown": 0.4}
    expected = [1.0] * 7 + [0.75, 0.5, 0.25, 0.0]
    assert table([half, cooldown], 20)[10:] == pytest.approx(expected)
    waves = {"name": "cosine_restarts", "length": 0.5, "cycle_length": 0.5, "wave": "full"}
    expected = [(1 + math.cos(2 * math.pi * k / 5)) / 2 for k in range(11)]
    assert table([half, waves], 20)[10:] == pytest.approx(expected)
    rooted = {"name": "inverse_sqrt", "length": 0.5, "timescale": 0.1}
    assert table([half, rooted], 20)[13] == pytest.approx(0.5)  # sqrt(1 / (1 + 3))


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], r"schedule.curves=\[\]: must be a list of curves"),
        ("cosine", "schedule.curves=cosine: must be a list"),
        ([3], r"schedule.curves\[0\]=3: must be a mapping"),
        ([{"name": "cosine"}], r"schedule.curves\[0\].length: missing"),
        ([{"length": 1}], r"schedule.curves\[0\].name: missing"),
        ([{"name": "cosin", "length": 1}], r"curves\[0\].name=cosin: .*did you mean .*cosine"),
        ([{"name": 3, "length": 1}], r"curves\[0\].name=3: must be one of"),
        ([{"name": "cosine", "length": "long"}], r"curves\[0\].length=long: must be a number"),
        ([{"name": "cosine", "length": True}], r"curves\[0\].length=True: must be a number"),
        ([{"name": "cosine", "length": -0.5}], r"length=-0.5: must be above 0 and at most 1"),
        ([{"name": "cosine", "length": 0}], r"length=0: must be above 0"),
        ([{"name": "cosine", "length": math.nan}], r"length=nan: must be above 0"),
        ([{"name": "cosine", "length": 1, "start": -1}], r"start=-1: must be at least 0"),
        ([{"name": "cosine", "length": 1, "end": -1}], r"end=-1: must be at least 0"),
        ([{"name": "cosine", "length": 1, "intervall": "fixed"}],
         r"intervall=fixed: unknown \(did you mean interval\?\); cosine takes name, length"),
        ([{"name": "constant", "length": 1, "end": 0}], r"end=0: unknown"),
        ([{"name": "cosine", "length": 1, "interval": "scaled"}],
         r"interval=scaled: must be rescaled or fixed"),
        ([{"name": "exponential", "length": 1}], r"end=0.0: must be above 0 for exponential"),
        ([{"name": "exponential", "length": 1, "start": 0, "end": 1}], r"start=0.0: must be above"),
        ([{"name": "polynomial", "length": 1, "power": 0}], r"power=0: must be above 0"),
        ([{"name": "step", "length": 1, "gamma": -0.1}], r"gamma=-0.1: must be at least 0"),
        ([{"name": "multistep", "length": 1}], r"milestones: missing"),
        ([{"name": "multistep", "length": 1, "milestones": [0.5, 0.2]}],
         r"milestones=\[0.5, 0.2\]: must be fractions .* ascending"),
        ([{"name": "multistep", "length": 1, "milestones": [0.5, 0.5]}], r"ascending"),
        ([{"name": "multistep", "length": 1, "milestones": [30]}], r"below 1"),
        ([{"name": "multistep", "length": 1, "milestones": 0.5}], r"must be a list of numbers"),
        ([{"name": "multistep", "length": 1, "milestones": [0.5], "factors": [0.1, 0.2]}],
         r"factors=\[0.1, 0.2\]: must be 1"),
        ([{"name": "multistep", "length": 1, "milestones": [0.5], "factors": [1], "gamma": 1}],
         r"factors=\[1\]: not together with gamma"),
        ([{"name": "cosine_restarts", "length": 1, "wave": "double"}], r"must be half or full"),
        ([{"name": "cosine_restarts", "length": 1, "num_cycles": 1.5}], r"must be an integer"),
        ([{"name": "cosine_restarts", "length": 1, "cycle_mult": 0.5}], r"must be at least 1"),
        ([{"name": "cosine_restarts", "length": 1, "num_cycles": 2, "cycle_length": 0.5}],
         r"cycle_length=0.5: not together with num_cycles"),
        ([{"name": "cosine", "length": 0.5}, {"name": "cosine", "length": 0.4}],
         r"lengths must sum to 1, got 0.5, 0.4, which sum to 0.9"),
        ([{"name": "cosine", "length": 0.9}, {"name": "cosine", "length": 0.101}], r"sum to 1.001"),
        ([{"name": "cosine", "length": 0.5}, {"name": "cosine", "length": 0.5, "end": "low"}],
         r"schedule.curves\[1\].end=low: must be a number"),
    ],
)  # fmt: skip
def test_a_bad_piece_is_refused_by_its_place_and_value(curves: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_pieces(curves)


def test_case_and_separators_of_a_name_do_not_matter() -> None:
    assert read_pieces([{"name": "One-Minus-SQRT", "length": 1}])[0].name == "one_minus_sqrt"


@pytest.mark.parametrize(
    ("rule", "batch", "factor"),
    [("none", 4096, 1.0), ("linear", 1024, 4.0), ("linear", 256, 1.0), ("linear", 64, 0.25),
     ("sqrt", 1024, 2.0), ("sqrt", 256, 1.0), ("sqrt", 64, 0.5)],
)  # fmt: skip
def test_the_scale_factor_is_the_ratio_of_the_batches_or_its_root(
    rule: Any, batch: int, factor: float
) -> None:
    assert scale_factor(rule, batch, 256) == factor


def described(pieces: Any) -> list[tuple[str, float, float, float]]:
    return [(piece.name, piece.length, piece.start, piece.end) for piece in pieces]


def test_a_larger_batch_scales_every_part_and_the_ends_of_the_ramps() -> None:
    pieces = scale_pieces(read_pieces(RECIPE), "linear", 1024, 256)  # 4 times the base
    expected = [
        ("linear", 0.0256, 0.125, 4.0),
        ("cosine", 0.48722, 4.0, 0.004),
        ("linear", 0.0256, 0.001, 4 * 2.114 / 4.8),
        ("cosine", 0.46166, 4 * 2.114 / 4.8, 0.004),
    ]
    for piece, right in zip(described(pieces), expected, strict=True):
        assert piece == (right[0], *map(pytest.approx, right[1:]))


@pytest.mark.parametrize(("batch", "factor"), [(256, 1.0), (64, 0.25)])
def test_a_batch_that_is_not_above_the_base_needs_no_leading_warmup(
    batch: int, factor: float
) -> None:
    pieces = scale_pieces(read_pieces(RECIPE), "linear", batch, 256)
    left = 0.97448  # 0.48722 + 0.0256 + 0.46166
    expected = [
        ("cosine", 0.48722 / left, factor, 0.001 * factor),
        ("linear", 0.0256 / left, 0.001, factor * 2.114 / 4.8),  # the second warmup stays
        ("cosine", 0.46166 / left, factor * 2.114 / 4.8, 0.001 * factor),
    ]
    for piece, right in zip(described(pieces), expected, strict=True):
        assert piece == (right[0], *map(pytest.approx, right[1:]))
    assert math.fsum(piece.length for piece in pieces) == pytest.approx(1.0, abs=1e-15)


def test_without_scaling_nothing_is_dropped() -> None:
    pieces = read_pieces(RECIPE)
    assert scale_pieces(pieces, "none", 64, 256) == pieces


def test_other_kinds_of_pieces_keep_their_ratios_and_factors() -> None:
    pieces = read_pieces([
        {"name": "multistep", "length": 0.25, "start": 2.0, "milestones": [0.5], "factors": [0.3]},
        {"name": "inverse_sqrt", "length": 0.25, "start": 1.5},
        {"name": "linear", "length": 0.25, "start": 1.0, "end": 0.5},  # falls: no warmup
        {"name": "exponential", "length": 0.25, "start": 0.1, "end": 1.0},
    ])  # fmt: skip
    scaled = scale_pieces(pieces, "sqrt", 1024, 256)
    assert [(piece.start, piece.end) for piece in scaled] == [(4, 0), (3, 0), (2, 1), (0.1, 2)]
    assert [composite(step, 8, scaled) for step in (0, 1)] == pytest.approx([4.0, 4.0 * 0.3])


def test_a_ramp_is_level_where_its_end_would_fall_below_its_start() -> None:
    wave, ramp = CurvePiece("cosine", 0.5), CurvePiece("linear", 0.5, start=0.5, end=1.0)
    assert described(scale_pieces([wave, ramp], "linear", 64, 256))[1] == (
        "linear",
        0.5,
        0.25,
        0.25,
    )


def test_a_ramp_alone_is_not_dropped() -> None:
    (piece,) = scale_pieces([CurvePiece("linear", 1.0, start=0.1, end=1.0)], "linear", 128, 256)
    assert (piece.start, piece.end) == (0.1, 0.5)
