"""What is wrong with a setting, on one line: the key, the value and what would be right."""

import dataclasses
import math
import os
import re
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, get_args, get_origin

from autowu.trainer import value_types
from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import closest, squash
from autowu.trainer.settings import (
    SECTIONS,
    VARIANTS,
    DataSettings,
    FileAugment,
    ImageFileSettings,
    MemoryAugment,
    Settings,
)

MAX_NAME_BYTES = 255  # of a folder, on the file systems of Linux


class Field(NamedTuple):
    type: Any
    default: Any
    limits: dict[str, float]  # at_least, above, at_most, below
    meaning: str  # with the unit; nothing for what was made of an optimizer's class


def usual_variants() -> dict[str, type]:
    """The dataclasses of the sections that have variants, where no name is given."""
    return {section: type(getattr(Settings(), section)) for section in VARIANTS}


def settings_fields(chosen: dict[str, type]) -> dict[str, Field]:
    """Every key, dotted, when `chosen` are the dataclasses of the sections that have variants."""
    fields: dict[str, Field] = {}
    for section in dataclasses.fields(Settings):
        if section.name not in SECTIONS:
            fields[section.name] = field_of(Settings, section)
            continue
        kind: Any = chosen.get(section.name, section.type)
        for entry in dataclasses.fields(kind):
            fields[f"{section.name}.{entry.name}"] = field_of(kind, entry)
    return fields


def field_of(kind: type, entry: dataclasses.Field[Any]) -> Field:
    """What is known of a setting of a dataclass."""
    factory = entry.default_factory
    default = entry.default if factory is dataclasses.MISSING else factory()
    return Field(entry.type, default, entry.metadata.get("limits", {}), _meaning(kind, entry.name))


def _meaning(kind: type, name: str) -> str:
    """What `--help` says of a setting: the class itself, or the one whose default it replaces."""
    for each in kind.__mro__:
        entry = getattr(each, "__dataclass_fields__", {}).get(name)
        if entry is not None and "help" in entry.metadata:
            return entry.metadata["help"]
    return ""


def unknown_name(section: str, name: Any) -> str:
    """The message for a name that no variant of a section has."""
    names = list(VARIANTS[section])
    if section == "optimizer":  # far more than have settings written down
        from autowu.trainer.optimizers import available

        if squash(str(name)) == "lookahead":
            return (
                f"optimizer.name={name}: is a wrapper around any other one,"
                " optimizer.lookahead=true"
            )
        hint = closest(str(name).lower(), available(), most=3)
        return f"optimizer.name={name}: unknown{hint}; python -m autowu list optimizers names all"
    hint = closest(str(name), names, most=3)
    return f"{section}.name={name}: must be {' or '.join(names)}{hint}"


def unknown_key(key: str, value: Any, chosen: dict[str, type]) -> str:
    """The message for a key that does not exist, or that belongs to another variant."""
    fields = settings_fields(chosen)
    section = key.partition(".")[0]
    keys = list(fields)
    if key in SECTIONS:
        inside = [known for known in keys if known.startswith(f"{key}.")]
        return f"{key}={value}: a section, set one of {', '.join(inside)}"
    if section in VARIANTS:
        return f"{key}={value}: {_not_of_variant(section, key, chosen)}"
    last = key.rsplit(".", 1)[-1]
    namesakes = [known for known in keys if known.rsplit(".", 1)[-1] == last]
    if namesakes:  # `weight_decay=0` for `optimizer.weight_decay=0`
        return f"{key}={value}: unknown setting (did you mean {' or '.join(namesakes)}?)"
    return f"{key}={value}: unknown setting{closest(key, keys)}"


def _not_of_variant(section: str, key: str, chosen: dict[str, type]) -> str:
    """What has that key, or one like it, and which keys the chosen variant has."""
    prefix = f"{section}."
    fields = settings_fields(chosen)
    current = fields[f"{prefix}name"].default
    shared = {f"{prefix}{entry.name}" for entry in dataclasses.fields(_section_type(section))}
    taken = [known.removeprefix(prefix) for known in fields if known.startswith(prefix)]
    taken.sort(key=lambda name: f"{prefix}{name}" in shared)  # its own come first
    owners = [
        name
        for name, kind in VARIANTS[section].items()
        if key in settings_fields(chosen | {section: kind})
    ]
    listed = f"{current} takes {', '.join(name for name in taken if name != 'name')}"
    if owners:
        others = [*owners[:3], "others"] if len(owners) > 4 else owners
        return f"a setting of {' and '.join(others)}, but {prefix}name is {current}; {listed}"
    near = closest(key.removeprefix(prefix), taken).replace("mean ", f"mean {prefix}")
    return f"unknown setting{near}; {listed}"


