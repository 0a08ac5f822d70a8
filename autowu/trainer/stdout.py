"""What a run says on standard output and standard error, for which it never fails."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


def _print(text: str) -> None:
    print(text, flush=True)


def say(text: str, write: Callable[[str], object] = _print) -> None:
    """Write a line, or several; what the encoding of the output lacks is written as `\\xfc`."""
    try:
        write(text)
    except UnicodeEncodeError as error:
        write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))


@contextmanager
def unfailing_outputs() -> Iterator[None]:
    """A block in which no write to standard output or standard error fails, whoever makes it.

    Their terminal may be closed, their reader gone, their disk full. Once a write fails, what is
    written later goes nowhere, at the exit of the process as well.
    """
    outputs = [None if file is None else _Unfailing(file) for file in (sys.stdout, sys.stderr)]
    with redirect_stdout(outputs[0]), redirect_stderr(outputs[1]):
        try:
            yield
        finally:
            for output in filter(None, outputs):
                output.flush()


class _Unfailing:
    """A file for text that takes whatever is written."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        if name == "_file":  # of a copy under way
            raise AttributeError(name)
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with self._going_nowhere_at_last():
            self._file.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._going_nowhere_at_last():
            self._file.flush()

    @contextmanager
    def _going_nowhere_at_last(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # full for a moment
            pass
        except OSError:
            # What the buffers still hold goes there, too, and does not fail at exit.
            with suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._file.fileno())
