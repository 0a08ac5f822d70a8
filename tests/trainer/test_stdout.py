"""What cannot be written to standard output ends no run."""

import io
from pathlib import Path

import pytest

from autowu.trainer.stdout import say


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_written_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:  # its end would fail as well
        monkeypatch.setattr("sys.stdout", full)
        say("to a disk that is full")
        say("to nobody")


def test_what_the_encoding_lacks_is_written_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file, encoding="ascii"))
    say("runs/pü9: going on")
    assert file.getvalue() == b"runs/p\\xfc9: going on\n"
