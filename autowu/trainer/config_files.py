"""Settings on disk: YAML files that extend others, read into flat entries that know their file."""

import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from autowu.trainer.errors import ConfigError
from autowu.trainer.settings import SECTIONS, Settings

# Where a run lies, who watches it, how often it is saved, where its images lie and how many
# processes read them.
FREE_TO_CHANGE = (
    "output_dir",
    "name",
    "tracking.",
    "checkpoint_every",
    "data.root",
    "data.download",
    "data.num_workers",
)
# Where a rank finds its images and how it reads them, which device is its own; and what rank 0 does
# alone.
FREE_OF_RANK = ("data.root", "data.num_workers", "device", "tracking.")


class Entry(NamedTuple):
    value: Any
    source: str  # " (in configs/digits.yaml)", or nothing for an argument


def flatten(nested: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested dict under dotted keys; an empty section has none."""
    for name, value in nested.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key in SECTIONS:
            yield from flatten(value, f"{key}.")
        elif key not in SECTIONS or value not in (None, {}):
            yield key, value


def read_file(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Entry]:
    """The leaves of a YAML file and of the files that it extends."""
    source = f" (in {file})"
    if file.resolve() in above:
        raise ConfigError(f"base: the file extends itself{source}")
    try:
        # OmegaConf takes a text for a key, and what is a number for an OSError.
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"--config={file}: must hold `key: value` lines")
        if not text.strip():  # as a disk that was full leaves it
            raise ConfigError(f"--config={file}: is empty, must hold `key: value` lines")
        # OmegaConf's own loader: 1e-5 is a number in it, and a key that stands twice an error.
        tree = OmegaConf.load(io.StringIO(text))  # a pipe can be read but once
    except IsADirectoryError:
        of_run = f" (of that run: {file / 'config.yaml'})" * (file / "config.yaml").is_file()
        raise ConfigError(f"--config={file}: a directory, must be a file{of_run}") from None
    except OSError as error:
        raise ConfigError(f"--config={file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"--config={file}: not valid YAML: {error}") from None
    nested = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(nested, dict)
    base = nested.pop("base", None)
    bases = [base] if isinstance(base, str) else [] if base is None else base
    if not (isinstance(bases, list) and all(isinstance(path, str) for path in bases)):
        raise ConfigError(f"base={base}: must be a path or a list of paths{source}")

    entries: dict[str, Entry] = {}
    for path in bases:
        entries.update(read_file(file.parent / path, (*above, file.resolve())))
    entries.update({key: Entry(value, source) for key, value in flatten(nested)})
    return entries


def to_dict(settings: Settings) -> dict[str, Any]:
    """The settings as nested plain values, `resume` left out: it is not part of what a run is."""
    nested = asdict(settings)
    del nested["resume"]
    return nested


def common_to_ranks(settings: Settings) -> dict[str, Any]:
    """The settings, by dotted key, that ranks which train together must share."""
    flat = flatten(asdict(settings))
    return {key: value for key, value in flat if not key.startswith(FREE_OF_RANK)}


def to_yaml(settings: Settings) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(settings)))
