"""One process at a time trains a run: it holds the lock of the run's folder for as long.

The lock is the kernel's (`flock`) and ends with the process, however that ends, so that a run that
was killed goes on at once.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from autowu.trainer.errors import CheckpointError

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

PATIENCE = 5.0  # seconds; a process that was killed, or shows a finished run, is gone by then


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """A block during which no other process has the lock of `folder`.

    The folder is made if need be, and removed again if nothing else was put into it. Where the
    system or the file system has no locks, the block goes without; of the latter it warns.

    Raises:
        CheckpointError: another process has it.
    """
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]
    path = folder / "lock"
    lock = None
    try:
        lock = _take(path)
        yield
    finally:
        if lock is not None:
            with lock, suppress(OSError):  # a file system that became read-only
                if _is_at(path, lock):
                    path.unlink()
        with suppress(OSError):  # not empty
            for each in missing:
                each.rmdir()


def _take(path: Path) -> BinaryIO | None:
    """The open file that has the lock; None where there are none."""
    until = time.monotonic() + PATIENCE
    while fcntl is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _open(path)
        except FileNotFoundError:  # the process that had it removed the folder in between
            if time.monotonic() > until:  # or nobody can make one there, as below /proc
                return None
            time.sleep(0.01)
            continue
        except OSError as error:
            if path.exists():
                _warn(path, error)
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            if time.monotonic() > until:
                raise CheckpointError(
                    f"{path.parent}: another process is training this run (wait until it has ended,"
                    " or choose another name=...)"
                ) from None
            time.sleep(0.05)
            continue
        except OSError as error:
            file.close()
            _warn(path, error)
            return None
        if _is_at(path, file):
            # Loader processes may outlive this one for seconds, and would keep the lock.
            os.register_at_fork(after_in_child=file.close)
            return file
        file.close()  # removed by the process that had it before
    return None


def _warn(path: Path, error: OSError) -> None:
    print(
        f"warning: {path} cannot be locked ({error.strerror}): take care that no other process"
        " trains this run at the same time",
        file=sys.stderr,
    )


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("ab")
    except PermissionError:
        if not path.exists():
            raise
        return path.open("rb")  # another user's, in a folder of a group: that can be locked, too


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False
