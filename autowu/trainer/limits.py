"""What settings and their messages are made of: fields with limits, and hints at near names."""

from collections.abc import Iterable
from dataclasses import field
from difflib import get_close_matches
from typing import Any


def setting(default: Any, meaning: str | None = None, **limits: float) -> Any:
    """A field of settings: what `--help` says of it, and the limits that its value must keep to.

    Args:
        default: its value; of a dict or a list each instance has a copy.
        meaning: with the unit; None where only the default of a base class's field is another.
        limits: at_least, above, at_most and below.
    """
    metadata: dict[str, Any] = {"limits": limits}
    if meaning is not None:
        metadata["help"] = meaning
    if isinstance(default, dict | list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def closest(word: str, candidates: Iterable[str], cutoff: float = 0.6, most: int = 1) -> str:
    """` (did you mean ...?)` with the nearest candidates, at `most` so many; nothing if none is."""
    matches = get_close_matches(word, list(candidates), n=most, cutoff=cutoff)
    if not matches:
        return ""
    *first, last = matches
    return " (did you mean " + ", ".join(first) + " or " * bool(first) + f"{last}?)"


def squash(name: str) -> str:
    """A name without what does not matter in it: case, `-` and `_`."""
    return name.strip().lower().replace("-", "").replace("_", "")
