"""What a run says on standard output, which it never fails for."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress


def _print(text: str) -> None:
    print(text, flush=True)


def say(text: str, write: Callable[[str], object] = _print) -> None:
    """Write a line, or several; what the encoding of the output lacks is written as `\\xfc`.

    Once that fails, what is said later goes nowhere.
    """
    try:
        try:
            write(text)
        except UnicodeEncodeError as error:
            write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
    except OSError:  # whoever read the lines is gone, or their disk is full
        with suppress(OSError):  # what is left of them must not fail at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
