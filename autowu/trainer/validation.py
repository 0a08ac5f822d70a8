"""What is wrong with a setting, on one line: the key, the value and what would be right."""

import dataclasses
import math
import re
from functools import cache
from pathlib import PurePath
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import closest
from autowu.trainer.settings import (
    FILE_AUGMENTS,
    SECTIONS,
    VARIANTS,
    DataSettings,
    ImageFileSettings,
    MemoryAugment,
    Settings,
)

TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


class Field(NamedTuple):
    type: Any
    default: Any
    limits: dict[str, float]  # at_least, above, at_most, below


def settings_fields(chosen: dict[str, type]) -> dict[str, Field]:
    """Every key, dotted, when `chosen` are the dataclasses of the sections that have variants."""
    fields: dict[str, Field] = {}
    for section in dataclasses.fields(Settings):
        if section.name not in SECTIONS:
            fields[section.name] = Field(section.type, section.default, dict(section.metadata))
            continue
        kind: Any = chosen.get(section.name, section.type)
        for entry in dataclasses.fields(kind):
            key = f"{section.name}.{entry.name}"
            fields[key] = Field(entry.type, entry.default, dict(entry.metadata))
        if section.name in VARIANTS:
            # The name decides which variant is meant, so all of them are its choices.
            choices = Literal[tuple(VARIANTS[section.name])]  # type: ignore[valid-type]
            key = f"{section.name}.name"
            fields[key] = fields[key]._replace(type=choices)
    return fields


@cache
def all_fields() -> dict[str, Field]:
    """Every key of every variant; one that several have stands as in the first of them."""
    fields: dict[str, Field] = {}
    default = {name: type(getattr(Settings(), name)) for name in VARIANTS}
    for section, variants in VARIANTS.items():
        for kind in (default[section], *variants.values()):
            for key, field in settings_fields(default | {section: kind}).items():
                fields.setdefault(key, field)
    return fields


def unknown_key(key: str, value: Any, chosen: dict[str, type]) -> str:
    """The message for a key that does not exist, or that belongs to another variant."""
    fields = settings_fields(chosen)
    section = key.partition(".")[0]
    owners = [
        name
        for name, kind in VARIANTS.get(section, {}).items()
        if key in settings_fields(chosen | {section: kind})
    ]
    if owners:
        current = fields[f"{section}.name"].default
        return (
            f"{key}={value}: a setting of {' and '.join(owners)}, but {section}.name is {current}"
        )
    keys = list(fields)
    if key in SECTIONS:
        inside = [known for known in keys if known.startswith(f"{key}.")]
        return f"{key}={value}: a section, set one of {', '.join(inside)}"
    last = key.rsplit(".", 1)[-1]
    namesakes = [known for known in keys if known.rsplit(".", 1)[-1] == last]
    if namesakes:  # `weight_decay=0` for `optimizer.weight_decay=0`
        return f"{key}={value}: unknown setting (did you mean {' or '.join(namesakes)}?)"
    return f"{key}={value}: unknown setting{closest(key, keys)}"


def wrong_type(key: str, value: Any, field: Field) -> str:
    """The message for a value that the type of its field does not admit."""
    options = get_args(field.type) if get_origin(field.type) in (Union, UnionType) else [field.type]
    if get_origin(field.type) is Literal:
        choices = [str(choice) for choice in get_args(field.type)]
        return f"{key}={value}: must be {' or '.join(choices)}{closest(str(value), choices)}"
    names = [TYPE_NAMES[option] for option in options if option in TYPE_NAMES]
    allow_null = type(None) in options
    shown = "null" if value is None else value
    return f"{key}={shown}: must be {' or '.join(names + ['null'] * allow_null)}"


def outside_limits(key: str, value: Any, limits: dict[str, float]) -> str | None:
    """The message for a number that is not finite or outside its field's limits, if it is."""
    if not isinstance(value, int | float):
        return None
    kept = {
        "at_least": lambda limit: value >= limit,
        "above": lambda limit: value > limit,
        "at_most": lambda limit: value <= limit,
        "below": lambda limit: value < limit,
    }
    if math.isfinite(value) and all(kept[word](limit) for word, limit in limits.items()):
        return None
    words = [f"{word.replace('_', ' ')} {limit:g}" for word, limit in limits.items()]
    return f"{key}={value}: must be {' and '.join(words)}" + (
        ", finite" * (not math.isfinite(value))
    )


def check_combinations(settings: Settings) -> None:
    """Raise ConfigError for settings that are right one by one but not together."""
    _check_run(settings)
    settings.optimizer.check(settings)
    settings.schedule.check(settings)


def check_shares(settings: Settings, world_size: int) -> None:
    """Raise ConfigError when a batch cannot be shared evenly among the ranks."""
    batch_size, accumulate = settings.data.batch_size, settings.accumulate
    parts = world_size * accumulate
    if batch_size % parts:
        raise ConfigError(
            f"data.batch_size={batch_size}: must be a multiple of {parts}: {world_size} ranks times"
            f" accumulate={accumulate}"
        )
    if (settings.data.mixup or settings.data.cutmix) and batch_size // parts % 2:
        raise ConfigError(
            f"data.batch_size={batch_size}: data.mixup and data.cutmix pair images, so the part of"
            f" it in a forward pass must be even, and is {batch_size // parts}: {world_size} ranks"
            f" times accumulate={accumulate}"
        )


def _check_run(settings: Settings) -> None:
    check_shares(settings, world_size=1)
    _check_data(settings.data)
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
    for key in ("output_dir", "resume"):
        if not getattr(settings, key):
            raise ConfigError(f"{key}=: must not be empty")


def _check_data(data: DataSettings) -> None:
    if isinstance(data, ImageFileSettings):
        in_memory = data.image_size is None
        fitting = ("none", *(get_args(MemoryAugment) if in_memory else FILE_AUGMENTS))
        if data.augment not in fitting:
            state = "null (images of one size, in memory)" if in_memory else str(data.image_size)
            choices = " or ".join(dict.fromkeys(fitting))
            raise ConfigError(
                f"data.augment={data.augment}: must be {choices} with data.image_size={state}"
            )
