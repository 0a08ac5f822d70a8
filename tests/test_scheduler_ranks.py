"""Several ranks: they agree on everything, and communicate at tests alone.

All jobs run in one set of real gloo processes, because starting them takes longer than the rest.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.optim import SGD

from autowu import AutoWU
from autowu.saved_state import unboxed
from autowu.settings import PAPER
from tests.helpers import join_world
from tests.launch import work_as_ranks

pytestmark = pytest.mark.xdist_group("scheduler_ranks")  # one worker starts the ranks for all

TOTAL_STEPS, STEPS_PER_EPOCH = 120, 12
LIMIT = 60  # seconds
COLLECTIVES = (
    "all_reduce", "broadcast", "barrier", "all_gather", "all_gather_object", "gather", "reduce",
    "broadcast_object_list", "all_gather_into_tensor", "all_reduce_coalesced", "all_to_all",
    "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list", "gather_object",
    "monitored_barrier", "send", "recv", "isend", "irecv",
)  # fmt: skip


def build(process_group: dist.ProcessGroup | None = None, **settings: Any) -> AutoWU:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = AutoWU(
        optimizer, TOTAL_STEPS, STEPS_PER_EPOCH, process_group=process_group, **settings
    )
    optimizer.step()
    return scheduler


def loss_of(rank: int, step: int) -> float:
    """A valley with another slope on each rank; their mean has its minimum at step 30."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return (1 + rank) * abs(step - 30) / 30 + 0.05 * float(torch.randn((), generator=generator))


