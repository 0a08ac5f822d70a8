"""Starting train.py in processes of its own: alone, or as several ranks on this machine.

They are forks of one that has imported torch and the like, see `tests/fork_server.py`.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

TRAIN = Path(__file__).parents[1] / "train.py"


@cache
def fork_server() -> socket.socket:
    """Where to ask it; it is started once, and ends with this process."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
        )
    return ours


class Process:
    """A program that runs as a fork of the server, with the attributes and methods of `Popen`."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._outputs = [os.fdopen(os.memfd_create("output"), "w+") for _ in range(2)]
        told, tell = os.pipe()
        self._told = os.fdopen(told)
        files = [*(file.fileno() for file in self._outputs), tell]
        message = {"arguments": arguments, "environment": environment, "folder": str(folder)}
        socket.send_fds(fork_server(), [json.dumps(message).encode()], files)
        os.close(tell)
        pid = self._told.readline()
        if not pid:
            fork_server.cache_clear()
            raise RuntimeError("the fork server has ended; the next process starts another")
        self.pid = int(pid)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it wrote, when it has ended."""
        self.wait(timeout)
        for file in self._outputs:
            file.seek(0)
        output, errors = (file.read() for file in self._outputs)
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    settings: list[str],
    world_size: int = 1,
    own: dict[int, list[str]] | None = None,
    program: Sequence[str] = (str(TRAIN),),
) -> list[Process]:
    """One process, or `world_size` ranks with the environment that torchrun gives them.

    `own` adds settings to some of the ranks; `program` is what Python runs.
    """
    fork_server()  # its start takes long, and a free port is not kept free
    common = os.environ | {"OMP_NUM_THREADS": "1"}
    if world_size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common |= address | {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    processes = []
    for rank in range(world_size):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size > 1 else {}
        processes.append(
            Process([*program, *settings, *(own or {}).get(rank, [])], common | ranks, TRAIN.parent)
        )
    return processes


def leave() -> NoReturn:
    """End a rank whose work is done. A thread of gloo that drops its last tensor late can abort
    the interpreter's own way out, and the trainers of others keep gloo's threads alive.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def finish(
    processes: Sequence[Process | subprocess.Popen[str]], timeout: float = 120
) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each rank."""
    try:
        ended = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, ended, strict=True)]


def train(settings: list[str], world_size: int = 1) -> list[tuple[int, str, str]]:
    return finish(start(settings, world_size))


def work_as_ranks(module: str, world_size: int, folder: Path, timeout: float) -> None:
    """Call `work(rank, folder)` of a test module in a process for each rank; none may fail."""
    code = f"import sys; from tests import launch; from {module} import work; "
    code += "work(int(sys.argv[1]), sys.argv[2]); launch.leave()"
    own = {rank: [str(rank), str(folder)] for rank in range(world_size)}
    for returncode, _, errors in finish(start([], world_size, own, ("-c", code)), timeout):
        assert returncode == 0, errors
