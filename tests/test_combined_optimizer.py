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
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
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
    for state in (before[1], after[1]):
        for optimizer in state["optimizers"]:
            assert optimizer["param_groups"][0].pop("lr") > 0
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
def test_a_run_goes_on_from_a_distributed_checkpoint_of_its_optimizers(tmp_path: Path) -> None:
    one, other = Run(), Run()
    one.go_on(25)

    def whole(run: Run) -> dict[str, Any]:
        model, optimizer = get_state_dict(run.model, run.optimizer.optimizers)
        return {"model": model, "optimizer": optimizer, "scheduler": run.scheduler}

    dcp.save(whole(one), checkpoint_id=tmp_path)
    state = whole(other)
    dcp.load(state, checkpoint_id=tmp_path)
    set_state_dict(
        other.model,
        other.optimizer.optimizers,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    assert one.go_on() == other.go_on()
    assert all(map(torch.equal, one.model.parameters(), other.model.parameters()))


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
    with pytest.raises(TypeError, match="which of its optimizers"):
        combined.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(TypeError, match="no hooks of its state_dict"):
        combined.register_state_dict_post_hook(lambda *_: None)
    with pytest.raises(TypeError):  # of L-BFGS itself, which needs a closure
        CombinedOptimizer(LBFGS([weight])).step()


def test_a_state_that_does_not_fit_is_refused() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    combined = CombinedOptimizer(*(SGD([weight], lr=0.1) for weight in weights))
    state = combined.state_dict()
    with pytest.raises(ValueError, match="not a state_dict of CombinedOptimizer"):
        combined.load_state_dict(combined.optimizers[0].state_dict())
    with pytest.raises(ValueError, match="of 2 optimizers, these are 3"):
        combined.load_state_dict(state | {"optimizers": state["optimizers"][:2]})
    with pytest.raises(ValueError, match="order of the groups"):
        combined.load_state_dict(state | {"order": [[0, 0], [1, 0], [1, 0]]})
