"""The LR that AutoWU sets at every step, and what it decides."""

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD

import autowu.decision
from autowu import AutoWU, Phase, replay
from autowu.loss_curve import LossCurve
from autowu.loss_gp import LossGP
from autowu.minimum_test import Evidence, weigh_evidence
from autowu.settings import PAPER
from autowu.trainer import optimizers
from autowu.trainer.data import load_data
from autowu.trainer.distributed import Ranks
from autowu.trainer.models import build_model


def optimizer_of(*groups: dict[str, Any], lr: Any = 1.0) -> torch.optim.Optimizer:
    groups = groups or ({},)
    return SGD([{"params": [torch.zeros(1, requires_grad=True)], **g} for g in groups], lr=lr)


def valley(num_steps: int, minimum: float, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """Falls from 1 to 0 at `minimum` of the sweep, rises again, and is noisy: (num_steps,)."""
    u = np.arange(num_steps) / num_steps
    curve = np.where(u < minimum, (1 - u / minimum) ** 2, 4 * (u - minimum))
    return 0.3 + curve + noise * np.random.default_rng(seed).standard_normal(num_steps)


def lrs_over_a_run(losses: np.ndarray, total_steps: int, **settings: Any) -> tuple[AutoWU, list]:
    scheduler = AutoWU(optimizer_of(), total_steps, **settings)
    lrs = []
    for step in range(total_steps + 5):
        lrs.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step(float(losses[step]) if step < len(losses) else None)
    return scheduler, lrs


@pytest.mark.parametrize("growth", ["exponential", "linear"])
@pytest.mark.parametrize("decay", ["cosine", "constant_cosine"])
@pytest.mark.parametrize(("minimum", "cooldown"), [(0.5, 0.2), (0.8, 0.4)])
def test_every_lr_of_a_run_is_the_closed_form(
    growth: Any, decay: Any, minimum: float, cooldown: float
) -> None:
    total, warmup, low, high = 200, 140, 1e-4, 2.0
    settings = {"min_lr": low, "max_lr": high, "max_warmup_fraction": 0.7}
    scheduler, lrs = lrs_over_a_run(
        valley(warmup, minimum),
        total,
        growth=growth,
        sweep="fixed",
        decay=decay,
        **({"cooldown_fraction": cooldown} if decay == "constant_cosine" else {}),
        **settings,
    )
    switch, start = scheduler.switch_step, scheduler.start_lr
    assert switch is not None and start is not None and minimum * warmup < switch <= warmup
    # Before the cooldown would begin in the first case, after that in the second.
    assert (switch > total - cooldown * total) == (minimum == 0.8)
    expected = []
    for t in range(total + 5):
        if t < switch and growth == "exponential":
            expected.append(low * (high / low) ** (t / warmup))
        elif t < switch:
            expected.append(low + (high - low) * t / warmup)
        else:
            begin = switch if decay == "cosine" else max(switch, total - cooldown * total)
            progress = min(max((t - begin) / (total - begin), 0.0), 1.0)
            expected.append(start * 0.5 * (1 + math.cos(math.pi * progress)))
    assert lrs == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert lrs[total:] == [0.0] * 5


def test_decay_starts_from_the_mean_lr_at_the_minima_of_the_posteriors() -> None:
    """Eq. (5), with more losses than a posterior sees, so that the five differ."""
    scheduler = replay(valley(2_000, 0.6, 0.1), 4_000, num_posterior_samples=100)
    last = scheduler.tests[-1]
    curve = LossCurve(2_000)
    curve.extend(scheduler.losses)
    evidence = weigh_evidence(
        curve,
        LossGP(),
        num_losses=last.step,
        num_tests=5,
        num_fit_samples=100,
        num_posterior_samples=100,
        rng=np.random.default_rng((0, last.step)),
    )
    assert len(set(evidence.positions)) > 1
    lrs = [1e-5 * 1e5 ** (x * last.step / 2_000) for x in evidence.positions]
    assert scheduler.start_lr == last.lr_at_minimum == pytest.approx(sum(lrs) / 5)
    assert last.probabilities == evidence.probabilities
    assert scheduler.switch_step == last.step
    assert last.lr == pytest.approx(1e-5 * 1e5 ** (last.step / 2_000))


@pytest.mark.parametrize("growth", ["exponential", "linear"])
def test_the_mean_is_that_of_the_lrs_at_real_steps_and_not_the_lr_of_the_mean(
    growth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eq. (5), with minima that lie between two steps."""
    positions = (0.1, 0.35, 0.4, 0.77, 1.0)
    windows = []

    def found(*_: Any, num_losses: int, **__: Any) -> Evidence:
        windows.append(num_losses)
        return Evidence((0.96, 0.96, 0.96, 0.0, 0.0), positions, (0.0,) * 5)

    monkeypatch.setattr(autowu.decision, "weigh_evidence", found)
    scheduler = replay([1.0] * 100, 200, growth=growth, test_interval=13, min_lr=1e-4, max_lr=2.0)
    assert windows == [13, 26, 39]
    assert scheduler.switch_step == 39
    if growth == "exponential":
        lrs = [1e-4 * 2e4 ** (x * 39 / 100) for x in positions]
    else:
        lrs = [1e-4 + (2.0 - 1e-4) * x * 39 / 100 for x in positions]
    assert scheduler.start_lr == pytest.approx(sum(lrs) / 5, rel=1e-12)
    assert scheduler.lr_at(39) == scheduler.start_lr
    assert scheduler.tests[-1].lr_at_minimum == scheduler.start_lr
    assert scheduler.tests[-1].lr == pytest.approx(
        1e-4 * 2e4 ** (39 / 100) if growth == "exponential" else 1e-4 + (2.0 - 1e-4) * 39 / 100
    )


def test_patience_counts_positive_tests_in_a_row() -> None:
    for patience in (1, 2, 5):
        scheduler = replay(valley(400, 0.5), 800, patience=patience)
        positive = [test.positive for test in scheduler.tests]
        assert positive[-patience:] == [True] * patience
        for end in range(patience, len(positive)):
            assert not all(positive[end - patience : end])


def test_where_nothing_is_found_the_decay_starts_as_at_cap_says() -> None:
    falling = np.linspace(2.0, 1.0, 100)
    lowest = replay(falling, 200)
    current = replay(falling, 200, at_cap="current")
    assert lowest.switch_step == current.switch_step == 100
    assert lowest.start_lr == lowest.tests[-1].lr_at_minimum
    assert current.start_lr == pytest.approx(1e-5 * 1e5 ** (99 / 100))


def test_paper_is_three_settings_and_tests_at_epoch_ends_only() -> None:
    paper = AutoWU.paper(optimizer_of(), 300, 40, patience=2)
    assert {name: getattr(paper.settings, name) for name in PAPER} == PAPER
    assert paper.settings.patience == 2
    scheduler = replay(np.linspace(2.0, 1.0, 150), 300, 40, **PAPER)
    assert [test.step for test in scheduler.tests] == [40, 80, 120]
    assert scheduler.switch_step == 150
    assert scheduler.start_lr == pytest.approx(1e-5 * 1e5 ** (149 / 150))


@pytest.mark.parametrize(
    ("groups", "default", "ratios"),
    [
        (({"lr": 0.003},), 1.0, [1.0]),
        (({"lr": 0.1}, {"lr": 0.2}), 0.1, [1.0, 2.0]),
        (({"lr": 0.1}, {"lr": 0.2}), 7.0, [0.5, 1.0]),
        (({"lr": 0.1, "lr_scale": 0.3}, {"lr": 0.2}), 7.0, [0.3, 1.0]),
        (({"lr": 0.0}, {"lr": 0.2}), 0.2, [1.0, 1.0]),
        (({"lr": 0.0},), 0.0, [1.0]),
    ],
)
def test_each_group_keeps_its_ratio(groups: Any, default: float, ratios: list[float]) -> None:
    scheduler = AutoWU(optimizer_of(*groups, lr=default), 100)
    for _ in range(60):
        scheduler.optimizer.step()
        scheduler.step(1.0)
        lr = scheduler.lr_at(scheduler.last_epoch)
        assert scheduler.get_last_lr() == pytest.approx([lr * ratio for ratio in ratios])


def test_an_lr_of_none_has_the_ratio_one() -> None:
    optimizer = optimizer_of()
    optimizer.param_groups[0]["lr"] = None
    assert AutoWU(optimizer, 100).get_last_lr() == [1e-5]


def test_micro_batches_are_averaged_by_their_weights() -> None:
    scheduler = AutoWU(optimizer_of(), 100)
    scheduler.optimizer.step()
    scheduler.observe(1.0, weight=3)
    scheduler.observe(torch.tensor(5.0), weight=torch.tensor(1.0))
    scheduler.observe(float("nan"), weight=0)
    scheduler.step()
    scheduler.step(7.0)
    scheduler.observe(2.0)
    scheduler.step(4.0)
    assert scheduler.losses.tolist() == [2.0, 7.0, 3.0]


@pytest.mark.parametrize("settings", [{}, {"sweep": "fixed", "test_interval": 1}])
def test_steps_in_which_nothing_has_a_weight_are_left_out(settings: dict[str, Any]) -> None:
    """As batches that a training step passes over; each test here has two new losses or one."""
    scheduler = AutoWU(optimizer_of(), 200, **settings)
    saved: dict[str, Any] = {}
    for step in range(12):
        scheduler.optimizer.step()
        weight = 0 if step in (0, 3, 4, 5, 6, 7) else 1
        scheduler.observe(2.0 if weight else math.nan, weight)
        scheduler.step()
        if step == 7:
            saved = scheduler.state_dict()
    assert scheduler.phase is Phase.WARMUP and scheduler.num_nonfinite == 0
    assert scheduler.losses.isnan().nonzero().flatten().tolist() == [0, 3, 4, 5, 6, 7]
    other = AutoWU(optimizer_of(), 200, **settings)
    other.load_state_dict(saved)
    for each in (scheduler, other):
        with pytest.warns(UserWarning, match="the run has diverged"):
            for _ in range(30):
                each.optimizer.step()
                each.step(math.nan)
    assert other.diverged and other.num_nonfinite == len(other.losses) - 8


def test_the_loss_of_a_skipped_step_is_averaged_into_the_next() -> None:
    scheduler = AutoWU(optimizer_of(), 100)
    scheduler.optimizer.step()
    scheduler.observe(1.0)  # and the optimizer's step was skipped
    lr = scheduler.get_last_lr()
    scheduler.observe(3.0)
    assert scheduler.get_last_lr() == lr
    scheduler.step()
    assert scheduler.losses.tolist() == [2.0]


def test_after_the_warmup_nothing_is_observed_and_no_loss_is_needed() -> None:
    scheduler = replay([1.0] * 50, 100)
    assert scheduler.phase is Phase.DECAY
    scheduler.observe(9.0)
    scheduler.step()
    scheduler.step(9.0)
    assert len(scheduler.losses) == 50
    assert scheduler.last_epoch == 52


@pytest.mark.parametrize("minimum", [0.55, 0.7])
@pytest.mark.parametrize("epochs", [1, 2, 5, 6, 10, 16])
def test_short_budgets_find_a_minimum_that_is_there(epochs: int, minimum: float) -> None:
    steps_per_epoch = 44
    warmup = epochs * steps_per_epoch // 2
    scheduler = replay(valley(warmup, minimum), epochs * steps_per_epoch, steps_per_epoch)
    assert [test.positive for test in scheduler.tests[-3:]] == [True] * 3
    assert scheduler.start_lr is not None
    assert abs(math.log10(scheduler.start_lr) - (-5 + 5 * minimum)) < 0.4


def test_a_single_pass_without_epochs_finds_its_minimum() -> None:
    scheduler = replay(valley(1_000, 0.6, noise=0.2), 2_000)
    assert scheduler.switch_step is not None and 600 < scheduler.switch_step < 1_000
    assert scheduler.start_lr == pytest.approx(10**-2.0, rel=0.5)


UNITS = [(128, 0), (1 / 128, 0), (128, 4096), (1 / 128, 1 / 4)]  # of the loss: a * loss + b


def assert_same_decision(one: AutoWU, other: AutoWU) -> None:
    assert one.switch_step == other.switch_step
    assert [test.positive for test in one.tests] == [test.positive for test in other.tests]
    assert one.start_lr == pytest.approx(other.start_lr, rel=0.02)


@pytest.mark.parametrize(("a", "b"), UNITS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_decision_does_not_depend_on_the_unit_of_the_loss(
    a: float, b: float, seed: int
) -> None:
    losses = valley(500, 0.6, noise=0.2, seed=seed)
    assert_same_decision(replay(losses, 1_000, 25), replay(a * losses + b, 1_000, 25))


# Optimizer, images a step, epochs.
REAL_RUNS = [("adamp", 128, 10), ("adamw", 64, 6), ("sgd", 128, 12), ("adamp", 359, 24)]


def train_through_the_sweep(name: str, batch_size: int, epochs: int) -> tuple[list[float], int]:
    """The losses of a sweep to the LR 1 on digits, and the optimizer steps of an epoch."""
    data = load_data("digits", batch_size, ranks=Ranks())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("small_cnn", data.num_channels, data.num_classes)
    optimizer = optimizers.build(model, name, None, 0.01)
    warmup = epochs * data.steps_per_epoch // 2
    losses: list[float] = []
    batches = (batch for epoch in range(epochs) for (batch,) in data.train_batches(epoch))
    for step, (images, labels) in enumerate(itertools.islice(batches, warmup)):
        optimizer.param_groups[0]["lr"] = 1e-5 * 1e5 ** (step / warmup)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, data.steps_per_epoch


@pytest.fixture(scope="session")
def real_curves() -> dict[Any, tuple[list[float], int]]:
    return {run: train_through_the_sweep(*run) for run in REAL_RUNS}


@pytest.mark.parametrize("run", REAL_RUNS, ids=str)
def test_the_decision_on_real_training_does_not_depend_on_the_unit_of_the_loss(
    run: Any, real_curves: dict[Any, tuple[list[float], int]]
) -> None:
    losses, steps_per_epoch = real_curves[run]
    total_steps = run[-1] * steps_per_epoch
    one = replay(losses, total_steps, steps_per_epoch)
    assert one.switch_step is not None
    for a, b in UNITS:
        scaled = replay([a * loss + b for loss in losses], total_steps, steps_per_epoch)
        assert_same_decision(one, scaled)


@pytest.mark.parametrize("run", [run for run in REAL_RUNS if run[0] != "sgd"], ids=str)
def test_real_training_decays_from_an_lr_below_the_one_that_stopped_it(
    run: Any, real_curves: dict[Any, tuple[list[float], int]]
) -> None:
    """SGD is left out: with batch normalisation its LR 1 is hardly too large yet."""
    losses, steps_per_epoch = real_curves[run]
    scheduler = replay(losses, run[-1] * steps_per_epoch, steps_per_epoch)
    assert [test.positive for test in scheduler.tests[-3:]] == [True] * 3
    assert scheduler.start_lr is not None and 1e-4 < scheduler.start_lr < scheduler.tests[-1].lr


def test_steps_beyond_the_run_are_said_once() -> None:
    scheduler = AutoWU(optimizer_of(), 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            scheduler.optimizer.step()
            scheduler.step(1.0)
    with pytest.warns(UserWarning, match="step 21 of a run of total_steps=20") as caught:
        for _ in range(20):
            scheduler.optimizer.step()
            scheduler.step(1.0)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert scheduler.get_last_lr() == [0.0]


def test_isolated_losses_that_are_not_finite_are_dropped_and_counted() -> None:
    losses = valley(400, 0.6)
    clean = replay(losses, 800)
    losses[[3, 77, 78, 250]] = [math.nan, math.inf, -math.inf, math.nan]
    scheduler = replay(losses, 800)
    assert scheduler.num_nonfinite == 4
    assert not scheduler.diverged
    assert scheduler.start_lr == pytest.approx(clean.start_lr, rel=0.2)


def test_a_run_that_dies_ends_the_warmup_at_the_minimum_of_what_was_finite() -> None:
    losses = valley(400, 0.9)
    losses[300:] = math.nan
    with pytest.warns(UserWarning, match="the run has diverged") as caught:
        scheduler = replay(losses, 800, 40)
    assert len([w for w in caught if "diverged" in str(w.message)]) == 1
    assert scheduler.diverged
    assert scheduler.switch_step is not None and 301 < scheduler.switch_step <= 320
    # The finite losses fall to their end: the lowest is there, at 0.75 of the sweep.
    assert math.log10(scheduler.start_lr or 0) == pytest.approx(-5 + 5 * 0.75, abs=0.1)


def test_a_divergence_has_found_no_minimum_though_its_test_is_the_third_positive_one() -> None:
    losses = valley(400, 0.5)
    first, second, third = replay(losses, 800, 10).tests[-3:]
    assert first.positive and second.positive and third.positive
    losses[second.step :] = math.nan
    with pytest.warns(UserWarning, match="the run has diverged"):
        scheduler = replay(losses, 800, 10)
    assert [test.positive for test in scheduler.tests[-3:]] == [True] * 3
    assert scheduler.diverged and not scheduler.found_minimum


def test_a_run_that_explodes_still_shows_its_minimum() -> None:
    """A tenfold loss every step must not hide the minimum before it."""
    losses = np.where(np.arange(60) < 36, np.linspace(1.0, 0.2, 60), 1.0)
    losses[36:] = 0.4 * 10.0 ** np.arange(24)
    scheduler = replay(losses, 120)
    assert scheduler.switch_step is not None and scheduler.switch_step < 45
    assert math.log10(scheduler.start_lr or 0) == pytest.approx(-5 + 5 * 36 / 60, abs=0.5)


def test_losses_that_explode_a_thousandfold_a_step_before_they_die_still_show_the_minimum() -> None:
    """The explosion lies within one test interval: no test sees the rise without it."""
    num_steps, minimum = 300, 0.7
    losses = valley(num_steps, minimum, noise=0.05)
    bottom = int(minimum * num_steps)
    losses[bottom + 6 : bottom + 12] = 1e3 ** np.arange(1, 7)
    losses[bottom + 12 :] = math.nan
    with pytest.warns(UserWarning, match="the run has diverged"):
        scheduler = replay(losses, 2 * num_steps, test_interval=30)
    assert scheduler.diverged
    assert scheduler.switch_step == 270  # the first interval that holds nothing finite
    assert math.log10(scheduler.start_lr or 0) == pytest.approx(-5 + 5 * minimum, abs=0.3)


def test_nothing_finite_at_all_starts_from_the_lowest_lr() -> None:
    with pytest.warns(UserWarning, match="diverged"):
        scheduler = replay([math.nan] * 10, 200, 10)
    assert scheduler.diverged
    assert scheduler.start_lr == 1e-5


def test_the_published_fit_never_reports_a_divergence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scheduler = replay([1.0] * 20 + [math.nan] * 80, 200, 10, **PAPER)
    assert not scheduler.diverged
    assert scheduler.switch_step == 100


@pytest.mark.parametrize("loss", [1e-30, 1e30, -1e30, 0.0])
def test_a_constant_loss_is_no_evidence(loss: float) -> None:
    scheduler = replay([loss] * 100, 200, 10)
    assert {p for test in scheduler.tests for p in test.probabilities} == {0.0}
    assert scheduler.switch_step == 100


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_losses_of_extreme_size_decide_alike(scale: float) -> None:
    losses = valley(200, 0.6)
    one, other = replay(losses, 400), replay(scale * losses, 400)
    assert one.switch_step == other.switch_step
    assert one.start_lr == pytest.approx(other.start_lr, rel=1e-3)


def test_another_kernel_is_taken_as_it_is() -> None:
    import gpytorch

    kernel = gpytorch.kernels.MaternKernel(nu=0.5)
    kernel.lengthscale = 0.4
    scheduler = AutoWU(optimizer_of(), 200, kernel=kernel)
    for loss in valley(100, 0.5):
        scheduler.optimizer.step()
        scheduler.step(float(loss))
    assert scheduler.switch_step is not None and scheduler.switch_step < 100
    assert kernel.lengthscale.item() == pytest.approx(0.4)


def test_a_run_of_twenty_million_steps_starts_at_once() -> None:
    scheduler = AutoWU(optimizer_of(), 20_000_000, 100_000, sweep="fixed")
    state = scheduler.state_dict()
    losses = torch.linspace(2.0, 1.0, 1_000_000)
    step = 1_000_000
    steps = {"last_epoch": step, "last_test_step": step, "step_count": step + 1}
    state |= {"losses": (losses,)} | steps
    scheduler.load_state_dict(state)
    scheduler.optimizer.step()
    while not scheduler.tests:
        scheduler.step(1.0)
    assert scheduler.tests[0].step == 1_100_000
    assert len(scheduler.losses) == 1_100_000
