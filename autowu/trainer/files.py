"""Files that are written whole or not at all."""

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from autowu.trainer.errors import WriteError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` on success, and leaves no trace on failure.

    Raises:
        WriteError: the disk is full, or refuses for another reason; `path` is as it was.
    """
    # Of this process: where a file system has no locks, another one may be writing the same file.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)  # the new name lasts through a loss of power
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        # Not there when the file could not be made at all, or has taken the place of `path`.
        with suppress(OSError):  # nor to be removed from a file system that became read-only
            temporary.unlink()


def copy(source: Path, path: Path) -> None:
    """Copy a file, whole or not at all; WriteError when that fails."""
    with open(source, "rb") as original, atomic_file(path) as file:
        shutil.copyfileobj(original, file)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed had not written to the end.

    That is known of processes of this machine; what another one wrote is removed after an hour.
    """
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if _is_dead(path) or time.time() - path.stat().st_mtime > 3600:
                path.unlink()


def _is_dead(temporary: Path) -> bool:
    start, _, process = temporary.stem.rpartition(".")
    if os.name != "posix" or not start.endswith(f".{platform.node()}") or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    return int(process) == os.getpid()  # of an earlier one of this number: this one writes none now


def append(path: Path, text: str) -> None:
    """Add to a text file; WriteError when that fails."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from None


def sync(path: Path) -> None:
    """Have a file on the disk, not only in the system's memory."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from None
