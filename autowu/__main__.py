"""The command line: `python -m autowu COMMAND`. The commands are in `autowu/commands/`.

A mistake of the user is one line on the standard error and exit code 2.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from autowu import __version__
from autowu.commands import list_names, plot, replay, show
from autowu.trainer.errors import RunError

COMMANDS = (show, list_names, replay, plot)
PROGRAM = "python -m autowu"
DESCRIPTION = """\
AutoWU without training: draw schedules, list what there is to train with, look at recorded losses
and runs."""
# The extra of pip that a module belongs to; that of everything else is `train`.
EXTRAS = {
    "matplotlib": "plot",
    "timm": "timm",
    "pyarrow": "parquet",
    "pytorch_optimizer": "optimizers",
    "tensorboard": "tensorboard",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line.

    With `takes_settings`, options may stand anywhere among `key=value` arguments.
    """

    takes_settings = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self.takes_settings:
            return super().parse_known_args(args, namespace)
        self.takes_settings = False  # what follows calls this method again
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.takes_settings = True

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def build_parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"autowu {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: those after the program's name; the shell's if left out.

    Returns:
        The exit code.
    """
    options = build_parser().parse_args(arguments)
    program = f"{PROGRAM} {options.command}"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(program, f"warning: {message}")
            options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        _say(program, what_to_install(error))
        return 2
    except RunError as error:
        _say(program, str(error))
        return error.exit_code
    except OSError as error:
        _say(program, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 2
    except ValueError as error:
        _say(program, str(error))
        return 2
    return 0


def what_to_install(error: ModuleNotFoundError) -> str:
    """Which module is missing, and the pip line that installs it."""
    if not error.name:
        return str(error)  # says so itself
    extra = EXTRAS.get(error.name.partition(".")[0], "train")
    return f"{error.name} is not installed; it comes with pip install '.[{extra}]' in a clone"


def _say(program: str, message: str) -> None:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
