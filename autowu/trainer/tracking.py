"""Who watches a run: Weights & Biases and TensorBoard when they are switched on."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from autowu.trainer.errors import ConfigError, WriteError
from autowu.trainer.settings import TrackingSettings, WandbMode


class Tracker:
    """Watches nothing, so that the loop need not ask whether anybody does."""

    def log(self, metrics: dict[str, Any]) -> None:
        """An epoch is done; `metrics["step"]` optimizer steps in all."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is finished."""

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop watching; a run that did not finish may go on later."""


class WandbTracker(Tracker):
    """A Weights & Biases run of the project `WANDB_PROJECT`, or `autowu`.

    Its id is kept in the run directory, so that a run that goes on is one run there too.
    """

    def __init__(self, mode: WandbMode, directory: Path, name: str, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError(f"tracking.wandb={mode}: needs `pip install wandb`") from None
        id_file = directory / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid4().hex[:8])
        run_id = id_file.read_text(encoding="utf-8", errors="replace").strip()
        if not re.fullmatch(r"[\w.-]+", run_id, re.ASCII):
            raise ConfigError(
                f"{id_file}: not the id of a run of Weights & Biases; remove it, and the run begins"
                " anew there"
            )
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "autowu"),
                id=run_id,
                resume="allow",
                mode=mode,
                dir=directory,
                name=name,
                config=config,
            )
        except wandb.Error as error:
            raise ConfigError(f"tracking.wandb={mode}: {error}") from None

    def log(self, metrics: dict[str, Any]) -> None:
        for step, values in rows(metrics):
            self.run.log(values, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        self.run.summary.update(summary)

    def __exit__(self, kind: object = None, *exception: object) -> None:
        self.run.finish(exit_code=0 if kind is None else 1)


class TensorBoardTracker(Tracker):
    """Event files in the run directory, for `tensorboard --logdir runs`."""

    def __init__(self, directory: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "tracking.tensorboard=true: needs `pip install tensorboard`"
            ) from None
        # What an interrupted run wrote after its checkpoint is hidden.
        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step)

    def log(self, metrics: dict[str, Any]) -> None:
        for step, values in rows(metrics):
            for key, value in values.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(key, value, step)

    def __exit__(self, *exception: object) -> None:
        self.writer.close()


class Trackers(Tracker):
    """Several that watch the same run."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def log(self, metrics: dict[str, Any]) -> None:
        with _writing():
            for tracker in self.trackers:
                tracker.log(metrics)

    def finish(self, summary: dict[str, Any]) -> None:
        with _writing():
            for tracker in self.trackers:
                tracker.finish(summary)

    def __exit__(self, kind: object = None, *exception: object) -> None:
        """Close all; of several errors, that of the run first among them, the first is told."""
        first: OSError | None = None
        for tracker in self.trackers:
            try:
                tracker.__exit__(kind, *exception)
            except OSError as error:
                first = first or error
        if first is not None and kind is None:
            with _writing():
                raise first


@contextmanager
def _writing() -> Iterator[None]:
    """Report a file that cannot be written as the run's other files are."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"tracking: cannot be written: {error}") from None


def rows(metrics: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What an epoch's line of metrics.jsonl says, as flat values under the steps they stand for.

    A row for each test of the scheduler, then one for the epoch. Steps of tests do not count those
    that the scaler of fp16 skipped, and all such steps up to the end of the epoch are added: steps
    never go back, and where some were skipped after a test it stands so many too late.
    """
    num_skipped = metrics["step"] - metrics["scheduler_step"]
    for test in metrics["tests"]:
        probabilities = test["probabilities"]
        yield (
            test["step"] + num_skipped,
            {
                "test/positive": int(test["positive"]),
                "test/lr": test["lr"],
                "test/lr_at_minimum": test["lr_at_minimum"],
                **{f"test/probability_{j}": p for j, p in enumerate(probabilities)},
            },
        )
    flat = {key: value for key, value in metrics.items() if key not in ("tests", "timing")}
    flat |= metrics["timing"]
    yield metrics["step"], {key: value for key, value in flat.items() if value is not None}


def start_tracker(
    settings: TrackingSettings,
    directory: Path,
    name: str,
    config: dict[str, Any],
    first_step: int,
    speaks: bool = True,
) -> Tracker:
    """What `settings` switch on; their packages are imported for nothing else.

    Args:
        settings: of the run.
        directory: of the run.
        name: of the run.
        config: every setting, to be shown beside the metrics.
        first_step: optimizer steps done already.
        speaks: False on all ranks but one.
    """
    trackers: list[Tracker] = []
    with _writing():
        if speaks and settings.wandb != "disabled":
            trackers.append(WandbTracker(settings.wandb, directory, name, config))
        if speaks and settings.tensorboard:
            trackers.append(TensorBoardTracker(directory, first_step))
    return Trackers(trackers)
