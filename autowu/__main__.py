"""The command line: `python -m autowu COMMAND`. The commands are in `autowu/commands/`.

A mistake of the user is one line on the standard error and exit code 2.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from autowu import __version__
from autowu.commands import plot, replay

COMMANDS = (replay, plot)
PROGRAM = "python -m autowu"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def build_parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="AutoWU on recorded losses and finished runs.")
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
            # Said at the import of linear_operator, a part of gpytorch; no user can act on it.
            warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
            warnings.showwarning = lambda message, *_, **__: _say(program, f"warning: {message}")
            options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        _say(program, f"{error.name} is not installed; it comes with pip install 'autowu[plot]'")
        return 2
    except OSError as error:
        _say(program, f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 2
    except ValueError as error:
        _say(program, str(error))
        return 2
    return 0


def _say(program: str, message: str) -> None:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
