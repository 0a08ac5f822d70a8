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
