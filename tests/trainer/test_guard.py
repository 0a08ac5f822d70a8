"""The divergence guard, on losses made up to diverge and on a run that really does."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from autowu import AutoWU, Phase
from autowu.trainer.guard import DivergenceGuard
from autowu.trainer.schedules import create
from tests.helpers import assert_same_state

pytestmark = pytest.mark.filterwarnings("ignore:the last .* training losses")

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
STEPS = 400  # a sweep of 200 steps


def drive(
    losses: Sequence[float], ruin_at: int | None = None
) -> tuple[nn.Module, AutoWU, DivergenceGuard, dict[int, dict[str, torch.Tensor]]]:
    """Adam steps of a small network under losses that are given; the weights after each step."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    scheduler = AutoWU(optimizer, STEPS, sweep="fixed")  # the losses know nothing of LRs
    guard = DivergenceGuard(network, optimizer, NO_SCALER, scheduler)
    weights = {0: {k: v.clone() for k, v in network.state_dict().items()}}
    for step, loss in enumerate(losses, 1):
        optimizer.zero_grad()
        network(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        if step == ruin_at:
            network.weight.data.fill_(math.nan)
        weights[step] = {k: v.clone() for k, v in network.state_dict().items()}
        scheduler.step(loss)
        if guard.after_step():
            break
    return network, scheduler, guard, weights


def falling(num_losses: int) -> list[float]:
    return [2.0 - step / num_losses for step in range(num_losses)]


def test_a_divergence_brings_back_weights_from_before_it() -> None:
    network, scheduler, guard, weights = drive(falling(100) + [math.nan] * 100)
    assert scheduler.diverged
    tested = [0, *(test.step for test in scheduler.tests)]
    before = [step for step in tested if step < 100]
    # The newest snapshot whose following losses were all finite.
    assert guard.restored_step == before[-2 if before[-1] < 100 <= tested[len(before)] else -1]
    assert_same_state(dict(network.state_dict()), weights[guard.restored_step])


def test_the_scheduler_keeps_its_lr_though_the_optimizer_went_back() -> None:
    _, scheduler, guard, _ = drive(falling(100) + [math.nan] * 100)
    assert guard.restored_step is not None
    (group,) = scheduler.optimizer.param_groups
    assert scheduler.phase is Phase.DECAY
    assert group["lr"] == scheduler.get_last_lr()[0] == scheduler.start_lr
    assert group["lr"] != scheduler.settings.min_lr
    state = scheduler.optimizer.state[group["params"][0]]
    assert int(state["step"]) == guard.restored_step  # Adam's own count went back too


def test_weights_whose_loss_has_exploded_are_not_good() -> None:
    losses = falling(100) + [1e4, 1e9, 1e16, 1e30] + [math.nan] * 96
    _, scheduler, guard, _ = drive(losses)
    assert scheduler.diverged
    assert guard.restored_step is not None
    assert guard.restored_step <= 100


def test_a_run_that_diverges_at_once_starts_from_the_untrained_network() -> None:
    network, scheduler, guard, weights = drive([math.inf] * 200)
    assert scheduler.diverged
    assert guard.restored_step == 0
    assert_same_state(dict(network.state_dict()), weights[0])
    assert scheduler.start_lr == scheduler.settings.min_lr


@pytest.mark.parametrize("lost", ["last loss", "weights"])
def test_what_is_lost_in_the_last_interval_comes_back_too(lost: str) -> None:
    losses = falling(200)
    if lost == "last loss":
        losses[-1] = math.nan
    network, scheduler, guard, weights = drive(losses, ruin_at=200 if lost == "weights" else None)
    assert scheduler.phase is Phase.DECAY
    assert not scheduler.diverged  # some losses since the last test were finite
    assert guard.restored_step is not None
    assert_same_state(dict(network.state_dict()), weights[guard.restored_step])


def test_a_warmup_that_ends_well_leaves_no_snapshots_behind() -> None:
    losses = [abs(step - 100) / 50 for step in range(200)]
    _, scheduler, guard, _ = drive(losses)
    assert scheduler.phase is Phase.DECAY
    assert not scheduler.diverged
    assert guard.restored_step is None
    assert guard.state_dict()["good"] is guard.state_dict()["trial"] is None


def test_snapshots_share_no_memory_with_the_network() -> None:
    network, _, guard, _ = drive(falling(50))
    snapshot = guard.state_dict()["trial"]
    taken = {key: value.clone() for key, value in snapshot["network"].items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    assert_same_state(dict(snapshot["network"]), taken)


def test_a_guard_goes_on_from_its_state() -> None:
    losses = falling(100) + [math.nan] * 100
    network, _, guard, _ = drive(losses)
    other, resumed_scheduler, resumed, _ = drive(losses[:60])
    optimizer = resumed_scheduler.optimizer
    again = DivergenceGuard(other, optimizer, NO_SCALER, resumed_scheduler)
    again.load_state_dict(resumed.state_dict())
    for loss in losses[60:]:
        optimizer.zero_grad()
        other(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        resumed_scheduler.step(loss)
        if again.after_step():
            break
    assert again.restored_step == guard.restored_step
    assert_same_state(dict(other.state_dict()), dict(network.state_dict()))


def test_other_schedules_cost_no_snapshots() -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    schedule = create("warmup_cosine", optimizer, epochs=10, steps_per_epoch=1, warmup_epochs=2)
    guard = DivergenceGuard(network, optimizer, NO_SCALER, schedule)
    assert guard.state_dict()["good"] is None
    assert guard.after_step() is False
