"""`python -m autowu`: what it reads, what it prints, and that a mistake is one line."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autowu import AutoWU, __version__, replay
from autowu.__main__ import main
from autowu.settings import PAPER

ROOT = Path(__file__).parents[1]
TOTAL_STEPS, STEPS_PER_EPOCH = 80, 10
RUN = ["--total-steps", str(TOTAL_STEPS), "--steps-per-epoch", str(STEPS_PER_EPOCH)]
U = np.arange(TOTAL_STEPS) / TOTAL_STEPS
LOSSES = (np.abs(U - 0.25) + 0.02 * np.random.default_rng(0).standard_normal(TOTAL_STEPS)).tolist()


def as_csv(losses: list[float], lrs: list[float] | None = None) -> str:
    lrs = lrs or [min(1.0, 1e-5 * 1e5 ** (step / 40)) for step in range(len(losses))]
    rows = [
        f"{step},{lr},{loss!r}" for step, (lr, loss) in enumerate(zip(lrs, losses, strict=True))
    ]
    return "\n".join(["step,lr,loss", *rows]) + "\n"


def as_lines(losses: list[float]) -> str:
    return "".join(f"{loss!r}\n" for loss in losses)


def as_jsonl(losses: list[float], lrs: list[float] | None = None) -> str:
    entries = [{"step": 1, "loss": None if math.isnan(loss) else loss} for loss in losses]
    if lrs:
        entries = [entry | {"lr": lr} for entry, lr in zip(entries, lrs, strict=True)]
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def write(folder: Path, text: str, name: str = "losses.txt") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def replayed(file: str, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """What `replay --json` prints."""
    assert main(["replay", file, *RUN, "--json", *options]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return json.loads(output.out)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a mistake."""
    try:
        code = main(arguments)
    except SystemExit as exit:  # argparse's own way to end
        code = exit.code  # type: ignore[assignment]
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1, output.err
    assert output.err.startswith("python -m autowu")
    return output.err


@pytest.mark.parametrize("fmt", [as_csv, as_lines, as_jsonl])
def test_every_format_gives_what_the_library_finds(
    fmt: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH)
    found = replayed(write(tmp_path, fmt(LOSSES)), capsys)
    assert expected.switch_step is not None
    assert found["switch_step"] == expected.switch_step
    assert found["switch_epoch"] == expected.switch_step / STEPS_PER_EPOCH
    assert found["start_lr"] == expected.start_lr
    assert found["phase"] == "decay"
    assert found["num_losses"] == TOTAL_STEPS
    assert [test["step"] for test in found["tests"]] == [test.step for test in expected.tests]
    assert [tuple(test["probabilities"]) for test in found["tests"]] == [
        test.probabilities for test in expected.tests
    ]
    assert found["plot"] is None


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_may_have_any_delimiter_blank_lines_and_another_column(
    delimiter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{step}{delimiter}{loss!r}{delimiter}9" for step, loss in enumerate(LOSSES)]
    text = "\ufeff\n" + "\n\n".join([delimiter.join(["step", "train/loss", "z"]), *rows])
    found = replayed(write(tmp_path, text), capsys, "--column", "train/loss")
    assert found["switch_step"] == replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH).switch_step


def test_paper_really_is_the_published_behaviour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = np.linspace(2.0, 1.0, 60).tolist()  # nothing to find: the decay starts at the cap
    file = write(tmp_path, as_lines(losses))
    expected = replay(losses, TOTAL_STEPS, STEPS_PER_EPOCH, **PAPER)
    paper, ours = replayed(file, capsys, "--paper"), replayed(file, capsys)
    assert [test["step"] for test in paper["tests"]] == [10, 20, 30, 40]
    assert paper["start_lr"] == expected.start_lr
    assert paper["start_lr"] == pytest.approx(1e-5 * 1e5 ** (39 / 40))  # that of step W - 1
    assert [test["probabilities"] for test in paper["tests"]] == [
        list(test.probabilities) for test in expected.tests
    ]
    assert len(ours["tests"]) > 4
    # A setting beside --paper goes over it.
    mixed = replayed(file, capsys, "--paper", "--at-cap", "minimum", "--test-interval", "20")
    assert [test["step"] for test in mixed["tests"]] == [20, 40]
    assert mixed["start_lr"] == mixed["tests"][-1]["lr_at_minimum"]


