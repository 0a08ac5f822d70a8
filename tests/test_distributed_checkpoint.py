"""Sharded training: FSDP2 (`fully_shard`), and PyTorch's distributed checkpoint (DCP) of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD, AdamW, Muon

from autowu import AutoWU, CombinedOptimizer, CurveScheduler, schedules
from autowu.settings import PAPER
from tests.helpers import assert_same_state, join_world
from tests.launch import work_as_ranks

pytestmark = [
    pytest.mark.xdist_group("distributed_checkpoint"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]

TOTAL_STEPS, STEPS_PER_EPOCH = 120, 12
LIMIT = 60  # seconds
RUNS: dict[str, dict[str, Any]] = {
    "default": {},
    "fixed": {"sweep": "fixed"},
    "published": PAPER,
    "begun": {},  # near an LR that is known, as by a probe
    "tensor": {},  # the LRs are tensors
}


def loss_of(step: int) -> float:
    generator = torch.Generator().manual_seed(step)
    return abs(step - 30) / 30 + 0.05 * float(torch.randn((), generator=generator))


def build(name: str) -> AutoWU:
    lr: Any = torch.tensor(0.1) if name == "tensor" else 0.1
    groups = [{"params": torch.zeros(1, requires_grad=True), "lr": lr * k} for k in (1, 0.5)]
    return AutoWU(SGD(groups, lr=lr), TOTAL_STEPS, STEPS_PER_EPOCH, **RUNS[name])


def go_on(scheduler: AutoWU, stop: int) -> list[list[float]]:
    lrs = []
    for step in range(scheduler.last_epoch, stop):
        scheduler.optimizer.step()
        scheduler.step(loss_of(step))
        lrs.append([float(lr) for lr in scheduler.get_last_lr()])
    return lrs


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("saved_at", [0, 3, 25, 100])
def test_a_run_goes_on_from_a_distributed_checkpoint(
    name: str, saved_at: int, tmp_path: Path
) -> None:
    one, other = build(name), build(name)
    if name == "begun":
        one.begin_at(1e-3)
    go_on(one, saved_at)
    one.observe(0.5)  # a micro-batch of the step to come
    dcp.save({"scheduler": one}, checkpoint_id=tmp_path, no_dist=True)
    dcp.load({"scheduler": other}, checkpoint_id=tmp_path, no_dist=True)
    assert_same_state(one.state_dict(), other.state_dict())
    assert go_on(one, TOTAL_STEPS) == go_on(other, TOTAL_STEPS)
    assert one.switch_step == other.switch_step is not None


def test_a_curve_whose_lrs_another_wrote_goes_on_from_one(tmp_path: Path) -> None:
    def curve() -> CurveScheduler:
        optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.1))
        return CurveScheduler(optimizer, lambda step: schedules.linear(step, 10, 1.0))

    one, other = curve(), curve()
    one.optimizer.step()
    one.step()
    one.optimizer.param_groups[0]["lr"].fill_(0.03)
    dcp.save({"scheduler": one}, checkpoint_id=tmp_path, no_dist=True)
    dcp.load({"scheduler": other}, checkpoint_id=tmp_path, no_dist=True)
    assert_same_state(one.state_dict(), other.state_dict())
    assert other.optimizer.param_groups[0]["lr"].item() == pytest.approx(0.03)


SHARDED: dict[str, dict[str, Any]] = {
    "default": {},
    "published": PAPER,
    "combined": {"combined": True},
}


class Run:
    """A small network, sharded over the ranks; of one rank, whole."""

    def __init__(self, sharded: bool, combined: bool = False, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 3)
        )
        self.sharded = sharded
        if sharded:
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            for part in (self.model[0], self.model):  # the second linear layer is the root's own
                fully_shard(part, mesh=mesh)
        self.optimizer: Any = AdamW(self.model.parameters())
        if combined:
            matrices = [p for p in self.model.parameters() if p.ndim == 2]
            others = [p for p in self.model.parameters() if p.ndim < 2]
            self.optimizer = CombinedOptimizer(Muon(matrices), AdamW(others))
        self.scheduler = AutoWU(self.optimizer, TOTAL_STEPS, STEPS_PER_EPOCH, **settings)

    def take_step(self, seed: int = 0) -> Tensor:
        """On all samples, so that sharded and whole networks see the same."""
        inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
        targets = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
        loss = nn.functional.cross_entropy(self.model(inputs), targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def probe(self, validates: str = "never") -> None:
        """A validation before it, or in it, leaves whole weights behind."""
        before = [value.clone() for value in self.tensors()]

        def take_step() -> Tensor:
            loss = self.take_step()
            if validates == "within":
                self.validate()
            return loss

        if validates == "before":
            self.validate()
        self.scheduler.probe(self.model, take_step)
        output = self.validate()
        assert all(map(torch.equal, before, self.tensors()))
        assert torch.equal(output, self.validate())
        assert not self.optimizer.state

    def validate(self) -> Tensor:
        self.model.eval()
        with torch.no_grad():
            output = self.model(torch.ones(2, 8))
        self.model.train()
        return output

    def tensors(self) -> list[Tensor]:
        """This rank's part of the weights and buffers."""
        values = self.model.state_dict().values()
        return [value.to_local() if hasattr(value, "to_local") else value for value in values]

    def go_on(self, stop: int) -> list[float]:
        lrs = []
        for step in range(self.scheduler.last_epoch, stop):
            self.scheduler.step(self.take_step(step))
            lrs.append(self.scheduler.get_last_lr()[0])
        return lrs

    def save(self, folder: str) -> None:
        self.scheduler.synchronize()
        model, optimizer = get_state_dict(self.model, self.optimizer)
        whole = {"model": model, "optimizer": optimizer, "scheduler": self.scheduler}
        dcp.save(whole, checkpoint_id=folder)

    def load(self, folder: str) -> None:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        whole = {"model": model, "optimizer": optimizer, "scheduler": self.scheduler}
        dcp.load(whole, checkpoint_id=folder)
        set_state_dict(
            self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer
        )


