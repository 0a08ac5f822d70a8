"""The name of a run that was given none: its main settings, then whatever else sets it apart.

`digits-small_cnn-adamp-autowu-batch32-epochs30-seed0-decay=wsd_linear`. What may change
while a run goes on is left out, so that it is found again; what is as usual, so that names stay
short.
"""

import re
from collections import Counter
from hashlib import sha256
from typing import Any

from autowu.trainer.config_files import FREE_TO_CHANGE, flatten, to_dict
from autowu.trainer.settings import SECTIONS, Settings

MAX_LENGTH = 120  # characters; more only where the main settings alone take that many
IN_MAIN_NAME = ("model.name", "data.batch_size", "epochs", "seed")


def run_name(settings: Settings) -> str:
    """The run's folder below `output_dir`: its `name`, or one made of the settings.

    Where the settings do not fit, or cannot stand in the name of a folder, it ends with a hash.
    """
    if settings.name:
        return settings.name
    name, parts = main_name(settings), _unusual(settings)
    whole = "-".join([name, *parts])
    if not parts or (len(whole) <= MAX_LENGTH and all(map(_is_plain, parts))):
        return whole
    end = "-" + sha256("-".join(parts).encode()).hexdigest()[:8]
    for part in filter(_is_plain, parts):
        if len(f"{name}-{part}{end}") <= MAX_LENGTH:
            name += f"-{part}"
    return name + end


def main_name(settings: Settings) -> str:
    """The part that all such names have, and the whole of it where nothing else is unusual."""
    return "-".join(
        [
            settings.data.name,
            settings.model.name,
            settings.optimizer.name,
            settings.schedule.name,
            f"batch{settings.data.batch_size}",
            f"epochs{settings.epochs}",
            f"seed{settings.seed}",
        ]
    )


def _unusual(settings: Settings) -> list[str]:
    """`key=value` of what is not the default, its section left out where no other has that key."""
    sections: Any = {section: type(getattr(settings, section))() for section in SECTIONS}
    usual = dict(flatten(to_dict(Settings(**sections))))
    chosen = dict(flatten(to_dict(settings)))
    namesakes = Counter(key.rpartition(".")[2] for key in chosen)
    parts = []
    for key, value in chosen.items():
        if (
            key in IN_MAIN_NAME
            or key.startswith(FREE_TO_CHANGE)
            or _text(value) == _text(usual[key])
        ):
            continue
        last = key.rpartition(".")[2]
        parts.append(f"{last if namesakes[last] == 1 else key}={_text(value)}")
    return parts


def _text(value: Any) -> str:
    """A value as it is written in an argument, but lists without brackets."""
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_plain(part: str) -> bool:
    """Whether it can stand in the name of a folder everywhere."""
    return re.fullmatch(r"[\w.,=+-]+", part) is not None
