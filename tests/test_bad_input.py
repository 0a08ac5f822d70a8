"""A user's mistakes with data, devices, disks and checkpoints: one line, and nothing is lost."""

import errno
import io
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autowu.saved_state import unboxed
from autowu.trainer.config import build_settings
from tests.fake_data import write_cifar10, write_image_folders
from tests.test_train import load, main, without_seconds

HERE = str(Path(__file__).parent)
SHORT = ["data.batch_size=256", "epochs=2", "schedule.probe=0"]  # 10 optimizer steps
TINY = ["data.batch_size=8", "epochs=1", "model.name=test_vit"]


def folder_settings(root: Path) -> list[str]:
    return [*TINY, "data.name=imagenet", f"data.root={root}", "data.image_size=32"]


def fails(settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a run ends with before it has made a directory."""
    assert main([*settings, f"output_dir={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    return error


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.name=cifar10"], "data_batch_1: missing"),
        (["data.name=imagenet"], "must hold the folders train and val"),
        (["data.name=parquet"], "holds no .parquet files"),
        (["--config", HERE], f"--config={HERE}: a directory, must be a file"),
        (["data.name=cifar11"], "did you mean cifar10 or"),
        (["model.name=resnet18x"], "did you mean resnet18"),
        (["optimizer.name=adampp"], "did you mean adamp"),
        (["data.batch_size=100000"], "data.batch_size=100000: must be at most 1437"),
        (["device=cuda"], "device=cuda: this machine has 0 CUDA devices"),
        (["device=cuda:7"], "device=cuda:7: this machine has 0 CUDA devices"),
        (["sync_batchnorm=true"], "sync_batchnorm=true: needs GPUs"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["optimizer.weight_decay=-0.1"], "optimizer.weight_decay=-0.1: must be at least 0"),
        (["model.drop_path=0.1"], "model.drop_path=0.1"),
        (
            ["optimizer.name=muon", "optimizer.adjust_lr_fn=orginal"],
            "must be match_rms_adamw or original or rms_to_rms or null",
        ),
    ],
)
def test_a_mistake_is_one_line_before_any_training(
    settings: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if any(setting.startswith("device=cuda") for setting in settings) and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    if settings[0].startswith(("data.name=cifar10", "data.name=imagenet", "data.name=parquet")):
        settings = [*settings, f"data.root={tmp_path}"]
    assert said in fails(settings, tmp_path, capsys)


def test_a_folder_of_somebody_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes(b"precious")
    settings = ["data.batch_size=256", "epochs=1", f"output_dir={tmp_path}", "name=run"]
    assert main(settings) == 2
    assert "best.pt: lies there without a run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best.pt"]
    assert main([*settings, "resume=never"]) == 0


SGD = ["data.batch_size=64", "optimizer.name=sgd"]


def test_a_baseline_that_diverges_later_keeps_the_checkpoint_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        *(*SGD, "epochs=4", "optimizer.lr=0.01", "schedule.name=multistep"),
        # Harmless in the first epoch.
        *("schedule.milestones=[1]", "schedule.factors=[1e9]"),
        *(f"output_dir={tmp_path}", "name=run"),
    ]
    assert main(settings) == 1
    assert re.fullmatch(
        r"train\.py: the training loss became (nan|inf) at step \d+, in the decay that began at"
        r" step 0 with LR 0\.01; the last checkpoint is from before it \(resume=never starts"
        r" afresh\); the first weights that are not finite are those of .*\n",
        capsys.readouterr().err,
    )
    saved = load(tmp_path / "run" / "last.pt")
    assert saved["progress"]["step"] == 22
    assert torch.tensor(saved["progress"]["epoch_losses"]).isfinite().all()
    assert all(bool(weight.isfinite().all()) for weight in saved["model"].values())


def test_a_baseline_that_diverges_before_its_first_checkpoint_says_that_nothing_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SGD, "epochs=2", "optimizer.lr=1e9", "schedule.name=cosine"]
    assert main([*settings, f"output_dir={tmp_path}", "name=run"]) == 1
    error = capsys.readouterr().err
    assert "with LR 1e+09; nothing was saved yet to go on from" in error
    assert "checkpoint" not in error
    assert not (tmp_path / "run" / "last.pt").exists()


def test_weights_that_were_lost_since_the_last_loss_are_not_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss comes before the step, so that it can be the last finite one."""
    settings = [
        *("data.batch_size=64", "epochs=6", "optimizer.name=sgd", "schedule.name=warmup_cosine"),
        *("optimizer.lr=1e38", "schedule.warmup_epochs=5", "checkpoint_every=1"),
        *(f"output_dir={tmp_path}", "name=run"),
    ]
    assert main(settings) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "not finite" in error or "became nan" in error
    if (tmp_path / "run" / "last.pt").exists():
        weights = load(tmp_path / "run" / "last.pt")["model"].values()
        assert all(bool(weight.isfinite().all()) for weight in weights)


def test_published_settings_that_keep_the_lr_are_not_given_good_weights_to_lose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        *("data.batch_size=64", "epochs=6", "optimizer.name=sgd", "schedule.max_lr=1e20"),
        *("schedule.fit=adam", "schedule.test_interval=epoch", "schedule.at_cap=current"),
        *("schedule.sweep=fixed", "checkpoint_every=1", f"output_dir={tmp_path}", "name=run"),
    ]
    assert main(settings) == 1
    output = capsys.readouterr()
    assert "going on from the weights" not in output.out
    assert "in the decay" in output.err or "not finite" in output.err


