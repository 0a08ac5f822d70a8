"""The LR range test: what it sweeps, what it suggests, and that nothing is left of it."""

import csv
import json
import math
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from autowu.plotting_range_test import draw_range_test, plot_range_test
from autowu.trainer import data, optimizers
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import Interrupted, WriteError
from autowu.trainer.range_test import (
    RangeTest,
    endless_batches,
    lr_range_test,
    run_range_test,
    sweep,
    write_range_test,
)
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.signals import StopSignals
from autowu.trainer.step import OptimizerStep
from autowu.trainer.suggest import moving_average, steepest, valley
from autowu.trainer.summary import result_lines
from tests.launch import finish, start

LRS = np.logspace(-5, 1, 61)  # ten points a decade
NUMBERS = torch.Generator().manual_seed(0)
IMAGES = torch.randn(16, 1, 2, 2, generator=NUMBERS)
LABELS = torch.arange(16) % 3
BATCH = (IMAGES, LABELS)


def v_shape(minimum: float) -> list[float]:
    """Flat, falling over two decades to the minimum, rising after it."""
    decades = np.log10(LRS / minimum)
    return np.where(decades < -2, 2.0, np.where(decades < 0, -decades, 3 * decades)).tolist()


class TestSuggestions:
    @pytest.mark.parametrize("minimum", [1e-2, 1.0])
    def test_the_valley_is_two_thirds_along_the_fall(self, minimum: float) -> None:
        # The fall begins two decades below the minimum; two thirds of it leave two thirds.
        assert valley(LRS, v_shape(minimum)) == pytest.approx(minimum * 10 ** (-2 / 3), rel=1e-6)

    def test_the_steepest_descent_is_that_of_a_sigmoid(self) -> None:
        falling = 1 / (1 + np.exp(4 * np.log10(LRS / 0.01)))
        assert steepest(LRS, falling.tolist()) == pytest.approx(0.01)

    def test_neither_lies_past_the_minimum(self) -> None:
        # After the minimum at 1e-3 the loss explodes, and falls again more steeply than before.
        losses = v_shape(1e-3)
        losses[-12:] = np.linspace(40.0, 1.0, 12).tolist()
        for suggest in (steepest, valley):
            assert 1e-5 < (suggest(LRS, losses) or 0) <= 1e-3

    def test_the_longest_fall_counts_not_the_deepest(self) -> None:
        losses = [5.0] * 10 + np.linspace(5, 4, 21).tolist() + [4.5] * 10
        losses += np.linspace(4.5, 1, 11).tolist() + [9.0] * 9
        assert valley(LRS, losses) == pytest.approx(LRS[10] ** (1 / 3) * LRS[30] ** (2 / 3))

    @pytest.mark.parametrize("suggest", [steepest, valley])
    @pytest.mark.parametrize(
        "losses",
        [
            [],
            [3.0, 2.0, 1.0, 2.0],
            [1.0] * 61,
            np.linspace(1, 2, 61).tolist(),
            [2.0, math.nan, *[1.0] * 59],
            [*v_shape(0.1)[:-1], math.inf],
        ],
        ids=["none", "four", "constant", "rising", "nan", "inf"],
    )
    def test_nothing_is_suggested_where_nothing_is_seen(
        self, suggest: Callable[[Any, Any], float | None], losses: list[float]
    ) -> None:
        assert suggest(LRS[: len(losses)], losses) is None

    @pytest.mark.parametrize("suggest", [steepest, valley])
    def test_lengths_that_differ_are_refused(self, suggest: Callable[[Any, Any], Any]) -> None:
        with pytest.raises(ValueError, match="got 61 learning rates for 2 losses"):
            suggest(LRS, [1.0, 2.0])

    def test_the_average_weighs_the_past_by_powers_of_beta(self) -> None:
        losses = [3.0, 1.0, 4.0, 1.0, 5.0]
        for count, value in enumerate(moving_average(losses, 0.7), 1):
            weights = 0.7 ** np.arange(count)[::-1]
            assert value == pytest.approx(np.average(losses[:count], weights=weights))
        assert moving_average([2.0] * 9, 0.98) == pytest.approx([2.0] * 9)  # no bias towards 0
        assert moving_average(losses, 0.0) == losses
        with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got 1"):
            moving_average(losses, 1)


