"""Ctrl-C and SIGTERM end a run between two steps instead of in the middle of one."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

from autowu.trainer.errors import Interrupted

T = TypeVar("T")


class StopSignals:
    """Remembers the first SIGINT or SIGTERM until the next step; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; Interrupted instead of the next one when a signal has come."""
        for batch in batches:
            if self.received is not None:
                raise Interrupted(self.received)
            yield batch

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)
