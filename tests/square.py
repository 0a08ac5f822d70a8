"""A cell of an experiment, in a file that a new process imports at once."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Square:
    """A cell that takes no time."""

    number: int

    def key(self) -> dict[str, str]:
        return {"number": str(self.number)}

    def run(self) -> dict[str, Any]:
        return {"square": str(self.number**2)}
