"""The result of a run: what summary.json holds and what is said at the end."""

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from autowu.scheduler import AutoWU
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import CheckpointError, WriteError
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.run_state import RunState
from autowu.trainer.schedules import Schedule
from autowu.trainer.stdout import say

FEW_STEPS = 200  # optimizer steps; below most warmups end at their cap (`experiments/budgets`)
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "gpytorch",
    "numpy",
    "scikit-learn",
    "adamp",
    "omegaconf",
)


def summarize(
    state: RunState,
    ranks: Ranks,
    schedule_name: str,
    steps_per_epoch: int,
    batch_size: int,
) -> dict[str, Any]:
    """What summary.json holds; `test_accuracy` is that of the final weights, in %."""
    progress, scheduler = state.progress, state.scheduler
    return {
        "test_accuracy": progress.test_accuracy,
        "best_test_accuracy": progress.best_test_accuracy,
        **(
            {}
            if progress.ema_test_accuracy is None
            else {"ema_test_accuracy": progress.ema_test_accuracy}
        ),
        "schedule": schedule_name,
        "switch_step": scheduler.switch_step,
        "start_lr": scheduler.start_lr,
        **_of_autowu(scheduler),
        "diverged": scheduler.diverged or state.guard.restored_step is not None,
        "restored_step": state.guard.restored_step,
        "skipped_steps": progress.skipped_steps,
        "epochs": progress.epoch,
        "steps_per_epoch": steps_per_epoch,
        "total_steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "images_per_second": round(progress.step * batch_size / progress.train_seconds, 1),
        **surroundings(ranks),
        **({"commit": progress.commits[0]} if progress.commits else {}),
        **({"commits": progress.commits} if len(progress.commits) > 1 else {}),
    }


def _of_autowu(scheduler: Schedule) -> dict[str, Any]:
    if not isinstance(scheduler, AutoWU):
        return {}
    return {"found_minimum": scheduler.found_minimum, "first_lr": scheduler.lr_at(0)}


def surroundings(ranks: Ranks) -> dict[str, Any]:
    """What a result was made with: ranks, device, versions, and the commit that was begun with."""
    on_gpu = ranks.device.type == "cuda"
    return {
        "world_size": ranks.world_size,
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu else "cpu",
        "versions": {"python": platform.python_version()} | _versions(),
        "commit": commit_of_code(),
    }


def read_result(run: RunDirectory, schedule: str) -> dict[str, Any] | None:
    """The summary of a finished run, with a schedule of this name; None where there is none.

    Raises:
        CheckpointError: the file holds something else, which cannot be shown.
    """
    try:
        summary = json.loads(run.summary.read_text(encoding="utf-8"))
        result_lines(summary, run)
        if summary["schedule"] == schedule:
            return summary
        reason = f"of a run with schedule.name={summary['schedule']}"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{run.summary}: cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        reason = "not valid JSON"
    except KeyError as error:
        reason = f"not the summary of a run, it has no key {error}"
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        reason = f"not the summary of a run ({error})"
    raise CheckpointError(f"{run.summary}: {reason}; remove it, and the same command makes it anew")


def show_result(summary: dict[str, Any], run: RunDirectory) -> None:
    """Draw the plot unless it is there, and print the result.

    Raises:
        WriteError: the plot could not be drawn; the result is printed all the same.
    """
    lines = result_lines(summary, run)
    if summary["schedule"] == "lr_range_test":
        say(lines)
        return
    mistake = None
    if not run.plot.exists():
        from autowu.plotting import plot_run

        try:
            plot_run(run.path)
        except (OSError, ValueError) as error:  # a disk that is full, or a file that is gone
            mistake = f"{run.plot}: cannot be drawn: {getattr(error, 'strerror', None) or error}"
    say(lines)
    if mistake is not None:
        raise WriteError(mistake)
    say(f"plot {run.plot}")


def result_lines(summary: dict[str, Any], run: RunDirectory) -> str:
    """The result in words."""
    if summary["schedule"] == "lr_range_test":
        lr = summary["suggested_lr"]
        found = (
            "no LR to suggest: the loss fell nowhere" if lr is None else f"suggested LR {lr:.3g}"
        )
        return f"{found}\nplot {run.range_test_plot}"
    return closing_lines(summary)


def closing_lines(summary: dict[str, Any]) -> str:
    """The result of a training: the accuracy, and the LR and the epoch that were found."""
    switch_step, num_steps = summary["switch_step"], summary["total_steps"]
    warmup = f"no warmup in {num_steps} steps"
    if switch_step:
        epoch = switch_step / summary["steps_per_epoch"]
        warmup = (
            f"warmup ended at epoch {epoch:.1f} of {summary['epochs']} (step {switch_step} of"
            f" {num_steps})"
        )
    found = "AutoWU found LR" if summary["schedule"] == "autowu" else "peak LR"
    if not summary.get("found_minimum", True) and not summary["diverged"]:
        usual = " (usual in so short a run)" if num_steps < FEW_STEPS else ""
        found = f"the longest warmup ended before a minimum was certain{usual}: decay from LR"
    if switch_step is None:  # in fp16, where each later step was left out
        result = f"the warmup had not ended when the run did, in {num_steps} steps"
    else:
        result = f"{found} {summary['start_lr']:.3g}, {warmup}"
    average = ""
    if summary.get("ema_test_accuracy") is not None:
        average = f", of the averaged weights {summary['ema_test_accuracy']:.2f} %"
    lines = []
    if summary["restored_step"] is not None:
        lines.append(
            f"the sweep diverged; went on from the weights of step {summary['restored_step']}"
        )
    elif summary["diverged"]:
        lines.append("the sweep diverged: its last losses were not finite")
    if summary["skipped_steps"]:
        lines.append(f"{summary['skipped_steps']} steps skipped: the gradient overflowed in fp16")
    return "\n".join(
        [
            *lines,
            f"test accuracy {summary['test_accuracy']:.2f} %"
            f" (best epoch {summary['best_test_accuracy']:.2f} %)" + average,
            result,
        ]
    )


def _versions() -> dict[str, str]:
    """The versions of the packages that a result depends on, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit_of_code() -> str | None:
    """The git commit of this code, `-dirty` when files differ from it; None outside git.

    That of the first call, which is to be made before others can change the files.
    """
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
