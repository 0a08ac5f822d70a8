"""How a run ends other than well: each way has an exit code and one line for the user."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# What to do about a file of a run that cannot be used.
WAY_OUT = "put a good one in its place, or start afresh with resume=never"


class RunError(Exception):
    """A run that cannot start or cannot go on; the message is one line."""

    exit_code = 1
    is_shared = True  # every rank meets it, so the first one alone speaks

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(RunError):
    """A mistake in the settings: the key, the value and what would be right."""

    exit_code = 2


class DataError(RunError):
    """Images that are missing, damaged, or do not fit together; the message names the file."""

    exit_code = 2
    is_shared = False  # one rank meets it while it reads


class CheckpointError(RunError):
    """A checkpoint, or a run directory, that cannot be used."""

    exit_code = 2


class WriteError(RunError):
    """A file of the run cannot be written; what was there before is still there."""

    is_shared = False  # the rank that writes


class PeerLost(RunError):
    """A rank that this one waits for has ended."""

    is_shared = False  # the one that has ended may be the first, and may have said nothing


class TrainingDiverged(RunError):
    """The training loss is not finite any more, and no sweep is left that could end."""


class Interrupted(RunError):
    """The run was asked to stop; the exit code is the shell's, 128 + the signal's number.

    Args:
        signal_number: what asked it.
        is_saved: False before the first step, when there is nothing yet that could be saved.
    """

    def __init__(self, signal_number: int, is_saved: bool = True) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number
        self.is_saved = is_saved


def missing_requirement(error: ModuleNotFoundError) -> str:
    """What is not installed, and how to have it; one line."""
    if not error.name:
        return str(error)  # says so itself
    return (
        f"{error.name} is not installed: `pip install -r requirements.txt`, or"
        " `. .venv/bin/activate` where that has been done"
    )


def some(names: Sequence[str], most: int) -> str:
    """The first few names, and how many more there are.

    >>> some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: Any) -> Any:
    """A setting's value as it is written in an argument."""
    return "null" if value is None else value


@contextmanager
def mistakes_in_settings() -> Iterator[None]:
    """Report a ValueError of what is built from the settings as a mistake in them."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error
