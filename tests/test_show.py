"""`python -m autowu show`: each schedule as train.py would run it, without training."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autowu import AutoWU
from autowu.__main__ import main
from autowu.commands.show import Curve, split_schedules, to_text
from autowu.plotting_schedules import draw_schedules
from autowu.trainer import schedules

RUN = ["epochs=4", "--steps-per-epoch", "5"]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What `show --json` prints."""
    assert main(["show", "--json", *arguments]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return json.loads(output.out)


def curve_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    (found,) = shown(capsys, *arguments)["schedules"].values()
    return found


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a mistake."""
    try:
        code = main(["show", *arguments])
    except SystemExit as exit:  # argparse's own way to end
        code = exit.code  # type: ignore[assignment]
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    assert output.err.startswith("python -m autowu")
    return output.err


def test_a_cosine_is_the_closed_form(capsys: pytest.CaptureFixture[str]) -> None:
    found = curve_of(capsys, "schedule.name=cosine", "optimizer.lr=0.3", *RUN)
    expected = [0.15 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert found["lrs"] == pytest.approx(expected)
    assert found["relative"] is False
    assert found["note"] is None


@pytest.mark.parametrize(
    "name", [n for n in schedules.available() if "range_test" not in n and n != "composite"]
)
def test_the_curve_is_what_a_run_steps_through(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # What an adaptive sweep does is for the losses to decide.
    own = {"sweep": "fixed"} if name == "autowu" else {}
    settings = [f"schedule.{key}={value}" for key, value in own.items()]
    found = curve_of(capsys, f"schedule.name={name}", *settings, *RUN)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    schedule = schedules.create(name, optimizer, epochs=4, steps_per_epoch=5, batch_size=32, **own)
    lrs = []
    for step in range(20):
        lrs.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        # Falling, so that a plateau is never reduced; and AutoWU has nothing to find.
        schedule.step(torch.tensor(1.0 - 0.01 * step))
    number = len(found["lrs"])
    assert number == (10 if name == "autowu" else 20)
    assert found["lrs"] == pytest.approx(lrs[:number])


def test_without_an_lr_the_peak_is_one_and_said_to_be_relative(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = curve_of(capsys, "schedule.name=onecycle", *RUN)
    assert found["relative"] is True
    assert max(found["lrs"]) <= 1
    assert curve_of(capsys, "schedule.name=onecycle", "optimizer.lr=2", *RUN)["lrs"] == (
        pytest.approx([2 * lr for lr in found["lrs"]])
    )


def test_each_name_begins_a_schedule_with_the_settings_that_follow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = shown(
        capsys,
        "optimizer.lr=1",
        "schedule.name=wsd",
        "schedule.shape=linear",
        "schedule.name=wsd",
        "schedule.name=polynomial",
        "schedule.power=1",
        *RUN,
    )["schedules"]
    assert list(found) == ["wsd shape=linear", "wsd", "polynomial power=1"]
    assert found["wsd"]["lrs"] != found["wsd shape=linear"]["lrs"]
    assert found["polynomial power=1"]["lrs"] == pytest.approx(np.linspace(1, 0, 21)[:20])


def test_commas_share_the_settings_and_what_stands_before_is_shared() -> None:
    arguments = [
        "schedule.warmup_epochs=1",
        "schedule.name=cosine,linear",
        "schedule.end_lr_ratio=0.1",
    ]
    arguments += ["schedule.name=step", "epochs=9"]
    shared = ["schedule.warmup_epochs=1", "epochs=9"]
    assert split_schedules(arguments) == [
        ("cosine end_lr_ratio=0.1", [*shared, "schedule.name=cosine", "schedule.end_lr_ratio=0.1"]),
        ("linear end_lr_ratio=0.1", [*shared, "schedule.name=linear", "schedule.end_lr_ratio=0.1"]),
        ("step", [*shared, "schedule.name=step"]),
    ]
    assert split_schedules(["epochs=2"]) == [("", ["epochs=2"])]


def test_the_same_schedule_twice_has_two_entries(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown(capsys, "schedule.name=cosine,cosine", *RUN)["schedules"]) == [
        "cosine",
        "cosine (2)",
    ]


def test_autowu_is_its_sweep_and_an_example_that_says_what_it_supposes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = curve_of(capsys, "schedule.name=autowu", "schedule.sweep=fixed", *RUN)
    longest = 10  # half of 20 steps
    assert found["lrs"] == pytest.approx([1e-5 * 1e5 ** (t / longest) for t in range(longest)])
    example = found["example"]
    first = example["first_step"]
    assert 0 < first <= longest
    # The LR halfway through the sweep, from where a cosine falls to 0 at step 20.
    start, left = 1e-5 * 1e5**0.5, 20 - first
    expected = [start / 2 * (1 + math.cos(math.pi * t / left)) for t in range(left)]
    assert example["lrs"] == pytest.approx(expected)
    assert f"at step {first}" in found["note"] and "LR 0.00316" in found["note"]

    found = curve_of(capsys, "schedule.name=autowu", "schedule.probe=0", *RUN)
    assert "the loss begins to fall at step 4, and at step" in found["note"]
    growth = [b / a for a, b in pairwise(found["lrs"])]
    assert growth == pytest.approx([10**0.5] * 4 + [1.03] * 5)

    found = curve_of(capsys, "schedule.name=autowu", *RUN)
    assert "the probe sees the loss begin to fall at LR 0.001, and at step" in found["note"]
    assert found["lrs"] == pytest.approx([1e-3 * 3 ** (t / longest) for t in range(longest)])


def test_autowu_is_drawn_beside_schedules_that_take_an_lr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = shown(capsys, "optimizer.lr=0.1", "schedule.name=autowu,cosine", *RUN)["schedules"]
    assert found["autowu"]["lrs"][0] == pytest.approx(1e-3)
    assert found["cosine"]["lrs"][0] == pytest.approx(0.1)
    alone = error_of(["optimizer.lr=0.1", "schedule.name=autowu"], capsys)
    assert "schedule.name=autowu finds the LR itself" in alone


def test_range_tests_show_their_own_steps_and_a_relative_cycle(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "schedule.name=lr_range_test"
    found = curve_of(capsys, name, "schedule.num_steps=7", "schedule.min_lr=1e-5", *RUN)
    assert found["lrs"] == pytest.approx(np.logspace(-5, 1, 7))
    late = curve_of(capsys, "schedule.name=range_test_onecycle", *RUN)
    assert late["relative"] is True
    assert late["lrs"] == pytest.approx(curve_of(capsys, "schedule.name=onecycle", *RUN)["lrs"])
    assert late["note"] == "the range test decides on the peak LR"


def test_a_plateau_stays_and_says_what_reduces_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = curve_of(capsys, "schedule.name=plateau", "optimizer.lr=0.2", *RUN)
    assert found["lrs"] == pytest.approx([0.2] * 20)
    assert found["note"] == "reduced when the loss stalls"


def test_a_config_is_read_and_arguments_go_over_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("epochs: 3\noptimizer: {lr: 0.5}\nschedule: {name: step, step_epochs: 1}\n")
    found = shown(capsys, "--config", str(config), "--steps-per-epoch", "2")
    (curve,) = found["schedules"].values()
    assert curve["lrs"] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    assert list(found["schedules"]) == ["step"]
    more = shown(capsys, "--config", str(config), "epochs=2", "--steps-per-epoch=1")
    assert next(iter(more["schedules"].values()))["lrs"] == pytest.approx([0.5, 0.05])


def test_the_length_of_an_epoch_comes_from_the_data_where_it_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, expected in (
        (["data.name=digits", "data.batch_size=32"], 1437 // 32),
        (["data.name=cifar10", "data.batch_size=128"], 50_000 // 128),
        (["data.name=synthetic", "data.num_images=640", "data.batch_size=64"], 10),
        (["data.name=parquet"], 100),
    ):
        found = shown(capsys, "schedule.name=cosine", "epochs=1", *arguments)
        assert found["steps_per_epoch"] == expected


def test_the_digits_are_as_many_as_is_said() -> None:
    from autowu.commands.show import TRAIN_IMAGES
    from autowu.trainer.data_sets import digits

    assert len(digits().train.labels) == TRAIN_IMAGES["digits"]


def test_the_table_has_about_twenty_lines_from_the_first_step_to_the_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = "schedule.name=linear,lr_range_test"
    assert main(["show", names, "optimizer.lr=1", "epochs=10", "--steps-per-epoch", "50"]) == 0
    header, *rows, note = capsys.readouterr().out.splitlines()
    assert header.split() == ["epoch", "step", "linear", "lr_range_test"]
    cells = [row.split() for row in rows]
    assert len(cells) == 20
    steps = [int(row[1]) for row in cells]
    assert steps[0] == 0 and steps[-1] == 499
    for (epoch, _, lr, swept), step in zip(cells, steps, strict=True):
        assert float(epoch) == pytest.approx(step / 50, abs=0.01)
        assert float(lr) == pytest.approx(1 - step / 500, rel=1e-3)
        assert (swept == "-") == (step >= 300)  # the test is over
    assert note.startswith("lr_range_test: the sweep of the test")


def test_a_short_run_has_a_line_a_step() -> None:
    curve = Curve("a", "a", [1.0, 0.5], example_start=1, example=[0.25, 0.125], note="what if")
    lines = to_text([curve], steps_per_epoch=1).splitlines()
    assert [line.split()[1:] for line in lines[1:4]] == [
        ["0", "1"],
        ["1", "(0.25)"],
        ["2", "(0.125)"],
    ]
    assert lines[4] == "a: what if; (...) is that example"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_plot_is_written_and_named(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / f"out{suffix}"
    # Options stand among the settings, too.
    assert main(["show", "schedule.name=cosine", "--plot", str(image), "epochs=3"]) == 0
    assert capsys.readouterr().out == f"plot {image}\n"
    assert image.read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")


@pytest.mark.parametrize("text", ["5", "- 1", "step,lr,loss\n0,1e-5,2.0\n1,1e-5,2.0\n"])
def test_a_config_that_holds_no_settings_is_one_short_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    error = error_of(["--config", str(file)], capsys)
    assert error.strip().endswith(f"--config={file}: must hold `key: value` lines")


def test_plot_alone_has_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", "schedule.name=cosine", "epochs=3", "--plot"]) == 0
    assert (tmp_path / "schedules.png").is_file()
    assert capsys.readouterr().out == "plot schedules.png\n"
    assert "a setting, not a file" in error_of(["--plot", "schedule.name=cosine"], capsys)


def drawn(*curves: Curve) -> Axes:
    axes: Axes = Figure().subplots()
    draw_schedules(axes, curves, steps_per_epoch=2)
    return axes


def test_the_figure_has_a_line_a_curve_over_epochs() -> None:
    axes = drawn(Curve("a", "a", [1.0, 0.5, 0.25]), Curve("b", "b", [0.5]))
    assert [str(line.get_label()) for line in axes.lines] == ["a", "b"]
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [0.0, 0.5, 1.0]
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [1.0, 0.5, 0.25]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylabel() == "learning rate"


def test_the_axis_says_when_lrs_are_relative() -> None:
    absolute, relative = Curve("a", "a", [1.0]), Curve("b", "b", [1.0], relative=True)
    assert drawn(relative).get_ylabel() == "LR / peak LR"
    both = drawn(absolute, relative)
    assert both.get_ylabel() == "learning rate, or LR / peak LR"
    assert [str(line.get_label()) for line in both.lines] == ["a", "b, LR / peak LR"]


def test_a_sweep_is_drawn_on_a_log_axis_and_its_example_dashed() -> None:
    sweep = np.logspace(-5, 0, 11).tolist()
    axes = drawn(Curve("autowu", "autowu", sweep, example_start=8, example=[0.01, 0.0]))
    assert axes.get_yscale() == "log"
    whole, example = axes.lines
    assert whole.get_linestyle() == "-" and example.get_linestyle() == "--"
    assert np.asarray(example.get_xdata()).tolist() == [4.0, 4.5]
    assert "if at epoch 4 the minimum were found to lie at LR 0.01" in str(example.get_label())


def test_no_two_lines_of_a_figure_look_the_same() -> None:
    curve = Curve("a", "a", [1.0, 0.5], example_start=1, example=[0.5])
    looks = [
        (line.get_color(), str(line._dash_pattern), line.get_marker())  # type: ignore[attr-defined]
        for line in drawn(*[curve] * 40).lines
    ]
    assert len(set(looks)) == len(looks) == 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["schedule.name=cosin"], "did you mean cosine"),
        (["schedule.name=cosine,nothing"], "schedule.name=nothing"),
        (["schedule.name=cosine", "schedule.patience=3"], "schedule.patience=3"),
        (["schedule.name=cosine", "epochs=0"], "epochs=0: must be at least 1"),
        (["schedule.name=cosine", "epoch=3"], "did you mean epochs"),
        (["schedule.name"], "settings are written key=value"),
        (["--steps-per-epoch", "0"], "--steps-per-epoch must be at least 1, got 0"),
        (["--steps-per-epoch", "many"], "invalid int value: 'many'"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--colour", "red"], "unrecognized arguments"),
        (["--plot", "out.xyz"], "xyz"),
        (["schedule.name=autowu", "epochs=1", "--steps-per-epoch", "1"], "needs at least 2"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in error_of(arguments, capsys)


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("matplotlib", "plot", ["schedule.name=cosine", "--plot", "out.png"]),
        ("omegaconf", "train", ["schedule.name=cosine"]),
    ],
)
def test_a_missing_package_is_one_line_that_says_what_to_install(
    module: str,
    extra: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = ("autowu.plotting", "autowu.trainer.config")
    for name in [name for name in sys.modules if name.startswith(ours)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # from here on importing it fails
    error = error_of(arguments, capsys)
    assert f"{module} is not installed; it comes with pip install '.[{extra}]' in a clone" in error


def test_the_sweep_that_is_drawn_is_the_scheduler_s_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = curve_of(capsys, "schedule.name=autowu", "schedule.growth=linear", *RUN)
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(optimizer, 20, 5, growth="linear")
    assert found["lrs"] == [scheduler.lr_at(step) for step in range(10)]
