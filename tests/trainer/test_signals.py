"""Which signals end a run, and what whoever presses Ctrl-C is told, and when."""

import os
import signal
from collections.abc import Iterator

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


def nothing(number: int, frame: object) -> None:
    """Stands for the end of the process, which would end the tests."""


@pytest.fixture
def hangup(request: pytest.FixtureRequest) -> Iterator[object]:
    """What a process was started to do at a SIGHUP."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield request.param
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("hangup", "received"), [(nothing, signal.SIGHUP), (signal.SIG_IGN, None)], indirect=["hangup"]
)
def test_a_hangup_is_a_wish_to_stop_unless_it_is_ignored(
    hangup: object, received: int | None
) -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)  # of the shell and of the kernel
    assert stop.received == received
    assert signal.getsignal(signal.SIGHUP) == hangup


@pytest.mark.parametrize("hangup", [nothing], indirect=True)
def test_a_system_may_have_no_hangup(hangup: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autowu.trainer.signals.HANGUP", None)
    with StopSignals():
        assert signal.getsignal(signal.SIGHUP) == hangup
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
