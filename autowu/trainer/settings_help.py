"""What `--help` says of the settings: default, meaning and choices of each, as wide as a terminal.

The meanings stand beside the fields of the dataclasses, see `autowu.trainer.limits.setting`. One
that several variants share is told once, with the first of them. Torch is not imported here.
"""

import inspect
import textwrap
from typing import Any, Literal, get_args, get_origin

from autowu.trainer.settings import VARIANTS
from autowu.trainer.validation import Field, settings_fields, usual_variants

WIDEST = 100  # columns; longer lines are hard to read
NARROWEST = 40  # columns; in a narrower terminal lines run over
MEANINGS_AT = 36  # the column of a meaning that fits beside its setting


def describe_settings(columns: int) -> str:
    """Every setting as `key=default` with what it means, for a terminal of so many columns."""
    width = max(NARROWEST, min(WIDEST, columns))
    lines = ["settings, each with its default:"]
    for key, field in settings_fields(usual_variants()).items():
        section, _, name = key.rpartition(".")
        if section in VARIANTS and name != "name":
            continue
        lines += _entry(key, field, 2, width)
        if section in VARIANTS:
            lines += [*_describe_variants(section, width), ""]
    return "\n".join(lines)


def _describe_variants(section: str, width: int) -> list[str]:
    """What all variants of a section have, then for each of them what else it has."""
    named = {
        name: {
            key: field
            for key, field in settings_fields({section: kind}).items()
            if key.startswith(f"{section}.") and key != f"{section}.name"
        }
        for name, kind in VARIANTS[section].items()
    }
    first, *others = named.values()
    shared = {key for key in first if all(fields.get(key) == first[key] for fields in others)}
    lines = [line for key in first if key in shared for line in _entry(key, first[key], 4, width)]
    told: set[tuple[str, str]] = set()
    for name, fields in named.items():
        summary = _summary(VARIANTS[section][name])
        lines += ["", *_wrap(f"with {section}.name={name}: {summary}", 4, width)]
        own = {key: field for key, field in fields.items() if key not in shared}
        again = {key: field for key, field in own.items() if (key, _text(key, field)) in told}
        if again:
            known = ", ".join(_shown(key, field.default) for key, field in again.items())
            lines += _wrap(f"as with those above: {known}", 6, width)
        for key, field in own.items():
            if key not in again:
                lines += _entry(key, field, 6, width)
                told.add((key, _text(key, field)))
    if section == "optimizer":
        command = "python -m autowu.trainer.config optimizer.name=NAME"
        lines += ["", *_wrap(f"what any other optimizer takes: {command}", 4, width)]
    return lines


def _entry(key: str, field: Field, indent: int, width: int) -> list[str]:
    """`key=default`, and its meaning beside it if there is room, or else below."""
    head = " " * indent + _shown(key, field.default)
    text = _text(key, field)
    beside = f"{head:<{MEANINGS_AT - 2}}  {text}"
    return [beside] if len(beside) <= width else [head, *_wrap(text, indent + 4, width, hang=0)]


def _text(key: str, field: Field) -> str:
    """The meaning of a setting, and the choices if it does not go through them all."""
    section, _, name = key.rpartition(".")
    choices: tuple[Any, ...] = get_args(field.type) if get_origin(field.type) is Literal else ()
    if section in VARIANTS and name == "name":
        choices = tuple(VARIANTS[section])
    if key == "optimizer.name":
        choices += ("or another of `python -m autowu list optimizers`",)
    if all(f"{choice}:" in field.meaning for choice in choices):
        return field.meaning
    return f"{field.meaning}; one of {', '.join(choices)}"


def _summary(kind: type) -> str:
    """The first paragraph of a class's docstring."""
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].removesuffix(".")


def _wrap(text: str, indent: int, width: int, hang: int = 4) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_long_words=False,
        break_on_hyphens=False,  # 1e-08 is one word
    )


def _shown(key: str, default: Any) -> str:
    """A setting as it is written on the command line."""
    if isinstance(default, bool):
        default = str(default).lower()
    if isinstance(default, tuple | list):
        default = f"[{','.join(map(str, default))}]"
    return f"{key}={'null' if default is None else default}"
