"""The types of settings: what a text means for one, and how one is called in a message."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
PLURALS = {int: "integers", float: "numbers", str: "texts"}


def options_of(kind: Any) -> tuple[Any, ...]:
    """The types that a value of `kind` may have: those of a union, or the one itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def is_structured(kind: Any) -> bool:
    """Whether values are lists or mappings, or anything at all, and so written as YAML."""
    return any(
        option is Any or option in (list, tuple, dict) or get_origin(option) in (list, tuple, dict)
        for option in options_of(kind)
    )


def is_mapping(kind: Any) -> bool:
    """Whether values are mappings whose keys the user chooses."""
    return get_origin(kind) is dict


def parse(text: str, kind: Any) -> Any:
    """The value that an argument's text means for a setting of type `kind`.

    Texts stay as they are where OmegaConf turns them into numbers by itself, or will refuse them.
    """
    if text == "null" and kind is not str:
        return None
    options = options_of(kind)
    if int in options and str in options and text.removeprefix("-").isdecimal():
        return int(text)
    if not is_structured(kind):
        return text
    try:
        # OmegaConf's own reading of YAML, in which 1e-5 is a number.
        value = OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)
    except (YAMLError, OmegaConfBaseException):
        return text
    assert isinstance(value, dict)
    return value["value"]


def describe(kind: Any) -> str:
    """A type in words, as in `must be an integer or null`."""
    options = options_of(kind)
    words = [_describe_option(option) for option in options if option is not type(None)]
    return " or ".join(words + ["null"] * (type(None) in options))


def _describe_option(kind: Any) -> str:
    if kind in NAMES:
        return NAMES[kind]
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in inner)
    if get_origin(kind) is tuple and inner:
        name = PLURALS.get(inner[0], "values")
        return f"a list of {name}" if inner[-1] is Ellipsis else f"a list of {len(inner)} {name}"
    if get_origin(kind) is dict:
        return f"a mapping to {PLURALS.get(inner[1], 'values')}"
    if get_origin(kind) is list or kind in (list, tuple):
        return "a list"
    return str(kind)


def numbers_in(value: Any) -> list[int | float]:
    """The number that a value is, or the numbers of a list or a mapping."""
    if isinstance(value, dict):
        value = list(value.values())
    found = value if isinstance(value, list | tuple) else [value]
    return [each for each in found if isinstance(each, int | float) and not isinstance(each, bool)]
