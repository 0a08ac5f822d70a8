"""Parameter groups: what decays, and which LR each part has, worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from autowu.trainer.models import build_model
from autowu.trainer.parameter_groups import find_head, parameter_groups

CNN = build_model("small_cnn", 1, 10)
VIT = build_model("vit_small_patch16_224", 3, 10, image_size=32)
RESNET = build_model("resnet18", 3, 10)


class Mixed(nn.Module):
    """A parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.position = nn.Parameter(torch.ones(1, 5, 4))
        self.q_bias = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self) -> set[str]:
        return {"position"}


def by_name(model: nn.Module, groups: list[dict[str, Any]], key: str, default: Any) -> dict:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group.get(key, default) for group in groups for p in group["params"]}


def undecayed(model: nn.Module, **switches: bool) -> set[str]:
    groups = parameter_groups(model, 0.3, **switches)
    decays = by_name(model, groups, "weight_decay", 0.3)
    assert decays.keys() == dict(model.named_parameters()).keys()
    assert set(decays.values()) <= {0.3, 0.0}
    return {name for name, decay in decays.items() if decay == 0}


NORMS = {"norm.weight", "norm.bias", "scale", "position"}
BIASES = {"conv.bias", "head.bias", "q_bias"}


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("decay_biases", [True, False])
def test_norms_and_biases_are_two_switches(decay_norms: bool, decay_biases: bool) -> None:
    expected = (set() if decay_norms else NORMS) | (set() if decay_biases else BIASES)
    found = undecayed(Mixed(), decay_norms=decay_norms, decay_biases=decay_biases)
    assert found == expected


@pytest.mark.parametrize("model", [CNN, VIT, RESNET], ids=["small_cnn", "vit", "resnet18"])
def test_with_both_switches_off_the_groups_are_timms(model: nn.Module) -> None:
    from timm.optim import param_groups_weight_decay

    own = getattr(model, "no_weight_decay", tuple)()
    theirs = param_groups_weight_decay(model, 0.3, no_weight_decay_list=own)
    ours = parameter_groups(model, 0.3, decay_norms=False, decay_biases=False)
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs, strict=True):
        assert a["weight_decay"] == b["weight_decay"]
        assert [id(p) for p in a["params"]] == [id(p) for p in b["params"]]


def test_when_nothing_differs_there_is_one_plain_group_in_the_networks_order() -> None:
    for settings in ({}, {"decay_norms": False, "decay_biases": False}):
        model = CNN if not settings else nn.Linear(3, 2, bias=False)
        (group,) = parameter_groups(model, 0.3, **settings)
        assert group.keys() == {"params"}
        assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_frozen_parameters_are_in_no_group() -> None:
    model = build_model("small_cnn", 1, 10)
    model.classifier.weight.requires_grad_(False)
    for settings in ({}, {"decay_norms": False}, {"head_lr_mult": 2.0}):
        names = by_name(model, parameter_groups(model, 0.1, **settings), "params", None)
        assert dict(model.named_parameters()).keys() - names.keys() == {"classifier.weight"}


def test_the_head_has_its_own_lr_and_decay() -> None:
    model = Mixed()
    groups = parameter_groups(
        model, 0.3, decay_biases=False, head_lr_mult=10.0, head_weight_decay=0.01
    )
    scales = by_name(model, groups, "lr_scale", None)
    decays = by_name(model, groups, "weight_decay", None)
    assert {name for name, scale in scales.items() if scale == 10.0} == {"head.weight", "head.bias"}
    assert set(scales.values()) == {1.0, 10.0}
    assert (decays["head.weight"], decays["head.bias"]) == (0.01, 0.0)
    assert decays["conv.weight"] == 0.3
    assert not any("lr" in group for group in groups)


@pytest.mark.parametrize(
    ("model", "head"),
    [(CNN, "classifier"), (VIT, "head"), (RESNET, "fc"), (Mixed(), "head")],
    ids=["small_cnn", "vit", "resnet18", "mixed"],
)
def test_the_head_is_found(model: nn.Module, head: str) -> None:
    assert find_head(model) is getattr(model, head)


def test_named_parts_multiply_and_match_whole_names() -> None:
    mults = {"blocks": 0.5, "blocks.1": 0.1, "head": 3.0}
    scales = by_name(VIT, parameter_groups(VIT, 0.1, lr_mult=mults), "lr_scale", None)
    assert scales["blocks.1.mlp.fc1.weight"] == pytest.approx(0.05)
    assert scales["blocks.10.mlp.fc1.weight"] == 0.5
    assert scales["head.bias"] == 3.0
    assert scales["patch_embed.proj.weight"] == 1.0


def test_layer_decay_is_timms_for_every_parameter() -> None:
    from timm.optim import param_groups_layer_decay

    for model in (VIT, RESNET):
        ours = by_name(model, parameter_groups(model, 0.1, layer_decay=0.7), "lr_scale", None)
        theirs = param_groups_layer_decay(model, 0.1, layer_decay=0.7)
        assert ours == by_name(model, theirs, "lr_scale", None)
    assert ours["fc.weight"] == 1.0
    assert min(ours.values()) == ours["conv1.weight"] < 0.7**3


def test_layer_decay_head_and_parts_multiply() -> None:
    groups = parameter_groups(
        VIT, 0.1, layer_decay=0.5, head_lr_mult=4.0, lr_mult={"head.bias": 0.5, "blocks.11": 3.0}
    )
    scales = by_name(VIT, groups, "lr_scale", None)
    assert (scales["head.weight"], scales["head.bias"]) == (4.0, 2.0)
    assert scales["blocks.11.attn.qkv.weight"] == 3.0 * 0.5
    assert scales["blocks.10.attn.qkv.weight"] == 0.25


def test_autowu_and_lrs_keep_the_ratios_of_the_groups() -> None:
    from autowu import AutoWU
    from autowu.trainer import optimizers

    optimizer = optimizers.build(CNN, "adamw", 0.1, 0.1, head_lr_mult=5.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
    scheduler = AutoWU(optimizer, total_steps=20, min_lr=1e-3)
    assert scheduler.get_last_lr() == pytest.approx([1e-3, 5e-3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_mult": {"featurse": 0.1}}, r"lr_mult\.featurse=0\.1: no trained .*features"),
        ({"lr_mult": {"feat": 0.1}}, r"begins with feat \(there are features"),
        ({"lr_mult": {"features": -1.0}}, r"lr_mult\.features=-1\.0: must be at least 0"),
        ({"head_lr_mult": math.inf}, r"head_lr_mult=inf: must be at least 0 and finite"),
        ({"layer_decay": 1.5}, r"layer_decay=1\.5: must be above 0 and at most 1"),
        ({"layer_decay": 0.5}, r"layer_decay=0\.5: needs one of timm's networks.*SmallCNN"),
    ],
)
def test_mistakes_are_refused_with_the_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(CNN, 0.1, **settings)


def test_a_network_without_a_linear_layer_has_no_head_to_set_apart() -> None:
    with pytest.raises(ValueError, match="Conv2d has no linear head"):
        parameter_groups(nn.Conv2d(1, 1, 1), 0.1, head_lr_mult=2.0)