def one_weight(lr: float = 1.0) -> Optimizer:
    return torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=lr)


def losses_from(values: list[float | None]) -> Callable[[], float | None]:
    left = iter(values)
    return lambda: next(left)


class TestSweep:
    def test_a_parabola_follows_its_closed_form_and_stops_when_it_diverges(self) -> None:
        weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        model = nn.ParameterList([weight])
        optimizer = torch.optim.SGD([weight], lr=0.5)
        result = lr_range_test(
            model,
            optimizer,
            [None],
            lambda model, _: model[0].square().sum() / 2,
            min_lr=1e-2,
            max_lr=1e2,
            num_steps=40,
            smoothing=0.0,
        )
        expected, w = [], 2.0
        for lr in np.logspace(-2, 2, 40):  # w <- w - lr * w
            expected.append(w**2 / 2)
            w *= 1 - lr
            if expected[-1] > 4 * min(expected):
                break
        assert result.losses == pytest.approx(expected)
        assert result.lrs == pytest.approx(np.logspace(-2, 2, 40)[: len(expected)])
        assert result.stopped_early
        assert result.smoothed == result.losses
        # It shrinks below LR 2 and grows above.
        assert result.suggestion is not None and 1e-2 < result.suggestion < 2
        assert weight.item() == 2.0
        assert optimizer.param_groups[0]["lr"] == 0.5

    @pytest.mark.parametrize(
        ("growth", "expected"), [("exponential", [1, 10, 100]), ("linear", [1, 50.5, 100])]
    )
    def test_groups_keep_their_ratios_and_their_scale(
        self, growth: Any, expected: list[float]
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": [torch.ones(1, requires_grad=True)]},
            {"params": [torch.ones(1, requires_grad=True)], "lr": 0.02},
            {"params": [torch.ones(1, requires_grad=True)], "lr_scale": 0.5},
            {"params": [torch.ones(1, requires_grad=True)], "lr": torch.tensor(0.4)},
        ]
        optimizer = torch.optim.SGD(groups, lr=0.2)
        tensor = optimizer.param_groups[3]["lr"]
        seen: list[list[float]] = []

        def take_step() -> float:
            seen.append([float(group["lr"]) for group in optimizer.param_groups])
            return 1.0

        result = sweep(optimizer, take_step, min_lr=1, max_lr=100, num_steps=3, growth=growth)
        assert result.lrs == pytest.approx(expected)
        for lr, lrs in zip(expected, seen, strict=True):
            assert lrs == pytest.approx([lr, 0.1 * lr, 0.5 * lr, 2 * lr])
        assert optimizer.param_groups[3]["lr"] is tensor

    @pytest.mark.parametrize("lost", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite_ends_it_and_is_left_out(self, lost: float) -> None:
        result = sweep(one_weight(), losses_from([2.0, 1.5, 1.0, lost, 1.0]), num_steps=5)
        assert result.losses == (2.0, 1.5, 1.0)
        assert result.stopped_early
        nothing = sweep(one_weight(), losses_from([lost]), num_steps=5)
        assert nothing == RangeTest((), (), (), None, None, True)
        assert nothing.suggestion is None

    def test_the_smoothed_loss_above_the_factor_ends_it(self) -> None:
        take_step = losses_from([2.0, 1.0, 2.9, 3.1, 1.0])
        result = sweep(one_weight(), take_step, num_steps=5, stop_factor=3, smoothing=0)
        assert result.losses == (2.0, 1.0, 2.9, 3.1)
        assert result.stopped_early

    def test_a_whole_sweep_and_losses_below_zero_do_not_stop_early(self) -> None:
        whole = sweep(one_weight(), losses_from([2.0, 1.0, 9.0]), num_steps=3, smoothing=0)
        assert not whole.stopped_early
        negative = [-1.0, -5.0, -1.0, 2.0]
        assert not sweep(one_weight(), losses_from(list(negative)), num_steps=4).stopped_early

    def test_a_step_that_was_left_out_is_taken_again_at_the_same_lr(self) -> None:
        values: list[float | None] = [None, 2.0, None, None, 1.0, 0.5]
        result = sweep(one_weight(), losses_from(values), min_lr=1, max_lr=100, num_steps=3)
        assert result.losses == (2.0, 1.0, 0.5)
        assert result.lrs == pytest.approx((1, 10, 100))
        lost = sweep(one_weight(), lambda: None, num_steps=3)
        assert lost.stopped_early and not lost.lrs

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"min_lr": 0.0}, "min_lr must be above 0 and below max_lr=10.0, got 0.0"),
            ({"min_lr": 20.0}, "min_lr must be above 0 and below max_lr=10.0, got 20.0"),
            ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
            ({"growth": "cubic"}, "growth must be exponential or linear, got 'cubic'"),
            ({"stop_factor": 1.0}, "stop_factor must be above 1, got 1.0"),
            ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
        ],
    )
    def test_settings_outside_their_limits_are_refused(
        self, settings: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            sweep(one_weight(), lambda: 1.0, **settings)


class Subject:
    """A network with all that a test could leave traces in, in the middle of its training."""

    def __init__(self, precision: str = "fp32") -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        head = list(self.network[4].parameters())
        trunk = [*self.network[1].parameters(), *self.network[2].parameters()]
        groups = [{"params": trunk, "lr_scale": 0.1}, {"params": head, "lr": 0.02}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.01)
        self.take_step = OptimizerStep(self.network, self.optimizer, precision=precision)
        for _ in range(3):
            self.take_step([BATCH], measure_gradient=True)
        self.network[2].eval()  # frozen statistics

    def with_optimizer(self, **settings: Any) -> "Subject":
        self.optimizer = optimizers.build(self.network, **settings)
        self.take_step = OptimizerStep(
            self.network,
            self.optimizer,
            create_graph=optimizers.needs_create_graph(settings["name"]),
        )
        torch.manual_seed(2)
        for _ in range(3):
            self.take_step([BATCH])
        return self

    def state(self) -> dict[str, Any]:
        weights = list(self.network.parameters())
        state = {
            "network": self.network.state_dict(),
            "gradients": [None if p.grad is None else p.grad.detach() for p in weights],
            "modes": [module.training for module in self.network.modules()],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.take_step.scaler.state_dict(),
            "notes": (self.take_step.skipped, self.take_step.gradient_norm),
            "torch": torch.get_rng_state(),
        }
        return deepcopy(state) | {"python": random.getstate(), "numpy": np.random.get_state()[1]}

    def range_test(self, batches: Any = None, **settings: Any) -> RangeTest:
        batches = [[BATCH]] * 20 if batches is None else batches
        with Ranks("cpu") as ranks:
            return run_range_test(
                self.network, self.optimizer, self.take_step, batches, ranks, **settings
            )


def assert_same(found: Any, expected: Any) -> None:
    """Equal to the bit, whatever is nested in what."""
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype
    elif isinstance(expected, np.ndarray):
        assert (found == expected).all()
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


class TestNothingIsLeft:
    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    def test_all_is_as_it_was_to_the_bit(self, precision: str) -> None:
        subject = Subject(precision)
        before = subject.state()
        drawn: list[float] = []

        def batches() -> Iterator[Any]:
            for _ in range(20):
                drawn.append(random.random() + np.random.random())
                yield [BATCH]

        result = subject.range_test(batches(), num_steps=12, max_lr=1.0)
        assert len(result.lrs) == 12 and len(drawn) >= 12
        assert_same(subject.state(), before)

    def test_the_first_step_afterwards_is_the_one_without_a_test(self) -> None:
        tested, other = Subject(), Subject()
        torch.manual_seed(1)
        tested.range_test(num_steps=10)
        loss = tested.take_step([BATCH])
        torch.manual_seed(1)
        assert torch.equal(other.take_step([BATCH]), loss)
        assert_same(tested.network.state_dict(), other.network.state_dict())

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_also_when_it_is_interrupted(self, error: type[BaseException]) -> None:
        def batches() -> Iterator[Any]:
            yield [BATCH]
            yield [BATCH]
            raise error

        subject = Subject("fp16")
        before = subject.state()
        with pytest.raises(error):
            subject.range_test(batches(), num_steps=9)
        assert_same(subject.state(), before)

    def test_a_signal_ends_it_between_two_steps(self) -> None:
        subject = Subject()
        before = subject.state()
        stop = StopSignals()
        stop.received = 15
        with pytest.raises(Interrupted):
            subject.range_test(num_steps=9, stop=stop)
        assert_same(subject.state(), before)

    def test_a_divergence_leaves_nothing_either(self) -> None:
        subject = Subject()
        subject.take_step = OptimizerStep(subject.network, subject.optimizer, check_finite=True)
        before = subject.state()
        result = subject.range_test(num_steps=20, min_lr=1.0, max_lr=1e38)
        assert result.stopped_early
        assert_same(subject.state(), before)
        subject.take_step([BATCH])  # what the check saw in the test is forgotten

    def test_an_untrained_optimizer_has_no_state_afterwards(self) -> None:
        model = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        batches = [(IMAGES.flatten(1), LABELS)]  # gone through again and again
        model.eval()

        def loss_fn(model: nn.Module, batch: Any) -> Tensor:
            assert model.training
            return F.cross_entropy(model(batch[0]), batch[1])

        result = lr_range_test(model, optimizer, batches, loss_fn, num_steps=30)
        assert result.suggestion is not None
        assert not model.training
        assert not optimizer.state
        assert all(p.grad is None for p in model.parameters())

    @pytest.mark.parametrize(
        "settings",
        [
            {"name": "sgd", "momentum": 0.9, "lookahead": True, "lookahead_k": 2},
            {"name": "adamw", "lars": True, "weight_decay": 0.1},
            {"name": "schedulefree"},
            {"name": "prodigy"},
            {"name": "dadaptadam"},
            {"name": "lamb"},
            {"name": "muon"},
            {"name": "adafactor"},
            {"name": "kron"},
            {"name": "magma"},
            {"name": "sophia"},
            {"name": "adahessian"},
        ],
        ids=lambda settings: settings["name"],
    )
    @torch.compiler.set_stance("force_eager")  # kron compiles itself, for longer than all the rest
    def test_other_optimizers_are_put_back_too(self, settings: dict[str, Any]) -> None:
        other, tested = Subject().with_optimizer(**settings), Subject().with_optimizer(**settings)
        tested.range_test(num_steps=9)
        assert_same(tested.state(), other.state())
        # Whatever an optimizer keeps outside of its state is as it was, too.
        torch.manual_seed(1)
        loss = other.take_step([BATCH])
        torch.manual_seed(1)
        assert torch.equal(tested.take_step([BATCH]), loss)
        assert_same(tested.network.state_dict(), other.network.state_dict())

    def test_too_few_batches_are_refused(self) -> None:
        subject = Subject()
        with pytest.raises(ValueError, match="the batches ended before the range test did"):
            subject.range_test([[BATCH]] * 3, num_steps=4)
        with pytest.raises(ValueError, match="the batches ended before the range test did"):
            lr_range_test(
                subject.network,
                subject.optimizer,
                iter([1]),
                lambda *_: torch.ones((), requires_grad=True),
            )


def test_batches_go_on_over_several_epochs() -> None:
    with Ranks("cpu") as ranks:
        images = data.load_data("digits", 600, ranks=ranks, num_workers=0)
    assert images.steps_per_epoch == 2
    batches = endless_batches(images)
    labels = [next(batches)[0][1] for _ in range(5)]
    expected = [batch[0][1] for epoch in range(3) for batch in images.train_batches(epoch)]
    assert all(torch.equal(a, b) for a, b in zip(labels, expected, strict=False))


PROGRAM = """
import json, sys
import torch
from torch import nn
from autowu.trainer import data
from autowu.trainer.distributed import Ranks
from autowu.trainer.range_test import endless_batches, run_range_test
from autowu.trainer.step import OptimizerStep

with Ranks("cpu") as ranks:
    images = data.load_data("digits", 32, ranks=ranks, num_workers=0)
    torch.manual_seed(0)
    network, replica = ranks.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    take_step = OptimizerStep(replica, optimizer)
    take_step.warm_up(images.micro_batch_shape)
    before = [p.clone() for p in network.parameters()]
    result = run_range_test(
        network, optimizer, take_step, endless_batches(images), ranks,
        min_lr=1e-4, max_lr=1e4, num_steps=60, stop_factor=3.0,
    )
    same = all(torch.equal(p, b) for p, b in zip(network.parameters(), before))
    print(json.dumps(result._asdict() | {"unchanged": same, "suggestion": result.suggestion}))
"""


def test_two_ranks_stop_together_and_suggest_what_one_does() -> None:
    (alone,) = finish(start([], program=("-c", PROGRAM)))
    outcomes = finish(start([], world_size=2, program=("-c", PROGRAM)))
    assert [code for code, _, _ in (alone, *outcomes)] == [0, 0, 0], (alone, outcomes)
    one, first, second = (json.loads(output) for _, output, _ in (alone, *outcomes))
    assert first == second
    assert first["unchanged"] and one["unchanged"]
    assert first["stopped_early"] and len(first["lrs"]) < 60
    early = sum(lr < 1 for lr in one["lrs"])  # chaos magnifies rounding later
    assert first["losses"][:early] == pytest.approx(one["losses"][:early], rel=1e-3)
    assert first["suggestion"] == pytest.approx(one["suggestion"], rel=0.05)


def a_result() -> RangeTest:
    losses = v_shape(0.1)
    return RangeTest(
        lrs=tuple(LRS.tolist()),
        losses=tuple(losses),
        smoothed=tuple(losses),
        steepest=0.03,
        valley=0.02,
        stopped_early=False,
    )


class TestFiles:
    def test_the_files_hold_the_curve_and_the_summary_the_suggestions(self, tmp_path: Path) -> None:
        result = a_result()
        assert write_range_test(tmp_path, result) == {
            "suggested_lr": 0.02,
            "steepest_lr": 0.03,
            "valley_lr": 0.02,
            "num_steps": 61,
            "stopped_early": False,
        }
        assert {file.name for file in tmp_path.iterdir()} == {
            "lr_range_test.csv",
            "lr_range_test.png",
        }
        with open(tmp_path / "lr_range_test.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["lr", "loss", "smoothed"]
        assert [float(row["lr"]) for row in rows] == LRS.tolist()
        assert [float(row["loss"]) for row in rows] == pytest.approx(result.losses)
        assert (tmp_path / "lr_range_test.png").read_bytes().startswith(b"\x89PNG")

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(WriteError, match=r"gone/lr_range_test.csv: cannot be written"):
            write_range_test(tmp_path / "gone", a_result())

    def test_a_test_that_saw_nothing_is_written_too(self, tmp_path: Path) -> None:
        summary = write_range_test(tmp_path, RangeTest((), (), (), None, None, True))
        assert summary["suggested_lr"] is None
        assert (tmp_path / "lr_range_test.csv").read_text() == "lr,loss,smoothed\n"
        said = result_lines({"schedule": "lr_range_test"} | summary, RunDirectory(tmp_path))
        assert said.startswith("no LR to suggest: the loss fell nowhere\nplot ")

    @pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
    def test_the_suffix_chooses_the_format(self, suffix: str, tmp_path: Path) -> None:
        path = plot_range_test(a_result(), tmp_path / f"out{suffix}")
        assert path.read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")

    def test_the_figure_marks_both_suggestions_on_the_smoothed_curve(self) -> None:
        axes: Axes = Figure().subplots()
        draw_range_test(axes, a_result())
        assert axes.get_xscale() == "log"
        marks = {str(line.get_label()): line for line in axes.lines}
        for label, lr in (("steepest descent", 0.03), ("valley", 0.02)):
            (line,) = [each for name, each in marks.items() if name.startswith(label)]
            assert line.get_xdata() == [lr]
            # The fall of `v_shape` is log10(0.1 / lr), and drawn straight over log LR.
            assert float(np.asarray(line.get_ydata())[0]) == pytest.approx(np.log10(0.1 / lr))
        assert "valley, LR 0.02 (suggested)" in marks
