"""`python -m autowu`: what it prints, what it draws, how it fails."""

import json
from pathlib import Path

import numpy as np
import pytest

from autowu import AutoWU, replay
from autowu.__main__ import main
from autowu.plotting import plot_scheduler
from autowu.settings import PAPER

U = np.arange(150) / 150
LOSSES = np.abs(U - 0.6) + 0.02 * np.random.default_rng(0).standard_normal(150)
ARGUMENTS = ["--total-steps", "300", "--steps-per-epoch", "30"]


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "losses.csv"
    rows = [f"{step},{loss!r}" for step, loss in enumerate(LOSSES.tolist())]
    path.write_text("\n".join(["step,loss", *rows]))
    return path


def outcome(path: Path | str, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["replay", str(path), *ARGUMENTS, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_replay_prints_what_the_scheduler_decides_test_by_test(
    csv_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = replay(LOSSES, 300, 30)
    assert main(["replay", str(csv_file), *ARGUMENTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(expected.tests) + 1
    assert f"the warmup ends after step {expected.switch_step} of 300" in lines[-1]
    assert f"LR {expected.start_lr:.4g}" in lines[-1]
    for line, test in zip(lines[1:], expected.tests, strict=False):
        assert int(line.split()[0]) == test.step
        assert ("yes" in line.split()) == test.positive
    result = outcome(csv_file, capsys)
    assert result["switch_step"] == expected.switch_step
    assert result["start_lr"] == expected.start_lr
    assert [t["probabilities"] for t in result["tests"]] == [
        list(t.probabilities) for t in expected.tests
    ]


@pytest.mark.parametrize("kind", ["lines", "jsonl", "semicolons"])
def test_every_format_of_a_curve_is_the_same_curve(
    kind: str, tmp_path: Path, csv_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = LOSSES.tolist()
    text = {
        "lines": "\n".join(map(repr, losses)),
        "jsonl": "\n".join(json.dumps({"step": i, "loss": x}) for i, x in enumerate(losses)),
        "semicolons": "lr;loss\n" + "\n".join(f"0.1;{x!r}" for x in losses),
    }[kind]
    path = tmp_path / "other"
    path.write_text(text)
    assert outcome(path, capsys) == outcome(csv_file, capsys)


def test_settings_and_paper_reach_the_scheduler(
    csv_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = replay(LOSSES, 300, 30, **PAPER)
    result = outcome(csv_file, capsys, "--paper")
    assert [test["step"] for test in result["tests"]] == [test.step for test in paper.tests]
    assert result["start_lr"] == paper.start_lr
    changed = outcome(csv_file, capsys, "--patience", "6", "--min-lr", "1e-4")
    expected = replay(LOSSES, 300, 30, patience=6, min_lr=1e-4)
    assert (changed["switch_step"], changed["start_lr"]) == (
        expected.switch_step, expected.start_lr,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "missing.csv", *ARGUMENTS], "missing.csv: No such file"),
        (["replay", "FILE", "--total-steps", "1"], "total_steps must be at least 2, got 1"),
        (["replay", "FILE", *ARGUMENTS, "--min-lr", "3"], "min_lr must be below max_lr=1.0"),
        (
            ["replay", "FILE", *ARGUMENTS, "--column", "lss"],
            "no column 'lss', found 'step', 'loss'",
        ),
        (["replay", "FILE", *ARGUMENTS, "--plot", "x.docx"], "docx"),
        (["plot", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, csv_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(csv_file) if argument == "FILE" else argument for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["replay"], ["replay", "x", "--total-steps", "many"]])
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_replay_is_drawn(
    suffix: str, csv_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / f"out.{suffix}"
    assert main(["replay", str(csv_file), *ARGUMENTS, "--plot", str(image)]) == 0
    assert f"plot {image}" in capsys.readouterr().out
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert image.read_bytes().startswith(magic)


@pytest.mark.filterwarnings("ignore:the last .* training losses")
@pytest.mark.parametrize(
    "losses",
    [[], [1.0], [1.0] * 40, list(LOSSES[:50]), [2.0, 1.0] * 10 + [float("nan")] * 60,
     list(np.concatenate([LOSSES[:100], 10.0 ** np.arange(30)]))],
    ids=["none", "one", "constant", "in the warmup", "diverged", "exploded"],
)  # fmt: skip
def test_any_state_of_a_scheduler_can_be_drawn(losses: list[float], tmp_path: Path) -> None:
    scheduler: AutoWU = replay(losses, 300, 30)
    path = plot_scheduler(scheduler, tmp_path / "state.png", title="a state")
    assert path.stat().st_size > 5_000


def test_the_svg_shows_the_switch_the_minimum_and_the_confidence(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        path = plot_scheduler(replay(LOSSES, 300, 30), tmp_path / "state.svg")
    text = path.read_text()
    for words in ("warmup ends at step", "decay starts from LR", "confidence 0.95",
                  "positive test", "GP mean", "learning rate", "training loss"):  # fmt: skip
        assert words in text
