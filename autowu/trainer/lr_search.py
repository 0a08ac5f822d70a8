"""What train.py does before its first step: the probe of AutoWU, or a range test.

A range test is the whole run, or finds the peak of a one-cycle.
"""

from typing import Any

from autowu import AutoWU
from autowu.trainer.data import ImageData
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import RunError
from autowu.trainer.optimizer_traits import needs_equal_lrs
from autowu.trainer.range_test import (
    RangeTest,
    describe_range_test,
    endless_batches,
    run_range_test,
    start_training,
    step_of_ranks,
    trial,
    write_range_test,
)
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.run_state import RunState
from autowu.trainer.schedule_settings import (
    AutoWUSettings,
    LRRangeTestSettings,
    RangeTestOneCycleSettings,
)
from autowu.trainer.schedules import LateOneCycle
from autowu.trainer.settings import Settings
from autowu.trainer.signals import StopSignals
from autowu.trainer.stdout import say
from autowu.trainer.step import OptimizerStep
from autowu.trainer.summary import surroundings


def search_lr(
    settings: Settings,
    run: RunDirectory,
    state: RunState,
    take_step: OptimizerStep,
    images: ImageData,
    ranks: Ranks,
    stop: StopSignals,
) -> bool:
    """Make the probe or the range test that the schedule asks for, if it does.

    Returns:
        Whether that was the whole run: `lr_range_test` writes its summary, and trains nothing.

    Raises:
        Interrupted: a rank was asked to stop; nothing has been trained yet.
        RunError: `range_test_onecycle` found no LR.
    """
    chosen, scheduler = settings.schedule, state.scheduler
    if isinstance(chosen, AutoWUSettings):
        assert isinstance(scheduler, AutoWU)
        if needs_equal_lrs(state.optimizer) and ranks.is_main:
            name = settings.optimizer.name
            say(
                f"warning: optimizer.name={name} estimates the LR itself, and AutoWU's multiplies"
                " its estimate; better optimizer.lr=1 schedule.name=constant"
            )
        if chosen.begins_with_probe and scheduler.last_epoch == 0:
            _probe(chosen, scheduler, state, take_step, images, ranks, stop)
        return False
    if isinstance(chosen, LRRangeTestSettings):
        result, entries = _make(chosen, run, state, take_step, images, ranks, stop)
        summary = {"schedule": chosen.name, **entries, **surroundings(ranks)}
        ranks.on_main(lambda: run.write_summary(summary))
        if ranks.is_main:
            say(describe_range_test(result, run.range_test_plot))
        return True
    if isinstance(chosen, RangeTestOneCycleSettings):
        assert isinstance(scheduler, LateOneCycle)
        if scheduler.peak_is_known:
            return False
        result, _ = _make(chosen, run, state, take_step, images, ranks, stop)
        lr = result.valley if chosen.suggestion == "valley" else result.steepest
        if lr is None:
            last = result.lrs[-1] if result.lrs else chosen.min_lr
            raise RunError(
                f"schedule.name={chosen.name}: the loss fell nowhere in {len(result.lrs)} steps"
                f" from schedule.min_lr={chosen.min_lr} to LR {last:.3g};"
                " give it other limits, or more schedule.num_steps"
            )
        scheduler.set_peak(lr)
        if ranks.is_main:
            say(describe_range_test(result, run.range_test_plot))
    return False


def _probe(
    chosen: AutoWUSettings,
    scheduler: AutoWU,
    state: RunState,
    take_step: OptimizerStep,
    images: ImageData,
    ranks: Ranks,
    stop: StopSignals,
) -> None:
    """Let the sweep begin where the loss does begin to fall, and say where that is."""
    parts = images.first_images(chosen.probe)
    with trial(take_step):
        # Not what torch.compile made for whole batches, nor DistributedDataParallel: all ranks take
        # the same steps with the same images, so that the LR hardly depends on their number (batch
        # norm sees micro-batches, and dropout draws other numbers on each rank).
        take_step.replica = state.network
        start_training(state.network, state.optimizer)
        lr = scheduler.probe(state.network, lambda: step_of_ranks(take_step, parts, ranks, stop))
    if ranks.is_main:
        if lr is None:
            found = "the loss falls nowhere"
        else:
            found = f"the loss begins to fall at LR {lr:.3g}"
        num_images = sum(len(labels) for _, labels in parts)
        longest = scheduler.warmup_steps
        begin = f"the sweep begins at {scheduler.lr_at(0):.3g}, and takes {longest:,} steps at most"
        images_of_it = f"{num_images} image" + "s" * (num_images != 1)
        say(f"probe, {images_of_it}: {found}; {begin}")


def _make(
    chosen: LRRangeTestSettings | RangeTestOneCycleSettings,
    run: RunDirectory,
    state: RunState,
    take_step: OptimizerStep,
    images: ImageData,
    ranks: Ranks,
    stop: StopSignals,
) -> tuple[RangeTest, dict[str, Any]]:
    result = run_range_test(
        state.network,
        state.optimizer,
        take_step,
        endless_batches(images),
        ranks,
        stop=stop,
        min_lr=chosen.min_lr,
        max_lr=chosen.max_lr,
        num_steps=chosen.num_steps,
        growth=chosen.growth,
        stop_factor=chosen.stop_factor,
        smoothing=chosen.smoothing,
    )
    return result, ranks.on_main(lambda: write_range_test(run.path, result))
