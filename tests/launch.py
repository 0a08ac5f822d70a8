"""Starting train.py in processes of its own: alone, or as several ranks on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

TRAIN = Path(__file__).parents[1] / "train.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    settings: list[str],
    world_size: int = 1,
    own: dict[int, list[str]] | None = None,
    program: Sequence[str] = (str(TRAIN),),
) -> list[subprocess.Popen[str]]:
    """One process, or `world_size` ranks with the environment that torchrun gives them.

    `own` adds settings to some of the ranks; `program` is what Python runs.
    """
    common = os.environ | {"OMP_NUM_THREADS": "1"}
    if world_size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        common |= address | {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    processes = []
    for rank in range(world_size):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world_size > 1 else {}
        processes.append(
            subprocess.Popen(
                [sys.executable, *program, *settings, *(own or {}).get(rank, [])],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=common | ranks,
                cwd=TRAIN.parent,
            )
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
    processes: list[subprocess.Popen[str]], timeout: float = 120
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
