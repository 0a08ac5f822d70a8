"""AutoWUScheduler in a loop that hands over what timm's train script does, with timm's meter."""

import io
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from autowu import AutoWU
from tests.helpers import assert_same_state
from tests.integrations.plain_loop import (
    NUM_EPOCHS,
    SETTINGS,
    Batch,
    assert_equals_plain_loop,
    batches_of,
    build_model,
    build_optimizer,
    report,
    results_of_two_ranks,
    train_plainly,
)

pytest.importorskip("timm")
from timm.optim import Lookahead, create_optimizer_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import AverageMeter

from autowu.integrations.timm import AutoWUScheduler


def train_like_timm(
    batches: list[Batch],
    num_epochs: int,
    accumulate: int = 1,
    saves: dict[int, Any] | None = None,
    resume: int | None = None,
    on_updates: bool = False,
) -> dict[str, Any]:
    """What timm's script does with its scheduler, its meter and its windows.

    Args:
        batches: of an epoch, of this rank.
        num_epochs: of the run.
        accumulate: `--grad-accum-steps`.
        saves: takes a checkpoint after each epoch, and gives the one of `resume`.
        resume: epochs that are done already.
        on_updates: `--sched-on-updates`.
    """
    model = build_model()
    optimizer = build_optimizer(model)
    network = nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model
    scheduler = AutoWUScheduler(optimizer, num_epochs, len(batches) / accumulate, **SETTINGS)
    updates_per_epoch = (len(batches) + accumulate - 1) // accumulate
    if resume and saves:
        model.load_state_dict(saves[resume]["model"])
        optimizer.load_state_dict(saves[resume]["optimizer"])
        scheduler.load_state_dict(saves[resume]["scheduler"])
    if resume and on_updates:
        scheduler.step_update(resume * updates_per_epoch)
    elif resume:
        scheduler.step(resume)
    lrs = []
    for epoch in range(resume or 0, num_epochs):
        meter, num_updates = AverageMeter(), epoch * updates_per_epoch
        for start in range(0, len(batches), accumulate):
            window = batches[start : start + accumulate]
            optimizer.zero_grad()
            for inputs, targets in window:
                loss = nn.functional.cross_entropy(network(inputs), targets) / len(window)
                loss.backward()
                meter.update(loss.item() * len(window), len(inputs))
            lrs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            num_updates += 1
            scheduler.step_update(num_updates=num_updates, metric=meter.avg)
        if saves is not None:
            state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
            saves[epoch + 1] = pickled({name: part.state_dict() for name, part in state.items()})
        scheduler.step(epoch + 1, metric=0.5)  # the evaluation metric
    return report(scheduler.scheduler, lrs) | {"state": scheduler.state_dict()}


