"""Settings from defaults, then YAML files in order, then `key=value` arguments.

A file may extend others with `base:`, a path or a list of paths relative to itself; what it says
wins over its bases, and a later base over an earlier one. OmegaConf checks every value against
the dataclasses of `autowu.trainer.settings`; a mistake is one line and exit code 2.

    python -m autowu.trainer.config --config configs/digits.yaml epochs=5

checks a configuration without importing torch, and prints it in full.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

try:
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    from autowu.trainer.errors import missing_requirement

    print(f"error: {missing_requirement(error)}", file=sys.stderr)
    sys.exit(2)

from autowu.trainer import value_types
from autowu.trainer.config_files import Entry, read_file, to_yaml
from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import squash
from autowu.trainer.settings import SECTIONS, VARIANTS, Settings
from autowu.trainer.settings_help import describe_settings
from autowu.trainer.stdout import unfailing_outputs
from autowu.trainer.validation import (
    Field,
    check_combinations,
    outside_limits,
    settings_fields,
    unknown_key,
    unknown_name,
    usual_variants,
    wrong_type,
)


class SettingsParser(argparse.ArgumentParser):
    """Its help lists all settings; what is wrong it says without the usage lines of argparse."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)

    def format_help(self) -> str:
        columns = shutil.get_terminal_size().columns
        return f"{super().format_help()}\n{describe_settings(columns)}\n"


def parse_settings(arguments: Sequence[str], description: str | None = None) -> Settings:
    """The settings that `[--config FILE]... [key=value]...` describe; ConfigError for a mistake."""
    parser = SettingsParser(
        description=description,
        usage="%(prog)s [--config FILE]... [key=value]...",
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
        entries.pop(key, None)  # the order of the entries is that in which they were said
        entries[key] = Entry(text, "")

    chosen = _choose_variants(entries)
    fields, tree = settings_fields(chosen), _defaults(chosen)
    for key, (value, source) in _gather_mappings(entries, fields).items():
        if key not in fields:
            raise ConfigError(unknown_key(key, value, chosen) + source)
        if isinstance(value, str) and not source:
            value = value_types.parse(value, fields[key].type)
        if value_types.is_mapping(fields[key].type) and isinstance(value, dict):
            value = {
                str(name): entry for name, entry in value.items()
            }  # {0: 1} of an nn.Sequential
        try:
            OmegaConf.update(tree, key, value, merge=False)
        except OmegaConfBaseException:
            raise ConfigError(wrong_type(key, value, fields[key]) + source) from None

    settings = _to_dataclasses(tree)
    for key, field in fields.items():
        error = outside_limits(key, _look_up(settings, key), field.limits)
        if error:
            raise ConfigError(error + (entries[key].source if key in entries else ""))
    check_combinations(settings)
    return settings


def _gather_mappings(entries: dict[str, Entry], fields: dict[str, Field]) -> dict[str, Entry]:
    """The entries, with `optimizer.lr_mult.head=2` put into the mapping `optimizer.lr_mult`."""
    gathered: dict[str, Entry] = {}
    mappings = [key for key, field in fields.items() if value_types.is_mapping(field.type)]
    for key, entry in entries.items():
        whole = next((each for each in mappings if key.startswith(f"{each}.")), None)
        if whole is None:
            gathered[key] = entry
            continue
        sofar = gathered.get(whole, Entry({}, ""))
        mapping: Any = sofar.value
        if isinstance(mapping, str):
            mapping = value_types.parse(mapping, fields[whole].type)
        value = entry.value if entry.source else value_types.parse(entry.value, Any)
        if isinstance(mapping, dict):  # anything else is refused where it was said
            part = key.removeprefix(f"{whole}.")
            gathered[whole] = Entry({**mapping, part: value}, sofar.source)
    return gathered


def _choose_variants(entries: dict[str, Entry]) -> dict[str, type]:
    """The dataclass that each section's name asks for; the name is put into its usual spelling."""
    chosen = usual_variants()
    for section, variants in VARIANTS.items():
        key = f"{section}.name"
        if key not in entries:
            continue
        name, source = entries[key]
        usual = {squash(known): known for known in variants}
        spelled = usual.get(squash(name), name) if isinstance(name, str) else ""
        if spelled not in variants:
            raise ConfigError(unknown_name(section, name) + source)
        chosen[section] = variants[spelled]
        entries[key] = Entry(chosen[section]().name, source)
    return chosen


def _defaults(chosen: dict[str, type]) -> DictConfig:
    """A tree of the defaults of the chosen variants."""
    tree = OmegaConf.structured(
        Settings(**{section: variant() for section, variant in chosen.items()})
    )
    for node in (tree, *(tree[section] for section in SECTIONS)):
        OmegaConf.set_readonly(node, False)  # frozen dataclasses make it read-only
    return tree


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


@unfailing_outputs()
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
