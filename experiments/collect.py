"""Rows of results.csv: from the run directories of train.py, and from the commands of a sweep.

A cell is told by its config, variant, epochs, batch size and seed. The scripts call its run
`<config>-batch<B>[-<variant>]-seed<S>`; the rest comes from the run's config.yaml, which must agree
with the name. Only the accuracy of the final weights is read, never that of the best epoch.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autowu.settings import PAPER
from autowu.trainer.config import build_settings
from autowu.trainer.errors import ConfigError
from autowu.trainer.settings import Settings

Row = dict[str, str]
Key = tuple[str, ...]

# Without `data`, which a cell that is not run has not: a seed has one run, on one data set.
KEY = ("config", "variant", "epochs", "batch_size", "seed")
COLUMNS = (
    "source",  # ours, published
    "status",  # done, not run
    "config",  # file in configs/, without .yaml
    "variant",  # what differs from the config, in the words of the run's name
    "method",
    "epochs",
    "batch_size",  # images per optimizer step, over all ranks
    "max_warmup_fraction",
    "seed",
    "n",  # runs behind the row
    "test_accuracy",  # %, of the final weights; a mean where n > 1
    "deviation",  # standard deviation over those runs
    "switch_step",
    "start_lr",  # of the decay; without AutoWU the peak LR
    "steps_per_epoch",
    "total_steps",
    "diverged",
    "seconds",
    "images_per_second",
    "data_wait",  # share of the training time
    "gpu_memory_gib",
    "world_size",
    "data",
    "precision",
    "compile",
    "torch",
    "commit",
    "device",
)
NAME = re.compile(r"(?P<config>.+?)-batch(?P<batch_size>\d+)(-(?P<variant>.+))?-seed(?P<seed>\d+)")
METHODS = {"warmup_cosine": "baseline"}
DECAYS = {"cosine": "cos", "constant_cosine": "const-cos"}


class ReportError(Exception):
    """What was given cannot be collected; the message is one line."""


def key_of(row: Mapping[str, str]) -> Key:
    return tuple(row[name] for name in KEY)


def words_of(key: Key) -> str:
    """A cell in the words of its run's name."""
    config, variant, epochs, batch_size, seed = key
    middle = f"-{variant}" if variant else ""
    return f"{config}-batch{batch_size}{middle}-seed{seed} ({epochs} epochs)"


def find_runs(folder: Path) -> list[Path]:
    """The finished runs in a folder, or the folder itself if it is one, sorted by name."""
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder")
    return sorted(path.parent for path in folder.rglob("summary.json"))


def method_of(settings: Settings) -> str:
    """The paper's name of a schedule: `baseline`, `AutoWU + cos`; `published` for its own rules."""
    schedule: Any = settings.schedule
    if schedule.name != "autowu":
        return METHODS.get(schedule.name, schedule.name)
    name = f"AutoWU + {DECAYS.get(schedule.decay, schedule.decay)}"
    if all(getattr(schedule, key) == value for key, value in PAPER.items()):
        name = f"published {name}"
    return name if schedule.growth == "exponential" else f"{name}, {schedule.growth} growth"


def planned_row(name: str, settings: Settings) -> Row:
    """The row of a cell that has not been run: what it is, and nothing else.

    Raises:
        ReportError: the run's name does not say what it is, or says something else.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ReportError(f"{name}: must be called <config>-batch<B>[-<variant>]-seed<S>")
    for part, value in (("batch_size", settings.data.batch_size), ("seed", settings.seed)):
        if int(match[part]) != value:
            raise ReportError(f"{name}: its settings have {part}={value}")
    return dict.fromkeys(COLUMNS, "") | {
        "source": "ours",
        "status": "not run",
        "config": match["config"],
        "variant": match["variant"] or "",
        "method": method_of(settings),
        "epochs": str(settings.epochs),
        "batch_size": match["batch_size"],
        "max_warmup_fraction": format_number(
            getattr(settings.schedule, "max_warmup_fraction", None), "g"
        ),
        "seed": match["seed"],
    }


def planned_rows(commands: Iterable[str]) -> list[Row]:
    """The rows of the cells whose commands a sweep prints in a dry run."""
    return [_planned_by(line.strip()) for line in commands if line.strip()]


def _planned_by(command: str) -> Row:
    words = shlex.split(command)
    if "train.py" not in words:
        raise ReportError(f"{command}: not a command that runs train.py")
    words = words[words.index("train.py") + 1 :]
    files = [Path(words[i + 1]) for i, word in enumerate(words[:-1]) if word == "--config"]
    try:
        settings = build_settings(files, [word for word in words if "=" in word])
    except ConfigError as error:
        raise ReportError(f"{command}: {error}") from None
    return planned_row(settings.name or "", settings)


def run_row(run: Path) -> Row:
    """The row of a finished run.

    Raises:
        ReportError: a file of it is missing or damaged.
    """
    summary = _read_json(run / "summary.json")
    try:
        settings = build_settings([run / "config.yaml"], [])
    except ConfigError as error:
        words = " ".join(str(error).split())  # a mistake in YAML has several lines
        raise ReportError(f"{run / 'config.yaml'}: {words}") from None
    row = planned_row(run.name, settings)
    try:
        row |= {
            "status": "done",
            "n": "1",
            "test_accuracy": format(summary["test_accuracy"], ".6f"),
            "switch_step": format_number(summary["switch_step"], "d"),
            "start_lr": format_number(summary["start_lr"], ".6g"),
            "steps_per_epoch": format_number(summary["steps_per_epoch"], "d"),
            "total_steps": format_number(summary["total_steps"], "d"),
            "diverged": str(summary["diverged"]).lower(),
            "seconds": format_number(summary["seconds"], ".1f"),
            "images_per_second": format_number(summary["images_per_second"], ".1f"),
            "world_size": format_number(summary["world_size"], "d"),
            "data": settings.data.name,
            "precision": settings.precision,
            "compile": str(settings.compile).lower(),
            "torch": str(summary["versions"]["torch"]),
            "commit": "+".join(map(_short, summary.get("commits", [summary["commit"] or ""]))),
            "device": str(summary["device"]),
        }
    except KeyError as error:
        raise ReportError(f"{run / 'summary.json'}: has no {error.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise ReportError(f"{run / 'summary.json'}: {error}") from None
    return row | _costs(run / "metrics.jsonl")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error})") from None
    if not isinstance(summary, dict):
        raise ReportError(f"{path}: is not the summary of a run")
    return summary


def _costs(path: Path) -> Row:
    """Of all epochs: the share of time spent waiting for data, the largest memory of the GPU."""
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        timings = [json.loads(line)["timing"] for line in lines]
        waits = [t["data_wait"] * t["seconds"] for t in timings if t.get("data_wait") is not None]
        memory = [t["gpu_memory_gib"] for t in timings if t.get("gpu_memory_gib") is not None]
        seconds = sum(t["seconds"] for t in timings if t.get("data_wait") is not None)
        return {
            "data_wait": format_number(sum(waits) / seconds if seconds else None, ".4f"),
            "gpu_memory_gib": format_number(max(memory, default=None), ".2f"),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ReportError(f"{path}: is not a line of JSON an epoch") from None


def format_number(value: float | None, form: str) -> str:
    """A number as it stands in a row; empty where there is none."""
    return "" if value is None else format(value, form)


def _short(commit: str) -> str:
    return re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", commit)
