"""Several optimizers as one: the steps of each, their groups and states, and AutoWU on them."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.optim import LBFGS, SGD, AdamW, Muon, Optimizer

from autowu import LARS, AutoWU, CombinedOptimizer
from tests.helpers import assert_same_state

TOTAL_STEPS, STEPS_PER_EPOCH = 120, 12
LR_MUON, LR_ADAMW = 0.02, 0.003


def build_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 3))


def pair(model: nn.Module, **adamw: Any) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [Muon(matrices, lr=LR_MUON), AdamW(others, lr=LR_ADAMW, **adamw)]


def loss_of(model: nn.Module, seed: int) -> Tensor:
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
    targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    return nn.functional.cross_entropy(model(inputs), targets)


class Run:
    def __init__(self, **adamw: Any) -> None:
        self.model = build_model()
        self.optimizer = CombinedOptimizer(*pair(self.model, **adamw))
        self.scheduler = AutoWU(self.optimizer, TOTAL_STEPS, STEPS_PER_EPOCH)

    def take_step(self, seed: int = 0) -> Tensor:
        loss = loss_of(self.model, seed)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def go_on(self, stop: int = TOTAL_STEPS) -> list[list[Any]]:
        lrs = []
        for step in range(self.scheduler.last_epoch, stop):
            self.scheduler.step(self.take_step(step))
            lrs.append(self.scheduler.get_last_lr())
        return lrs


def test_its_steps_are_those_of_the_optimizers() -> None:
    one, other = build_model(), build_model()
    combined, separate = CombinedOptimizer(*pair(one)), pair(other)
    for seed in range(5):
        combined.zero_grad()
        loss_of(one, seed).backward()
        combined.step()
        for each in separate:
            each.zero_grad()
        loss_of(other, seed).backward()
        for each in separate:
            each.step()
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_autowu_keeps_the_ratio_of_their_lrs_and_tells_that_of_the_first() -> None:
    run = Run()
    lrs = run.go_on()
    assert run.scheduler.switch_step is not None
    for muon, adamw in lrs[:-1]:
        assert adamw == pytest.approx(muon * LR_ADAMW / LR_MUON)
    assert lrs[run.scheduler.switch_step - 1][0] == run.scheduler.start_lr
    muon, adamw = run.optimizer.optimizers
    assert [each.param_groups[0]["lr"] for each in (muon, adamw)] == lrs[-1]
    assert float(loss_of(run.model, 0).detach()) < 0.5


def test_a_probe_takes_back_the_steps_of_all() -> None:
    run = Run()
    run.go_on(3)  # so that there is a state
    fresh = AutoWU(run.optimizer, TOTAL_STEPS, STEPS_PER_EPOCH)
    before = copy.deepcopy([run.model.state_dict(), run.optimizer.state_dict()])
    assert fresh.probe(run.model, run.take_step) is not None
    assert fresh.get_last_lr()[0] > 1e-5
    after = [run.model.state_dict(), run.optimizer.state_dict()]
    for _, state in (before, after):
        for group in state["param_groups"]:
            assert group.pop("lr") > 0
    assert_same_state(before, after)


@pytest.mark.parametrize("saved_at", [0, 7, 25, 100])
def test_a_run_goes_on_from_its_state_bit_for_bit(saved_at: int) -> None:
    one, other = Run(), Run()
    one.go_on(saved_at)
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (one.model, one.optimizer, one.scheduler)], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    for each, state in zip((other.model, other.optimizer, other.scheduler), states, strict=True):
        each.load_state_dict(state)
    assert one.go_on() == other.go_on()
    assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("flattened", [False, True])
def test_a_run_goes_on_from_a_distributed_checkpoint(flattened: bool, tmp_path: Path) -> None:
    one, other = Run(), Run()
    one.go_on(25)
    options = StateDictOptions(flatten_optimizer_state_dict=flattened)

    def whole(run: Run) -> dict[str, Any]:
        model, optimizer = get_state_dict(run.model, run.optimizer, options=options)
        return {"model": model, "optimizer": optimizer, "scheduler": run.scheduler}

    dcp.save(whole(one), checkpoint_id=tmp_path)
    state = whole(other)
    dcp.load(state, checkpoint_id=tmp_path)
    set_state_dict(
        other.model,
        other.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options,
    )
    assert one.go_on() == other.go_on()
    assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:the saved run goes on")
@pytest.mark.parametrize("by_dcp", [False, True])
def test_groups_keep_their_places_in_a_run_that_makes_all_of_them_at_once(
    by_dcp: bool, tmp_path: Path
) -> None:
    """The LRs go by places; the group that was added in mid-run is the second of the first."""
    model = build_model()
    first, second = model[0], model[3]

    def groups(module: nn.Module, lr: float) -> dict[str, Any]:
        return {"params": [p for p in module.parameters() if p.ndim == 2], "lr": lr}

    def others() -> AdamW:
        return AdamW([p for p in model.parameters() if p.ndim < 2], lr=LR_ADAMW)

    one = CombinedOptimizer(Muon([groups(first, LR_MUON)]), others())
    scheduler = AutoWU(one, TOTAL_STEPS)
    one.optimizers[0].add_param_group(groups(second, 0.5 * LR_MUON))
    for seed in range(10):
        loss = loss_of(model, seed)
        one.zero_grad()
        loss.backward()
        one.step()
        scheduler.step(loss)
    assert [group["params"][0].ndim for group in one.param_groups] == [2, 1, 2]
    all_at_once = [groups(first, LR_MUON), groups(second, 0.5 * LR_MUON)]
    other = CombinedOptimizer(Muon(all_at_once), others())
    resumed = AutoWU(other, TOTAL_STEPS)
    state = copy.deepcopy(one.state_dict())
    in_another_order = pytest.warns(UserWarning, match="another order .* the scheduler's state")
    if by_dcp:
        options = StateDictOptions(flatten_optimizer_state_dict=True)
        _, state = get_state_dict(model, one, options=options)
        dcp.save({"optimizer": state, "scheduler": scheduler}, checkpoint_id=tmp_path)
        model_state, state = get_state_dict(model, other, options=options)
        dcp.load({"optimizer": state, "scheduler": resumed}, checkpoint_id=tmp_path)
        with in_another_order:
            set_state_dict(
                model,
                other,
                model_state_dict=model_state,
                optim_state_dict=state,
                options=options,
            )
            other.state_dict()
    else:
        with in_another_order:
            other.load_state_dict(state)
            other.state_dict()
    resumed.load_state_dict(scheduler.state_dict())
    for optimizer, each in ((one, scheduler), (other, resumed)):
        optimizer.step()
        each.step(1.0)
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    assert [group["lr"] for group in other.param_groups] == resumed.get_last_lr()
    lrs = [
        {id(group["params"][0]): group["lr"] for group in each.param_groups}
        for each in (one, other)
    ]
    assert lrs[0] == lrs[1] and len(set(lrs[0].values())) == 3


def test_a_group_that_is_added_to_the_first_comes_last_and_stays_there() -> None:
    def added(run: Run) -> Run:
        new = nn.Parameter(torch.ones(4, 4))
        lr = run.scheduler.get_last_lr()[0]
        run.optimizer.optimizers[0].add_param_group({"params": new, "lr": lr, "lr_scale": 0.5})
        return run

    one = Run()
    one.go_on(10)
    muon, adamw = (group["params"] for group in one.optimizer.param_groups)
    added(one)
    groups = one.optimizer.param_groups
    assert groups[0]["params"] is muon and groups[1]["params"] is adamw and len(groups) == 3
    lrs = one.go_on(20)
    assert lrs[-1][2] == pytest.approx(0.5 * lrs[-1][0])
    assert lrs[-1][1] == pytest.approx(lrs[-1][0] * LR_ADAMW / LR_MUON)
    other = added(Run())
    other.model.load_state_dict(one.model.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    other.scheduler.load_state_dict(one.scheduler.state_dict())
    assert one.go_on() == other.go_on()


def test_a_group_that_is_added_before_anybody_looks_comes_last_too() -> None:
    one, other, new = (nn.Parameter(torch.ones(2)) for _ in range(3))
    combined = CombinedOptimizer(SGD([one], lr=0.1), AdamW([other]))
    copied = {**combined.optimizers[0].param_groups[0], "params": [new]}
    combined.optimizers[0].add_param_group(copied)
    assert [group["params"][0] for group in combined.param_groups] == [one, other, new]


def test_the_lrs_that_are_told_are_those_of_the_first_whatever_its_groups_have() -> None:
    """Its default, 0.001, is what nobody means where each group has an LR of its own."""
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    layers = [{"params": p, "lr": lr} for p, lr in zip(weights[:2], (3e-4, 6e-4), strict=True)]
    for lr in (0.02, 0.001):
        scheduler = AutoWU(CombinedOptimizer(AdamW(layers), Muon(weights[2:], lr=lr)), 100)
        assert scheduler.get_last_lr() == pytest.approx([5e-6, 1e-5, 1e-5 * lr / 6e-4])


def test_a_scale_of_a_group_is_a_factor_on_the_lr_of_its_own_optimizer() -> None:
    weights = [nn.Parameter(torch.ones(2, 2)) for _ in range(4)]
    layers = [{"params": p, "lr_scale": k} for p, k in zip(weights[1:3], (0.5, 1.0), strict=True)]
    adamw = AdamW(layers, lr=0.003)
    combined = CombinedOptimizer(Muon(weights[:1], lr=0.02), adamw)
    scheduler = AutoWU(combined, 100)
    assert scheduler.get_last_lr() == pytest.approx([1e-5, 7.5e-7, 1.5e-6])
    new = {"params": weights[3:], "lr": adamw.param_groups[1]["lr"], "lr_scale": 1.0}
    adamw.add_param_group(new)
    combined.step()
    scheduler.step(1.0)
    lrs = scheduler.get_last_lr()
    assert lrs == pytest.approx([lrs[0], 0.075 * lrs[0], 0.15 * lrs[0], 0.15 * lrs[0]])
    assert [float(lr) for lr in scheduler.get_lr()] == pytest.approx(lrs)


def test_an_lr_of_0_in_the_first_is_told_of_as_in_one_optimizer() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    combined = CombinedOptimizer(SGD(weights[:1], lr=0.0), AdamW(weights[1:], lr=0.003))
    with pytest.warns(UserWarning, match="LR 0 is not frozen"):
        AutoWU(combined, 100)


def test_tensor_lrs_follow_the_schedule_and_leave_the_defaults_as_they_are() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    lrs = [torch.tensor(0.02), torch.tensor(0.003)]
    combined = CombinedOptimizer(*(SGD([p], lr=lr) for p, lr in zip(weights, lrs, strict=True)))
    scheduler = AutoWU(combined, 100)
    combined.step()
    for _ in range(10):
        scheduler.step(1.0)
    defaults = [float(each.defaults["lr"]) for each in combined.optimizers]
    assert defaults == pytest.approx([0.02, 0.003])
    told = scheduler.get_last_lr()
    assert [group["lr"] for group in combined.param_groups] == told
    assert float(told[1]) == pytest.approx(0.15 * float(told[0]))


def test_a_schedule_of_the_momentum_is_refused_where_not_all_have_one() -> None:
    combined = CombinedOptimizer(*pair(build_model()))
    with pytest.raises(ValueError, match="momentum or beta1"):
        torch.optim.lr_scheduler.OneCycleLR(combined, [0.1, 0.1], total_steps=10)


def test_train_and_eval_reach_those_that_have_them() -> None:
    calls: list[str] = []

    class TwoFaced(SGD):
        def train(self) -> None:
            calls.append("train")

        def eval(self) -> None:
            calls.append("eval")

    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    plain = CombinedOptimizer(SGD(weights[:1]), SGD(weights[1:2]))
    assert not hasattr(plain, "eval")
    combined = CombinedOptimizer(plain, TwoFaced(weights[2:]))
    assert len(combined.optimizers) == 3
    combined.eval()
    combined.train()
    assert calls == ["eval", "train"]


def test_its_groups_and_state_can_be_set_as_wrappers_do() -> None:
    run = Run()
    run.take_step()
    muon, adamw = run.optimizer.optimizers
    run.optimizer.param_groups = [dict(group) for group in run.optimizer.param_groups]
    run.optimizer.param_groups[1]["lr"] = 0.5
    assert adamw.param_groups[0]["lr"] == 0.5 and muon.param_groups[0]["lr"] != 0.5
    kept = dict(run.optimizer.state)
    run.optimizer.state = {}
    assert not muon.state and not adamw.state and not run.optimizer.state
    run.optimizer.state = kept
    assert {*muon.state} == {*muon.param_groups[0]["params"]}
    run.optimizer.state.clear()
    assert not muon.state and not adamw.state


class Verbose(SGD):
    """With a state_dict that is not of torch's form."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"more": 7}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict.pop("more") == 7
        super().load_state_dict(state_dict)


