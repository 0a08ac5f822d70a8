"""LARS around any optimizer: equal to timm's and to its formula, and a proper torch optimizer."""

import copy
import io
import math
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils._python_dispatch import TorchDispatchMode

from autowu import AutoWU
from autowu.lars import LARS, trust_ratios

SHAPES = [(8, 3, 3, 3), (8,), (10, 8), (10,), (5, 4)]


def make_parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    with torch.no_grad():
        parameters[3].zero_()  # a norm of 0
    return parameters


def gradients(num_steps: int) -> Iterator[list[Tensor]]:
    """Gradients of several steps; those of the last parameter are 0 in every other one."""
    generator = torch.Generator().manual_seed(1)
    for step in range(num_steps):
        found = [torch.randn(shape, generator=generator) for shape in SHAPES]
        found[4] *= step % 2
        yield found


def take_steps(optimizer: Any, parameters: list[nn.Parameter], num_steps: int = 5) -> None:
    for found in gradients(num_steps):
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def assert_equal(one: list[nn.Parameter], other: list[nn.Parameter]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("always_adapt", [False, True])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    "sgd",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5},
    ],
)
@pytest.mark.parametrize(("lr", "eps", "trust_coef"), [(0.1, 1e-8, 0.001), (2.0, 0.1, 0.02)])
def test_around_sgd_it_equals_timms_lars_bit_for_bit(
    sgd: dict[str, Any],
    clip: bool,
    always_adapt: bool,
    lr: float,
    eps: float,
    trust_coef: float,
) -> None:
    ours, theirs = make_parameters(), make_parameters()
    lars = LARS(
        torch.optim.SGD(groups(ours), lr=lr, **sgd),
        eps,
        trust_coef,
        clip,
        always_adapt=always_adapt,
    )
    reference = timm.optim.Lars(
        groups(theirs),
        lr=lr,
        eps=eps,
        trust_coeff=trust_coef,
        trust_clip=clip,
        always_adapt=always_adapt,
        foreach=False,
        **sgd,
    )
    take_steps(lars, ours)
    take_steps(reference, theirs)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("clip", [False, True])
def test_a_step_is_that_of_the_formula(clip: bool) -> None:
    parameters = make_parameters()
    before = [p.detach().clone() for p in parameters]
    lr, beta, eta, eps = 0.5, 0.05, 0.01, 1e-3
    base = torch.optim.SGD(parameters, lr=lr, weight_decay=beta)
    take_steps(LARS(base, eps, eta, clip), parameters, num_steps=1)
    for w, g, new in zip(before, next(gradients(1)), parameters, strict=True):
        w_norm, g_norm = math.sqrt(w.square().sum()), math.sqrt(g.square().sum())
        local = eta * w_norm / (g_norm + beta * w_norm + eps) if w_norm and g_norm else 1.0
        if clip:
            local = min(local / lr, 1.0)
        torch.testing.assert_close(new.detach(), w - lr * local * (g + beta * w))


def test_the_local_lr_does_not_exceed_the_lr_when_it_is_clipped() -> None:
    norms = torch.tensor([100.0, 0.01]), torch.tensor([0.1, 1.0])
    ratios = trust_ratios(*norms, lr=0.1, weight_decay=0.0, eps=0.0, trust_coef=0.01, clip=True)
    assert ratios.tolist() == pytest.approx([1.0, 0.0001 / 0.1])


