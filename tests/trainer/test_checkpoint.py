"""Checkpoint files: whole or absent, and refused when they are not ours."""

from pathlib import Path
from typing import Any

import pytest
import torch

from autowu.trainer.checkpoint import (
    KEYS,
    atomic_file,
    check_same_config,
    forget_later_best,
    load_checkpoint,
    save,
    save_weights,
)
from autowu.trainer.errors import CheckpointError, WriteError
from autowu.trainer.progress import Progress


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"new and half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_in_the_middle_of_a_file_is_told_as_such(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"last\.pt: cannot be written: File too large"):
            save(tmp_path / "last.pt", {"w": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_best_weights_of_an_epoch_that_is_made_anew_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*arguments: Any, **options: Any) -> None:
        raise OSError("stale file handle")

    path = tmp_path / "best.pt"
    forget_later_best(path, 2)  # there are none
    for epoch in (2, 3):
        save_weights(path, {"w": torch.zeros(1)}, Progress(epoch=epoch))
        forget_later_best(path, 2)
        assert path.exists() == (epoch == 2)
    save_weights(path, {"w": torch.zeros(1)}, Progress(epoch=3))
    with monkeypatch.context() as patch:
        patch.setattr("torch.load", unreadable)
        with pytest.raises(OSError, match="stale"):
            forget_later_best(path, 2)
    assert path.exists()
    path.write_bytes(b"damaged")
    forget_later_best(path, 2)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_foreign_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt: not a readable checkpoint"):
        load_checkpoint(path)


def test_a_checkpoint_with_a_flipped_bit_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    weights = torch.full((100,), 3.0)
    state: dict[str, Any] = {key: {} for key in KEYS} | {"model": {"w": weights}, "ranks": [{}]}
    torch.save(state, path)
    assert load_checkpoint(path)["model"]["w"].tolist() == [3.0] * 100
    content = bytearray(path.read_bytes())
    content[content.index(weights.numpy().tobytes()) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt: not a readable checkpoint .*data/0 is"):
        load_checkpoint(path)


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"no config, progress, optimizer.*give the last\.pt"):
        load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("key", "value"), [("config", [1]), ("progress", []), ("ranks", {}), ("ranks", [])]
)
def test_what_has_another_shape_is_as_good_as_missing(
    key: str, value: object, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    state: dict[str, Any] = {key: {} for key in KEYS} | {"ranks": [{}]}
    torch.save(state, path)
    assert load_checkpoint(path) == state
    torch.save(state | {key: value}, path)
    with pytest.raises(CheckpointError, match=rf"\(no {key} in it\); put a good one in its place"):
        load_checkpoint(path)


def test_changed_settings_are_refused_by_key_and_the_free_ones_are_not() -> None:
    path = Path("runs/a/last.pt")
    saved = {"epochs": 3, "name": None, "schedule": {"name": "autowu", "patience": 3}}
    check_same_config(path, saved, saved | {"name": "b", "tracking": {"wandb": "online"}})
    with pytest.raises(CheckpointError, match="epochs=4: the run in runs/a has epochs=3"):
        check_same_config(path, saved, saved | {"epochs": 4})
    with pytest.raises(CheckpointError, match=r"schedule\.name=warmup_cosine"):
        check_same_config(path, saved, saved | {"schedule": {"name": "warmup_cosine"}})


def test_a_run_from_before_a_probe_could_shorten_the_warmup_goes_on() -> None:
    before = {"schedule": {"name": "autowu", "probe": 32}}
    check_same_config(Path("a/last.pt"), before, with_fraction(1.0))
    with pytest.raises(CheckpointError, match=r"fraction=1\.0 to go on with it"):
        check_same_config(Path("a/last.pt"), before, with_fraction(0.3))
    fixed = {"schedule": {"name": "autowu", "probe": 32, "sweep": "fixed"}}
    check_same_config(Path("a/last.pt"), fixed, with_fraction(0.3, sweep="fixed"))
    for unprobed in ({"name": "autowu", "probe": 0}, {"name": "autowu"}):
        check_same_config(Path("a/last.pt"), {"schedule": unprobed}, with_fraction(0.3, probe=0))


def with_fraction(fraction: float, **settings: Any) -> dict[str, Any]:
    schedule = {"name": "autowu", "probe": 32, "probed_warmup_fraction": fraction}
    return {"schedule": schedule | settings}


def test_a_run_from_before_there_was_a_probe_goes_on_without_one() -> None:
    saved = {"schedule": {"name": "autowu"}}
    check_same_config(Path("a/last.pt"), saved, {"schedule": {"name": "autowu", "probe": 0}})
    with pytest.raises(CheckpointError, match=r"schedule\.probe=32: the run in a has .*probe=0"):
        check_same_config(Path("a/last.pt"), saved, {"schedule": {"name": "autowu", "probe": 32}})
    with pytest.raises(CheckpointError, match=r"schedule\.probe=0 to go on with it, another"):
        check_same_config(Path("a/last.pt"), saved, {"schedule": {"name": "autowu", "probe": 32}})
    fixed = {"schedule": {"name": "autowu", "sweep": "fixed"}}
    check_same_config(
        Path("a/last.pt"), fixed, {"schedule": {"name": "autowu", "sweep": "fixed", "probe": 32}}
    )
