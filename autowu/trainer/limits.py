"""What settings and their messages are made of: limited fields, and hints at near names."""

from collections.abc import Iterable
from dataclasses import field
from difflib import get_close_matches
from typing import Any


def limited(default: Any, **limits: float) -> Any:
    """A field whose value must keep to `limits`: at_least, above, at_most and below."""
    return field(default=default, metadata=limits)


def closest(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean ...?)`, or nothing when no candidate is near."""
    matches = get_close_matches(word, list(candidates), n=1, cutoff=cutoff)
    return f" (did you mean {matches[0]}?)" if matches else ""