BASES: dict[str, Any] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "adam foreach": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, weight_decay=0.1),
    "lamb": lambda p: timm.optim.Lamb(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", BASES)
def test_around_any_optimizer_it_is_that_optimizer_on_scaled_gradients(name: str) -> None:
    ours, theirs = make_parameters(), make_parameters()
    take_steps(LARS(BASES[name](ours), trust_coef=0.02), ours)
    plain = BASES[name](theirs)
    plain.param_groups[0]["weight_decay"] = 0.0
    for found in gradients(5):
        for w, g in zip(theirs, found, strict=True):
            w_norm, g_norm = w.detach().norm(), g.norm()
            ratio = 0.02 * w_norm / (g_norm + 0.1 * w_norm + 1e-8) if w_norm * g_norm > 0 else 1.0
            w.grad = ratio * (g + 0.1 * w.detach())
        plain.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_weight_decay_is_as_before_after_a_step_even_one_that_failed() -> None:
    parameters = make_parameters()
    optimizer = LARS(torch.optim.SGD(groups(parameters), lr=0.1))
    take_steps(optimizer, parameters, 1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]

    def failing() -> None:
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(failing)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


class Operations(TorchDispatchMode):
    """The names of the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("clip", [False, True])
def test_a_step_reads_no_value_off_the_device(lr: Any, clip: bool) -> None:
    parameters = make_parameters()
    base = torch.optim.SGD(groups(parameters), lr=lr, momentum=0.9, foreach=True)
    optimizer = LARS(base, clip=clip)
    take_steps(optimizer, parameters, 1)
    with Operations() as operations:
        optimizer._scale_gradients(optimizer.param_groups[0], 0.05)
        if isinstance(lr, float):  # SGD itself reads a tensor LR on the CPU
            optimizer.step()
    assert operations.names
    reading = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "_to_copy")
    assert not [name for name in operations.names if any(f".{r}." in name for r in reading)]


def test_checkpoints_may_be_exchanged_with_the_base_optimizer() -> None:
    parameters, others = make_parameters(), make_parameters()
    wrapped = LARS(torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1))
    take_steps(wrapped, parameters)
    plain = torch.optim.SGD(others, lr=0.5, momentum=0.9)
    assert wrapped.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(wrapped.state_dict())
    assert plain.param_groups[0]["lr"] == 0.1
    again = LARS(torch.optim.SGD(make_parameters(), lr=0.7, weight_decay=0.3))
    again.load_state_dict(plain.state_dict())
    saved, loaded = wrapped.state_dict(), again.state_dict()
    assert saved["param_groups"] == loaded["param_groups"]
    for key, state in saved["state"].items():
        assert torch.equal(state["momentum_buffer"], loaded["state"][key]["momentum_buffer"])


def test_a_run_goes_on_bit_for_bit_from_a_checkpoint() -> None:
    def build(parameters: list[nn.Parameter]) -> LARS:
        return LARS(torch.optim.AdamW(groups(parameters), lr=0.1), clip=True)

    straight = make_parameters()
    optimizer = build(straight)
    take_steps(optimizer, straight)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    resumed = [nn.Parameter(p.detach().clone()) for p in straight]
    other = build(resumed)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    take_steps(optimizer, straight)
    take_steps(other, resumed)
    assert_equal(straight, resumed)


def assert_shared(optimizer: LARS) -> None:
    for name in ("param_groups", "state", "defaults"):
        assert getattr(optimizer, name) is getattr(optimizer.base_optimizer, name)


def test_groups_state_and_defaults_stay_the_base_optimizers_own() -> None:
    parameters = make_parameters()
    optimizer = LARS(torch.optim.SGD(parameters[:2], lr=0.1, momentum=0.9, weight_decay=0.1))
    assert_shared(optimizer)
    optimizer.add_param_group({"params": parameters[2:], "weight_decay": 0.3})
    assert len(optimizer.base_optimizer.param_groups) == 2
    take_steps(optimizer, parameters, 1)
    assert_shared(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert_shared(optimizer)
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert_shared(copied)
        assert copied.param_groups is not optimizer.param_groups
        assert copied.param_groups[1]["weight_decay"] == 0.3
        assert (copied.eps, copied.trust_coef, copied.clip) == (1e-8, 0.001, False)
        copied.register_step_post_hook(lambda *_: None)
        take_steps(copied, copied.param_groups[0]["params"] + copied.param_groups[1]["params"], 1)


def test_hooks_are_called_once_a_step() -> None:
    parameters = make_parameters()
    optimizer = LARS(torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1))
    called: list[Any] = []
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: called.append(("before", opt)))
    optimizer.register_step_post_hook(lambda opt, args, kwargs: called.append(("after", opt)))
    optimizer.register_state_dict_post_hook(lambda opt, state: called.append(("saved", opt)))
    take_steps(optimizer, parameters, 2)
    assert called == [("before", optimizer), ("after", optimizer)] * 2
    optimizer.state_dict()
    assert called[-1] == ("saved", optimizer.base_optimizer)


def test_the_loss_of_a_closure_is_returned_and_its_gradients_are_scaled() -> None:
    ours, theirs = make_parameters(), make_parameters()
    target = [p.detach() + 1 for p in ours]

    def loss_of(parameters: list[nn.Parameter]) -> Tensor:
        pairs = zip(parameters, target, strict=True)
        return torch.stack([(p - t).square().sum() for p, t in pairs]).sum()

    with_closure = LARS(torch.optim.SGD(ours, lr=0.1, weight_decay=0.1))
    without = LARS(torch.optim.SGD(theirs, lr=0.1, weight_decay=0.1))

    def closure() -> Tensor:
        with_closure.zero_grad()
        loss = loss_of(ours)
        loss.backward()
        return loss

    for _ in range(3):
        expected = loss_of(theirs)
        without.zero_grad()
        expected.backward()
        without.step()
        assert torch.equal(with_closure.step(closure), expected)
    assert_equal(ours, theirs)


def test_schedulers_set_the_lr_of_the_base_optimizer() -> None:
    parameters = make_parameters()
    optimizer = LARS(torch.optim.SGD(parameters, lr=0.8, weight_decay=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        halving = ExponentialLR(optimizer, gamma=0.5)
        take_steps(optimizer, parameters, 1)
        halving.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.4
    scheduler = AutoWU(optimizer, total_steps=100)
    take_steps(optimizer, parameters, 1)
    scheduler.step(1.0)
    assert optimizer.base_optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0] < 0.1


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_overflowed_is_left_out_by_the_grad_scaler(fused: bool) -> None:
    parameters = make_parameters()
    base = torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1, fused=fused)
    optimizer = LARS(base)
    scaler = torch.amp.GradScaler("cpu")
    plain = make_parameters()
    reference = LARS(torch.optim.SGD(plain, lr=0.1, weight_decay=0.1, fused=fused))
    for step, found in enumerate(gradients(3)):
        scale = float(scaler.scale(torch.tensor(1.0)))
        for p, q, g in zip(parameters, plain, found, strict=True):
            p.grad, q.grad = g * scale, g.clone()
        if step == 1:
            parameters[0].grad.view(-1)[0] = math.inf  # type: ignore[union-attr]
        else:
            reference.step()
        scaler.step(optimizer)
        scaler.update()
    for a, b in zip(parameters, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_the_modes_of_schedule_free_are_reached_through_it() -> None:
    from autowu.trainer import optimizers

    base = optimizers.create("schedulefree", make_parameters(), lr=0.1, weight_decay=0.1)
    optimizer = LARS(base)
    assert optimizers.has_modes(optimizer)
    optimizer.eval()
    optimizer.train()
    assert not optimizers.has_modes(LARS(torch.optim.SGD(make_parameters(), weight_decay=0.1)))


def test_complex_parameters_are_scaled_by_their_norms() -> None:
    parameter = nn.Parameter(torch.tensor([3 + 4j, 0j]))
    parameter.grad = torch.tensor([0j, 2j])
    LARS(torch.optim.SGD([parameter], lr=1.0), 0.0, 0.1, always_adapt=True).step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([3 + 4j, -0.5j]))


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = LARS(torch.optim.SGD(table.parameters(), lr=0.1, weight_decay=0.1))
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="dense gradients alone"):
        optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_bad_arguments_are_refused_by_name() -> None:
    base = torch.optim.SGD(make_parameters(), lr=0.1, weight_decay=0.1)
    with pytest.raises(TypeError, match="base_optimizer must be a torch Optimizer, got list"):
        LARS(make_parameters())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"eps must be at least 0 and finite, got -1e-08"):
        LARS(base, eps=-1e-8)
    with pytest.raises(ValueError, match=r"trust_coef must be at least 0 and finite, got nan"):
        LARS(base, trust_coef=math.nan)
    with pytest.raises(TypeError, match=r"eps must be a number, got str '1e-8'"):
        LARS(base, eps="1e-8")  # type: ignore[arg-type]


def test_it_says_so_when_it_would_do_nothing() -> None:
    with pytest.warns(UserWarning, match="always_adapt=True"):
        LARS(torch.optim.SGD(make_parameters(), lr=0.1))


def test_the_decay_pulls_towards_zero_under_maximize_too() -> None:
    for maximize in (False, True):
        weight = torch.nn.Parameter(torch.tensor([10.0]))
        weight.grad = torch.tensor([1e-9])
        base = torch.optim.SGD([weight], lr=0.5, weight_decay=1.0, maximize=maximize)
        LARS(base, trust_coef=1.0).step()
        assert float(weight) == pytest.approx(5.0)