def pickled(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file, so that nothing is shared with the run that goes on."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("accumulate", [1, 4])  # 4: windows of 4, 4 and 2 batches
def test_the_scheduler_sees_the_loss_of_each_window_as_in_a_plain_loop(accumulate: int) -> None:
    num_epochs = NUM_EPOCHS[accumulate]
    result = train_like_timm(batches_of(), num_epochs, accumulate)
    plain = train_plainly([batches_of()], num_epochs, accumulate, **SETTINGS)
    assert_equals_plain_loop(result, plain)


def run_as_rank() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    batches = batches_of(rank, 2)
    results = {str(each): train_like_timm(batches, NUM_EPOCHS[each], each) for each in (1, 4)}
    saves: dict[int, Any] = {}
    results["whole"] = train_like_timm(batches, 6, saves=saves)
    # Rank 0 writes for all.
    of_rank_0 = [saves]
    dist.broadcast_object_list(of_rank_0)
    results["resumed"] = train_like_timm(batches, 6, saves=of_rank_0[0], resume=2)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of_two_ranks("test_timm", tmp_path_factory.mktemp("timm_ranks"))


@pytest.mark.xdist_group("timm_ranks")
@pytest.mark.parametrize("accumulate", [1, 4])
def test_two_ranks_see_the_mean_of_their_losses_as_one_plain_loop_over_both(
    accumulate: int, ranks: list[dict[str, Any]]
) -> None:
    batches = [batches_of(rank, 2) for rank in range(2)]
    plain = train_plainly(batches, NUM_EPOCHS[accumulate], accumulate, **SETTINGS)
    for rank in ranks:
        assert rank[str(accumulate)]["lrs"] == ranks[0][str(accumulate)]["lrs"]
        assert_equals_plain_loop(rank[str(accumulate)], plain)


@pytest.mark.xdist_group("timm_ranks")
def test_two_ranks_resume_from_the_state_of_rank_zero(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"]["lrs"] == rank["whole"]["lrs"][20:]
        assert_same_state(
            rank["resumed"]["state"]["scheduler"], rank["whole"]["state"]["scheduler"]
        )


@pytest.mark.parametrize("epoch", [2, 6])  # in the warmup and in the decay
@pytest.mark.parametrize("on_updates", [False, True])
def test_a_resumed_run_has_the_same_lrs_bit_for_bit(epoch: int, on_updates: bool) -> None:
    saves: dict[int, Any] = {}
    whole = train_like_timm(batches_of(), 8, saves=saves)
    assert 20 < whole["switch_step"] < 60
    resumed = train_like_timm(batches_of(), 8, saves=saves, resume=epoch, on_updates=on_updates)
    assert resumed["lrs"] == whole["lrs"][10 * epoch :]
    assert_same_state(resumed["state"], whole["state"])


def test_a_state_saved_in_mid_epoch_goes_on_with_the_same_losses() -> None:
    losses = [3.0, 1.0, 2.0, 5.0]
    means = [sum(losses[: k + 1]) / (k + 1) for k in range(4)]
    scheduler = build(num_epochs=4, updates_per_epoch=4)
    for update in (1, 2):
        scheduler.step_update(update, metric=means[update - 1])
    other = build(num_epochs=4, updates_per_epoch=4)
    other.load_state_dict(pickled(scheduler.state_dict()))
    other.step_update(2)  # as timm tells where it goes on
    for update in (3, 4):
        other.step_update(update, metric=means[update - 1])
    assert other.scheduler.losses.tolist() == pytest.approx(losses)


def build(num_epochs: int = 4, updates_per_epoch: float = 10, **settings: Any) -> AutoWUScheduler:
    optimizer = build_optimizer(build_model())
    scheduler = AutoWUScheduler(optimizer, num_epochs, updates_per_epoch, **settings)
    optimizer.step()  # or PyTorch warns about the order
    return scheduler


@pytest.mark.parametrize("resume", ["step", "step_update"])
def test_a_resumed_run_whose_state_was_not_loaded_is_refused(resume: str) -> None:
    scheduler = build()
    with pytest.raises(ValueError, match="load the state_dict"):
        scheduler.step(2) if resume == "step" else scheduler.step_update(20)
    with pytest.raises(ValueError, match="at update 20 and AutoWUScheduler at update 0"):
        scheduler.step_update(21, metric=1.0)


def test_an_update_without_the_mean_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="metric=mean training loss"):
        build().step_update(1)


def test_a_loss_that_is_not_finite_spoils_its_epoch_and_no_other() -> None:
    scheduler = build(num_epochs=10, updates_per_epoch=3, test_interval=15, sweep="fixed")
    for update, mean in enumerate([1.0, math.nan, math.nan, 4.0, 5.0], 1):
        scheduler.step_update(update, metric=mean)
    losses = scheduler.scheduler.losses.tolist()
    assert [losses[0], *losses[3:]] == pytest.approx([1.0, 4.0, 6.0])
    assert all(math.isnan(loss) for loss in losses[1:3])


def test_layer_decay_scales_the_lr_once() -> None:
    model = build_model()
    groups = [
        {"params": model[0].parameters(), "lr_scale": 0.25},
        {"params": model[2].parameters(), "lr_scale": 1.0},
    ]
    optimizer = create_optimizer_v2(groups, opt="sgd", lr=0.1)
    scheduler = AutoWUScheduler(optimizer, 4, 10)
    optimizer.step()
    for update in range(1, 8):
        scheduler.step_update(update, metric=1.0)
        expected = scheduler.scheduler.lr_at(update)
        assert [group["lr"] for group in optimizer.param_groups] == [0.25 * expected, expected]


def test_lookahead_is_an_optimizer_too() -> None:
    optimizer = Lookahead(build_optimizer(build_model()))
    scheduler = AutoWUScheduler(optimizer, 4, 10)
    optimizer.step()
    scheduler.step_update(1, metric=1.0)
    assert optimizer.param_groups[0]["lr"] == scheduler.scheduler.lr_at(1) > 1e-5


def test_it_is_a_scheduler_of_timm_that_steps_by_updates() -> None:
    scheduler = build()
    assert isinstance(scheduler, Scheduler)
    assert not scheduler.t_in_epochs  # timm's script logs it


def test_a_bare_autowu_in_timms_loop_is_an_error_that_names_the_adapter() -> None:
    optimizer = build_optimizer(build_model())
    scheduler: Any = AutoWU(optimizer, 40, 10)
    name = r"autowu\.integrations\.timm\.AutoWUScheduler"
    with pytest.raises(AttributeError, match=name):
        scheduler.t_in_epochs  # noqa: B018
    with pytest.raises(AttributeError, match=name):
        scheduler.step_update(num_updates=1, metric=1.0)
    assert not hasattr(scheduler, "another")


@pytest.mark.parametrize(
    ("num_epochs", "updates", "said"),
    [
        (8, "3", "updates_per_epoch must be a number above 0, .*got '3'"),
        (8, 0, "updates_per_epoch must be a number above 0, .*got 0"),
        (2.5, 3, "num_epochs must be an integer, got float 2.5"),
    ],
)
def test_a_length_that_is_none_is_refused_by_name(num_epochs: Any, updates: Any, said: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises((TypeError, ValueError), match=said):
        AutoWUScheduler(optimizer, num_epochs, updates)
