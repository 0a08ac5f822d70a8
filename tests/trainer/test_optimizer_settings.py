"""Settings of optimizers: written down or made of a class, and what they refuse together."""

import dataclasses
import subprocess
import sys
from typing import Any, get_type_hints

import pytest
import torch
from omegaconf import OmegaConf

from autowu.trainer import optimizers
from autowu.trainer.config import build_settings
from autowu.trainer.errors import ConfigError
from autowu.trainer.optimizer_settings import OPTIMIZERS, OptimizerSettings

SHARED = {entry.name for entry in dataclasses.fields(OptimizerSettings)}


def test_the_written_ones_need_no_torch() -> None:
    code = (
        "import sys; from autowu.trainer.optimizer_settings import OPTIMIZERS\n"
        "assert OPTIMIZERS['Adam-W']().name == 'adamw' and 'lamb' in OPTIMIZERS\n"
        "assert 'adamp' in list(OPTIMIZERS)\n"
        "assert not {'torch', 'timm', 'pytorch_optimizer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_written_ones_have_the_defaults_of_their_class(name: str) -> None:
    own = {e.name: e.default for e in dataclasses.fields(OPTIMIZERS[name]) if e.name not in SHARED}
    keywords = optimizers.keywords(name)
    assert own.keys() <= keywords.keys()
    assert {key: keywords[key] for key in own} == own


REFUSED = [name for name in optimizers.available() if optimizers.refusal(name)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_trainer_cannot_use_has_no_settings_and_says_why(name: str) -> None:
    assert name in OPTIMIZERS
    with pytest.raises(ConfigError, match=f"optimizer.name={name}: it "):
        OPTIMIZERS[name]


@pytest.mark.parametrize("name", sorted({*optimizers.available()} - {*REFUSED}))
def test_every_optimizers_settings_are_read_by_omegaconf_and_build_it(name: str) -> None:
    kind = OPTIMIZERS[name]
    settings = OmegaConf.to_object(OmegaConf.structured(kind()))
    assert isinstance(settings, OptimizerSettings)
    assert settings.name == name
    assert get_type_hints(kind).keys() >= SHARED
    keywords = optimizers.keywords(name)
    own = dataclasses.asdict(settings).keys() - SHARED
    assert own <= keywords.keys()
    assert settings.weight_decay == (0.01 if "weight_decay" in keywords else 0)


def test_any_spelling_is_one_name_and_the_same_settings() -> None:
    assert OPTIMIZERS["Ada-B_elief"] is OPTIMIZERS["adabelief"]
    assert OPTIMIZERS["SGD"] is OPTIMIZERS["sgd"]
    assert "PRODIGY" in OPTIMIZERS
    assert "prodigyy" not in OPTIMIZERS
    assert 3 not in OPTIMIZERS
    with pytest.raises(KeyError):
        OPTIMIZERS["prodigyy"]


def test_what_is_not_installed_is_known_and_says_what_installs_it() -> None:
    assert "bnb_adam" in OPTIMIZERS
    with pytest.raises(ConfigError, match=r"pip install '\.\[bitsandbytes\]' in a clone"):
        OPTIMIZERS["bnb_adam"]


def parse(*overrides: str) -> Any:
    return build_settings([], list(overrides)).optimizer


def test_keywords_of_a_class_are_settings_beside_the_name() -> None:
    settings = parse("optimizer.name=prodigy", "optimizer.d_coef=2", "optimizer.betas=[0.8, 0.9]")
    assert (settings.d_coef, settings.betas, settings.growth_rate) == (2.0, (0.8, 0.9), None)
    settings = parse("optimizer.name=AdamW", "optimizer.betas=[0.8, 0.9]")
    assert (settings.name, tuple(settings.betas)) == ("adamw", (0.8, 0.9))
    settings = parse("optimizer.name=rprop", "optimizer.etas=[0.4, 1.3]")
    assert (settings.weight_decay, settings.etas) == (0.0, (0.4, 1.3))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer.lookahead_k=3", r"lookahead_k=3: acts with optimizer\.lookahead=true alone"),
        ("optimizer.lars_clip=true", r"lars_clip=true: acts with optimizer\.lars=true alone"),
        ("optimizer.lars=true optimizer.weight_decay=0", "lars_always_adapt=true adapts all"),
        ("optimizer.name=rprop optimizer.weight_decay=0.1", "rprop has no weight decay"),
        ("optimizer.name=lbfgs", "lbfgs: it needs a closure"),
        ("optimizer.name=sparseadam", "sparseadam: it takes sparse gradients alone"),
        ("optimizer.name=lomo", "lomo: it steps within the backward pass"),
        ("optimizer.name=a2grad", "a2grad: it has no LR"),
        ("optimizer.layer_decay=1.5", r"layer_decay=1\.5: must be above 0 and at most 1"),
        ("optimizer.lr_mult={head: -1}", "lr_mult.*must be at least 0"),
        ("optimizer.weight_decay=-0.1", r"weight_decay=-0\.1: must be at least 0"),
        ("optimizer.name=sgd optimizer.momentum=0", "momentum=0: must be above 0 with"),
        ("optimizer.name=sgd optimizer.dampening=0.5", r"dampening=0\.5: must be 0 with"),
    ],
)
def test_what_cannot_be_together_is_refused_with_the_value(overrides: str, message: str) -> None:
    separated = overrides.replace(" optimizer", "\noptimizer").split("\n")
    with pytest.raises(ConfigError, match=message):
        parse(*separated)


def test_integers_without_an_annotation_stay_integers() -> None:
    settings = build_settings([], ["optimizer.name=adahessian"]).optimizer
    assert (settings.n_samples, settings.update_each) == (1, 1)  # type: ignore[attr-defined]
    assert isinstance(settings.n_samples, int)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["muonclip", "normuon", "adago"])
def test_both_halves_of_muon_have_one_lr(name: str) -> None:
    model = torch.nn.Linear(3, 2)
    groups = optimizers.create(name, model.parameters(), lr=0.2).param_groups
    assert [group["lr"] for group in groups] == [0.2, 0.2]
    assert len(optimizers.create(name, model.named_parameters(), lr=0.2).param_groups) == 2


def test_lookahead_is_said_to_be_a_wrapper() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lookahead=true"):
        build_settings([], ["optimizer.name=lookahead"])
    with pytest.raises(ValueError, match=r"optimizer\.lookahead=true"):
        optimizers.create("Lookahead", [])