@contextmanager
def counted_collectives() -> Iterator[dict[str, int]]:
    counts = dict.fromkeys(COLLECTIVES, 0)
    originals = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return original(*args, **kwargs)

        return call

    for name, original in originals.items():
        setattr(dist, name, counted(name, original))
    try:
        yield counts
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def spent(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def train(scheduler: AutoWU, loss: Callable[[int], float]) -> dict[str, Any]:
    """A whole run, with what each step communicated."""
    lrs, calls = [], []
    with counted_collectives() as counts:
        for step in range(TOTAL_STEPS):
            before, num_tests = dict(counts), len(scheduler.tests)
            scheduler.step(torch.tensor(loss(step)))
            lrs.append(scheduler.get_last_lr()[0])
            calls.append((len(scheduler.tests) - num_tests, spent(before, counts)))
    return {
        "lrs": lrs,
        "calls": calls,
        "tests": unboxed(scheduler.state_dict())["tests"],
        "switch_step": scheduler.switch_step,
        "start_lr": scheduler.start_lr,
        "diverged": scheduler.diverged,
        "losses": scheduler.losses.tolist(),
    }


def whole_run(rank: int) -> dict[str, Any]:
    return train(build(), lambda step: loss_of(rank, step))


def published_run(rank: int) -> dict[str, Any]:
    return train(build(**PAPER), lambda step: loss_of(rank, step))


def nan_on_one_rank(rank: int) -> dict[str, Any]:
    """A single one at step 5, and nothing else from step 25 on."""
    dead = (5, *range(25, TOTAL_STEPS)) if rank == 1 else ()
    return train(build(), lambda step: float("nan") if step in dead else loss_of(rank, step))


def synchronized_states(rank: int) -> dict[str, Any]:
    scheduler = build(test_interval=5, sweep="fixed")
    states, calls = [], []
    with counted_collectives() as counts:
        for step in range(8):
            scheduler.step(loss_of(rank, step))
            before = dict(counts)
            scheduler.synchronize()
            calls.append(spent(before, counts))
            before = dict(counts)
            states.append(scheduler.state_dict())
            assert not spent(before, counts)
        other = build()
        other.load_state_dict(states[-1])
        other.get_last_lr()
        assert not spent(before, counts)
    return {"states": states, "calls": calls}


def synchronized_decay(rank: int) -> dict[str, Any]:
    scheduler = build(max_warmup_fraction=0.01)
    scheduler.step(1.0)
    assert scheduler.switch_step == 1
    with counted_collectives() as counts:
        scheduler.synchronize()
        scheduler.step()
        return {"calls": sum(counts.values())}


def weight_zero_on_one_rank(rank: int) -> dict[str, Any]:
    scheduler = build()
    for step in range(10):
        scheduler.observe(float("nan") if rank == 1 else -float(step), weight=1 - rank)
        scheduler.step()
    scheduler.synchronize()
    return {"losses": scheduler.losses.tolist()}


def unequal_weights(rank: int) -> dict[str, Any]:
    scheduler = build()
    scheduler.observe(4.0 * rank, weight=1 + 2 * rank)
    scheduler.step()
    scheduler.synchronize()
    return {"losses": scheduler.losses.tolist()}


def failing_test(rank: int) -> dict[str, Any]:
    import autowu.decision

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ArithmeticError("on purpose")

    original = autowu.decision.weigh_evidence
    autowu.decision.weigh_evidence = fail  # type: ignore[assignment]
    try:
        train(build(), lambda step: loss_of(rank, step))
    except (ArithmeticError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        autowu.decision.weigh_evidence = original
    return {"error": "none"}


def foreign_group(rank: int) -> dict[str, Any]:
    groups = [dist.new_group([each]) for each in range(2)]
    errors = []
    for group in (groups[1 - rank], [0, 1], 0):
        try:
            build(group)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    return {"errors": errors}


def group_of_two(rank: int) -> dict[str, Any]:
    """In a world of three, ranks 1 and 2 train together and rank 0 by itself."""
    alone, pair = dist.new_group([0]), dist.new_group([1, 2])
    return train(build(pair if rank else alone), lambda step: loss_of(rank, step))


def probed(rank: int) -> dict[str, Any]:
    """In their mean the losses fall past half at the step of the third LR, in each at another."""
    curves = ([4.0, 1.0, 1.0, 0.5, 0.0, 9.0], [4.0, 4.0, 4.0, 0.0, 0.0, 9.0])
    found = {}
    for name, ends in (("whole", ()), ("dead", (float("nan"),) * 2)):
        scheduler = build(min_lr=1e-3, max_lr=0.032)
        losses = iter([*curves[rank][: 6 - len(ends) * rank], *ends * rank])
        found[name] = [
            scheduler.probe(torch.nn.Module(), lambda each=losses: next(each)),
            scheduler.get_last_lr()[0],
        ]
    return found


JOBS = (
    probed,
    whole_run,
    published_run,
    nan_on_one_rank,
    synchronized_states,
    synchronized_decay,
    weight_zero_on_one_rank,
    unequal_weights,
    failing_test,
    foreign_group,
)


def work(rank: int, folder: str) -> None:
    results: dict[str, Any] = {}

    def do(job: Callable[[int], dict[str, Any]]) -> None:
        try:
            results[job.__name__] = job(rank)
        except Exception:  # for the test of this job to show; the others go on
            results[job.__name__] = traceback.format_exc()

    if rank < 2:
        join_world(folder, rank, 2, LIMIT / 3)
        for job in JOBS:
            do(job)
        dist.destroy_process_group()
    join_world(folder, rank, 3, LIMIT / 3)
    do(group_of_two)
    dist.destroy_process_group()
    torch.save(results, f"{folder}/rank{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each job returned on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    work_as_ranks("tests.test_scheduler_ranks", 3, folder, LIMIT)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(3)]


@pytest.fixture
def of(results: list[dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    def of(job: Callable[..., Any], ranks: tuple[int, ...] = (0, 1)) -> list[dict[str, Any]]:
        found = [results[rank][job.__name__] for rank in ranks]
        for rank, result in zip(ranks, found, strict=True):
            assert isinstance(result, dict), f"rank {rank}: {result}"
        return found

    return of


def mean_loss(ranks: tuple[int, ...], step: int) -> float:
    return sum(loss_of(rank, step) for rank in ranks) / len(ranks)


def test_ranks_probe_by_the_mean_of_their_losses(of: Any) -> None:
    one, other = of(probed)
    assert one == other
    assert one["whole"] == pytest.approx([4e-3, 4e-3])
    assert one["dead"] == pytest.approx([4e-3, 4e-3])  # 4, 2.5, 2.5, 0.25 and then not finite


def test_ranks_with_different_losses_agree_on_every_lr_and_test(of: Any) -> None:
    one, other = of(whole_run)
    assert one == other
    assert 30 < one["switch_step"] < 60
    expected = [mean_loss((0, 1), step) for step in range(one["switch_step"])]
    assert one["losses"] == pytest.approx(expected, rel=1e-5)


def test_two_ranks_decide_as_one_that_sees_the_mean_loss(of: Any) -> None:
    single = train(build(), lambda step: mean_loss((0, 1), step))
    for result in of(whole_run):
        assert result["switch_step"] == single["switch_step"]
        assert result["lrs"] == pytest.approx(single["lrs"], rel=1e-4)


def test_a_test_is_one_all_reduce_and_one_broadcast_and_nothing_else_communicates(of: Any) -> None:
    for job in (whole_run, nan_on_one_rank):
        for result in of(job):
            assert sum(made for made, _ in result["calls"]) == len(result["tests"]) > 3
            for made, calls in result["calls"]:
                assert calls == ({"all_reduce": 1, "broadcast": 1} if made else {})


def test_the_published_settings_agree_and_communicate_alike(of: Any) -> None:
    one, other = of(published_run)
    assert one == other
    assert [test["step"] for test in one["tests"]] == [12, 24, 36, 48, 60][: len(one["tests"])]
    assert {tuple(calls.items()) for made, calls in one["calls"] if made} == {
        (("all_reduce", 1), ("broadcast", 1))
    }


def test_a_nan_on_one_rank_makes_all_ranks_act_alike(of: Any) -> None:
    one, other = of(nan_on_one_rank)
    assert str(one) == str(other)  # NaN is not equal to itself
    assert one["diverged"]
    assert 26 < one["switch_step"] < 36
    bad = [step for step, loss in enumerate(one["losses"]) if loss != loss]
    assert bad == [5, *range(25, one["switch_step"])]


def test_a_synchronize_is_one_all_reduce_and_makes_the_states_equal(of: Any) -> None:
    one, other = of(synchronized_states)
    for number, (a, b) in enumerate(zip(one["states"], other["states"], strict=True), 1):
        assert str(a) == str(b)
        expected = [mean_loss((0, 1), step) for step in range(number)]
        assert unboxed(a)["losses"].tolist() == pytest.approx(expected, rel=1e-5)
    # The test after step 5 reduced the losses itself: nothing was left to do.
    assert (
        one["calls"] == other["calls"] == [{"all_reduce": 1}] * 4 + [{}] + [{"all_reduce": 1}] * 3
    )


def test_a_synchronize_in_the_decay_communicates_nothing(of: Any) -> None:
    assert of(synchronized_decay) == [{"calls": 0}] * 2


def test_a_rank_of_weight_zero_is_left_out_and_others_count_by_weight(of: Any) -> None:
    for result in of(weight_zero_on_one_rank):
        assert result["losses"] == [-float(step) for step in range(10)]
    for result in of(unequal_weights):
        assert result["losses"] == [(1 * 0.0 + 3 * 4.0) / 4]


def test_a_failure_on_rank_zero_is_an_error_on_all_ranks(of: Any) -> None:
    one, other = of(failing_test)
    assert one["error"] == "ArithmeticError: on purpose"
    assert "failed on rank 0" in other["error"]


def test_a_process_group_without_this_rank_is_refused(of: Any) -> None:
    for result in of(foreign_group):
        not_in_it, *no_groups = result["errors"]
        assert not_in_it.startswith("ValueError: process_group must contain this rank")
        assert [error.split("device mesh, got ")[1] for error in no_groups] == [
            "list [0, 1]",
            "int 0",
        ]


def test_a_process_group_of_some_ranks_is_a_run_of_its_own(of: Any) -> None:
    alone, one, other = of(group_of_two, (0, 1, 2))
    assert one == other
    expected = [mean_loss((1, 2), step) for step in range(one["switch_step"])]
    assert one["losses"] == pytest.approx(expected, rel=1e-5)
    assert alone["losses"] == pytest.approx([loss_of(0, t) for t in range(alone["switch_step"])])
    assert all(calls == {} for _, calls in alone["calls"])


def test_collectives_run_on_the_device_of_a_mesh_where_parameters_wait_on_the_host() -> None:
    class Offloaded(torch.Tensor):
        device_mesh = SimpleNamespace(device_type="meta")

    parameter = torch.zeros(1).as_subclass(Offloaded).requires_grad_()
    assert parameter.device.type == "cpu"
    assert AutoWU(SGD([parameter], lr=1.0), 10)._device().type == "meta"