def test_half_downloaded_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:1000])
    error = fails([*TINY, "data.name=cifar10", f"data.root={tmp_path}"], tmp_path, capsys)
    assert f"{file}: not a file of CIFAR10" in error


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_corrupt_image_ends_the_run_with_its_name(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "images"
    write_image_folders(root)
    corrupt = sorted((root / split).rglob("*.JPEG"))[0]
    corrupt.write_bytes(b"\xff\xd8\xff not an image any more")
    settings = [*folder_settings(root), "data.num_workers=1", f"output_dir={tmp_path}"]
    assert main([*settings, "data.batch_size=24", "epochs=2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{corrupt}: not a readable image" in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["last.pt", "best.pt", "metrics.jsonl"])
def test_a_disk_that_fills_up_ends_the_run_and_keeps_the_checkpoint(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from autowu.trainer.progress import Progress

    folder = tmp_path / "full"
    settings = ["data.batch_size=64", "epochs=3", f"output_dir={tmp_path}", "name=full"]
    assert main([*settings[:-1], "name=calm"]) == 0
    capsys.readouterr()

    kept: dict[Path, bytes] = {}
    epoch_done = Progress.epoch_done

    def fill_up(self: Progress, **options: Any) -> dict[str, Any]:
        metrics = epoch_done(self, **options)
        self.best_epoch = self.epoch  # so that best.pt is written too
        if self.epoch == 2:
            kept.update({path: path.read_bytes() for path in folder.iterdir()})
            whole = file.endswith(".pt")  # which takes the place of the one before it
            name = f".{file}.{platform.node()}.{os.getpid()}.tmp" if whole else file
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to("/dev/full")  # every write to it fails as on a full disk
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "epoch_done", fill_up)
        assert main(settings) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be written: No space left on device" in error
    assert (folder / "last.pt").read_bytes() == kept[folder / "last.pt"]
    if file == "metrics.jsonl":  # there is room again
        (folder / file).unlink()
        (folder / file).write_bytes(kept[folder / file])
    assert main(settings) == 0
    assert (folder / "steps.csv").read_text() == (tmp_path / "calm" / "steps.csv").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "not a readable checkpoint"),
        (lambda path: path.write_bytes(b"something else"), "not a readable checkpoint"),
        (lambda path: torch.save({"model": {}}, path), "not a checkpoint that a run can continue"),
        (lambda path: torch.save([1, 2], path), "not a checkpoint that a run can continue"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_left_alone(
    change: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ["data.batch_size=256", "epochs=1", f"output_dir={tmp_path}", "name=run"]
    assert main(settings) == 0
    change(tmp_path / "run" / "last.pt")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    capsys.readouterr()
    assert main(settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{tmp_path / 'run' / 'last.pt'}: {said}" in error
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        stop_before(7, patch)
        assert main([*SHORT, f"output_dir={folder.parent}", "name=stopped"]) == 143
    return folder


def changed(*keys: str | int, value: Any) -> Callable[[Path], None]:
    """What puts another value into a checkpoint."""

    def change(path: Path) -> None:
        state = part = load(path)
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        torch.save(state, path)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("progress", value={}), "progress without epoch, epoch_losses, step"),
        (changed("progress", "step", value="7"), "progress.step is '7'"),
        (changed("progress", "step", value=-1), "progress to epoch 1, step -1"),
        (changed("progress", "epoch_losses", value=["high"]), "epoch_losses are not numbers"),
        (changed("progress", "commits", value=None), "progress.commits is None"),
        (changed("optimizer", "state", value="x"), "has no attribute 'items'"),
        (changed("ranks", value=[1]), "not subscriptable"),
    ],
)
def test_a_checkpoint_whose_parts_are_damaged_is_refused_and_nothing_is_touched(
    change: Callable[[Path], None],
    said: str,
    stopped: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    change(folder / "last.pt")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert main([*SHORT, f"output_dir={tmp_path}", "name=run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{folder / 'last.pt'}: " in error and said in error
    assert "put a good one in its place, or start afresh with resume=never" in error
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_no_checkpoint_counts_on_may_be_damaged(stopped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / "config.yaml").write_text("")
    for name in ("steps.csv", "metrics.jsonl"):
        with open(folder / name, "a") as file:
            file.write('{"half of a line')
    assert main([*SHORT, f"output_dir={tmp_path}", "name=run"]) == 0
    assert build_settings([folder / "config.yaml"], []).epochs == 2
    steps = (folder / "steps.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in steps] == list(range(10))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "not the summary of a run"),
        ("{}", "not the summary of a run, it has no key 'schedule'"),
        ('"fine"', "not the summary of a run"),
        ('{"schedule": "autowu"}', "not the summary of a run, it has no key"),
        (
            '{"schedule": "lr_range_test", "suggested_lr": 7}',
            "of a run with schedule.name=lr_range",
        ),
        ("[" * 100_000, "not the summary of a run"),
        ('{"test_accuracy": 9', "not valid JSON"),
        ("", "not valid JSON"),
        ("\xff", "not valid JSON"),
    ],
)
def test_a_damaged_summary_is_named_and_can_be_made_anew(
    content: str, said: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(content, encoding="latin-1")
    settings = [*SHORT, f"output_dir={tmp_path}", "name=run"]
    capsys.readouterr()
    assert main(settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{summary}: {said}" in error
    assert error.endswith("; remove it, and the same command makes it anew\n")
    assert summary.read_text(encoding="latin-1") == content
    summary.unlink()
    assert main(settings) == 0
    before = json.loads(summary.read_text())
    summary.unlink()
    assert main(settings) == 0
    assert json.loads(summary.read_text()) == before


@pytest.mark.parametrize(
    ("file", "said"),
    [("config.yaml", "is empty, must hold"), ("summary.json", "not valid JSON; remove it")],
)
def test_a_damaged_file_of_a_range_test_is_named(
    file: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["schedule.name=lr_range_test", "schedule.num_steps=5", "data.batch_size=64"]
    settings += [f"output_dir={tmp_path}", "name=run"]
    assert main(settings) == 0
    (tmp_path / "run" / file).write_text("")
    capsys.readouterr()
    assert main(settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{tmp_path / 'run' / file}: {said}" in error
    (tmp_path / "run" / file).unlink()
    assert main([*settings, "resume=never"]) == 0


@pytest.mark.filterwarnings("ignore:the last .* training losses")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_sweep_that_diverges_goes_on_from_good_weights(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        *("data.batch_size=32", "epochs=3", "optimizer.name=sgd"),
        # Blind to the minimum, so that the LR grows until the loss is lost.
        *("schedule.max_lr=1e20", "schedule.patience=100", "schedule.sweep=fixed"),
        f"output_dir={tmp_path}",
    ]
    settings += [f"precision={precision}"]
    assert main([*settings, "name=diverged"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    folder = tmp_path / "diverged"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["diverged"] is True
    restored, switched = summary["restored_step"], summary["switch_step"]
    assert 0 < restored < switched
    assert (
        f"diverged at step {switched}: going on from the weights of step {restored}" in output.out
    )
    assert "the sweep diverged" in output.out
    rows = [row.split(",") for row in (folder / "steps.csv").read_text().splitlines()[1:]]
    losses = [float(loss) for _, _, loss in rows]
    if precision == "fp16":  # the scheduler does not count the steps that the scaler skipped
        switched = 1 + max(row for row, loss in enumerate(losses) if not math.isfinite(loss))
        assert summary["skipped_steps"] > 0
    assert not math.isfinite(losses[switched - 1])
    assert torch.tensor(losses[switched:]).isfinite().all()
    # The first loss of the decay is of the order of that at the snapshot.
    assert losses[switched] < 2 * max(losses[:restored])
    assert float(rows[switched][1]) == summary["start_lr"]
    one_scheduler = load(folder / "last.pt")["scheduler"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["restored_step"] == restored
    assert summary["test_accuracy"] > 50  # by chance 10

    assert sum(len(line["tests"]) for line in metrics) == len(unboxed(one_scheduler)["tests"])

    # Stopped between the snapshot and the divergence, it goes on to the same end.
    with pytest.MonkeyPatch.context() as patch:
        stop_before(switched - 4, patch)
        assert main([*settings, "name=stopped", "checkpoint_every=1"]) == 143
    assert main([*settings, "name=stopped", "checkpoint_every=1"]) == 0
    one, other = load(folder / "last.pt"), load(tmp_path / "stopped" / "last.pt")
    assert without_seconds(one["progress"]) == without_seconds(other["progress"])
    for key, weight in one["model"].items():
        assert torch.equal(weight, other["model"][key])


def stop_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SIGTERM come when the run has taken so many steps."""
    import signal

    from autowu.trainer.step import OptimizerStep

    take_step = OptimizerStep.__call__
    taken = 0

    def interrupted(self: OptimizerStep, *arguments: object, **options: object) -> object:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(OptimizerStep, "__call__", interrupted)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "1"},
            "not torchrun's whole environment: .*MASTER_ADDR",
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "not torchrun's whole environment"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK"),
    ],
)
def test_half_of_the_environment_of_torchrun_is_one_line(
    environment: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([f"output_dir={tmp_path}", "name=run", "data.batch_size=64"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(said, error)


def test_a_loader_process_that_is_killed_in_a_step_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from autowu.trainer.step import OptimizerStep

    def killed(self: OptimizerStep, *arguments: Any, **options: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(OptimizerStep, "__call__", killed)
    settings = [f"output_dir={tmp_path}", "name=run", "epochs=1", "schedule.probe=0"]
    assert main(settings) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "a loader process died (out of memory?)" in error


@pytest.mark.parametrize("key", ["name", "output_dir", "resume", "data.root"])
@pytest.mark.parametrize(
    ("value", "said"),
    [("a" * 256, "at most 255 bytes"), ("in/" + "ä" * 128, "255 bytes"), ("a\0b", "NUL")],
)
def test_a_path_that_cannot_be_is_one_line_with_its_key(
    key: str, value: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["data.name=folder"] if key == "data.root" else []
    assert main([f"output_dir={tmp_path / 'runs'}", *settings, f"{key}={value}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"train.py: {key}=") and said in error
    assert not (tmp_path / "runs").exists()


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_begins_goes_on_and_is_shown_where_its_lines_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", FullDisk())
    settings = [f"output_dir={tmp_path}", "name=run", "epochs=2", "data.batch_size=256"]
    with monkeypatch.context() as patch:
        stop_before(3, patch)
        assert main(settings) == 143
    assert main(settings) == 0
    assert (tmp_path / "run" / "summary.json").exists()
    assert main(settings) == 0


def test_a_range_test_is_made_where_its_lines_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", FullDisk())
    settings = [f"output_dir={tmp_path}", "name=run", "data.batch_size=256"]
    settings += ["schedule.name=lr_range_test", "schedule.num_steps=10"]
    assert main(settings) == 0
    assert main(settings) == 0
