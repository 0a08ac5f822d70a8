"""Ctrl-C and SIGTERM end a run between two steps instead of in the middle of one."""

import signal
from types import FrameType
from typing import Any, TypeVar

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

    @property
    def number(self) -> int:
        """The signal that ends the run: this rank's, or SIGTERM for one that another rank got."""
        return signal.SIGTERM if self.received is None else self.received

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)
