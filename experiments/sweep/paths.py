"""What the search for the LR costs, whoever searches: the tuned warmup-cosine, begun later.

    python -m experiments.sweep.paths --data-root data/cifar10-jpeg

A sweep from 1e-5 that at most doubles the LR needs 7 steps to 1e-3, and they train nothing. Here
those 7 steps come before a schedule that knows the best LR and warmup already: what it then ends
with no way to sweep can beat by much. A row for each run in paths.csv; those that are there are
not made again. `python -m experiments.sweep.plot` makes the table.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from autowu import schedules
from experiments.training.cells import carry_out, command_line
from experiments.training.trial import Recipe, train

PATHS = Path(__file__).parent / "paths.csv"
SEARCH = tuple(1e-5 * 2**step for step in range(7))
BATCH_SIZE = 1024
# (task, epochs): best peak LR, warmup and seeds
TUNED = {
    ("cifar10", 10): (0.01, 0.3, (0, 1, 2)),
    ("cifar10", 5): (0.01, 0.3, (0, 1, 2)),
    ("cifar10_cnn", 12): (0.016, 0.1, (0, 1)),
}


@dataclass(frozen=True)
class Plan:
    """What comes before the tuned schedule, and how long that then is."""

    num_search: int = 0  # steps of the search that are made
    num_missing: int = 0  # steps by which the tuned schedule is shorter
    is_forgotten: bool = False  # the optimizer's moments are dropped after the search


PLANS = {
    "tuned": Plan(),
    "tuned, 7 steps fewer": Plan(num_missing=7),
    "search of 7 steps, then tuned": Plan(7, 7),
    "search of 7 steps, moments dropped, then tuned": Plan(7, 7, is_forgotten=True),
    "search of 3 steps, then tuned": Plan(3, 3),
}


class GivenLRs:
    """A schedule that is a list of LRs."""

    def __init__(self, optimizer: Optimizer, lrs: list[float], forget_at: int | None) -> None:
        self._optimizer, self._lrs, self._forget_at = optimizer, lrs, forget_at
        self._done = 0
        self._write()

    def step(self, loss: Any) -> None:
        self._done += 1
        if self._done == self._forget_at:
            self._optimizer.state.clear()
        self._write()

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self._optimizer.param_groups]

    def _write(self) -> None:
        lr = self._lrs[min(self._done, len(self._lrs) - 1)]
        for group in self._optimizer.param_groups:
            group["lr"] = lr


def warmup_cosine_lrs(num_steps: int, peak: float, warmup: float) -> list[float]:
    """(num_steps,): linear to `peak` over a fraction of the steps, then a cosine to 0."""
    rise = max(1, round(warmup * num_steps))
    fall = num_steps - rise
    return [peak * (step + 1) / rise for step in range(rise)] + [
        schedules.cosine(step, fall, peak) for step in range(fall)
    ]


def lrs(plan: Plan, total_steps: int, peak: float, warmup: float) -> list[float]:
    """What is missing at the end has an LR of 0."""
    tuned = warmup_cosine_lrs(total_steps - plan.num_missing, peak, warmup)
    found = [*SEARCH[: plan.num_search], *tuned]
    return found + [0.0] * (total_steps - len(found))


@dataclass(frozen=True)
class PathCell:
    """One run."""

    task: str
    epochs: int
    plan: str
    seed: int
    data_root: Path

    def key(self) -> dict[str, str]:
        return {
            "task": self.task,
            "epochs": str(self.epochs),
            "method": self.plan,
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        from experiments.training import tasks

        peak, warmup, _ = TUNED[self.task, self.epochs]
        plan = PLANS[self.plan]

        def schedule(optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> Any:
            forget_at = plan.num_search if plan.is_forgotten else None
            return GivenLRs(optimizer, lrs(plan, total_steps, peak, warmup), forget_at)

        outcome = train(
            tasks.named(self.task, self.data_root),
            Recipe(schedule=schedule),
            batch_size=BATCH_SIZE,
            epochs=self.epochs,
            seed=self.seed,
        )
        return outcome.columns()


def main() -> None:
    options = command_line(__doc__, PATHS).parse_args()
    wanted = [
        PathCell(task, epochs, plan, seed, options.data_root)
        for (task, epochs), (_, _, seeds) in TUNED.items()
        for plan in PLANS
        for seed in seeds
    ]
    carry_out(options, options.results, wanted)


if __name__ == "__main__":
    main()
