"""The text: sources of Python's standard library, which every reader of this has, as bytes.

The text depends on the version of Python, so that rows carry its SHA-256 sum.
"""

import hashlib
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Folders; pydoc_data is a single file of prose, as long as a hundred others.
LEFT_OUT = {"test", "tests", "idlelib", "pydoc_data", "site-packages", "dist-packages"}


class Text(NamedTuple):
    """Two texts without a file in common."""

    train: bytes
    validation: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.train + self.validation).hexdigest()


def standard_library(num_train_bytes: int, num_validation_bytes: int) -> Text:
    """So many bytes of the standard library's files, which are shuffled, always in the same way.

    Args:
        num_train_bytes: the last file is cut where they end.
        num_validation_bytes: the same, of files that come before the first one for training.

    Raises:
        ValueError: the standard library is smaller than that.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [
        path
        for path in sorted(root.rglob("*.py"))
        if not LEFT_OUT.intersection(path.relative_to(root).parts)
        and not path.name.startswith("_sysconfigdata")  # differs between machines
    ]
    random.Random(0).shuffle(paths)
    remaining = iter(paths)
    validation = _take(remaining, num_validation_bytes)
    return Text(_take(remaining, num_train_bytes), validation)


def _take(paths: Iterator[Path], num_bytes: int) -> bytes:
    text = bytearray()
    while len(text) < num_bytes:
        path = next(paths, None)
        if path is None:
            raise ValueError(f"the standard library ends {num_bytes - len(text)} bytes too early")
        text += path.read_bytes()
    return bytes(text[:num_bytes])
