"""What whoever presses Ctrl-C is told, and when."""

import os
import signal

import pytest

from autowu.trainer.signals import StopSignals


@pytest.mark.parametrize(
    ("number", "rank", "on_terminal", "is_told"),
    [
        (signal.SIGINT, "0", True, True),
        (signal.SIGINT, "1", True, False),
        (signal.SIGINT, "0", False, False),
        (signal.SIGTERM, "0", True, False),
    ],
)
def test_ctrl_c_on_a_terminal_is_answered_at_once(
    number: int, rank: str, on_terminal: bool, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, bytes]] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(os, "isatty", lambda file: on_terminal)
    monkeypatch.setattr(os, "write", lambda file, text: written.append((file, text)))
    with StopSignals() as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the same wish, by another way
    monkeypatch.undo()
    assert stop.received == number
    assert [file for file, _ in written] == [2] * is_told
    assert all(b"stopping after this step; Ctrl-C once more" in text for _, text in written)
