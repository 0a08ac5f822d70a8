"""Optimizers: how a name is found, what reaches the class, and the wrappers around it."""

import copy
import io
import math
import subprocess
import sys
import warnings
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from autowu.lars import LARS
from autowu.trainer import optimizers
from autowu.trainer.models import build_model
from autowu.trainer.optimizer_settings import OPTIMIZERS
from autowu.trainer.timm_adapters import Lookahead

MODEL = build_model("small_cnn", 1, 10)
IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(6, 5)), nn.Parameter(torch.ones(6))]


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> None:
    optimizer.zero_grad()
    (scale * model(IMAGES)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_written_setting_reaches_the_optimizer(name: str) -> None:
    model = build_model("small_cnn", 1, 10)
    before = [parameter.clone() for parameter in model.parameters()]
    settings = asdict(OPTIMIZERS[name]()) | {"lr": 0.1, "weight_decay": 0.2}
    optimizer = optimizers.build(model, **settings)
    (group,) = optimizer.param_groups
    assert group.keys() >= {"lr", "weight_decay"}
    for key in settings.keys() & group.keys():
        assert group[key] == settings[key]
    take_step(model, optimizer)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("adamp", "adamp.adamp.AdamP", {"delta": 0.1, "wd_ratio": 0.1, "nesterov": False}),
        ("sgdp", "adamp.sgdp.SGDP", {"momentum": 0.9, "nesterov": True}),
        ("sgd", "torch.optim.sgd.SGD", {"momentum": 0.9, "nesterov": True}),
        ("momentum", "torch.optim.sgd.SGD", {"momentum": 0.9, "nesterov": False}),
        ("nesterov", "torch.optim.sgd.SGD", {"momentum": 0.9, "nesterov": True}),
        ("adafactor", "torch.optim.Adafactor", {}),
        ("rmsprop", "torch.optim.rmsprop.RMSprop", {"alpha": 0.99, "momentum": 0}),
        ("lamb", "timm.optim.lamb.Lamb", {"max_grad_norm": 1.0}),
        ("larc", "timm.optim.lars.Lars", {"trust_clip": True, "momentum": 0.9}),
        ("muon", "timm.optim.muon.Muon", {"momentum": 0.95}),
        ("nlars", "timm.optim.lars.Lars", {"momentum": 0.9, "nesterov": True}),  # timm's defaults
        ("cadamw", "timm.optim.adamw.AdamWLegacy", {"caution": True}),
        ("rmsproptf", "timm.optim.rmsprop_tf.RMSpropTF", {"alpha": 0.9, "momentum": 0.9}),
        ("sophia", "pytorch_optimizer.optimizer.sophia.SophiaH", {}),
        ("schedulefree", "pytorch_optimizer.optimizer.schedulefree.ScheduleFreeAdamW", {}),
        ("soap", "pytorch_optimizer.optimizer.soap.SOAP", {}),
    ],
)
def test_a_name_means_this_class_with_these_defaults(
    name: str, kind: str, settings: dict[str, Any]
) -> None:
    optimizer = optimizers.create(name, parameters())
    assert f"{type(optimizer).__module__}.{type(optimizer).__qualname__}" == kind
    for key, value in settings.items():
        assert optimizer.param_groups[0][key] == value
        assert optimizers.keywords(name)[key] == value
    package = kind.partition(".")[0]
    assert optimizers.source(name).replace("-", "_") == package


def test_case_and_separators_do_not_matter() -> None:
    assert optimizers.canonical("Adam-W") == optimizers.canonical("ADAM_W") == "adamw"
    assert optimizers.canonical("bnbadam") == optimizers.canonical("BNB-Adam") == "bnb_adam"
    assert isinstance(optimizers.create("Schedule_Free", parameters()), torch.optim.Optimizer)


def test_available_is_sorted_and_importing_it_imports_no_library() -> None:
    names = optimizers.available()
    assert names == sorted(set(names))
    assert [optimizers.canonical(name) for name in names] == names
    code = (
        "import sys; from autowu.trainer import optimizers\n"
        "optimizers.canonical('prodigy'), optimizers.source('lamb')\n"
        "assert not {'timm', 'pytorch_optimizer', 'adamp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_muon_takes_matrices_and_flattened_kernels_and_adamw_the_rest() -> None:
    model = build_model("small_cnn", 1, 10)
    optimizer = optimizers.build(model, "muon", 0.01, 0.1)
    take_step(model, optimizer)
    by_muon = {name for name, p in model.named_parameters() if optimizer.state[p]["use_muon"]}
    # The first kernel has one input channel: a leading dimension of 1 is AdamW's.
    assert by_muon == {"features.3.weight", "features.6.weight", "classifier.weight"}
    for name, p in model.named_parameters():
        assert ("exp_avg" in optimizer.state[p]) == (name not in by_muon)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adamm", {}, r"optimizer\.name=adamm: unknown \(did you mean adam, \w+ or \w+\?\)"),
        ("sgd", {"momentun": 0.1}, r"momentun=0\.1: sgd does not .*mean momentum\?\); it takes lr"),
        ("sgd", {"weight_decay": -1.0}, r"weight_decay=-1\.0: must be at least 0"),
        ("adamw", {"lr": math.nan}, r"lr=nan: must be at least 0 and finite"),
        ("adamw", {"lr": -0.1}, r"lr=-0\.1: must be at least 0"),
        ("rprop", {"weight_decay": 0.1}, r"weight_decay=0\.1: rprop has no weight decay"),
        ("bsam", {}, r"optimizer\.num_data: bsam needs it"),
    ],
)
def test_mistakes_are_refused_with_what_would_be_right(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        optimizers.create(name, parameters(), **settings)


def test_no_weight_decay_may_be_said_to_those_that_have_none() -> None:
    for name in ("rprop", "sparseadam", "lbfgs"):
        optimizers.create(name, parameters(), weight_decay=0.0)


def test_without_an_lr_the_learning_rate_free_ones_get_1() -> None:
    for name, lr in (("adamw", 1e-3), ("prodigy", 1.0), ("dadaptsgd", 1.0)):
        assert optimizers.build(MODEL, name, None, 0.1).param_groups[0]["lr"] == lr


def test_null_in_a_config_stands_for_an_infinite_default() -> None:
    optimizer = optimizers.build(MODEL, **asdict(OPTIMIZERS["prodigy"]()))
    assert optimizer.param_groups[0]["growth_rate"] == math.inf
    unlimited = asdict(OPTIMIZERS["lamb"]()) | {"max_grad_norm": None}
    assert optimizers.build(MODEL, **unlimited).param_groups[0]["max_grad_norm"] is None


def test_one_estimated_lr_and_lrs_of_parts_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="prodigy: estimates one LR for all parameters"):
        optimizers.build(MODEL, "prodigy", None, 0.1, head_lr_mult=2.0)
    optimizers.build(MODEL, "prodigy", None, 0.1, decay_norms=False)