def _section_type(section: str) -> Any:
    return next(each.type for each in dataclasses.fields(Settings) if each.name == section)


def wrong_type(key: str, value: Any, field: Field) -> str:
    """The message for a value that the type of its field does not admit."""
    shown = "null" if value is None else value
    hint = ""
    if get_origin(field.type) is Literal:
        hint = closest(str(value), [str(choice) for choice in get_args(field.type)])
    return f"{key}={shown}: must be {value_types.describe(field.type)}{hint}"


def outside_limits(key: str, value: Any, limits: dict[str, float]) -> str | None:
    """The message for a number that is not finite or outside its field's limits, if it is.

    Of a list or a mapping, every number is held to them.
    """
    kept = {
        "at_least": lambda number, limit: number >= limit,
        "above": lambda number, limit: number > limit,
        "at_most": lambda number, limit: number <= limit,
        "below": lambda number, limit: number < limit,
    }
    for number in value_types.numbers_in(value):
        finite = math.isfinite(number)
        if finite and all(kept[word](number, limit) for word, limit in limits.items()):
            continue
        words = [f"{word.replace('_', ' ')} {limit:g}" for word, limit in limits.items()]
        right = " and ".join(words + ["finite"] * (not finite))
        return f"{key}={value}: must be {right}"
    return None


def check_combinations(settings: Settings) -> None:
    """Raise ConfigError for settings that are right one by one but not together."""
    _check_run(settings)
    settings.optimizer.check(settings)
    settings.schedule.check(settings)


def check_shares(settings: Settings, world_size: int) -> None:
    """Raise ConfigError when a batch cannot be shared evenly among the ranks."""
    batch_size, accumulate = settings.data.batch_size, settings.accumulate
    parts = world_size * accumulate
    ranks = f"{world_size} rank{'s' * (world_size > 1)}"
    if batch_size % parts:
        raise ConfigError(
            f"data.batch_size={batch_size}: must be a multiple of {parts}: {ranks} times"
            f" accumulate={accumulate}"
        )
    if (settings.data.mixup or settings.data.cutmix) and batch_size // parts % 2:
        raise ConfigError(
            f"data.batch_size={batch_size}: data.mixup and data.cutmix pair images, so the part of"
            f" it in a forward pass must be even, and is {batch_size // parts}: {ranks} times"
            f" accumulate={accumulate}"
        )


def _check_run(settings: Settings) -> None:
    check_shares(settings, world_size=1)
    _check_data(settings.data)
    if settings.clip_grad_norm is not None and settings.clip_grad_value is not None:
        raise ConfigError(
            f"clip_grad_value={settings.clip_grad_value}: clip_grad_norm={settings.clip_grad_norm}"
            " is set too; set one of them"
        )
    if settings.check_finite and settings.compile:
        raise ConfigError("check_finite=true: cannot look into a network with compile=true")
    every = settings.checkpoint_every
    if isinstance(every, str) and not re.fullmatch(r"epoch|[1-9]\d* epochs?", every):
        raise ConfigError(
            f'checkpoint_every={every}: must be epoch, "<n> epochs" or an integer (steps)'
        )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", settings.device):
        choices = ["auto", "cpu", "cuda"]
        hint = closest(settings.device, choices)
        raise ConfigError(f"device={settings.device}: must be auto, cpu, cuda or cuda:N{hint}")
    if settings.name is not None:
        path = PurePath(settings.name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ConfigError(f"name={settings.name}: must be a folder below output_dir")
    paths = {key: getattr(settings, key) for key in ("output_dir", "resume", "name")}
    for key, value in (paths | {"data.root": getattr(settings.data, "root", None)}).items():
        if value is not None:
            _check_path(key, value)


def _check_path(key: str, value: str) -> None:
    if not value:
        raise ConfigError(f"{key}=: must not be empty")
    if "\0" in value:
        raise ConfigError(f"{key}={value!r}: a path has no NUL")
    try:
        value.encode()
    except UnicodeEncodeError:  # config.yaml could not hold it
        raise ConfigError(f"{key}={value!r}: must be text in UTF-8") from None
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in PurePath(value).parts):
        raise ConfigError(f"{key}={value}: a name in a path has at most {MAX_NAME_BYTES} bytes")


def _check_data(data: DataSettings) -> None:
    if isinstance(data, ImageFileSettings):
        in_memory = data.image_size is None
        fitting = ("none", *get_args(MemoryAugment if in_memory else FileAugment))
        if data.augment not in fitting:
            state = "null (images of one size, in memory)" if in_memory else str(data.image_size)
            choices = " or ".join(dict.fromkeys(fitting))
            raise ConfigError(
                f"data.augment={data.augment}: must be {choices} with data.image_size={state}"
            )
