"""The settings of schedules: defaults, what they refuse, and that torch stays away."""

import dataclasses
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from autowu.trainer.errors import ConfigError
from autowu.trainer.schedule_settings import SCHEDULES, FindsLRSettings, PeakSettings


def settings(lr: float | None = 0.1, epochs: int = 10) -> Any:
    return SimpleNamespace(optimizer=SimpleNamespace(lr=lr, name="sgd"), epochs=epochs)


COMPOSITE = {"curves": [{"name": "cosine", "length": 1.0}]}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_defaults_are_right_and_carry_their_name(name: str) -> None:
    chosen = SCHEDULES[name](**(COMPOSITE if name == "composite" else {}))
    assert chosen.name == name
    finds_lr = isinstance(chosen, FindsLRSettings)
    assert isinstance(chosen, PeakSettings) != finds_lr
    chosen.check(settings(lr=None if finds_lr else 0.1))
    chosen.check(settings(lr=None if finds_lr else 0.1, epochs=1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_peak_lr_is_asked_for_by_those_that_do_not_find_it_and_refused_by_the_others(
    name: str,
) -> None:
    chosen = SCHEDULES[name](**(COMPOSITE if name == "composite" else {}))
    if name in ("autowu", "lr_range_test", "range_test_onecycle"):
        with pytest.raises(ConfigError, match=f"optimizer.lr=0.1: schedule.name={name} finds"):
            chosen.check(settings(lr=0.1))
    else:
        with pytest.raises(ConfigError, match=f"optimizer.lr=null: schedule.name={name} needs"):
            chosen.check(settings(lr=None))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("autowu", {"min_lr": 2.0}, r"schedule.min_lr=2.0: must be below schedule.max_lr=1.0"),
        ("autowu", {"test_interval": "epochs"}, r"test_interval=epochs: must be auto.*mean epoch"),
        ("autowu", {"cooldown_fraction": 0.3}, r"cooldown_fraction=0.3: acts only with"),
        ("lr_range_test", {"max_lr": 1e-8}, r"schedule.min_lr=1e-07: must be below"),
        ("cosine", {"warmup_epochs": 10.0}, r"warmup_epochs=10: must be below epochs=10"),
        ("cosine", {"warmup_epochs": 1.5, "update": "epoch"}, r"=1.5: must be a whole"),
        ("cosine", {"warmup": "exponential"}, r"warmup=exponential: acts only with a warmup"),
        ("cosine", {"warmup_start_ratio": 0.1}, r"warmup_start_ratio=0.1: acts only with a warmup"),
        ("cosine", {"warmup_epochs": 1.0, "warmup": "exponential", "warmup_start_ratio": 0.0},
         r"warmup_start_ratio=0: must be above 0"),
        ("cosine", {"base_batch_size": 512}, r"base_batch_size=512: acts only with"),
        ("multistep", {"milestones": (5.0, 3.0)}, r"milestones=\[5.0, 3.0\]: must be in ascending"),
        ("multistep", {"milestones": (5.0, 5.0)}, r"none of them twice"),
        ("multistep", {"milestones": (5.0, 10.0)}, r"must be below epochs=10"),
        ("multistep", {"factors": (0.1,)}, r"factors=\[0.1\]: must be 2 numbers"),
        ("multistep", {"factors": (0.1, 0.05), "gamma": 0.2}, r"gamma=0.2: does not act beside"),
        ("step", {"step_epochs": 10.0}, r"step_epochs=10: must be below epochs=10"),
        ("exponential", {"gamma": 0.9, "end_lr_ratio": 0.1}, r"end_lr_ratio=0.1: does not act"),
        ("onecycle", {"three_phase": True, "pct_start": 0.6}, r"=0.6: must be at most 0.5"),
        ("range_test_onecycle", {"three_phase": True, "pct_start": 0.6}, r"pct_start=0.6"),
        ("cosine_restarts", {"cycle_epochs": 2.0, "num_cycles": 3}, r"num_cycles=3: does not act"),
        ("cosine_restarts", {"num_cycles": 2000, "cycle_mult": 2.0}, r"=2000: must be fewer"),
        ("composite", {}, r"curves=\[\]: must be a list of curves"),
        ("wsd", {"warmup_epochs": 5.0, "cooldown_fraction": 0.6}, r"must be at most 0.5, what"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_by_key_and_value(
    name: str, changes: dict[str, Any], message: str
) -> None:
    chosen = SCHEDULES[name](**changes)
    lr = None if isinstance(chosen, FindsLRSettings) else 0.1
    with pytest.raises(ConfigError, match=message):
        chosen.check(settings(lr))


@pytest.mark.parametrize("name", SCHEDULES)
def test_settings_are_frozen_and_hashable_in_their_defaults(name: str) -> None:
    for field in dataclasses.fields(SCHEDULES[name]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(SCHEDULES[name](), field.name, None)


def test_omegaconf_reads_every_kind_of_settings() -> None:
    from omegaconf import OmegaConf

    for name, kind in SCHEDULES.items():
        chosen = kind(**(COMPOSITE if name == "composite" else {}))
        assert OmegaConf.to_object(OmegaConf.structured(chosen)) == chosen


def test_omegaconf_reads_milestones_and_curves() -> None:
    from omegaconf import OmegaConf

    tree = OmegaConf.structured(SCHEDULES["multistep"]())
    OmegaConf.set_readonly(tree, False)
    OmegaConf.update(tree, "milestones", [3, 6])
    chosen: Any = OmegaConf.to_object(tree)
    chosen.check(settings())
    assert list(chosen.milestones) == [3.0, 6.0]
    tree = OmegaConf.structured(SCHEDULES["composite"]())
    OmegaConf.set_readonly(tree, False)
    tree.curves = [{"name": "linear", "length": 0.1}, {"name": "cosine", "length": 0.9}]
    chosen = OmegaConf.to_object(tree)
    chosen.check(settings())
    assert chosen.curves[1] == {"name": "cosine", "length": 0.9}


def test_torch_is_not_imported() -> None:
    program = (
        "import sys, autowu.trainer.schedule_settings, autowu.settings, autowu.schedules;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