def test_every_setting_reaches_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import autowu.offline

    received: dict[str, Any] = {}

    def spy(losses: list[float], lrs: None, **settings: Any) -> Any:
        received.update(settings)
        return replay(losses, **settings)

    monkeypatch.setattr(autowu.offline, "replay", spy)
    given: dict[str, Any] = {
        "min_lr": 1e-4,
        "max_lr": 2.0,
        "max_warmup_fraction": 0.25,
        "probed_warmup_fraction": 0.2,
        "growth": "linear",
        "sweep": "adaptive",
        "decay": "constant_cosine",
        "cooldown_fraction": 0.3,
        "patience": 2,
        "confidence": 0.9,
        "num_tests": 3,
        "test_interval": 5,
        "fit": "mle",
        "at_cap": "current",
        "num_fit_samples": 50,
        "num_posterior_samples": 60,
        "grid_size": 70,
        "seed": 4,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert main(["replay", write(tmp_path, as_lines(LOSSES)), *RUN, *flags]) == 0
    run = {"total_steps": TOTAL_STEPS, "steps_per_epoch": STEPS_PER_EPOCH}
    assert received == given | run
    # And there is a flag for every setting.
    assert set(received) == set(replay([], 100).settings.as_dict())


def test_the_text_lists_the_tests_and_ends_with_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH)
    assert main(["replay", write(tmp_path, as_lines(LOSSES)), *RUN]) == 0
    header, *tests, verdict = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["step", "epoch", "LR"]
    assert [int(line.split()[0]) for line in tests] == [test.step for test in expected.tests]
    assert sum(" yes " in line for line in tests) == sum(t.positive for t in expected.tests)
    used = [f"{1e-5 * 1e5 ** ((test.step - 1) / 40):.3g}" for test in expected.tests]
    assert [line.split()[2] for line in tests] == used  # of the last step before the test
    assert verdict.startswith(f"the warmup ends after step {expected.switch_step} of 80")
    assert f"LR {expected.start_lr:.4g}" in verdict


def test_lengths_that_are_seldom_meant_are_a_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_lines(LOSSES))
    expected = replay(LOSSES[:60], 60, STEPS_PER_EPOCH)
    options = ["--total-steps", "60", "--steps-per-epoch"]
    assert main(["replay", file, *options, str(STEPS_PER_EPOCH)]) == 0
    output = capsys.readouterr()
    left_out = "80 losses, of which the last 20 lie after --total-steps 60 and are left out"
    assert output.err == f"python -m autowu replay: warning: {left_out}\n"
    assert f"the warmup ends after step {expected.switch_step} of 60" in output.out
    assert main(["replay", file, *options, "61"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert left_out in first
    assert "--steps-per-epoch 61 is more than --total-steps 60: the run ends within" in second


def test_rows_of_skipped_steps_are_counted_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lrs = lrs_of(replay(LOSSES, TOTAL_STEPS))
    file = write(tmp_path, as_csv(LOSSES[:6], [lrs[0], lrs[0], lrs[0], *lrs[1:4]]))
    assert main(["replay", file, *RUN]) == 0
    said, *_, verdict = capsys.readouterr().out.splitlines()
    assert said == "2 rows with the LR of the next one: steps that a GradScaler skipped"
    assert verdict.startswith("the warmup goes on after 4 of 80 steps, at LR ")


def test_equal_probabilities_are_one_number_and_others_are_all_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_lines(LOSSES))
    for options, num_shown in (([], {1}), (["--num-posterior-samples", "8"], {1, 5})):
        assert main(["replay", file, *RUN, *options]) == 0
        _, *tests, _ = capsys.readouterr().out.splitlines()
        if max(num_shown) > 1:
            said = "P(fall is over): 5 random subsets of 8 losses vote, and the majority decides"
            assert tests.pop().startswith(said)
        shown = [line.split("  yes ")[0].split("  no ")[0].split()[3:] for line in tests]
        assert {len(probabilities) for probabilities in shown} == num_shown


@pytest.fixture(scope="module")
def probed() -> AutoWU:
    """A run whose sweep a probe let begin at 1e-3."""
    return replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH, first_lr=1e-3)


def lrs_of(scheduler: AutoWU) -> list[float]:
    """What steps.csv shows in its column `lr`."""
    return [scheduler.lr_at(step) for step in range(TOTAL_STEPS)]


