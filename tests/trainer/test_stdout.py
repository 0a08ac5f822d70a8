"""What cannot be written to standard output or standard error ends no run."""

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from autowu.trainer.stdout import say, unfailing_outputs

ROOT = Path(__file__).parents[2]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@needs_full
def test_what_cannot_be_written_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as output, open("/dev/full", "w") as errors:  # their ends, too
        monkeypatch.setattr("sys.stdout", output)
        monkeypatch.setattr("sys.stderr", errors)
        with unfailing_outputs():
            say("to a disk that is full")
            Console().print("to nobody")
            print("a mistake", file=sys.stderr, flush=True)
            print("not flushed yet")
        assert (sys.stdout, sys.stderr) == (output, errors)
        print("later", flush=True)


@needs_full
def test_lines_written_at_once_go_nowhere_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        with unfailing_outputs():
            sys.stdout.writelines(["long" * 10_000, "\n"])
            assert copy.copy(sys.stdout).fileno() == output.fileno()


def test_what_is_full_for_a_moment_is_written_to_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    with open(reading, "rb") as pipe, open(writing, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        with unfailing_outputs():
            for _ in range(20):
                say("long" * 10_000)
            heard = b""
            while not heard.endswith(b"heard\n"):
                read = pipe.read()
                assert read, "nothing comes any more"
                heard += read
                say("heard")


@needs_full
@pytest.mark.parametrize(
    ("argument", "code"), [("epochs=0", 2), ("--help", 0)], ids=["mistake", "help"]
)
def test_the_exit_code_is_that_of_the_run_where_nothing_can_be_written(
    argument: str, code: int
) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "train.py", argument]
        assert subprocess.run(command, cwd=ROOT, stdout=full, stderr=full).returncode == code


def test_a_process_may_have_no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    with unfailing_outputs():
        say("to nobody")
        print("a mistake", file=sys.stderr)


def test_what_the_encoding_lacks_is_written_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file, encoding="ascii"))
    with unfailing_outputs():
        say("runs/pü9: going on")
    assert file.getvalue() == b"runs/p\\xfc9: going on\n"
