"""The same command twice: the second one ends with a line, a killed one is taken up at once."""

import signal
import time
from pathlib import Path

import pytest

from autowu.trainer import run_lock
from autowu.trainer.run_lock import lock_folder
from tests.launch import finish, start, train
from tests.test_train import assert_same_run, main, one_thread

__all__ = ["one_thread"]

SETTINGS = ["data.batch_size=64", "epochs=3", "checkpoint_every=5"]  # 66 optimizer steps


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)


def wait_for_checkpoint(folder: Path) -> None:
    until = time.monotonic() + 60
    while not (folder / "last.pt").exists():
        assert time.monotonic() < until
        time.sleep(0.005)


def refusal(folder: Path) -> str:
    return (
        f"train.py: {folder}: another process is training this run (wait until it has ended, or"
        " choose another name=...)\n"
    )


def test_a_second_process_is_refused_and_the_first_undisturbed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "twice"
    settings = [*SETTINGS, f"output_dir={tmp_path}", "name=twice"]
    (process,) = start(settings)
    wait_for_checkpoint(folder)
    process.send_signal(signal.SIGSTOP)  # for as long as the second one needs
    for resume in ("auto", "never"):
        assert main([*settings, f"resume={resume}"]) == 2
        assert capsys.readouterr().err == refusal(folder)
    process.send_signal(signal.SIGCONT)
    ((code, _, error),) = finish([process])
    assert code == 0, error
    rows = (folder / "steps.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(66))
    assert not (folder / "lock").exists()
    assert main(settings) == 0
    assert "is finished" in capsys.readouterr().out


def test_all_ranks_end_where_another_process_trains_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lock_folder(folder):
        outcomes = train([*SETTINGS, f"output_dir={tmp_path}", "name=run"], world_size=2)
    assert outcomes == [(2, "", refusal(folder)), (2, "", "")]
    assert not folder.exists()


def test_a_killed_run_with_loader_processes_goes_on_at_once(tmp_path: Path) -> None:
    settings = [*SETTINGS, "data.num_workers=2", f"output_dir={tmp_path}"]
    (process,) = start([*settings, "name=killed"])
    wait_for_checkpoint(tmp_path / "killed")
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert main([*settings, "name=killed"]) == 0
    finish([process])
    assert main([*settings, "name=undisturbed"]) == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "killed")