def test_states_of_another_form_are_kept_as_they_are() -> None:
    def build() -> CombinedOptimizer:
        weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        return CombinedOptimizer(AdamW(weights[:1]), Verbose(weights[1:], lr=0.1, momentum=0.9))

    one, other = build(), build()
    for group in one.param_groups:
        group["params"][0].grad = torch.ones(2)
    one.step()
    state = one.state_dict()
    assert state["optimizers"][1]["more"] == 7
    other.load_state_dict(copy.deepcopy(state))
    assert_same_state(other.state_dict(), state)


def test_a_grad_scaler_skips_and_takes_the_steps_of_all() -> None:
    model = build_model()
    combined = CombinedOptimizer(*pair(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(loss_of(model, 0)).backward()
    next(model.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
    scaler.step(combined)
    scaler.update()
    assert all(map(torch.equal, before, model.parameters()))
    assert scaler.get_scale() == 2.0
    combined.zero_grad()
    scaler.scale(loss_of(model, 0)).backward()
    scaler.step(combined)
    assert not any(map(torch.equal, before, model.parameters()))


def test_a_closure_is_called_once_with_gradients() -> None:
    model = build_model()
    combined = CombinedOptimizer(*pair(model))
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        combined.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    assert combined.step(closure).item() == pytest.approx(float(loss_of(build_model(), 0).detach()))
    assert calls == [True]


def test_its_state_is_that_of_the_optimizers_to_read_and_to_write() -> None:
    run = Run()
    run.take_step()
    muon, adamw = run.optimizer.optimizers
    state = run.optimizer.state
    assert len(state) == len(list(run.model.parameters())) == len({*muon.state, *adamw.state})
    bias = adamw.param_groups[0]["params"][0]
    assert bias in state and state[bias] is adamw.state[bias]
    state[bias] = {"step": torch.tensor(5.0)}
    assert adamw.state[bias]["step"] == 5.0
    del state[bias]
    assert bias not in adamw.state and bias not in state and torch.zeros(1) not in state


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_is_whole(copied: Any) -> None:
    run = Run()
    run.go_on(4)
    model, optimizer = copied((run.model, run.optimizer))
    assert_same_state(optimizer.state_dict(), run.optimizer.state_dict())
    loss_of(model, 0).backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, run.model[0].weight)


def test_it_works_with_hooks_of_steps_and_around_a_wrapper() -> None:
    model = build_model()
    muon, adamw = pair(model)
    combined = CombinedOptimizer(LARS(muon, always_adapt=True), adamw)
    calls: list[str] = []
    combined.register_step_pre_hook(lambda *_: calls.append("before"))
    combined.register_step_post_hook(lambda *_: calls.append("after"))
    loss_of(model, 0).backward()
    combined.step()
    assert calls == ["before", "after"]
    assert repr(combined).startswith("CombinedOptimizer(LARS(")


def test_what_cannot_be_combined_is_refused_by_name() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    with pytest.raises(ValueError, match="one optimizer or more, got none"):
        CombinedOptimizer()
    with pytest.raises(TypeError, match="one after the other, got list"):
        CombinedOptimizer([SGD([weight])])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"0 and 1 have a parameter in common, of shape \(2, 3\)"):
        CombinedOptimizer(SGD([weight]), AdamW([weight]))
    with pytest.raises(TypeError, match=r"got list: .* autowu\.CombinedOptimizer\(\*optimizers\)"):
        AutoWU([SGD([weight])], 10)  # type: ignore[arg-type]
    combined = CombinedOptimizer(SGD([weight], lr=0.1))
    with pytest.raises(ValueError, match="LARS goes around a CombinedOptimizer"):
        CombinedOptimizer(LARS(combined, always_adapt=True))
    with pytest.raises(TypeError, match="which of its optimizers"):
        combined.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(TypeError, match="no hooks of its state_dict"):
        combined.register_state_dict_post_hook(lambda *_: None)
    with pytest.raises(TypeError):  # of L-BFGS itself, which needs a closure
        CombinedOptimizer(LBFGS([weight])).step()


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    def build(*sizes: int) -> CombinedOptimizer:
        return CombinedOptimizer(
            *(SGD([nn.Parameter(torch.ones(2)) for _ in range(n)], lr=0.1) for n in sizes)
        )

    combined = build(1, 1, 1)
    before = combined.state_dict()
    plain = SGD([nn.Parameter(torch.ones(2))], lr=0.5).state_dict()
    for state, message in (
        (plain, "not a state_dict of CombinedOptimizer: it holds .'param_groups', 'state'"),
        ({}, "not a state_dict of CombinedOptimizer"),
        (build(1, 1).state_dict(), "of 2 optimizers, these are 3"),
        ({"optimizers": [plain] * 2}, "of 2 optimizers, these are 3"),
        (build(1, 1, 2).state_dict(), r"optimizer 2 has groups of \[1\] parameters, .* of \[2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            combined.load_state_dict(state)
        assert_same_state(combined.state_dict(), before)


def test_a_state_of_one_optimizer_alone_leaves_the_places_as_they_are() -> None:
    combined = CombinedOptimizer(*pair(build_model()))
    muon, adamw = combined.optimizers
    muon.load_state_dict(pair(build_model())[0].state_dict())
    assert combined.param_groups[0] is muon.param_groups[0]
    assert combined.param_groups[1] is adamw.param_groups[0]
