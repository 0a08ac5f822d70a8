"""A process that has imported what training needs, and forks for each program it is asked to run.

A new interpreter spends seven seconds on importing torch, torchvision, timm and matplotlib; a fork
of this one has them already. `tests/launch.py` starts it, and asks on a socket: a message is a JSON
object with `arguments` (as after `python`), `environment` and `folder`; with it come the files for
standard output and errors and a pipe, on which the process id is answered at once and the return
code in the end. It ends when the other end of the socket is closed.

The fork is a grandchild: its parent has nothing to do but to wait for it, and what this process
forks from next stays as it is after the imports, without threads or process groups.
"""

import atexit
import gc
import io
import json
import os
import random
import signal
import socket
import sys
import types
from contextlib import redirect_stderr, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# Of other people alone: a program can still replace their functions before it imports autowu.
IMPORTED = (
    "torch",
    "torch._dynamo",
    "torchvision",
    "timm",
    "gpytorch",
    "sklearn.datasets",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "omegaconf",
    "rich",
    "adamp",
)


def say_no_more() -> None:
    """The last thing at an exit before the interpreter takes itself apart.

    What is frozen is not freed, which the bindings of triton would report on standard error.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def import_all() -> None:
    sys.path[0] = str(Path(__file__).parents[1])
    with redirect_stderr(io.StringIO()):  # warnings of what only this process imports as a whole
        for name in IMPORTED:
            with suppress(ImportError):
                import_module(name)
    gc.collect()
    gc.freeze()  # else every fork would copy and free all of it at its exit, which takes seconds


def next_program(requests: socket.socket) -> dict[str, Any]:
    """Serve requests for ever; returns in the processes that are to run one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        message, files, _, _ = socket.recv_fds(requests, 2**20, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            program = os.fork()
            if program == 0:
                os.dup2(files[0], 1)
                os.dup2(files[1], 2)
                for file in files:
                    os.close(file)
                return json.loads(message)
            with open(files[2], "w") as told:
                print(program, file=told, flush=True)
                _, status = os.waitpid(program, 0)
                print(os.waitstatus_to_exitcode(status), file=told, flush=True)
            os._exit(0)
        for file in files:
            os.close(file)


def run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """What `python *arguments` does, where they begin with a path or with `-c` and code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as with `random`, every process has another
    main = types.ModuleType("__main__")
    if arguments[0] == "-c":
        path, code, sys.path[0] = "<string>", arguments[1], ""
        sys.argv = ["-c", *arguments[2:]]
    else:
        path, sys.argv = arguments[0], arguments
        code, sys.path[0] = Path(path).read_text(), str(Path(path).resolve().parent)
        main.__file__ = path
    sys.modules["__main__"] = main
    exec(compile(code, path, "exec"), main.__dict__)


if __name__ == "__main__":
    atexit.register(say_no_more)  # before what the imports register, so that it is called after
    import_all()
    run(**next_program(socket.socket(fileno=int(sys.argv[1]))))
