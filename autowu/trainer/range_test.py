"""The LR range test: a short run in which the LR grows, after which all is as it was before.

Smith 2015, arXiv:1506.01186. What the losses suggest is in `suggest.py`. The core is
`sweep`, which knows neither images nor ranks; `run_range_test` is that of train.py, and
`lr_range_test` that of any other loop.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autowu.group_lrs import lr_scale, reference_lr, set_lr, to_ratio
from autowu.probe import MOST_SKIPPED
from autowu.settings import Growth
from autowu.trainer.data import Batch, ImageData
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import Interrupted
from autowu.trainer.files import atomic_file
from autowu.trainer.named_curves import sweep_lr
from autowu.trainer.signals import StopSignals
from autowu.trainer.step import OptimizerStep
from autowu.trainer.suggest import moving_average, steepest, valley
from autowu.unchanged import unchanged

CSV_HEADER = "lr,loss,smoothed\n"


class RangeTest(NamedTuple):
    """The curve of a range test, and the learning rates that it suggests."""

    lrs: tuple[float, ...]  # (n,) of the reference group, one a step
    losses: tuple[float, ...]  # (n,) before each step, averaged over the ranks; finite
    smoothed: tuple[float, ...]  # (n,)
    steepest: float | None  # LR at which the loss fell fastest; None: it never fell
    valley: float | None  # LR within the longest fall of the loss
    stopped_early: bool  # the loss left the range, and the sweep was not finished

    @property
    def suggestion(self) -> float | None:
        """The peak LR to train with: the valley; None where the loss never fell.

        Ours: of the two, the valley depends on a whole stretch of the curve, not on one slope.
        """
        return self.valley if self.valley is not None else self.steepest


def sweep(
    optimizer: Optimizer,
    take_step: Callable[[], float | None],
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    num_steps: int = 300,
    growth: Growth = "exponential",
    stop_factor: float = 4.0,
    smoothing: float = 0.9,
) -> RangeTest:
    """Take steps while the LR grows; nothing is put back.

    The test ends early at the first loss that is not finite, which is left out, and at the first
    smoothed loss above `stop_factor` times the lowest one so far.

    Args:
        optimizer: whose groups' LRs are set; they keep their ratios, and their `lr_scale`.
        take_step: takes a step, and returns the loss before it; None when the step was left out,
            as the scaler of fp16 does: it is taken again at the same LR.
        min_lr: of the first step.
        max_lr: of the last step.
        num_steps: from the one to the other.
        growth: of the LR; `exponential` looks at every decade alike.
        stop_factor: above 1; common practice is 4 to 5.
        smoothing: `beta` of `suggest.moving_average`, in [0, 1).

    Raises:
        ValueError: for a setting outside these limits.
    """
    check_settings(min_lr, max_lr, num_steps, growth, stop_factor, smoothing)
    shares = group_shares(optimizer)
    lrs: list[float] = []
    losses: list[float] = []
    average, lowest, skipped = 0.0, math.inf, 0
    stopped = False
    while len(lrs) < num_steps and not stopped:
        lr = sweep_lr(len(lrs), num_steps, min_lr, max_lr, growth)
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            set_lr(group, share * lr)
        loss = take_step()
        if loss is None:
            skipped += 1
            stopped = skipped > MOST_SKIPPED
            continue
        skipped = 0
        if not math.isfinite(loss):
            stopped = True
            continue
        lrs.append(lr)
        losses.append(loss)
        average = smoothing * average + (1 - smoothing) * loss
        smoothed = average / (1 - smoothing ** len(lrs))
        lowest = min(lowest, smoothed)
        stopped = 0 < stop_factor * lowest < smoothed and len(lrs) < num_steps
    curve = moving_average(losses, smoothing)
    return RangeTest(
        lrs=tuple(lrs),
        losses=tuple(losses),
        smoothed=tuple(curve),
        steepest=steepest(lrs, curve),
        valley=valley(lrs, curve),
        stopped_early=stopped,
    )


def check_settings(
    min_lr: float,
    max_lr: float,
    num_steps: int,
    growth: str,
    stop_factor: float,
    smoothing: float,
) -> None:
    """Raise ValueError for a setting of a range test that makes no sense."""
    if not 0 < min_lr < max_lr < math.inf:
        raise ValueError(f"min_lr must be above 0 and below max_lr={max_lr}, got {min_lr}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if growth not in ("exponential", "linear"):
        raise ValueError(f"growth must be exponential or linear, got {growth!r}")
    if not stop_factor > 1:
        raise ValueError(f"stop_factor must be above 1, got {stop_factor}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")


def group_shares(optimizer: Optimizer) -> list[float]:
    """What the LR of each group is, over that of the reference group.

    The reference is the optimizer's default LR if some group has it, or else the largest one, as
    with `autowu.CurveScheduler`; `lr_scale` comes on top. Where no LR is given all shares are 1.
    """
    groups = optimizer.param_groups
    base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]
    reference = reference_lr(base_lrs, optimizer.defaults.get("lr"))
    return [
        to_ratio(lr, reference) * float(lr_scale(group))
        for lr, group in zip(base_lrs, groups, strict=True)
    ]


def run_range_test(
    network: nn.Module,
    optimizer: Optimizer,
    take_step: OptimizerStep,
    batches: Iterable[Sequence[Batch]],
    ranks: Ranks,
    *,
    stop: StopSignals | None = None,
    **settings: Any,
) -> RangeTest:
    """The range test of train.py; network, optimizer, scaler and random states stay as they are.

    Losses are averaged over the ranks at every step, so all of them stop at the same one and
    suggest the same LR.

    Args:
        network: what is trained, not its DistributedDataParallel.
        optimizer: of its parameters.
        take_step: forward, backward and update, under the precision of the run.
        batches: the micro-batches of each step, `num_steps` at least (see `endless_batches`).
        ranks: those that share each batch.
        stop: the signals of this rank; any rank's end the test.
        settings: of `sweep`.

    Raises:
        Interrupted: a rank was asked to stop.
        ValueError: as `sweep`; too few batches.
    """
    source = iter(batches)

    def step() -> float | None:
        return step_of_ranks(take_step, _next_batch(source), ranks, stop)

    with unchanged(network, optimizer, ranks.device), trial(take_step):
        start_training(take_step.replica, optimizer)
        return sweep(optimizer, step, **settings)


def step_of_ranks(
    take_step: OptimizerStep, batch: Sequence[Batch], ranks: Ranks, stop: StopSignals | None
) -> float | None:
    """Take a step; its loss averaged over the ranks, None if the scaler left it out.

    Raises:
        Interrupted: a rank was asked to stop, and the first step of the run is still to come.
    """
    loss = take_step(batch)
    was_asked = float(stop is not None and stop.received is not None)
    values = torch.stack([loss.double(), loss.new_tensor(was_asked).double()])
    total, num_asked = ranks.sum(values).tolist()
    if num_asked and stop is not None:
        raise Interrupted(stop.number, is_saved=False)
    return None if take_step.skipped else total / ranks.world_size


def endless_batches(images: ImageData) -> Iterator[list[Batch]]:
    """The micro-batches of each step of the first epoch, of the next one, and so on."""
    return chain.from_iterable(images.train_batches(epoch) for epoch in count())


def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    num_steps: int = 300,
    growth: Growth = "exponential",
    stop_factor: float = 4.0,
    smoothing: float = 0.9,
    reduce_loss: Callable[[Tensor], Tensor] | None = None,
) -> RangeTest:
    """The range test in a loop of one's own; model, optimizer and random states stay as they are.

        def loss_fn(model, batch):
            return F.cross_entropy(model(batch[0]), batch[1])

        print(lr_range_test(model, optimizer, loader, loss_fn).suggestion)

    Args:
        model: is trained for up to `num_steps` steps, and put back.
        optimizer: any torch optimizer whose `step` needs no closure.
        batches: what `loss_fn` takes; gone through again when it ends, so a DataLoader may be
            shorter than the test. Random numbers that it draws are put back.
        loss_fn: (model, batch) -> loss, 0-d, with its graph.
        min_lr: LR of the first step.
        max_lr: LR of the last step.
        num_steps: at most; fewer when the loss leaves the range.
        growth: `exponential` or `linear`.
        stop_factor: the smoothed loss over the lowest one that ends the test.
        smoothing: weight of the past in the smoothed loss, in [0, 1).
        reduce_loss: averages a loss over ranks, in place or not; None: this process is alone.

    Raises:
        ValueError: for settings outside their limits; `batches` is an iterator with too few.
    """
    source = _again_and_again(batches)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def step() -> float:
        batch = _next_batch(source)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        loss = loss.detach().clone()
        return float(loss if reduce_loss is None else reduce_loss(loss))

    with unchanged(model, optimizer, device), torch.enable_grad():
        start_training(model, optimizer)
        return sweep(
            optimizer,
            step,
            min_lr=min_lr,
            max_lr=max_lr,
            num_steps=num_steps,
            growth=growth,
            stop_factor=stop_factor,
            smoothing=smoothing,
        )


def start_training(module: nn.Module, optimizer: Any) -> None:
    module.train()
    if hasattr(optimizer, "train"):  # Schedule-Free has modes of its own
        optimizer.train()


@contextmanager
def trial(take_step: OptimizerStep) -> Iterator[None]:
    """A block in which losses may be not finite; what a step notes of itself is put back after it.

    The scale of its loss, too.
    """
    attributes = dict(vars(take_step))
    scaler = copy.deepcopy(vars(take_step.scaler))
    try:
        take_step.finite_check = None  # such a loss is what is looked for
        yield
    finally:
        vars(take_step).update(attributes)
        if take_step.finite_check is not None:
            take_step.finite_check.forget()  # its hooks went on looking
        vars(take_step.scaler).update(scaler)


def _next_batch(source: Iterator[Any]) -> Any:
    try:
        return next(source)
    except StopIteration:
        raise ValueError(
            "the batches ended before the range test did: give fewer num_steps, or batches that can"
            " be gone through again"
        ) from None


def _again_and_again(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        num_batches = 0
        for batch in batches:
            num_batches += 1
            yield batch
        if num_batches == 0:
            return


def write_range_test(path: Path, result: RangeTest) -> dict[str, Any]:
    """Write `lr_range_test.csv` and `lr_range_test.png` into a run directory.

    Returns:
        The entries of the summary: `suggested_lr`, `steepest_lr`, `valley_lr` (None where the loss
        never fell), `num_steps` and `stopped_early`.

    Raises:
        WriteError: naming the file.
    """
    from autowu.plotting_range_test import save_range_test

    rows = zip(result.lrs, result.losses, result.smoothed, strict=True)
    text = CSV_HEADER + "".join(f"{lr!r},{loss:.9g},{mean:.9g}\n" for lr, loss, mean in rows)
    with atomic_file(path / "lr_range_test.csv") as file:
        file.write(text.encode())
    with atomic_file(path / "lr_range_test.png") as file:
        save_range_test(result, file)
    return {
        "suggested_lr": result.suggestion,
        "steepest_lr": result.steepest,
        "valley_lr": result.valley,
        "num_steps": len(result.lrs),
        "stopped_early": result.stopped_early,
    }


def describe_range_test(result: RangeTest, plot: Path) -> str:
    """What is said at the end of a range test, in two or three lines.

    >>> print(describe_range_test(RangeTest((), (), (), None, None, True), Path("a.png")))
    no LR to suggest: the loss fell nowhere in 0 steps
    plot a.png
    """
    if result.suggestion is None:
        first = f"no LR to suggest: the loss fell nowhere in {len(result.lrs)} steps"
    else:
        named = (("valley", result.valley), ("steepest descent", result.steepest))
        places = ", ".join(f"{name} {lr:.3g}" for name, lr in named if lr is not None)
        first = f"suggested LR {result.suggestion:.3g} ({places})"
    lines = [first, f"plot {plot}"]
    if result.stopped_early and result.lrs:
        lines.insert(1, f"the loss left the range at LR {result.lrs[-1]:.3g}; stopped there")
    return "\n".join(lines)
