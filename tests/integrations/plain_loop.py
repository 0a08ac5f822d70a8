"""The loop that every adapter is held to, on a few of scikit-learn's digits.

One process plays all ranks: it averages their losses and gradients itself and hands the scheduler
one Python float a step, so that nothing of what the adapters use is used here. In float64, because
the sweep ends at LRs where the last bit of a float32 would soon be seen in the loss.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autowu import AutoWU
from tests import launch

BATCH_SIZE = 16
# They find a minimum within 80 steps.
SETTINGS = {"min_lr": 1e-3, "max_lr": 30.0, "patience": 2, "sweep": "fixed"}
RESUMED = SETTINGS | {"test_interval": 4}  # so that a save comes between two tests
NUM_EPOCHS = {1: 8, 4: 24}  # by accumulation: 80 and 72 steps of 10 batches an epoch
Batch = tuple[Tensor, Tensor]


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def batches_of(rank: int = 0, num_ranks: int = 1, num_batches: int = 10) -> list[Batch]:
    """The batches of an epoch that one rank sees, always in the same order."""
    images, labels = load_digits(return_X_y=True)
    rows = slice(rank, num_ranks * num_batches * BATCH_SIZE, num_ranks)
    inputs = torch.tensor(images[rows] / 16, dtype=torch.float64)
    targets = torch.tensor(labels[rows])
    return list(zip(inputs.split(BATCH_SIZE), targets.split(BATCH_SIZE), strict=True))


def of_both_ranks() -> list[Batch]:
    """An epoch for trainers that deal it out themselves, to two ranks as `batches_of` does."""
    pairs = zip(batches_of(0, 2), batches_of(1, 2), strict=True)
    return list(itertools.chain.from_iterable(pairs))


class StatefulLoader:
    """A dataloader that goes on in the middle of an epoch, as torchdata's does."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.position = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        start, self.position = self.position % len(self.batches), 0
        for position in range(start, len(self.batches)):
            self.position = position + 1
            yield self.batches[position]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def train_plainly(
    rank_batches: list[list[Batch]],
    num_epochs: int,
    accumulate: int = 1,
    divide_by_window: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """A whole run.

    Args:
        rank_batches: the batches of an epoch, of each rank.
        num_epochs: of the run.
        accumulate: batches of a window; the last one of an epoch may be shorter.
        divide_by_window: whether gradients of a short window are divided by its own length
            (timm), or by that of a whole one (Lightning).
        **settings: of `AutoWU`.
    """
    model = build_model()
    optimizer = build_optimizer(model)
    num_batches, num_ranks = len(rank_batches[0]), len(rank_batches)
    num_updates = -(-num_batches // accumulate)  # of an epoch
    scheduler = AutoWU(optimizer, num_epochs * num_updates, num_updates, **settings)
    lrs, losses = [], []
    for _ in range(num_epochs):
        for start in range(0, num_batches, accumulate):
            window = [batch for batches in rank_batches for batch in batches[start:][:accumulate]]
            length = len(window) / num_ranks if divide_by_window else accumulate
            optimizer.zero_grad()
            total = 0.0
            for inputs, targets in window:
                loss = nn.functional.cross_entropy(model(inputs), targets)
                (loss / length / num_ranks).backward()
                total += loss.item()
            lrs.append(optimizer.param_groups[0]["lr"])
            losses.append(total / len(window))
            optimizer.step()
            scheduler.step(losses[-1])
    return report(scheduler, lrs) | {"all_losses": losses}


def report(scheduler: AutoWU, lrs: list[float]) -> dict[str, Any]:
    """What two runs are compared by."""
    return {
        "lrs": lrs,
        "losses": scheduler.losses.tolist(),
        "switch_step": scheduler.switch_step,
        "start_lr": scheduler.start_lr,
        "last_step": scheduler.last_epoch,
    }


def assert_equals_plain_loop(result: dict[str, Any], plain: dict[str, Any]) -> None:
    assert result["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert result["lrs"] == pytest.approx(plain["lrs"], rel=1e-5)
    assert result["start_lr"] == pytest.approx(plain["start_lr"], rel=1e-5)
    assert (result["switch_step"], result["last_step"]) == (
        plain["switch_step"],
        plain["last_step"],
    )
    assert plain["switch_step"] < len(plain["lrs"]) // 2, "found a minimum, not the longest warmup"


def results_of_two_ranks(module: str, folder: Path) -> list[dict[str, Any]]:
    """What `run_as_rank` of a test module saved as `rank0.pt` and `rank1.pt` in the folder.

    It is run in two processes, whose arguments are the rank and the folder.
    """
    code = f"from tests import launch; from tests.integrations.{module} import run_as_rank; "
    code += "run_as_rank(); launch.leave()"
    own = {rank: [str(rank), str(folder)] for rank in range(2)}
    for returncode, _, errors in launch.finish(launch.start([], 2, own, ("-c", code))):
        assert returncode == 0, errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
