"""train.py from end to end: a run, its files, its resumption and its ways to fail."""

import errno
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autowu import AutoWU, replay
from autowu.plotting import plot_run
from autowu.recordings import read_losses
from autowu.saved_state import unboxed
from autowu.trainer.errors import WriteError
from autowu.trainer.summary import closing_lines
from tests.helpers import assert_same_state

TRAIN = Path(__file__).parents[1] / "train.py"
SMALL = ["data.batch_size=64", "epochs=4"]  # 88 optimizer steps
FILES = {
    "config.yaml",
    "metrics.jsonl",
    "steps.csv",
    "summary.json",
    "schedule.png",
    "last.pt",
    "best.pt",
}


def load_main() -> Callable[[list[str]], int]:
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


main = load_main()


def run(folder: Path, *settings: str) -> int:
    return main([*SMALL, f"output_dir={folder.parent}", f"name={folder.name}", *settings])


def stop_after(epochs: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the signal come before the fourth step of the epoch after `epochs`."""
    from autowu.trainer.data import ImageData

    train_batches = ImageData.train_batches

    def interrupted(self: ImageData, epoch: int, first_step: int = 0) -> Any:
        for step, batch in enumerate(train_batches(self, epoch, first_step), first_step):
            if (epoch, step) == (epochs, 3):
                os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(ImageData, "train_batches", interrupted)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["timing"]
    return lines


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same_run(one: Path, other: Path) -> None:
    """Equal bit for bit in all but the clock."""
    assert (one / "steps.csv").read_text() == (other / "steps.csv").read_text()
    assert metrics_of(one) == metrics_of(other)
    for name in ("last.pt", "best.pt"):
        a, b = load(one / name), load(other / name)
        assert a.keys() == b.keys()
        for key in a.keys() - {"config"}:
            if key == "progress":
                a[key], b[key] = without_seconds(a[key]), without_seconds(b[key])
            assert_same_state(a[key], b[key], key)


def without_seconds(progress: dict[str, Any]) -> dict[str, Any]:
    """What neither the clock nor `resume=never` has a part in."""
    return {
        key: value
        for key, value in progress.items()
        if not key.endswith("seconds") and key != "begun_by"
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tests share the cores, and sums in another order would not be equal bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run(folder) == 0
    return folder


def test_a_run_leaves_all_its_files(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == FILES
    summary = json.loads((finished / "summary.json").read_text())
    for key in ("switch_step", "start_lr", "seconds", "images_per_second", "world_size", "device"):
        assert summary[key] is not None
    assert {"versions", "commit", "test_accuracy"} <= summary.keys()
    assert summary["total_steps"] == 88
    assert summary["best_test_accuracy"] >= summary["test_accuracy"]
    rows = (finished / "steps.csv").read_text().splitlines()
    assert rows[0] == "step,lr,loss"
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(88))
    assert float(rows[1].split(",")[1]) == summary["first_lr"]


def test_metrics_agree_with_steps_and_summary(finished: Path) -> None:
    metrics = metrics_of(finished)
    summary = json.loads((finished / "summary.json").read_text())
    rows = [line.split(",") for line in (finished / "steps.csv").read_text().splitlines()[1:]]
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4]
    for line in metrics:
        losses = [float(loss) for _, _, loss in rows[line["step"] - 22 : line["step"]]]
        assert line["train_loss"] == pytest.approx(sum(losses) / 22)
        assert line["lr"] == float(rows[line["step"] - 1][1])
        assert line["phase"] == ("decay" if line["step"] >= summary["switch_step"] else "warmup")
    tests = [test for line in metrics for test in line["tests"]]
    assert tests
    assert tests[-1]["step"] == summary["switch_step"]
    assert metrics[-1]["test_accuracy"] == summary["test_accuracy"]


def test_the_checkpoints_hold_the_weights_of_a_network(finished: Path) -> None:
    from autowu.trainer.data import load_data
    from autowu.trainer.distributed import Ranks
    from autowu.trainer.loop import evaluate
    from autowu.trainer.models import build_model

    images = load_data("digits", 64, ranks=Ranks())
    summary = json.loads((finished / "summary.json").read_text())
    for name, key in (("last.pt", "test_accuracy"), ("best.pt", "best_test_accuracy")):
        model = build_model("small_cnn", in_channels=1, num_classes=10)
        model.load_state_dict(load(finished / name)["model"])
        assert evaluate(model, images.test_batches(), images.ranks) == summary[key]


def test_the_written_config_repeats_the_run(finished: Path, tmp_path: Path) -> None:
    config = str(finished / "config.yaml")
    assert main(["--config", config, f"output_dir={tmp_path}", "name=again"]) == 0
    assert_same_run(finished, tmp_path / "again")


def test_a_finished_run_shows_its_result_and_is_left_alone(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert run(finished, "tracking.wandb=online") == 0  # free to change, and not started either
    output = capsys.readouterr().out
    assert "is finished" in output
    assert "test accuracy" in output
    found = json.loads((finished / "summary.json").read_text())["found_minimum"]
    assert ("before a minimum was certain" in output) is not found
    assert ("AutoWU found LR" in output) is found
    assert str(finished / "schedule.png") in output
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_plot_that_cannot_be_written_is_said_after_the_result(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(run_dir: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = shutil.copytree(finished, tmp_path / finished.name)
    (folder / "schedule.png").unlink()
    monkeypatch.setattr("autowu.plotting.plot_run", full)
    assert run(folder) == 1
    said = capsys.readouterr()
    assert "test accuracy" in said.out and "\nplot" not in said.out
    reason = "cannot be drawn: No space left on device"
    assert said.err == f"train.py: {folder / 'schedule.png'}: {reason}\n"


def test_the_line_of_an_epoch_has_the_lr_that_the_next_one_begins_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", "schedule.test_interval=epoch", "epochs=12") == 0
    lines = re.findall(r"LR (\S+)  (\w+)", capsys.readouterr().out)
    lrs = [line.split(",")[1] for line in (tmp_path / "run" / "steps.csv").read_text().split()[1:]]
    expected = [f"{float(lr):.1e}" for lr in [*lrs[22::22], 0]]  # 22 steps an epoch
    assert [lr for lr, _ in lines] == expected
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    first = [phase for _, phase in lines].index("decay")
    assert summary["switch_step"] == 22 * (first + 1)  # tests are made at the ends of epochs
    assert lines[first][0] == f"{summary['start_lr']:.1e}"


@pytest.mark.parametrize(
    ("schedule", "found", "diverged", "restored", "expected"),
    [
        ("autowu", True, False, None, "AutoWU found LR 0.02, warmup ended at epoch 4.0 of 10"),
        ("autowu", False, False, None, "the longest warmup ended before a minimum was certain"),
        ("autowu", False, True, None, "the sweep diverged: its last losses were not finite"),
        ("autowu", False, True, 30, "the sweep diverged; went on from the weights of step 30"),
        ("warmup_cosine", None, False, None, "peak LR 0.02, warmup ended at epoch 4.0 of 10"),
    ],
)
def test_the_closing_lines_say_how_the_warmup_ended(
    schedule: str, found: bool | None, diverged: bool, restored: int | None, expected: str
) -> None:
    summary = {
        "schedule": schedule,
        "switch_step": 40,
        "total_steps": 100,
        "steps_per_epoch": 10,
        "epochs": 10,
        "start_lr": 0.02,
        "diverged": diverged,
        "restored_step": restored,
        "skipped_steps": 0,
        "test_accuracy": 98.0,
        "best_test_accuracy": 98.5,
    } | ({} if found is None else {"found_minimum": found})
    lines = closing_lines(summary).splitlines()
    assert any(line.startswith(expected) for line in lines)
    assert len(lines) == 2 + diverged


def first_lr(folder: Path) -> float:
    return float((folder / "steps.csv").read_text().splitlines()[1].split(",")[1])


def test_a_run_says_where_its_probe_saw_the_loss_fall_and_begins_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for images, seen in (("16", "16"), ("1000", "64")):  # no more than a batch
        folder = tmp_path / images
        assert run(folder, f"schedule.probe={images}", "epochs=1") == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("probe"))
        found = re.fullmatch(
            r"probe, (\d+) images: the loss begins to fall at LR (\S+); "
            r"the sweep begins at (\S+), and takes (\d+) steps at most",
            line,
        )
        assert found, line
        assert found[1] == seen
        assert 1e-3 < float(found[2]) < 0.05
        assert float(found[3]) == pytest.approx(first_lr(folder), rel=1e-2)
        assert int(found[4]) == len((folder / "steps.csv").read_text().splitlines()[1:]) // 2
        assert first_lr(folder) == json.loads((folder / "summary.json").read_text())["first_lr"]


@pytest.mark.parametrize("settings", [["schedule.probe=0"], ["schedule.sweep=fixed"]])
def test_without_a_probe_the_sweep_begins_at_min_lr(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", *settings, "epochs=1", "schedule.min_lr=1e-4") == 0
    assert "probe, " not in capsys.readouterr().out
    assert first_lr(tmp_path / "run") == 1e-4


def test_a_probe_changes_nothing_but_where_the_sweep_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the LR that the probe finds, but found by nobody, the run is the same bit for bit."""
    settings = ["epochs=2", "ema_decay=0.9", "clip_grad_norm=1.0", "accumulate=2"]
    assert run(tmp_path / "probed", *settings) == 0
    lr = first_lr(tmp_path / "probed")
    monkeypatch.setattr(AutoWU, "probe", lambda self, *_: self.begin_at(lr))
    assert run(tmp_path / "told", *settings) == 0
    assert_same_run(tmp_path / "probed", tmp_path / "told")


def test_changed_settings_are_refused_and_nothing_is_touched(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert run(finished, "optimizer.weight_decay=0.5") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "optimizer.weight_decay=0.5" in error
    assert "0.01" in error
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


@pytest.mark.parametrize(
    ("epochs", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT), (3, signal.SIGTERM)]
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    epochs: int,
    number: int,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        stop_after(epochs, number, patch)
        assert run(folder) == 128 + number
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "go on: python train.py data.batch_size=64" in error
    assert not (folder / "summary.json").exists()
    # Lines that a killed run wrote after its last checkpoint are not to be seen again.
    with open(folder / "steps.csv", "a") as steps:
        steps.write("99,0.1,0.1\n99,")
    assert run(folder) == 0
    assert_same_run(finished, folder)


def test_a_signal_in_an_evaluation_does_not_wait_for_its_end(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autowu.trainer.data import ImageData

    folder = tmp_path / "interrupted"
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr("autowu.trainer.data.EVALUATION_BATCH", 64)  # six of them
        test_batches = ImageData.test_batches

        def interrupted(self: ImageData) -> Any:
            for batch in test_batches(self):
                seen.append(len(batch[1]))
                if len(seen) == 8:  # the second of the second epoch
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        patch.setattr(ImageData, "test_batches", interrupted)
        assert run(folder) == 143
    assert len(seen) == 8
    progress = load(folder / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"], len(progress["epoch_losses"])) == (1, 44, 22)
    assert len(metrics_of(folder)) == 1
    assert run(folder) == 0
    assert_same_run(finished, folder)


@pytest.mark.parametrize(
    ("schedule", "module"), [("autowu", "lr_search"), ("lr_range_test", "range_test")]
)
def test_a_run_that_is_stopped_before_its_first_step_has_nothing_to_save(
    schedule: str,
    module: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from autowu.trainer.range_test import start_training

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        start_training(*arguments)

    settings = [f"schedule.name={schedule}", "epochs=1"]
    with monkeypatch.context() as patch:
        patch.setattr(f"autowu.trainer.{module}.start_training", interrupted)
        assert run(tmp_path / "stopped", *settings) == 130
    assert capsys.readouterr().err == (
        "train.py: stopped by SIGINT before the first step: nothing to save;"
        " the same command begins anew\n"
    )
    assert {path.name for path in (tmp_path / "stopped").iterdir()} == {"config.yaml", "steps.csv"}
    assert run(tmp_path / "stopped", *settings) == 0


def test_resume_from_a_path_leaves_the_source_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    with monkeypatch.context() as patch:
        stop_after(2, signal.SIGTERM, patch)
        assert run(source) == 143
    before = (source / "last.pt").read_bytes()
    assert run(copy, f"resume={source}") == 0
    assert_same_run(finished, copy)
    assert (source / "last.pt").read_bytes() == before
    assert run(copy, f"resume={source}") == 0  # the same command once more: it is finished
    assert run(source, f"resume={copy}") == 2  # it holds a run of its own


def test_a_run_that_is_saved_more_often_from_now_on_is_the_same_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(1, signal.SIGTERM, patch)
        assert run(tmp_path / "run") == 143
    assert run(tmp_path / "run", "checkpoint_every=3") == 0
    assert_same_run(finished, tmp_path / "run")


def test_a_run_can_be_drawn_before_its_end_and_is_drawn_anew_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(2, signal.SIGTERM, patch)
        assert run(folder) == 143
    with (folder / "steps.csv").open("a") as file:
        file.write("47,0.01")  # a line that is being written
    drawn = plot_run(folder)
    assert drawn == folder / "schedule.png"
    early = drawn.read_bytes()
    assert run(folder) == 0
    assert drawn.read_bytes() != early


def test_other_settings_are_another_run_and_the_same_ones_are_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [f"output_dir={tmp_path}", "data.batch_size=256", "epochs=1"]
    for settings in ([], ["optimizer.weight_decay=0.5"], ["label_smoothing=0.1"]):
        assert main([*short, *settings]) == 0
        assert "is finished" not in capsys.readouterr().out
        assert main([*short, *settings, "tracking.wandb=online"]) == 0
        assert "is finished" in capsys.readouterr().out
    main_name = "digits-small_cnn-adamp-autowu-batch256-epochs1-seed0"
    assert {path.name for path in tmp_path.iterdir()} == {
        main_name,
        f"{main_name}-weight_decay=0.5",
        f"{main_name}-label_smoothing=0.1",
    }
    # Earlier versions called it by its main settings alone.
    (tmp_path / main_name).rename(tmp_path / "usual")
    (tmp_path / f"{main_name}-weight_decay=0.5").rename(tmp_path / main_name)
    assert main([*short, "optimizer.weight_decay=0.5"]) == 0
    assert f"{main_name} is finished" in capsys.readouterr().out
    assert main([*short, "optimizer.weight_decay=0.6"]) == 0
    assert (tmp_path / f"{main_name}-weight_decay=0.6" / "summary.json").exists()


def test_a_signal_while_statistics_are_measured_does_not_wait_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autowu.trainer.data import ImageData

    free = ["optimizer.name=schedulefree", "epochs=2"]
    assert run(tmp_path / "calm", *free) == 0
    seen = []
    with monkeypatch.context() as patch:
        first_batches = ImageData.first_batches

        def interrupted(self: ImageData, epoch: int, num_steps: int) -> Any:
            for batch in first_batches(self, epoch, num_steps):
                seen.append(epoch)
                if len(seen) == 25:  # the third of the second epoch
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        patch.setattr(ImageData, "first_batches", interrupted)
        assert run(tmp_path / "interrupted", *free) == 143
    assert seen == [0] * 22 + [1] * 3
    assert run(tmp_path / "interrupted", *free) == 0
    assert_same_run(tmp_path / "calm", tmp_path / "interrupted")


def test_a_checkpoint_from_elsewhere_that_was_copied_by_half_is_copied_again(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, copied = tmp_path / "source", tmp_path / "copied"
    with monkeypatch.context() as patch:
        stop_after(2, signal.SIGTERM, patch)
        assert run(source) == 143

    def full(original: Path, path: Path) -> None:
        (path.with_name(f".{path.name}.{platform.node()}.{2**22 + 1}.tmp")).touch()  # of a dead one
        raise WriteError(f"{path}: cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("autowu.trainer.run_directory.copy", full)
        assert run(copied, f"resume={source}") == 1
    capsys.readouterr()
    assert run(copied) == 2  # from its first step, in silence, would be another run
    assert f"was to begin with {source}/last.pt, which was not copied" in capsys.readouterr().err
    assert run(copied, f"resume={source}") == 0
    assert_same_run(finished, copied)
    assert not list(copied.glob(".*"))


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"),
        ("SLURM_RESTART_COUNT", "SLURM_JOB_ID"),
    ],
)
def test_resume_never_goes_on_when_it_is_the_job_that_is_started_again(
    name: str,
    job: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "again"
    monkeypatch.setenv(name, "0")
    monkeypatch.setenv(job, "1")
    with monkeypatch.context() as patch:
        stop_after(1, signal.SIGTERM, patch)
        assert run(folder, "resume=never") == 143  # a run that is to be replaced
        patch.setenv(job, "2")
        patch.setenv(name, "1")  # by a job that failed before it began
        stop_after(2, signal.SIGTERM, patch)
        assert run(folder, "resume=never") == 143
    assert "going on" not in capsys.readouterr().out
    monkeypatch.setenv(job, "2")
    monkeypatch.setenv(name, "2")
    assert run(folder, "resume=never") == 0
    said = "resume=never holds for the first start, not for a restart by torchrun or Slurm"
    assert said in capsys.readouterr().out
    assert_same_run(finished, folder)


def test_the_commits_of_a_run_are_those_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autowu.trainer import session, summary

    folder = tmp_path / "two_commits"
    for commit, code in (("1" * 40, 143), ("2" * 40, 0)):
        with monkeypatch.context() as patch:
            for module in (session, summary):
                patch.setattr(module, "commit_of_code", lambda commit=commit: commit)
            if code:
                stop_after(2, signal.SIGTERM, patch)
            assert run(folder) == code
    result = json.loads((folder / "summary.json").read_text())
    assert (result["commit"], result["commits"]) == ("1" * 40, ["1" * 40, "2" * 40])
    assert summary.commit_of_code() is summary.commit_of_code()  # asked for once


def test_resume_never_starts_afresh(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "again"
    assert run(folder, "seed=1") == 0
    assert run(folder, "resume=never") == 0
    assert "is finished" not in capsys.readouterr().out
    assert_same_run(finished, folder)


@pytest.mark.parametrize("content", [b"", b"something else", None])
def test_a_damaged_checkpoint_is_one_line(
    content: bytes | None, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (finished / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "last.pt: not a readable checkpoint" in error


def test_a_diverged_run_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["schedule.name=warmup_cosine", "optimizer.name=sgd", "optimizer.lr=1e30"]
    assert run(tmp_path / "diverged", *settings) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the training loss became nan at step 1, in the warmup; " in error
    assert not (tmp_path / "diverged" / "last.pt").exists()  # nothing of it is worth going on from


@pytest.mark.parametrize(
    ("call", "missing", "speaker"),
    [
        (f"run_path({str(TRAIN)!r}, ", "omegaconf", "train.py"),
        (f"run_path({str(TRAIN)!r}, ", "torch", "train.py"),
        ("run_module('autowu.trainer.config', ", "omegaconf", "error"),
    ],
)
def test_a_requirement_that_is_not_installed_is_one_line(
    call: str, missing: str, speaker: str, tmp_path: Path
) -> None:
    code = (
        f"import runpy, sys\nsys.modules[{missing!r}] = None\nsys.argv = ['', 'epochs=1']\n"
        f"runpy.{call}run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(TRAIN.parent)}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"{speaker}: {missing} is not installed: `pip install -r requirements.txt`, or"
        " `. .venv/bin/activate` where that has been done\n"
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.batch_size=2000", "data.batch_size=2000: must be at most 1437"),
        ("device=cuda:99", "device=cuda:99"),
        ("resume=nowhere", "resume=nowhere: no checkpoint there"),
        ("output_dir=/dev/null/x", "/dev/null/x"),
        ("epocs=3", "did you mean epochs?"),
    ],
)
def test_what_only_training_can_find_out_is_one_line_too(
    setting: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "bad", setting) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "bad").exists()


def test_precision_accumulation_and_clipping_work_together(tmp_path: Path) -> None:
    assert run(tmp_path / "all", "precision=bf16", "accumulate=2", "clip_grad_norm=1") == 0


def test_wandb_is_imported_only_when_it_is_switched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # from here on importing it fails
    assert run(tmp_path / "unwatched", "epochs=1") == 0
    assert run(tmp_path / "watched", "epochs=1", "tracking.wandb=offline") == 2
    assert "tracking.wandb=offline: needs `pip install wandb`" in capsys.readouterr().err


def test_wandb_offline_keeps_one_id_for_one_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "watched"
    assert run(folder, "tracking.wandb=offline", "epochs=1") == 0
    name = (folder / "wandb_id").read_text()
    assert list(folder.glob(f"wandb/offline-run-*-{name}"))


def test_ctrl_c_in_a_shell_then_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "shell"
    longer = [*SMALL, "epochs=20", f"output_dir={tmp_path}"]  # time enough to be interrupted
    command = [sys.executable, str(TRAIN), *longer, "name=shell"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    while not (folder / "last.pt").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert "go on: python train.py" in error
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "going on after step" in again.stdout
    assert "test accuracy" in again.stdout
    assert main([*longer, "name=undisturbed"]) == 0
    assert_same_run(tmp_path / "undisturbed", folder)


def test_recorded_lrs_are_autowus_own_whatever_a_group_makes_of_them(tmp_path: Path) -> None:
    """So that the steps of a run can be replayed."""
    assert run(tmp_path / "scaled", "optimizer.lr_mult.features=0.1") == 0
    losses, lrs = read_losses(tmp_path / "scaled" / "steps.csv")
    replayed = replay(losses, 88, 22, lrs=lrs, sweep="adaptive")
    summary = json.loads((tmp_path / "scaled" / "summary.json").read_text())
    assert replayed.switch_step == summary["switch_step"]
    assert replayed.start_lr == pytest.approx(summary["start_lr"])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(
    ("scale", "fewest", "settings"),
    [(2.0**20, 1, {"sweep": "adaptive"}), (2.0**60, 25, {"sweep": "fixed", "max_lr": 0.1})],
    ids=["some", "more than 24 in a row"],
)
def test_the_steps_of_a_run_that_skipped_some_are_replayed_to_the_same_end(
    scale: float,
    fewest: int,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: scaler)
    folder = tmp_path / "skipping"
    flags = [f"schedule.{name}={value}" for name, value in settings.items()]
    assert run(folder, "precision=fp16", "schedule.probe=0", *flags) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["skipped_steps"] >= fewest
    losses, lrs = read_losses(folder / "steps.csv")
    replayed = replay(losses, 88, 22, lrs=lrs, **settings)
    assert replayed.switch_step == summary["switch_step"]
    assert replayed.start_lr == pytest.approx(summary["start_lr"])
    scheduler = torch.load(folder / "last.pt", weights_only=True)["scheduler"]
    torch.testing.assert_close(replayed.losses, unboxed(scheduler)["losses"])