def test_steps_of_a_run_that_probed_are_not_taken_for_a_fixed_sweep(
    probed: AutoWU, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fmt in (as_csv, as_jsonl):
        file = write(tmp_path, fmt(LOSSES, lrs_of(probed)))
        error = error_of(["replay", file, *RUN], capsys)
        assert "step 0 was recorded at LR 0.001, and the sweep of this replay has 1e-05" in error
        advice, _, other = error.partition("it begins as recorded with ")[2].partition("; ")
        assert other.startswith("or the losses alone, with --ignore-lr, if they come from other")
        flags = advice.split()
        assert flags == ["--sweep", "adaptive", "--first-lr", "0.001"]
        assert replayed(file, capsys, *flags)["switch_step"] == probed.switch_step


def test_recorded_lrs_can_be_left_unread_and_a_line_says_that_they_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = replayed(write(tmp_path, as_jsonl(LOSSES)), capsys)
    lrs = [math.nan, *[7.0] * (TOTAL_STEPS - 1)]
    for text in (as_csv(LOSSES, lrs), as_jsonl(LOSSES, lrs)):
        main(["replay", write(tmp_path, text), *RUN, "--json", "--ignore-lr"])
        out, warning = capsys.readouterr()
        assert json.loads(out) == plain
        assert "the column lr, which is left unread, has 7 for step 1, and the sweep" in warning


def test_the_advice_for_a_run_with_an_adaptive_sweep_is_not_to_replay_it_as_published(
    probed: AutoWU, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_csv(LOSSES, lrs_of(probed)))
    error = error_of(["replay", file, *RUN, "--paper"], capsys)
    assert "the sweep of that run was adaptive, and --paper knows none; or the losses" in error
    assert "--first-lr" not in error


def test_a_replay_with_other_epochs_is_told_of_them(
    probed: AutoWU, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tests lie elsewhere, so that its warmup goes on where that of the run had ended."""
    file = write(tmp_path, as_csv(LOSSES, lrs_of(probed)))
    assert probed.switch_step is not None
    settings = ["--sweep", "adaptive", "--total-steps", str(TOTAL_STEPS), "--patience", "9"]
    error = error_of(["replay", file, *settings], capsys)
    assert f"step {probed.switch_step} was recorded at LR " in error
    assert "as if no test had ended it, or set it back; the settings have to be those" in error
    assert "the steps of an epoch among them, which say where its tests were" in error


def test_an_lr_that_some_entries_lack_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"loss": 2.0}\n{"loss": 1.0, "lr": 0.1}\n'
    assert "line 1: no key 'lr', found 'loss'" in error_of(
        ["replay", write(tmp_path, text), *RUN], capsys
    )


def test_the_first_lr_of_an_adaptive_sweep_is_taken_from_the_file_and_said(
    probed: AutoWU, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_csv(LOSSES, lrs_of(probed)))
    found = replayed(file, capsys, "--sweep", "adaptive")
    assert found["first_lr"] == 1e-3
    assert (found["switch_step"], found["start_lr"]) == (probed.switch_step, probed.start_lr)
    said = "the sweep begins at LR 0.001, the first of the column lr"
    assert main(["replay", file, *RUN, "--sweep", "adaptive"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == said
    assert main(["replay", file, *RUN, "--sweep", "adaptive", "--first-lr", "0.001"]) == 0
    assert said not in capsys.readouterr().out


def test_a_curve_that_stops_in_the_warmup_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_lines(LOSSES[:5]))
    assert main(["replay", file, *RUN]) == 0
    assert "the warmup goes on after 5 of 80 steps, at LR 4.217e-05" in capsys.readouterr().out
    found = replayed(file, capsys)
    assert found["phase"] == "warmup"
    assert found["switch_step"] is found["switch_epoch"] is found["start_lr"] is None


def test_a_warmup_that_ends_at_its_cap_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_lines([3.0 - 0.01 * step for step in range(80)]))
    assert main(["replay", file, *RUN]) == 0
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith("no minimum is certain by the cap: the warmup ends after step 40 of")
    assert replayed(file, capsys)["found_minimum"] is False
    assert replayed(write(tmp_path, as_lines(LOSSES)), capsys)["found_minimum"] is True


def test_a_divergence_is_a_line_of_warning_and_said_in_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_jsonl(LOSSES[:20] + [math.nan] * 20))
    assert main(["replay", file, *RUN]) == 0
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert "warning: " in output.err and "the run has diverged" in output.err
    assert output.out.splitlines()[-1].startswith("the run diverged: the warmup ends after step 2")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot_is_written_and_named(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / f"out{suffix}"
    file = write(tmp_path, as_lines(LOSSES))
    assert replayed(file, capsys, "--plot", str(image))["plot"] == str(image)
    assert image.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert main(["replay", file, *RUN, "--plot", str(image)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"plot {image}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty, expected a loss a line"),
        ("\n \n", "empty, expected a loss a line"),
        ("step,lr\n1,2\n", "no column 'loss', found 'step', 'lr'"),
        ("loss\n", "a header and no losses"),
        ("loss,lr, loss\n1,1e-5,2\n", "2 columns 'loss', expected one"),
        ("lr,loss,lr\n1e-5,1,2\n", "2 columns 'lr', expected one"),
        ("[1.0,\n2.0]\n", "a JSON array, expected an object or a number a line"),
        (
            '{"loss": [1, 2, 3, 4, 5, 6, 7, 8]}\n',
            "line 1: [1, 2, 3, 4, 5, 6, ...] is not a number",
        ),
        ("1.0\nhigh\n", "line 2: 'high' is not a number"),
        ("loss,lr\n1,2\n\n,3\n", "line 4: '' is not a number"),
        ("lr,loss\n1,2\n3\n", "line 3: '' is not a number"),
        ('{"loss": 1}\n{"los": 1}\n', "line 2: no key 'loss', found 'los'"),
        ('{"loss": 1}\n{"loss": \n', "line 2: not JSON"),
        ('{"loss": 1}\n[1]\n', "line 2: no key 'loss', found list"),
        ('{"loss": true}\n', "line 1: True is not a number"),
        ('{"loss": "high"}\n', "line 1: 'high' is not a number"),
        ('{"loss": 1, "lr": 1e-5}\n{"loss": 1}\n', "line 2: no key 'lr', found 'loss'"),
        ("loss,lr\n1,1e-5\n1,\n", "line 3: '' is not a number"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_place(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, text)
    error = error_of(["replay", file, *RUN], capsys)
    assert file in error
    assert said in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--total-steps"),
        (["--total-steps", "many"], "invalid int value: 'many'"),
        (["--total-steps", "1"], "total_steps must be at least 2, got 1"),
        ([*RUN, "--patience", "0"], "patience must be at least 1, got 0"),
        ([*RUN, "--min-lr", "2"], "min_lr must be below max_lr=1.0, got 2.0"),
        ([*RUN, "--confidence", "95"], "confidence must be in (0, 1], got 95.0"),
        ([*RUN, "--growth", "cubic"], "invalid choice: 'cubic'"),
        ([*RUN, "--test-interval", "often"], "'often' is not auto, epoch or a number"),
        ([*RUN, "--patiense", "3"], "unrecognized arguments: --patiense"),
        (["--total-steps", "80", "--paper"], "--paper needs --steps-per-epoch"),
        ([*RUN, "--plot", "out.xyz"], "xyz"),
        ([*RUN, "--plot", "."], ".: a directory, expected the name of an image"),
        ([*RUN, "--plot", "/nowhere/out.png"], "/nowhere/out.png: No such file or directory"),
        ([*RUN, "--column", "loss", "--json", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_a_bad_option_is_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, as_lines(LOSSES[:20]))
    assert said in error_of(["replay", file, *options], capsys)


def test_files_that_cannot_be_read_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80" * 9)
    for file, said in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, f"a directory, expected a file (of a run of train.py: {tmp_path}/steps.csv)"),
        (tmp_path / "binary", "not a text file"),
    ):
        error = error_of(["replay", str(file), *RUN], capsys)
        assert f"{file}: {said}" in error


@pytest.mark.parametrize("arguments", [[], ["draw"]])
def test_no_command_or_an_unknown_one_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "COMMAND" in error_of(arguments, capsys)


def test_a_missing_matplotlib_is_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("autowu.plotting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # from here on importing it fails
    file = write(tmp_path, as_lines(LOSSES))
    error = error_of(["replay", file, *RUN, "--plot", str(tmp_path / "out.png")], capsys)
    assert "matplotlib is not installed; it comes with pip install '.[plot]' in a clone" in error


def test_plot_of_something_else_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such directory" in error_of(["plot", str(tmp_path / "missing")], capsys)
    said = "not the directory of a run, it has no steps.csv"
    assert said in error_of(["plot", str(tmp_path)], capsys)
    write(tmp_path, as_csv(LOSSES), "steps.csv")
    write(tmp_path, "{", "summary.json")
    assert "summary.json: not valid JSON" in error_of(["plot", str(tmp_path)], capsys)
    write(tmp_path, '{"schedule": "autowu"}', "summary.json")
    assert "has no last.pt" in error_of(["plot", str(tmp_path)], capsys)
    write(tmp_path, "something else", "last.pt")
    assert "last.pt: no scheduler state in it" in error_of(["plot", str(tmp_path)], capsys)
    write(tmp_path, '{"schedule": "lr_range_test"}', "summary.json")
    assert "has drawn lr_range_test.png itself" in error_of(["plot", str(tmp_path)], capsys)
    write(tmp_path, '{"schedule": "cosine"}', "summary.json")
    write(tmp_path, "step,lr,loss,loss\n0,0.1,2,2\n", "steps.csv")
    assert "steps.csv: 2 columns 'loss', expected one" in error_of(["plot", str(tmp_path)], capsys)


def test_version_and_help_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--version"], __version__), (["replay", "--help"], "--total-steps")):
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 0
        assert said in capsys.readouterr().out


def test_it_runs_as_a_module_and_reads_the_standard_input() -> None:
    command = [sys.executable, "-m", "autowu", "replay", "-", *RUN]
    done = subprocess.run(
        command,
        input=as_lines(LOSSES),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    expected = replay(LOSSES, TOTAL_STEPS, STEPS_PER_EPOCH)
    assert f"the warmup ends after step {expected.switch_step} of 80" in done.stdout
