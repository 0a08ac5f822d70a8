"""Several ranks: they agree on everything, and communicate at tests alone."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.optim import SGD

from autowu import AutoWU

TOTAL_STEPS, STEPS_PER_EPOCH = 120, 12
COLLECTIVES = (
    "all_reduce", "broadcast", "barrier", "all_gather", "all_gather_object", "gather", "reduce",
    "broadcast_object_list", "all_gather_into_tensor", "reduce_scatter", "scatter", "send", "recv",
)  # fmt: skip


def build(process_group: Any = None) -> AutoWU:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(optimizer, TOTAL_STEPS, STEPS_PER_EPOCH, process_group=process_group)
    optimizer.step()
    return scheduler


def loss_of(rank: int, step: int) -> float:
    """A valley with another slope on each rank; their mean has its minimum at step 30."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return (1 + rank) * abs(step - 30) / 30 + 0.05 * float(torch.randn((), generator=generator))


def count_collectives() -> dict[str, int]:
    counts = dict.fromkeys(COLLECTIVES, 0)

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return original(*args, **kwargs)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name)))
    return counts


def summary(scheduler: AutoWU, lrs: list[float]) -> dict[str, Any]:
    return {
        "lrs": lrs,
        "tests": scheduler.state_dict()["tests"],
        "switch_step": scheduler.switch_step,
        "start_lr": scheduler.start_lr,
        "diverged": scheduler.diverged,
        "losses": scheduler.losses.tolist(),
    }


def train(rank: int) -> dict[str, Any]:
    counts = count_collectives()
    scheduler = build()
    lrs = []
    for step in range(TOTAL_STEPS):
        before, num_tests = dict(counts), len(scheduler.tests)
        scheduler.step(torch.tensor(loss_of(rank, step)))
        lrs.append(scheduler.get_last_lr()[0])
        made = len(scheduler.tests) - num_tests
        spent = {
            name: counts[name] - before[name] for name in counts if counts[name] != before[name]
        }
        assert spent == ({"all_reduce": 1, "broadcast": 1} if made else {}), (step, spent)
    assert counts["all_reduce"] == counts["broadcast"] == len(scheduler.tests)
    return summary(scheduler, lrs)


def synchronize(rank: int) -> dict[str, Any]:
    counts = count_collectives()
    scheduler = build()
    for step in range(7):
        scheduler.step(loss_of(rank, step))
        before = counts["all_reduce"]
        scheduler.synchronize()
        # A test reduces the losses itself: nothing is left to do then.
        assert counts["all_reduce"] - before == (scheduler.tests[-1:] == [] or
                                                 scheduler.tests[-1].step != step + 1)  # fmt: skip
    state = scheduler.state_dict()
    state["interval"] = {key: str(value) for key, value in state["interval"].items()}
    state["losses"] = state["losses"].tolist()
    return state


def nan_on_one_rank(rank: int) -> dict[str, Any]:
    scheduler = build()
    lrs = []
    for step in range(TOTAL_STEPS):
        dead = rank == 1 and (step == 5 or step >= 25)
        scheduler.step(float("nan") if dead else loss_of(rank, step))
        lrs.append(scheduler.get_last_lr()[0])
    return summary(scheduler, lrs)


def weight_zero_on_one_rank(rank: int) -> dict[str, Any]:
    scheduler = build()
    for step in range(10):
        scheduler.observe(float("nan") if rank == 1 else -float(step), weight=1 - rank)
        scheduler.step()
    scheduler.synchronize()
    return {"losses": scheduler.losses.tolist()}


def failing_test(rank: int) -> dict[str, Any]:
    import autowu.scheduler

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ArithmeticError("on purpose")

    autowu.scheduler.weigh_evidence = fail  # type: ignore[assignment]
    scheduler = build()
    try:
        for step in range(TOTAL_STEPS):
            scheduler.step(loss_of(rank, step))
    except (ArithmeticError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": "none"}


def groups_of_one(rank: int) -> dict[str, Any]:
    groups = [dist.new_group([each]) for each in range(2)]
    try:
        build(groups[1 - rank])
    except ValueError as error:
        assert "process_group" in str(error)
    else:
        raise AssertionError("a group without this rank was accepted")
    scheduler = build(groups[rank])
    for _ in range(10):
        scheduler.step(float(rank))
    return {"losses": scheduler.losses.tolist()}


def work(rank: int, job: str, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(globals()[job](rank), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def run(job: Callable[..., Any], folder: Path) -> list[dict[str, Any]]:
    mp.spawn(work, (job.__name__, str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_ranks_agree_on_every_lr_by_one_all_reduce_and_one_broadcast_a_test(tmp_path: Path) -> None:
    one, other = run(train, tmp_path)
    assert one == other
    assert 30 < one["switch_step"] < 60
    means = [(loss_of(0, step) + loss_of(1, step)) / 2 for step in range(one["switch_step"])]
    assert one["losses"] == pytest.approx(means, rel=1e-5)


def test_a_synchronize_is_one_all_reduce_and_makes_the_states_equal(tmp_path: Path) -> None:
    one, other = run(synchronize, tmp_path)
    assert one == other
    assert len(one["losses"]) == 7


def test_a_nan_on_one_rank_makes_all_ranks_act_alike(tmp_path: Path) -> None:
    one, other = run(nan_on_one_rank, tmp_path)
    assert str(one) == str(other)  # NaN is not equal to itself
    assert one["diverged"]


def test_a_rank_of_weight_zero_is_left_out(tmp_path: Path) -> None:
    for result in run(weight_zero_on_one_rank, tmp_path):
        assert result["losses"] == [-float(step) for step in range(10)]


def test_a_failure_on_rank_zero_is_an_error_on_all_ranks(tmp_path: Path) -> None:
    one, other = run(failing_test, tmp_path)
    assert one["error"] == "ArithmeticError: on purpose"
    assert "failed on rank 0" in other["error"]


def test_a_process_group_of_its_own_is_a_run_of_its_own(tmp_path: Path) -> None:
    one, other = run(groups_of_one, tmp_path)
    assert one["losses"] == [0.0] * 10
    assert other["losses"] == [1.0] * 10
