"""The lock of a run's folder: held by one process, gone with it, and done without."""

import errno
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from autowu.trainer import run_lock
from autowu.trainer.errors import CheckpointError
from autowu.trainer.run_lock import lock_folder
from tests.launch import TRAIN


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)


def test_one_at_a_time_has_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lock_folder(folder):
        said = f"{folder}: another process is training"
        with pytest.raises(CheckpointError, match=said), lock_folder(folder):
            pass
        assert (folder / "lock").exists()
    with lock_folder(folder):
        pass


def test_who_waits_for_the_lock_gets_it_although_its_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = lock_folder(tmp_path)
    holds.__enter__()
    monkeypatch.setattr(run_lock, "PATIENCE", 60.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: holds.__exit__(None, None, None))
    with lock_folder(tmp_path):
        monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
        with pytest.raises(CheckpointError), lock_folder(tmp_path):
            pass


def test_a_folder_that_nothing_was_put_into_is_removed_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError), lock_folder(tmp_path / "runs" / "run"):
        raise ValueError
    assert not (tmp_path / "runs").exists()
    with lock_folder(tmp_path / "runs" / "run"):
        (tmp_path / "runs" / "run" / "config.yaml").touch()
    assert [path.name for path in (tmp_path / "runs" / "run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("missing", ["system", "file system", "folder", "folder of folders"])
def test_where_there_are_no_locks_it_goes_without(
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    folder = tmp_path / "run"
    if missing == "system":
        monkeypatch.setattr(run_lock, "fcntl", None)
    elif missing == "file system":
        monkeypatch.setattr("fcntl.flock", refuse)
    elif missing == "folder":
        folder = Path("/dev/null/run")
    else:  # the kernel's folders say that what would be made in them does not exist
        folder = Path("/proc/nobody/run")
    with lock_folder(folder), lock_folder(folder):
        pass
    warning = f"warning: {folder}/lock cannot be locked (no locks available): take care"
    assert capsys.readouterr().err.count(warning) == 2 * (missing == "file system")


def test_the_lock_of_another_user_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def only_to_read(self: Path, mode: str = "r", *arguments: Any) -> Any:
        if mode == "ab":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, *arguments)

    with lock_folder(tmp_path), monkeypatch.context() as patch:
        patch.setattr(Path, "open", only_to_read)
        with pytest.raises(CheckpointError, match="another process"), lock_folder(tmp_path):
            pass
    monkeypatch.setattr(run_lock, "PATIENCE", 600.0)
    monkeypatch.setattr(Path, "open", only_to_read)
    with lock_folder(tmp_path):  # which is another user's, and not locked: nothing to wait for
        pass


HOLD_WITH_A_CHILD = """
import multiprocessing, sys, time
from pathlib import Path
from autowu.trainer.run_lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_child_that_outlives_a_killed_process_does_not_keep_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_WITH_A_CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TRAIN.parent,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(CheckpointError), lock_folder(tmp_path):
            pass
        process.kill()
        process.wait()
        monkeypatch.setattr(
            run_lock, "PATIENCE", 20.0
        )  # a child that was forked just now gives it up
        with lock_folder(tmp_path):
            assert Path(f"/proc/{child}").exists()
    finally:
        process.kill()
        subprocess.run(["kill", str(child)], check=True)
        process.stdout.close()


def test_a_file_system_that_became_read_only_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        with pytest.raises(KeyError), lock_folder(tmp_path):
            raise KeyError
    with lock_folder(tmp_path):
        pass
