"""Ctrl-C, SIGTERM and a closed terminal end a run between two steps, not in the middle of one."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import Any

STDERR = 2  # the file; Python's own writer is not to be called in a handler

HANGUP: int | None = getattr(signal, "SIGHUP", None)  # of a terminal; None on systems without it

# One wish to stop can arrive twice: from Slurm and from torchrun, which passes it on; or, when a
# terminal is closed, from the shell and from the kernel.
SAME_WISH_SECONDS = 3.0
ASK_SECONDS = 5.0  # torchrun ends its ranks 30 seconds after it has told them to stop

_HEARD = (
    f"\ntrain.py: stopping after this step; Ctrl-C once more, in {SAME_WISH_SECONDS:g} seconds or"
    " later, ends at once and saves nothing\n"
)


class Pace:
    """How many steps may lie between two moments at which all ranks ask whether one shall stop.

    As many as take `ASK_SECONDS`, at most `most`; one before it is known how long they take.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.steps = 1

    def took(self, seconds: float) -> None:
        """A step takes so long: a mean over the ranks, so that all of them count alike."""
        self.steps = max(1, min(self.most, int(ASK_SECONDS / max(seconds, 1e-9))))


class StopSignals:
    """Remembers the first SIGINT, SIGTERM or SIGHUP until the next step; a later one acts at once.

    A SIGHUP that is ignored already stays so: under nohup a run goes on without its terminal.
    """

    def __init__(self) -> None:
        self._received_at = 0.0
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
            numbers.append(HANGUP)
        for number in numbers:
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
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
            # Whoever pressed a key waits for an answer; a step or the data may take long.
            is_main = os.environ.get("RANK", "0") == "0"
            if number == signal.SIGINT and is_main and os.isatty(STDERR):
                with suppress(OSError):  # a terminal that is gone
                    os.write(STDERR, _HEARD.encode())
        elif now - self._received_at > SAME_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
