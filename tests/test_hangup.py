"""A terminal that is closed under a run: it saves and ends, or goes on where it was told to."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.launch import TRAIN
from tests.test_train import load

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# Long enough to be hung up on; its loader processes are hung up on, too.
LONG = ["data.batch_size=64", "data.num_workers=2", "checkpoint_every=20"]


def run_and_hang_up(
    command: Sequence[str], folder: Path, errors: Path | None, hangup: Callable[..., object]
) -> int:
    """The exit code of a run whose terminal is closed after its first checkpoint.

    Args:
        command: what Python runs.
        folder: of the run.
        errors: where standard error goes; None: to the terminal, too.
        hangup: how the run is started to treat SIGHUP.
    """
    ours, theirs = os.openpty()

    def on_terminal() -> None:
        signal.signal(signal.SIGHUP, hangup)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with open(os.devnull if errors is None else errors, "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command, f"output_dir={folder.parent}", f"name={folder.name}"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs if errors is None else file,
            start_new_session=True,
            preexec_fn=on_terminal,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    os.close(theirs)
    seen = threading.Event()

    def read() -> None:
        with suppress(OSError):  # the run has ended by itself
            while not seen.is_set():
                os.read(ours, 4096)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until = time.monotonic() + 120
        while not (folder / "last.pt").exists():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        seen.set()
        reader.join()
        os.close(ours)
        return process.wait(timeout=120)
    finally:
        seen.set()
        process.kill()
        process.wait()


def num_rows(folder: Path) -> int:
    return len((folder / "steps.csv").read_text().splitlines()) - 1


@pytest.mark.parametrize(
    ("launch", "code", "on_terminal"),
    [([], 129, True), ([], 129, False), (TORCHRUN, 1, False)],  # 1: whatever its ranks end with
)
def test_a_run_whose_terminal_is_closed_saves_all_that_it_trained(
    launch: list[str], code: int, on_terminal: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    errors = None if on_terminal else tmp_path / "errors"
    command = [*launch, str(TRAIN), *LONG, "epochs=500"]
    assert run_and_hang_up(command, folder, errors, signal.SIG_DFL) == code
    assert load(folder / "last.pt")["progress"]["step"] == num_rows(folder) < 500 * 22
    assert not (folder / "lock").exists()
    if errors is not None:
        text = errors.read_text()
        assert "train.py: stopped by SIGHUP, everything is saved; go on: " in text
        if not launch:  # torchrun adds a traceback of its own
            assert text.count("\n") == 1


def test_a_run_that_was_told_to_ignore_its_terminals_end_goes_on_to_its_own(
    tmp_path: Path,
) -> None:
    folder, errors = tmp_path / "run", tmp_path / "errors"
    command = [str(TRAIN), *LONG, "epochs=4"]
    assert run_and_hang_up(command, folder, errors, signal.SIG_IGN) == 0
    assert num_rows(folder) == 4 * 22
    assert (folder / "summary.json").exists()
    assert errors.read_text() == ""
