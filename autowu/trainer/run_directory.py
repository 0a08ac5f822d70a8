"""The folder of one run: what stands in which file, and how it is cut back to a checkpoint.

config.yaml     the settings; `python train.py --config config.yaml` repeats the run
metrics.jsonl   a line an epoch; all that depends on the clock is under `timing`
steps.csv       a line an optimizer step: the step, the LR that it used, its loss; those that the
                scaler of fp16 skipped count here and in `step`, but not in `scheduler_step`,
                `switch_step` and the steps of tests
summary.json    the result, written when the run is finished
schedule.png    the loss, the tests and the LR
last.pt         the state that the run goes on from
best.pt         the weights of the best epoch
lr_range_test.* the curve of a range test, and its plot
resumed_from    the checkpoint that the run began with, when that is another run's
wandb_id        by which Weights & Biases knows the run, when it watches
lock            locked by the process that trains the run; a second one ends with an error
                (`run_lock.py`). One that was killed leaves the file, and no lock
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from autowu.trainer.errors import WAY_OUT, CheckpointError, ConfigError, WriteError
from autowu.trainer.files import append, atomic_file, copy, remove_unfinished, sync

STEPS_HEADER = "step,lr,loss\n"


class RunDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.steps = path / "steps.csv"
        self.summary = path / "summary.json"
        self.plot = path / "schedule.png"
        self.range_test_plot = path / "lr_range_test.png"
        self.last = path / "last.pt"
        self.best = path / "best.pt"
        self.wandb_id = path / "wandb_id"
        self.origin = path / "resumed_from"

    def find_checkpoint(self, resume: str) -> Path | None:
        """The checkpoint to go on from under `resume`: `auto`, `never`, or a path; None: start."""
        if resume == "never":
            return None
        if resume == "auto":
            if self.summary.exists() and not self.last.exists():
                raise CheckpointError(
                    f"{self.path}: holds a finished run without its last.pt"
                    " (choose another name=..., or resume=never to replace that run)"
                )
            files = (self.best, self.metrics, self.config)
            foreign = next((file for file in files if file.exists()), None)
            if foreign and not self.last.exists() and not self.steps.exists():
                raise CheckpointError(
                    f"{foreign}: lies there without a run (choose another name=..., or resume=never"
                    " to replace it)"
                )
            if self.origin.exists() and not self.last.exists():
                raise CheckpointError(
                    f"{self.path}: was to begin with {self.read_origin()}, which was not"
                    " copied to the end (give it by resume=PATH once more, or resume=never)"
                )
            return self.last if self.last.exists() else None
        path = Path(resume)
        path = path / "last.pt" if path.is_dir() else path
        if not path.is_file():
            raise CheckpointError(f"resume={resume}: no checkpoint there")
        is_again = self.origin.exists() and self.read_origin() == str(path.resolve())
        if is_again and self.last.exists():
            return self.last  # the same command once more, of a job that was queued again
        if self.last.exists() and not self.last.samefile(path):
            raise CheckpointError(
                f"resume={resume}: {self.path} already holds a run (choose another name=...)"
            )
        return path

    def read_origin(self) -> str:
        """The path that `resumed_from` holds; of a damaged file, one that is none."""
        return self.origin.read_text(encoding="utf-8", errors="replace")

    def last_save(self, event: str) -> str:
        """The end of an error: the last checkpoint is from before `event`, or there is none."""
        if not self.last.exists():
            return "nothing was saved yet to go on from"
        return f"the last checkpoint is from before {event} (resume=never starts afresh)"

    def start(self, config: str) -> None:
        """Begin a run in this folder; what an earlier run left in it is removed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            self._write(self.steps, STEPS_HEADER)  # first: it marks the folder as a run's
            results = (self.summary, self.plot, self.last, self.best, self.metrics)
            range_test = self.path.glob("lr_range_test.*")
            for file in (*results, *range_test, self.wandb_id, self.origin):
                file.unlink(missing_ok=True)
            self._write(self.config, config)
        except OSError as error:
            raise ConfigError(f"output_dir: cannot write {self.path}: {error.strerror}") from None
        except WriteError as error:
            raise ConfigError(f"output_dir: {error}") from None

    def go_on(self, checkpoint: Path, config: str, epoch: int, step: int) -> None:
        """Take the run up where `checkpoint` left it; the lines written after it are cut off."""
        source = RunDirectory(checkpoint.parent)
        try:
            metrics = _first_lines(source.metrics, epoch, _is_epoch)
            steps = _first_lines(source.steps, 1 + step, _is_step)
            self.path.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path)
            is_from_elsewhere = not self.last.exists()
            if is_from_elsewhere:
                self._write(self.origin, str(checkpoint.resolve()))
            self._write(self.config, config)
            self._write(self.metrics, metrics)
            self._write(self.steps, steps)
            if is_from_elsewhere:
                if source.best.exists():
                    copy(source.best, self.best)
                else:
                    self.best.unlink(missing_ok=True)  # of an earlier attempt with another source
                copy(checkpoint, self.last)  # the last: without it the same command begins again
        except OSError as error:
            raise CheckpointError(f"{checkpoint}: cannot go on from it: {error}") from None

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        append(self.metrics, json.dumps(without_nan(metrics), allow_nan=False) + "\n")

    def append_steps(self, first_step: int, lrs: Sequence[float], losses: Sequence[float]) -> None:
        """Write a line a step; `step` counts the steps done before it, so the first is 0."""
        rows = enumerate(zip(lrs, losses, strict=True), first_step)
        append(self.steps, "".join(f"{step},{lr!r},{loss:.9g}\n" for step, (lr, loss) in rows))

    def sync(self) -> None:
        """Have on the disk what was appended, before a checkpoint that counts on it."""
        for path in (self.steps, self.metrics):
            if path.exists():
                sync(path)

    def write_summary(self, summary: dict[str, Any]) -> None:
        text = json.dumps(without_nan(summary), indent=2, allow_nan=False)
        self.plot.unlink(missing_ok=True)  # drawn while the run was under way
        self._write(self.summary, text + "\n")

    def _write(self, path: Path, text: str) -> None:
        with atomic_file(path) as file:
            file.write(text.encode())


