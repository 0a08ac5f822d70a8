"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is written whole or not at all. It holds plain Python values and tensors, so that
`torch.load(path, weights_only=True)` reads it, and the settings that it was made with, so that a
run cannot go on under different ones.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from autowu.trainer.build_schedule import Schedule
from autowu.trainer.config_files import flatten
from autowu.trainer.errors import CheckpointError
from autowu.trainer.progress import Progress

KEYS = ("config", "progress", "model", "optimizer", "scheduler", "random_state")
FREE_TO_CHANGE = ("output_dir", "name", "tracking.")  # where a run lies and who watches it


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` on success, and leaves no trace on failure."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(
    path: Path,
    config: dict[str, Any],
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Schedule,
) -> None:
    """Write the whole state of a run."""
    state = {
        "config": config,
        "progress": asdict(progress),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        # Dropout draws from these; the order of the images is keyed by (seed, epoch) instead.
        "random_state": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }
    with atomic_file(path) as file:
        torch.save(state, file)


def save_weights(path: Path, model: nn.Module, progress: Progress) -> None:
    """Write the weights alone, with the epoch and the test accuracy (%) that they stand for."""
    state = {
        "model": model.state_dict(),
        "epoch": progress.epoch,
        "test_accuracy": progress.test_accuracy,
    }
    with atomic_file(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; CheckpointError for a truncated or foreign file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file can fail in the zip reader, the unpickler or anywhere in between.
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason})") from None
    found = state if isinstance(state, dict) else {}
    missing = [key for key in KEYS if not isinstance(found.get(key), dict)]
    if missing:
        raise CheckpointError(
            f"{path}: not a checkpoint that a run can continue from (no {', '.join(missing)} in it)"
        )
    return state


def check_same_settings(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise CheckpointError, naming the key, when a run would go on under different settings."""
    before, now = dict(flatten(saved)), dict(flatten(current))
    for key in [*now, *before]:
        old, new = before.get(key, "(unset)"), now.get(key, "(unset)")
        if old != new and not key.startswith(FREE_TO_CHANGE):
            raise CheckpointError(
                f"{key}={_shown(new)}: the run in {path.parent} has {key}={_shown(old)}"
                " (choose another name=..., or resume=never to replace that run)"
            )


def _shown(value: Any) -> Any:
    return "null" if value is None else value


def restore_checkpoint(
    path: Path,
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Schedule,
) -> Progress:
    """Put what `load_checkpoint(path)` read back into the objects that it was taken from."""
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])  # writes its LR into the optimizer
        torch.set_rng_state(state["random_state"]["cpu"])
        if len(state["random_state"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_state"]["cuda"])
        return Progress(**state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        message = f"{path}: does not fit the network or the optimizer of this version ({reason})"
        raise CheckpointError(message) from error
