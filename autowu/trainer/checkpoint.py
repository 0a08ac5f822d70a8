"""Checkpoints: everything that a run needs to go on as if it had never stopped.

A checkpoint is written whole or not at all. It holds plain Python values and tensors, so that
`torch.load(path, weights_only=True)` reads it, and the settings that it was made with, so that a
run cannot go on under different ones.
"""

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from autowu.settings import is_adaptive
from autowu.trainer.config_files import FREE_TO_CHANGE, flatten
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import WAY_OUT, CheckpointError, TrainingDiverged, WriteError, shown
from autowu.trainer.files import atomic_file
from autowu.trainer.guard import is_finite
from autowu.trainer.progress import Progress
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.run_state import RunState
from autowu.trainer.schedule_settings import AutoWUSettings

# The dicts in it; beside them `ranks`, a list with an entry for each of them.
KEYS = ("config", "progress", "model", "optimizer", "scheduler", "scaler", "guard")
EARLIER = {  # what runs had from before there was such a setting
    "schedule.probe": 0,
    # None; but their states go on as they would have, whatever it is.
    "schedule.probed_warmup_fraction": AutoWUSettings.probed_warmup_fraction,
}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a dict of plain values and tensors; WriteError when that fails."""
    with atomic_file(path) as file:
        output = _Output(file)
        try:
            torch.save(state, output)  # type: ignore[arg-type]  # it writes and flushes, no more
        except RuntimeError as error:
            if output.error is not None:
                raise output.error from None
            raise WriteError(f"{path}: cannot be written: {error}") from None


class _Output:
    """A file that remembers why it could not be written, which torch's writer hides."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


class Checkpoints:
    """When and where a run is saved.

    Args:
        run: whose `last.pt` is replaced every time.
        config: the settings, to be kept with the state.
        every: `epoch`, `<n> epochs`, or optimizer steps.
        ranks: those that share the run; the first of them writes.
    """

    def __init__(
        self, run: RunDirectory, config: dict[str, Any], every: int | str, ranks: Ranks
    ) -> None:
        self.run = run
        self.config = config
        self.ranks = ranks
        self.every_steps = every if isinstance(every, int) else None
        self.every_epochs = None
        if isinstance(every, str):
            self.every_epochs = 1 if every == "epoch" else int(every.split()[0])

    def is_due(self, step: int) -> bool:
        """Whether to save after so many optimizer steps of the run."""
        return self.every_steps is not None and step % self.every_steps == 0

    def is_due_after_epoch(self, progress: Progress) -> bool:
        """Whether to save after the epoch that was just finished."""
        if self.every_epochs is not None:
            return progress.epoch % self.every_epochs == 0
        return self.is_due(progress.step)

    def save(self, state: RunState) -> None:
        """Write the whole state; every rank waits until it is on the disk.

        Raises:
            WriteError: that fails; the checkpoint before is still there.
            TrainingDiverged: the weights are not finite, and no sweep is under way that could end
                in better ones; the checkpoint before is still there, too.
        """
        if not state.is_sweeping and not is_finite(state.network):
            raise TrainingDiverged(
                f"the weights or running statistics are not finite at step {state.progress.step};"
                f" {self.run.last_save('that')}"
            )
        gathered = {"config": self.config, **state.gather(self.ranks)}

        def write() -> None:
            self.run.sync()  # the lines that the checkpoint counts on come first
            save(self.run.last, gathered)

        self.ranks.on_main(write)


def save_weights(path: Path, model: dict[str, Any], progress: Progress) -> None:
    """Write weights alone, with the epoch and the test accuracy (%) that they stand for."""
    save(
        path,
        {
            "model": model,
            "epoch": progress.epoch,
            "test_accuracy": progress.test_accuracy,
        },
    )


def forget_later_best(path: Path, epoch: int) -> None:
    """Remove weights of an epoch that the run, which goes on after `epoch`, will make anew.

    It need not come to the same ones, with another number of ranks for instance, and what was best
    before them was overwritten.
    """
    if not path.exists():
        return
    try:
        is_later = torch.load(path, map_location="cpu", weights_only=True)["epoch"] > epoch
    except (OSError, MemoryError):
        raise  # the weights may be good
    except Exception:  # damaged
        is_later = True
    if is_later:
        path.unlink()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; CheckpointError for a damaged or foreign file."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file can fail in the zip reader, the unpickler or anywhere in between.
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason}); {WAY_OUT}") from None
    found = state if isinstance(state, dict) else {}
    missing = [key for key in KEYS if not isinstance(found.get(key), dict)]
    if not (isinstance(found.get("ranks"), list) and found["ranks"]):
        missing.append("ranks")
    if missing:
        way_out = WAY_OUT if path.name == "last.pt" else "give the last.pt, or the folder, of a run"
        raise CheckpointError(
            f"{path}: not a checkpoint that a run can continue from (no {', '.join(missing)} in"
            f" it); {way_out}"
        )
    return state


def check_same_config(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise CheckpointError, naming the key, when a run would go on under different settings."""
    before, now = dict(flatten(saved)), dict(flatten(current))
    sweep = now.get("schedule.sweep", AutoWUSettings.sweep)
    growth = now.get("schedule.growth", AutoWUSettings.growth)
    acts_on_nothing: tuple[str, ...] = ()
    if not is_adaptive(sweep, growth):
        acts_on_nothing = ("schedule.probe", "schedule.probed_warmup_fraction")
    elif (EARLIER | before)["schedule.probe"] == now.get("schedule.probe") == 0:
        acts_on_nothing = ("schedule.probed_warmup_fraction",)
    for key in [*now, *before]:
        old, new = before.get(key, EARLIER.get(key, "(unset)")), now.get(key, "(unset)")
        if old != new and not key.startswith((*FREE_TO_CHANGE, *acts_on_nothing)):
            is_older = key in EARLIER and key not in before
            go_on = f"{key}={old} to go on with it, " if is_older else ""
            raise CheckpointError(
                f"{key}={shown(new)}: the run in {path.parent} has {key}={shown(old)}"
                f" (choose {go_on}another name=..., or resume=never to replace that run)"
            )