def without_nan(value: Any) -> Any:
    """The same value with NaN and infinity, which JSON does not have, replaced by None."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first_lines(path: Path, count: int, is_right: Callable[[int, str], bool]) -> str:
    """The lines that a checkpoint counts on.

    Args:
        path: of the file.
        count: of them.
        is_right: whether a line, given after its number from 0 on, is what stands there.

    Raises:
        CheckpointError: they are not all there, or something else is.
    """
    if count == 0:  # metrics.jsonl is made with its first line
        return ""
    try:
        with open(path, "rb") as file:
            lines = [line for line in islice(file, count) if line.endswith(b"\n")]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {WAY_OUT}") from None
    if len(lines) < count:
        raise CheckpointError(
            f"{path}: {len(lines)} whole lines where the checkpoint needs {count}; {WAY_OUT}"
        )
    try:
        text = b"".join(lines).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path}: damaged, its byte {error.start} is not UTF-8; {WAY_OUT}"
        ) from None
    for number, line in enumerate(text.split("\n")[:-1]):
        if not is_right(number, line):
            raise CheckpointError(f"{path}: damaged in line {number + 1}; {WAY_OUT}")
    return text


def _is_epoch(number: int, line: str) -> bool:
    try:
        return json.loads(line)["epoch"] == number + 1
    except (LookupError, TypeError, ValueError):
        return False


def _is_step(number: int, line: str) -> bool:
    if number == 0:
        return line.strip() == STEPS_HEADER.strip()
    try:
        step, *lr_and_loss = line.split(",")
        return int(step) == number - 1 and len([float(each) for each in lr_and_loss]) == 2
    except ValueError:
        return False