def work(rank: int, folder: str) -> None:
    join_world(folder, rank, 2, LIMIT / 3)
    for validates in ("before", "within"):
        Run(sharded=True).probe(validates)
    found: dict[str, Any] = {}
    for name, settings in SHARDED.items():
        run = Run(sharded=True, **settings)
        if name != "published":
            run.probe()
        lrs = run.go_on(25)
        run.save(f"{folder}/{name}")
        lrs += run.go_on(TOTAL_STEPS)
        resumed = Run(sharded=True, **settings)
        resumed.load(f"{folder}/{name}")
        assert resumed.go_on(TOTAL_STEPS) == lrs[25:]
        assert all(map(torch.equal, run.tensors(), resumed.tensors()))
        found[name] = {"lrs": lrs, "switch_step": run.scheduler.switch_step}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have trained, saved, and gone on."""
    folder = tmp_path_factory.mktemp("sharded")
    work_as_ranks("tests.test_distributed_checkpoint", 2, folder, LIMIT)
    return folder


def test_a_sharded_network_is_swept_as_a_whole_one_is(folder: Path) -> None:
    one, other = (torch.load(folder / f"rank{rank}.pt")["default"] for rank in range(2))
    assert one == other
    whole = Run(sharded=False)
    whole.probe()
    assert whole.go_on(TOTAL_STEPS) == pytest.approx(one["lrs"], rel=1e-2)
    assert whole.scheduler.switch_step == one["switch_step"]


@pytest.mark.parametrize(("name", "settings"), SHARDED.items())
def test_one_rank_goes_on_where_two_had_been(
    name: str, settings: dict[str, Any], folder: Path
) -> None:
    saved = torch.load(folder / "rank0.pt")[name]
    run = Run(sharded=False, **settings)
    run.load(str(folder / name))
    assert run.scheduler.last_epoch == 25
    assert run.go_on(TOTAL_STEPS) == pytest.approx(saved["lrs"][25:], rel=1e-2)
    assert run.scheduler.switch_step == saved["switch_step"]