def test_what_the_training_loop_must_know() -> None:
    assert optimizers.needs_closure("lbfgs")
    assert optimizers.needs_closure(optimizers.create("lbfgs", parameters()))
    assert not optimizers.needs_closure("sgd")
    for name in ("sophia", "adahessian"):
        assert optimizers.needs_create_graph(name)
        assert optimizers.needs_create_graph(optimizers.create(name, parameters()))
        assert optimizers.refusal(name) is None
    assert not optimizers.needs_create_graph("adamw")
    free = optimizers.create("schedulefree", parameters())
    assert optimizers.has_modes(free)
    assert not optimizers.has_modes(optimizers.create("adamw", parameters()))
    assert "closure" in str(optimizers.refusal("LBFGS"))
    assert "DeepSpeed engine" in str(optimizers.refusal("deepspeed_onebitadam"))
    assert optimizers.refusal("adamw") is None


def test_lars_and_lookahead_go_around_it_with_their_settings() -> None:
    settings = {"lars": True, "lars_trust_coef": 0.01, "lars_eps": 0.1, "lars_clip": True}
    optimizer = optimizers.build(
        MODEL, "adamw", 0.1, 0.1, **settings, lookahead=True, lookahead_alpha=0.3, lookahead_k=2
    )
    assert isinstance(optimizer, Lookahead)
    lars = optimizer.base_optimizer
    assert isinstance(lars, LARS)
    assert (lars.trust_coef, lars.eps, lars.clip) == (0.01, 0.1, True)
    assert isinstance(lars.base_optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["lookahead_alpha"] == 0.3
    assert not optimizers.needs_closure(optimizer)


def test_wrappers_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="lookahead=true: schedulefree averages"):
        optimizers.build(MODEL, "schedulefree", 0.1, 0.1, lookahead=True)
    with pytest.raises(ValueError, match="lars=true: sophia differentiates the gradient"):
        optimizers.build(MODEL, "sophia", 0.1, 0.1, lars=True)


def test_lookahead_goes_part_of_the_way_every_k_steps() -> None:
    fast = build_model("small_cnn", 1, 10)
    slow = copy.deepcopy(fast)
    plain = optimizers.build(fast, "momentum", 0.1, 0.0)
    wrapped = optimizers.build(slow, "momentum", 0.1, 0.0, lookahead=True, lookahead_k=2)
    # timm takes its first slow weights at the first k-th step, so that one changes nothing.
    for _ in range(2):
        take_step(slow, wrapped)
        take_step(fast, plain)
    middle = copy.deepcopy(list(slow.parameters()))
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        assert torch.equal(a, b)
    for _ in range(2):
        take_step(slow, wrapped)
        take_step(fast, plain)
    for p, end, mid in zip(slow.parameters(), fast.parameters(), middle, strict=True):
        torch.testing.assert_close(p.detach(), (mid + 0.5 * (end - mid)).detach())


def test_lookahead_calls_hooks_and_shares_all_with_its_base() -> None:
    model = build_model("small_cnn", 1, 10)
    optimizer = optimizers.build(model, "adamw", 0.1, 0.1, lookahead=True)
    assert isinstance(optimizer, Lookahead)
    called: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    take_step(model, optimizer)
    assert called == ["before", "after"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        take_step(model, optimizer)
        scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.05
    for each in (optimizer, copy.deepcopy(optimizer)):
        assert each.param_groups is each.base_optimizer.param_groups
        assert each.defaults is each.base_optimizer.defaults
        each.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
        assert each.param_groups[1]["lookahead_k"] == 6


def test_lookahead_goes_on_bit_for_bit_from_a_checkpoint() -> None:
    model = build_model("small_cnn", 1, 10)
    optimizer = optimizers.build(model, "adamw", 0.01, 0.1, lookahead=True, lookahead_k=3)
    for _ in range(7):
        take_step(model, optimizer)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    again = build_model("small_cnn", 1, 10)
    again.load_state_dict(weights)
    other = optimizers.build(again, "adamw", 0.01, 0.1, lookahead=True, lookahead_k=3)
    other.load_state_dict(state)
    for _ in range(7):
        take_step(model, optimizer)
        take_step(again, other)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
