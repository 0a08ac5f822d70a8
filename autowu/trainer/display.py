"""What a run shows while it trains: a line an epoch, and on a terminal a progress bar."""

import math
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from autowu.trainer.stdout import say

T = TypeVar("T")
LONGEST_SILENCE = 60.0  # seconds


class Display:
    """A bar over all optimizer steps with the time left, and a line of text every few epochs.

    At most `max_lines` of them, and one after each epoch where these take a minute or more.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        steps_done: int,
        max_lines: int = 30,
        speaks: bool = True,
        has_warmup: bool = True,
    ) -> None:
        """`speaks` is False on all ranks but one, which show nothing.

        Without a warmup the lines do not name the phase: it is always the same.
        """
        self.has_warmup = has_warmup
        self.speaks = speaks
        self.epochs = epochs
        self.every = math.ceil(epochs / max_lines)
        self._said_at = time.monotonic()
        console = Console()
        self.is_terminal = speaks and console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.is_terminal,
        )
        self.task = self.progress.add_task(
            "training", total=epochs * steps_per_epoch, completed=steps_done
        )

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def count(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, each counted as a step when it has been used."""
        for batch in batches:
            yield batch
            self.progress.advance(self.task)

    def epoch_done(self, metrics: dict[str, Any], lr: float) -> None:
        """Show the line of metrics.jsonl that was just written.

        Args:
            metrics: of the epoch; its `phase` is that of the next step.
            lr: of the next step, so that it is one of that phase.
        """
        width = len(str(self.epochs))
        line = (
            f"epoch {metrics['epoch']:{width}}/{self.epochs}"
            f"  loss {metrics['train_loss']:.4f}"
            f"  test {metrics['test_accuracy']:5.2f} %"
            f"  LR {lr:.1e}" + f"  {metrics['phase']}" * self.has_warmup
        )
        is_due = metrics["epoch"] % self.every == 0 or metrics["epoch"] == self.epochs
        if is_due or time.monotonic() - self._said_at >= LONGEST_SILENCE:
            self.say(line)
            self._said_at = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.is_terminal:
            say(line, partial(self.progress.console.print, highlight=False))
        elif self.speaks:
            say(line)
