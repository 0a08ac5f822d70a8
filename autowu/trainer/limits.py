"""What settings and their messages are made of: limited fields, and hints at near names."""

from collections.abc import Iterable
from dataclasses import field
from difflib import get_close_matches
from typing import Any


def limited(default: Any, **limits: float) -> Any:
    """A field whose value must keep to `limits`: at_least, above, at_most and below."""
    return field(default=default, metadata=limits)


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
