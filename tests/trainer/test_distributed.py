"""What ranks must have in common before they begin."""

from dataclasses import replace

import pytest
import torch.distributed as dist

from autowu.trainer.config import build_settings
from autowu.trainer.config_files import common_to_ranks
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import ConfigError, PeerLost
from autowu.trainer.settings import Settings


def compare(one: Settings, other: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rank 0 does when it has the settings `one`, and rank 1 the settings `other`."""

    def gather(values: list[object], value: object) -> None:
        values[:] = [value, common_to_ranks(other)]

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "all_gather_object", gather)
    Ranks().agree_on(common_to_ranks(one))


def test_a_rank_whose_peer_was_killed_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]")
    with pytest.raises(PeerLost, match="rank 3: another rank has ended") as caught:
        Ranks().__exit__(RuntimeError, lost)
    assert not caught.value.is_shared  # the first rank may be the one that is gone


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=5", r"seed=5 \(rank 1\): must be the same on all ranks, and rank 0 has seed=0"),
        ("log_every=7", "log_every=7 .* rank 0 has log_every=20"),
        ("checkpoint_every=7", "checkpoint_every=7 .* rank 0 has checkpoint_every=epoch"),
        ("name=a", "name=a .* rank 0 has name=null"),
        ("resume=never", "resume=never .* rank 0 has resume=auto"),
        ("data.name=synthetic", r"data\.name=synthetic .* rank 0 has data\.name=digits"),
    ],
)
def test_another_setting_on_one_rank_is_told_by_its_key(
    setting: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=said):
        compare(Settings(), build_settings([], [setting]), monkeypatch)


def test_what_is_of_a_machine_or_of_rank_0_alone_may_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = build_settings([], ["data.name=cifar10"])
    own = ["data.root=/scratch", "data.num_workers=2", "device=cuda:1", "tracking.tensorboard=true"]
    other = build_settings([], ["data.name=cifar10", *own])
    compare(one, other, monkeypatch)
    with pytest.raises(ConfigError, match="epochs=3"):
        compare(one, replace(other, epochs=3), monkeypatch)
