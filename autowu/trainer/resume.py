"""Where a run begins: at its first step, at a checkpoint, or not at all because it is finished."""

import os
import platform
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from autowu.trainer.checkpoint import check_same_config, forget_later_best, load_checkpoint
from autowu.trainer.config import build_settings
from autowu.trainer.config_files import to_dict, to_yaml
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import WAY_OUT, CheckpointError, ConfigError
from autowu.trainer.naming import main_name, run_name
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.run_lock import lock_folder
from autowu.trainer.run_state import RunState
from autowu.trainer.settings import Settings
from autowu.trainer.stdout import say
from autowu.trainer.summary import read_result


class FoundRun(NamedTuple):
    run: RunDirectory
    checkpoint: Path | None = None  # what is to be continued; None: nothing
    saved: dict[str, Any] | None = None  # its content
    summary: dict[str, Any] | None = None  # of a run that is finished


def find_run(settings: Settings, held: ExitStack) -> FoundRun:
    """Look for what `settings.resume` means: `auto`, `never`, or a path.

    Args:
        settings: of the run.
        held: keeps the lock of the run's folder, so that no other process trains it.

    Raises:
        CheckpointError: another process trains it, or there is a checkpoint that cannot be used;
            nothing was changed.
    """
    run = _find_directory(settings)
    held.enter_context(lock_folder(run.path))
    if settings.schedule.name == "lr_range_test":
        return _find_range_test(run, settings)
    saved = _of_this_job(run.last) if settings.resume == "never" else None
    checkpoint = run.last if saved else run.find_checkpoint(settings.resume)
    if checkpoint is None:
        return FoundRun(run)
    saved = saved or load_checkpoint(checkpoint)
    check_same_config(checkpoint, saved["config"], to_dict(settings))
    return FoundRun(run, checkpoint, saved, read_result(run, settings.schedule.name))


def _of_this_job(last: Path) -> dict[str, Any] | None:
    """What this job saved before torchrun or Slurm started it again; None for another run."""
    if not any(_restarts()) or not last.exists():
        return None
    try:
        saved = load_checkpoint(last)
    except CheckpointError:  # to be replaced, as whatever else lies there
        return None
    begun_by = saved["progress"].get("begun_by") or ["", ""]
    jobs = zip(_restarts(), begun_by, _job(), strict=True)
    return saved if any(again and job == own for again, job, own in jobs) else None


def _restarts() -> list[bool]:
    """Whether torchrun, and whether Slurm starts the same command once more."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return [os.environ.get(name, "0") not in ("0", "") for name in counts]


def _job() -> list[str]:
    """What torchrun and Slurm keep through their restarts: the agent, and the number of the job."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    agent = f"{run_id} {platform.node()} {os.getppid()}"
    return [agent, os.environ.get("SLURM_JOB_ID", "none")]


def _find_directory(settings: Settings) -> RunDirectory:
    """That of the run's name, or of its main settings alone, where earlier versions put it."""
    named = RunDirectory(Path(settings.output_dir) / run_name(settings))
    earlier = RunDirectory(Path(settings.output_dir) / main_name(settings))
    if settings.name or named.path.exists() or not earlier.config.exists():
        return named
    try:
        saved = to_dict(build_settings([earlier.config], []))
        check_same_config(earlier.config, saved, to_dict(settings))
    except (CheckpointError, ConfigError):
        return named
    return earlier


def _find_range_test(run: RunDirectory, settings: Settings) -> FoundRun:
    """A range test is short: it is finished, or begins again; it never takes a run's place."""
    if settings.resume not in ("auto", "never"):
        raise CheckpointError(
            f"resume={settings.resume}: a range test cannot be continued, it must be auto or never"
        )
    if settings.resume == "never":
        return FoundRun(run)
    if run.last.exists():
        raise CheckpointError(
            f"{run.path}: already holds a run (choose another name=..., or resume=never to replace"
            " it)"
        )
    summary = read_result(run, settings.schedule.name)
    if summary is not None:
        try:
            saved = to_dict(build_settings([run.config], []))
        except ConfigError as error:
            mistake = str(error).removeprefix("--config=")
            raise CheckpointError(f"{mistake} ({WAY_OUT})") from None
        check_same_config(run.config, saved, to_dict(settings))
    return FoundRun(run, summary=summary)


def begin(found: FoundRun, settings: Settings, state: RunState, ranks: Ranks) -> None:
    """Prepare the run directory, and put the state of a checkpoint back if there is one."""
    run, checkpoint, saved, _ = found
    config = to_yaml(settings)
    if checkpoint is None or saved is None:
        ranks.on_main(lambda: run.start(config))
        if settings.resume == "never":
            state.progress.begun_by = _job()
        return
    with ranks.together():
        state.restore(checkpoint, saved, ranks)
    progress = state.progress
    if settings.resume not in ("auto", "never"):
        progress.begun_by = []  # the run that it comes from was
    ranks.on_main(lambda: run.go_on(checkpoint, config, progress.epoch, progress.step))
    ranks.on_main(lambda: forget_later_best(run.best, progress.epoch))
    if ranks.is_main:
        if settings.resume == "never":
            say("resume=never holds for the first start, not for a restart by torchrun or Slurm")
        before = len(saved["ranks"])
        now = "1 rank" if ranks.world_size == 1 else f"{ranks.world_size} ranks"
        inexact = f", with {now} instead of {before}: not bit for bit"
        say(
            f"{run.path}: going on after step {progress.step} (epoch {progress.epoch} of"
            f" {settings.epochs} done)" + inexact * (before != ranks.world_size)
        )
