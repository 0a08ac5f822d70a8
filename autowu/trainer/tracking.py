"""Who watches a run: Weights & Biases when it is switched on, otherwise nobody."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from autowu.trainer.errors import ConfigError


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

    def __init__(self, mode: str, directory: Path, name: str, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError(f"tracking.wandb={mode}: needs `pip install wandb`") from None
        id_file = directory / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid4().hex[:8])
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "autowu"),
                id=id_file.read_text().strip(),
                resume="allow",
                mode=mode,  # type: ignore[arg-type]
                dir=directory,
                name=name,
                config=config,
            )
        except wandb.Error as error:
            raise ConfigError(f"tracking.wandb={mode}: {error}") from None

    def log(self, metrics: dict[str, Any]) -> None:
        tests = metrics["tests"]
        last_test = {f"test/{key}": value for key, value in tests[-1].items()} if tests else {}
        flat = {key: value for key, value in metrics.items() if key not in ("tests", "timing")}
        self.run.log(flat | metrics["timing"] | last_test, step=metrics["step"])

    def finish(self, summary: dict[str, Any]) -> None:
        self.run.summary.update(summary)

    def __exit__(self, kind: object = None, *exception: object) -> None:
        self.run.finish(exit_code=0 if kind is None else 1)


def start_tracker(mode: str, directory: Path, name: str, config: dict[str, Any]) -> Tracker:
    """`mode` is `disabled`, `offline` or `online`; wandb is imported for the last two alone."""
    return Tracker() if mode == "disabled" else WandbTracker(mode, directory, name, config)
