"""What a run's folder must hold for the run to go on."""

from pathlib import Path

import pytest

from autowu.trainer.errors import CheckpointError
from autowu.trainer.run_directory import STEPS_HEADER, RunDirectory


@pytest.mark.parametrize("name", ["steps.csv", "metrics.jsonl"])
def test_a_damaged_byte_in_what_is_kept_is_refused_and_left_alone(
    name: str, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    run.metrics.write_text('{"epoch": 1}\n')
    run.steps.write_text(STEPS_HEADER + "0,0.1,2.5\n")
    file = tmp_path / name
    whole = file.read_bytes()
    damaged = whole[:5] + b"\xff" + whole[6:]
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=f"{name}: damaged, its byte 5 is not UTF-8"):
        run.go_on(run.last, "config", epoch=1, step=1)
    assert file.read_bytes() == damaged
    assert not run.config.exists()
    file.write_bytes(whole)
    run.last.touch()
    run.steps.write_bytes(run.steps.read_bytes() + b"\xff")  # after what the checkpoint counts on
    run.go_on(run.last, "config", epoch=1, step=1)
    assert run.steps.read_text() == STEPS_HEADER + "0,0.1,2.5\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", '{"epoch": 1', "0 whole lines where the checkpoint needs 1"),
        ("metrics.jsonl", '{"epoch": 1\n', "damaged in line 1"),
        ("metrics.jsonl", '{"epoch": 2}\n', "damaged in line 1"),
        ("metrics.jsonl", "[]\n", "damaged in line 1"),
        ("metrics.jsonl", None, "cannot be read: No such file"),
        ("steps.csv", STEPS_HEADER + "0,0.1,2", "1 whole lines where the checkpoint needs 2"),
        ("steps.csv", STEPS_HEADER + "0,0.1\n", "damaged in line 2"),
        ("steps.csv", STEPS_HEADER + "0,0.1,high\n", "damaged in line 2"),
        ("steps.csv", STEPS_HEADER + "1,0.1,2.5\n", "damaged in line 2"),
        ("steps.csv", "0,0.1,2.5\n1,0.1,2.5\n", "damaged in line 1"),
    ],
)
def test_a_line_that_a_checkpoint_counts_on_must_be_there_and_whole(
    name: str, content: str | None, said: str, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path)
    run.metrics.write_text('{"epoch": 1}\n')
    run.steps.write_text(STEPS_HEADER + "0,0.1,nan\n")
    run.last.touch()
    run.go_on(run.last, "config", epoch=1, step=1)  # as it is, it can
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=f"{name}: {said}.*; put a good one in its place"):
        run.go_on(run.last, "another config", epoch=1, step=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_where_a_run_came_from_may_be_damaged(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.origin.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="was to begin with"):
        run.find_checkpoint("auto")
    source = tmp_path / "last.pt"
    source.touch()
    assert run.find_checkpoint(str(source)) == source
