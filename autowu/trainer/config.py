"""Settings from defaults, then YAML files in order, then `key=value` arguments.

A file may extend others with `base:`, a path or a list of paths relative to itself; what it says
wins over its bases, and a later base over an earlier one. OmegaConf checks every value against
the dataclasses of `autowu.trainer.settings`; a mistake is one line and exit code 2.

    python -m autowu.trainer.config --config configs/digits.yaml epochs=5

checks a configuration without importing torch, and prints it in full.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from autowu.trainer.config_files import Entry, read_file, to_yaml
from autowu.trainer.errors import ConfigError
from autowu.trainer.settings import SCHEDULES, SECTIONS, Settings
from autowu.trainer.validation import (
    Field,
    check_combinations,
    outside_limits,
    settings_fields,
    unknown_key,
    wrong_type,
)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong without the usage lines that argparse puts before it."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse_settings(arguments: Sequence[str], description: str | None = None) -> Settings:
    """The settings that `[--config FILE]... [key=value]...` describe; ConfigError for a mistake."""
    parser = OneLineParser(
        description=description,
        usage="%(prog)s [--config FILE]... [key=value]...",
        epilog="Settings and their defaults:\n" + _describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        hint = "settings are written key=value, files --config FILE"
        raise ConfigError(f"{unknown[0]}: not an argument ({hint})")
    return build_settings(options.config, options.overrides)


def build_settings(files: Sequence[Path], overrides: Sequence[str]) -> Settings:
    """Merge the defaults, the YAML `files` and the `key=value` overrides, the later winning."""
    entries: dict[str, Entry] = {}
    for file in files:
        entries.update(read_file(file))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"{override}: not an argument (settings are written key=value)")
        entries[key] = Entry(_parse_value(key, text), "")

    fields, tree = _defaults(entries.get("schedule.name"))
    for key, (value, source) in entries.items():
        if key not in fields:
            raise ConfigError(unknown_key(key, value, tree.schedule.name) + source)
        try:
            OmegaConf.update(tree, key, value)
        except OmegaConfBaseException:
            raise ConfigError(wrong_type(key, value, fields[key]) + source) from None

    settings = _to_dataclasses(tree)
    for key, field in fields.items():
        error = outside_limits(key, _look_up(settings, key), field.limits)
        if error:
            raise ConfigError(error + entries[key].source)
    check_combinations(settings)
    return settings


def _parse_value(key: str, text: str) -> Any:
    """An argument's value; text stays as it is, and OmegaConf turns the rest into numbers."""
    kind = next((f[key].type for f in map(settings_fields, SCHEDULES.values()) if key in f), None)
    if text == "null" and kind is not str:
        return None
    if kind == (int | str) and text.removeprefix("-").isdecimal():
        return int(text)
    return text


def _defaults(name: Entry | None) -> tuple[dict[str, Field], DictConfig]:
    """The fields, and a tree of their defaults, of the schedule that the user chose."""
    chosen = name.value if name else Settings().schedule.name
    schedule = SCHEDULES.get(chosen) if isinstance(chosen, str) else None
    if schedule is None:
        assert name is not None
        fields = settings_fields(type(Settings().schedule))
        message = wrong_type("schedule.name", chosen, fields["schedule.name"])
        raise ConfigError(message + name.source)
    tree = OmegaConf.structured(Settings(schedule=schedule()))
    for node in (tree, *(tree[section] for section in SECTIONS)):
        OmegaConf.set_readonly(node, False)  # frozen dataclasses make it read-only
    return settings_fields(schedule), tree


def _to_dataclasses(tree: DictConfig) -> Settings:
    """Resolve `${...}` and build the frozen dataclasses."""
    try:
        settings = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0]  # the lines after it speak of OmegaConf's types
        raise ConfigError(f"{error.full_key}: {reason}") from None
    assert isinstance(settings, Settings)
    return settings


def _look_up(settings: Settings, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(settings, section) if section else settings, name)


def _describe() -> str:
    """A line for every setting of every schedule, for --help."""
    lines = {}
    for schedule in SCHEDULES.values():
        for key, field in settings_fields(schedule).items():
            if key == "schedule.name":
                continue
            lines[key] = f"  {key}={'null' if field.default is None else field.default}"
    return "\n".join(["  schedule.name=autowu", *lines.values()])


def main(arguments: Sequence[str]) -> int:
    """Check a configuration: print it in full, or what is wrong with it on one line."""
    try:
        settings = parse_settings(arguments, "Check the settings of train.py and print them.")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(to_yaml(settings), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
