"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from autowu.trainer.errors import WriteError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` on success, and leaves no trace on failure.

    Raises:
        WriteError: the disk is full, or refuses for another reason; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
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
        temporary.unlink(missing_ok=True)


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
