"""Optimizers: what reaches them, and which parameters decay."""

import pytest
import torch

from autowu.trainer.models import build_model
from autowu.trainer.optimizers import build_optimizer

MODEL = build_model("small_cnn", 1, 10)


@pytest.mark.parametrize("name", ["adamp", "adamw", "lamb", "sgd"])
def test_every_optimizer_takes_its_settings_and_steps(name: str) -> None:
    from dataclasses import asdict

    from autowu.trainer.settings import OPTIMIZERS

    model = build_model("small_cnn", 1, 10)
    before = [parameter.clone() for parameter in model.parameters()]
    settings = asdict(OPTIMIZERS[name]()) | {"lr": 0.1, "weight_decay": 0.2}
    optimizer = build_optimizer(model, **settings)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["weight_decay"] == 0.2
    for key in settings.keys() - {"name", "no_decay_norms"}:
        assert optimizer.param_groups[0][key] == settings[key]
    model(torch.randn(4, 1, 8, 8)).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_norms_and_biases_may_be_left_out_of_the_decay() -> None:
    optimizer = build_optimizer(MODEL, "adamw", None, 0.3, no_decay_norms=True)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decays) == len(list(MODEL.parameters()))
    for parameter in MODEL.parameters():
        assert decays[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0)


def test_what_a_transformer_names_itself_does_not_decay_either() -> None:
    model = build_model("vit_small_patch16_224", 3, 10, image_size=32)
    optimizer = build_optimizer(model, "adamw", None, 0.3, no_decay_norms=True)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert model.pos_embed.ndim == 3
    assert decays[id(model.pos_embed)] == 0.0
    assert decays[id(model.cls_token)] == 0.0


def test_a_network_without_such_parameters_has_one_group() -> None:
    linear = torch.nn.Linear(3, 2, bias=False)
    assert len(build_optimizer(linear, "sgd", 0.1, 0.1, no_decay_norms=True).param_groups) == 1


def test_frozen_parameters_are_left_out() -> None:
    model = build_model("small_cnn", 1, 10)
    model.classifier.weight.requires_grad_(False)
    for no_decay_norms in (False, True):
        groups = build_optimizer(model, "adamp", None, 0.1, no_decay_norms).param_groups
        held = {id(parameter) for group in groups for parameter in group["params"]}
        assert id(model.classifier.weight) not in held


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.name=adam: must be one of"):
        build_optimizer(MODEL, "adam", None, 0.1)
