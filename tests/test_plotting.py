"""The figure of a run: its panels show what the scheduler saw and did."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import gpytorch
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autowu import AutoWU, replay
from autowu.__main__ import main
from autowu.loss_gp import NUM_BEGINNING, smooth
from autowu.plotting import plot_run, plot_scheduler
from autowu.plotting_panels import loss_limits, needs_log_scale

TOTAL_STEPS, STEPS_PER_EPOCH = 80, 10
U = np.arange(TOTAL_STEPS) / TOTAL_STEPS
LOSSES = np.abs(U - 0.25) + 0.02 * np.random.default_rng(0).standard_normal(TOTAL_STEPS)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved, in order."""
    saved: list[Figure] = []
    savefig = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of the line with this label."""
    (found,) = [each for each in axes.lines if str(each.get_label()).startswith(label)]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def labels(axes: Axes) -> list[str]:
    return [str(each.get_label()) for each in axes.lines]


def marks(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def finished(**settings: Any) -> AutoWU:
    return replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, **settings)


def write_run(folder: Path, scheduler: AutoWU | None, losses: Any = LOSSES) -> Path:
    """What train.py leaves, as far as a plot reads it."""
    with open(folder / "steps.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "lr", "loss"])
        for step, loss in enumerate(losses):
            writer.writerow([step, scheduler.lr_at(step) if scheduler else 0.1, float(loss)])
    schedule = "autowu" if scheduler else "warmup_cosine"
    summary = {"schedule": schedule, "steps_per_epoch": STEPS_PER_EPOCH}
    (folder / "summary.json").write_text(json.dumps(summary))
    if scheduler:
        torch.save({"scheduler": scheduler.state_dict()}, folder / "last.pt")
    return folder


@pytest.mark.parametrize(
    ("name", "start"),
    [("run.png", b"\x89PNG\r\n"), ("run.svg", b"<?xml"), ("run.pdf", b"%PDF"), ("run", b"\x89PNG")],
)
def test_the_suffix_chooses_the_format(name: str, start: bytes, tmp_path: Path) -> None:
    path = plot_scheduler(finished(), tmp_path / name)
    assert path == tmp_path / (name if "." in name else "run.png")
    assert path.read_bytes().startswith(start)


def test_the_three_panels_show_the_losses_the_tests_and_the_lr(
    tmp_path: Path, figures: list[Figure]
) -> None:
    scheduler = finished()
    plot_scheduler(scheduler, tmp_path / "run.png", losses=LOSSES, title="a title")
    (figure,) = figures
    losses, tests, lr = figure.axes
    assert figure.get_suptitle() == "a title"
    assert losses.get_ylabel() == "training loss"
    assert tests.get_ylabel() == "P(fall\nis over)"
    assert lr.get_ylabel() == "learning rate"
    assert lr.get_xlabel() == "optimizer step"
    shown = [line(losses, label) for label in ("loss of a step", "above the panel")
             if any(each.startswith(label) for each in labels(losses))]  # fmt: skip
    assert sum(len(x) for x, _ in shown) == TOTAL_STEPS
    steps, values = shown[0]
    np.testing.assert_array_equal(values, LOSSES[steps.astype(int)])
    assert "GP mean, ±2 sd" in labels(losses)
    for positive, label in ((True, "positive test"), (False, "negative test")):
        expected = [
            (test.step, p)
            for test in scheduler.tests
            if test.positive == positive
            for p in test.probabilities
        ]
        assert list(zip(*line(tests, label), strict=True)) == expected
    np.testing.assert_array_equal(line(tests, "confidence 0.95")[1], [0.95, 0.95])
    (curve,) = [each for each in lr.lines if len(np.asarray(each.get_xdata())) == TOTAL_STEPS + 1]
    assert curve.get_ydata() == pytest.approx([scheduler.lr_at(t) for t in range(TOTAL_STEPS + 1)])
    assert lr.get_yscale() == "log"


def test_both_vertical_lines_stand_where_the_legend_says(
    tmp_path: Path, figures: list[Figure]
) -> None:
    scheduler = finished()
    switch, start_lr = scheduler.switch_step, scheduler.start_lr
    assert switch is not None and start_lr is not None
    plot_scheduler(scheduler, tmp_path / "run.png")
    (figure,) = figures
    origin = 40 * math.log(start_lr / 1e-5) / math.log(1e5)  # the sweep's step of that LR
    for axes in figure.axes:
        vertical = [
            float(np.asarray(each.get_xdata())[0])
            for each in axes.lines
            if len(np.asarray(each.get_xdata())) == 2
            and len(set(np.asarray(each.get_xdata()).tolist())) == 1
        ]
        assert vertical == pytest.approx([switch, origin])
    ends, starts = marks(figure)
    used = 1e-5 * 1e5 ** ((switch - 1) / 40)  # not that of the step that the sweep did not take
    assert ends == f"warmup ends at step {switch} (epoch {switch / 10:.2f}), last LR {used:.3g}"
    assert f"LR {start_lr:.3g}, that of step {origin:.0f} " in starts


def write_rows(path: Path, losses: Any, lrs: Any = None) -> str:
    rows = [f"{loss!r}" for loss in losses]
    if lrs is not None:
        rows = ["loss,lr", *(f"{row},{lr!r}" for row, lr in zip(rows, lrs, strict=True))]
    path.write_text("\n".join(rows))
    return str(path)


@pytest.mark.parametrize("lrs", ["none", "of the sweep to its end", "of the run"])
def test_losses_that_did_not_meet_the_lrs_of_the_decay_are_faint_and_leave_the_range_alone(
    lrs: str, tmp_path: Path, figures: list[Figure]
) -> None:
    switch = finished().switch_step
    assert switch is not None
    losses = [*LOSSES[:switch].tolist(), *np.linspace(0.2, 17.0, TOTAL_STEPS - switch).tolist()]
    recorded = {
        "none": None,
        "of the sweep to its end": [min(1.0, 1e-5 * 1e5 ** (t / 40)) for t in range(TOTAL_STEPS)],
        "of the run": [finished().lr_at(t) for t in range(TOTAL_STEPS)],
    }[lrs]
    file = write_rows(tmp_path / "losses.csv", losses, recorded)
    image = str(tmp_path / "out.png")
    assert main(["replay", file, "--total-steps", "80", "--plot", image]) == 0
    axes = figures[0].axes[0]
    top = axes.get_ylim()[1]
    shown = line(axes, "loss of a step")[0]
    if lrs == "of the run":
        assert top > 15 and shown.max() == TOTAL_STEPS - 1
        assert not any("other LRs" in label for label in labels(axes))
    else:
        assert top < 1 and shown.max() < switch
        later = line(axes, "after the warmup, maybe at other LRs")
        assert later[0].min() == switch and later[1].max() <= top
        assert "above the panel" not in labels(axes)


def test_a_ceiling_of_the_losses_is_shown_where_some_lie_above_it(
    tmp_path: Path, figures: list[Figure]
) -> None:
    losses = LOSSES + 2.0 * np.exp(-np.arange(TOTAL_STEPS))  # the first lie far above
    plot_scheduler(replay(losses, TOTAL_STEPS), tmp_path / "run.png")
    plot_scheduler(finished(), tmp_path / "run.png")
    first, second = (figure.axes[0] for figure in figures)
    _, ceiling = line(first, "the GP takes higher losses for ")
    warmup = losses[: replay(losses, TOTAL_STEPS).switch_step]
    median, low = np.quantile(warmup, [0.5, 0.05])
    expected = max(median + 5 * (median - low), np.median(warmup[:NUM_BEGINNING]))
    assert ceiling == pytest.approx([expected] * 2, rel=1e-6)
    assert max(warmup) > expected
    assert not any("higher losses" in label for label in labels(second))


@pytest.mark.parametrize("decay", ["step", "multistep", "exponential", "cosine"])
def test_the_panel_of_a_sweep_that_begins_high_reaches_two_decades_below_its_peak(
    decay: Any, tmp_path: Path, figures: list[Figure]
) -> None:
    settings = {"decay": decay, "sweep": "adaptive", "first_lr": 5e-3}
    scheduler = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, **settings)
    plot_scheduler(scheduler, tmp_path / "run.png")
    panel = figures[0].axes[2]
    lrs = np.asarray(panel.lines[0].get_ydata(), dtype=float)
    assert panel.get_ylim()[0] < max(lrs[lrs > 0].min(), 1e-2 * lrs.max())


@pytest.mark.parametrize("growth", ["exponential", "linear"])
def test_sweep_step_inverts_the_sweep(growth: Any) -> None:
    scheduler = replay([], 200, growth=growth, min_lr=1e-4, max_lr=2.0)
    for step in (0, 1, 37.5, 99, 100):
        assert scheduler.sweep_step(scheduler.lr_at(step)) == pytest.approx(step, abs=1e-9)


@pytest.mark.parametrize("num_losses", [0, 1, 5, 20])
def test_a_run_in_its_warmup_is_drawn_to_the_cap(
    num_losses: int, tmp_path: Path, figures: list[Figure]
) -> None:
    scheduler = replay(LOSSES[:num_losses], TOTAL_STEPS, STEPS_PER_EPOCH)
    assert scheduler.switch_step is None
    path = plot_scheduler(scheduler, tmp_path / "run.png")
    assert path.stat().st_size > 1000
    (figure,) = figures
    told = marks(figure)
    assert len(told) == (2 if num_losses else 0)
    if told:
        assert told[0].startswith(f"the warmup goes on at step {num_losses} (epoch ")
        assert told[1] == "it ends at step 40 (epoch 4.00) at the latest"
    low, high = figure.axes[-1].get_xlim()
    assert low < 0 and 40 < high < 42


def test_of_recorded_lrs_a_run_in_its_warmup_shows_no_more(
    tmp_path: Path, figures: list[Figure]
) -> None:
    """The cap of a long run is far away."""
    scheduler = replay(LOSSES[:20], TOTAL_STEPS, STEPS_PER_EPOCH)
    lrs = [scheduler.lr_at(step) for step in range(20)]
    plot_scheduler(scheduler, tmp_path / "run.png", lrs=lrs)
    assert 20 < figures[0].axes[-1].get_xlim()[1] < 21


def test_a_run_without_tests_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    scheduler = replay(LOSSES[:40], TOTAL_STEPS, 50, test_interval="epoch", at_cap="current")
    assert scheduler.switch_step == 40 and scheduler.tests == []
    plot_scheduler(scheduler, tmp_path / "run.svg")
    (figure,) = figures
    assert labels(figure.axes[1])[0] == "confidence 0.95"
    assert not any("test" in label for label in labels(figure.axes[1]))
    assert len(marks(figure)) == 2
    assert marks(figure)[0].startswith("no minimum is certain by the cap, warmup ends at step 40")


@pytest.mark.filterwarnings("ignore:the last")
def test_a_diverged_run_shows_crosses_and_says_so(tmp_path: Path, figures: list[Figure]) -> None:
    losses = LOSSES.copy()
    losses[19], losses[20:] = 1e9, math.nan
    scheduler = replay(losses, TOTAL_STEPS, STEPS_PER_EPOCH)
    assert scheduler.diverged
    plot_scheduler(scheduler, tmp_path / "run.png", losses=losses)
    (figure,) = figures
    axes = figure.axes[0]
    crosses, _ = line(axes, "not finite")
    assert crosses[0] == 20
    triangles, _ = line(axes, "above the panel")
    assert 19 in triangles
    assert axes.get_ylim()[1] < 2.0  # not flattened by what lies above
    assert marks(figure)[0].startswith("the run diverged, warmup ends at step")


def test_an_explosion_in_the_last_of_a_few_losses_does_not_flatten_the_rest() -> None:
    _, high = loss_limits(np.array([*np.linspace(2.0, 1.0, 18), 1e9, 1e12]))
    assert high < 6.0


@pytest.mark.filterwarnings("ignore:the last")
def test_a_run_of_nothing_finite_is_drawn(tmp_path: Path) -> None:
    scheduler = replay([math.nan] * 40, TOTAL_STEPS)
    assert plot_scheduler(scheduler, tmp_path / "run.png").is_file()
    assert plot_scheduler(replay([1.0] * 40, TOTAL_STEPS), tmp_path / "flat.png").is_file()


@pytest.mark.filterwarnings("ignore:the last .* training losses")
@pytest.mark.parametrize(
    "losses",
    [
        [],
        [1.0],
        [1.0] * 40,
        [2.0, 1.0] * 10 + [math.nan] * 20,
        [*LOSSES[:30], *10.0 ** np.arange(10)],
    ],
    ids=["none", "one", "constant", "diverged", "exploded"],
)
def test_any_state_of_a_scheduler_can_be_drawn(losses: list[float], tmp_path: Path) -> None:
    scheduler = replay(losses, TOTAL_STEPS, STEPS_PER_EPOCH)
    path = plot_scheduler(scheduler, tmp_path / "state.png", title="a state")
    assert path.stat().st_size > 5_000


def test_the_svg_shows_the_switch_the_minimum_and_the_confidence(tmp_path: Path) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        path = plot_scheduler(finished(), tmp_path / "state.svg")
    text = path.read_text()
    for words in ("warmup ends at step", "decay starts from LR", "confidence 0.95",
                  "positive test", "GP mean", "learning rate", "training loss"):  # fmt: skip
        assert words in text


def test_lengths_that_differ_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    scheduler = finished()
    with pytest.raises(ValueError, match="got 2 steps for 80 losses"):
        plot_scheduler(scheduler, tmp_path / "run.png", steps=[0, 1], losses=LOSSES)
    with pytest.raises(ValueError, match="got 2 learning rates for 80 losses"):
        plot_scheduler(scheduler, tmp_path / "run.png", lrs=[0, 1], losses=LOSSES)
    with pytest.raises(ValueError, match="xyz"):
        plot_scheduler(scheduler, tmp_path / "run.xyz")
    assert list(tmp_path.iterdir()) == []


def test_drawing_changes_neither_the_scheduler_nor_matplotlib(tmp_path: Path) -> None:
    scheduler = finished()
    before, style = str(scheduler.state_dict()), dict(matplotlib.rcParams)
    plot_scheduler(scheduler, tmp_path / "run.png")
    assert str(scheduler.state_dict()) == before
    assert dict(matplotlib.rcParams) == style


def test_plot_draws_a_run_directory(
    tmp_path: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = finished()
    folder = write_run(tmp_path, scheduler)
    assert main(["plot", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'schedule.png'}\n"
    assert main(["plot", str(folder), "--out", str(tmp_path / "other.svg")]) == 0
    assert (tmp_path / "other.svg").read_text().startswith("<?xml")
    for figure in figures:
        assert len(figure.axes) == 3
        assert len(marks(figure)) == 2
        used = [each for each in figure.axes[2].lines if len(np.asarray(each.get_xdata())) == 80]
        (curve,) = used
        expected = [scheduler.lr_at(step) for step in range(80)]
        assert curve.get_ydata() == pytest.approx(expected)


def test_a_run_with_another_schedule_has_two_panels(tmp_path: Path, figures: list[Figure]) -> None:
    path = plot_run(write_run(tmp_path, None))
    assert path == tmp_path / "schedule.png"
    (figure,) = figures
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss", "learning rate"]


def test_the_range_of_losses_keeps_the_beginning_and_cuts_the_explosion() -> None:
    falling = np.linspace(2.0, 1.0, 200)
    low, high = loss_limits(falling)
    assert low == 1.0 and high == 2.0
    exploding = np.concatenate([falling, 10.0 ** np.arange(1, 9)])
    low, high = loss_limits(exploding)
    assert low == 1.0 and 2.0 <= high < 3.0


def test_a_band_that_reaches_below_0_stays_in_a_log_panel(
    tmp_path: Path, figures: list[Figure]
) -> None:
    random = np.random.default_rng(0)
    losses = 10.0 ** (
        np.linspace(1.0, -4.0, TOTAL_STEPS) + 0.2 * random.standard_normal(TOTAL_STEPS)
    )
    scheduler = replay(losses, TOTAL_STEPS, STEPS_PER_EPOCH)
    curve = smooth(scheduler.losses)
    assert (curve.mean - 2 * curve.std).min() < 0
    plot_scheduler(scheduler, tmp_path / "run.png", losses=losses)
    axes = figures[0].axes[0]
    assert axes.get_yscale() == "log"
    drawn = [np.asarray(each.get_ydata(), float) for each in axes.lines]
    floor = min(np.nanmin(each) for each in drawn if len(each) == 500)
    assert floor == pytest.approx(0.5 * scheduler.losses.min().item())
    assert floor > axes.get_ylim()[0]
    (mean,) = (line for line in axes.lines if line.get_label() == "GP mean, ±2 sd")
    is_near_0 = (curve.mean - 2 * curve.std).numpy() <= 0
    assert np.array_equal(np.isnan(np.asarray(mean.get_ydata(), float)), is_near_0)


def test_a_log_scale_is_for_losses_over_many_decades() -> None:
    assert needs_log_scale(10.0 ** np.linspace(2, -4, 100))
    assert not needs_log_scale(np.linspace(2.3, 0.01, 100))
    falls_by_600 = np.concatenate([np.linspace(2.3, 0.6, 100), np.full(900, 0.004)])
    assert needs_log_scale(falls_by_600)  # most of it is a line at 0 otherwise


def test_the_smoothed_loss_is_that_of_the_schedulers_kernel_at_the_schedulers_steps(
    tmp_path: Path, figures: list[Figure]
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    kernel = gpytorch.kernels.MaternKernel(nu=1.5)
    kernel.lengthscale = 0.1
    optimizer.param_groups[0]["initial_lr"] = 1.0
    scheduler = AutoWU(optimizer, TOTAL_STEPS, kernel=kernel, last_epoch=4)
    optimizer.step()
    for loss in LOSSES[:20]:
        scheduler.step(float(loss))
    plot_scheduler(scheduler, tmp_path / "plot")
    (figure,) = figures
    points, mean = line(figure.axes[0], "loss of a step"), line(figure.axes[0], "GP mean")
    curve = smooth(scheduler.losses, kernel=kernel)
    assert points[0].tolist() == list(range(5, 25))
    np.testing.assert_allclose(mean[0], 5 + 20 * curve.x.numpy())
    np.testing.assert_allclose(mean[1], curve.mean.numpy())
