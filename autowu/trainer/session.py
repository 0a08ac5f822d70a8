"""A run from where it stands to its end: epochs, evaluations, files, and what is shown."""

import time
from functools import partial
from typing import Any

import torch
from torch import nn

from autowu.trainer.checkpoint import Checkpoints, save_weights
from autowu.trainer.config_files import to_dict
from autowu.trainer.data import ImageData
from autowu.trainer.display import Display
from autowu.trainer.distributed import Ranks
from autowu.trainer.errors import Interrupted
from autowu.trainer.evaluation_weights import weights_to_evaluate
from autowu.trainer.guard import to_host
from autowu.trainer.journal import Journal
from autowu.trainer.loop import evaluate, train_epoch, watched
from autowu.trainer.nonfinite import explained
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.run_state import RunState
from autowu.trainer.schedules import PlateauSchedule
from autowu.trainer.settings import Settings
from autowu.trainer.signals import StopSignals
from autowu.trainer.step import OptimizerStep
from autowu.trainer.summary import commit_of_code, summarize
from autowu.trainer.tracking import start_tracker


def run_to_the_end(
    settings: Settings,
    run: RunDirectory,
    state: RunState,
    take_step: OptimizerStep,
    images: ImageData,
    ranks: Ranks,
    stop: StopSignals,
) -> dict[str, Any]:
    """Train until `settings.epochs` are done; returns the summary, which is written too.

    Raises:
        Interrupted: a rank was asked to stop; everything is saved.
        TrainingDiverged: the last good checkpoint is kept.
    """
    progress = state.progress
    if ranks.is_main:
        progress.note_commit(commit_of_code())
    config = to_dict(settings)
    checkpoints = Checkpoints(run, config, settings.checkpoint_every, ranks)
    journal = Journal(run, ranks, progress, stop, settings.log_every)
    with ranks.together():
        tracker = start_tracker(
            settings.tracking,
            run.path,
            str(run.path.relative_to(settings.output_dir)),
            config,
            first_step=progress.step,
            speaks=ranks.is_main,
        )
    screen = Display(
        settings.epochs,
        images.steps_per_epoch,
        progress.step,
        speaks=ranks.is_main,
        has_warmup=state.scheduler.warmup_steps > 0,
    )
    with tracker, screen, explained(state.network):
        while progress.epoch < settings.epochs:
            batches = images.train_batches(progress.epoch, progress.epoch_step)
            stopping = train_epoch(
                state,
                take_step,
                images,
                screen.count(batches),
                journal,
                checkpoints,
                say=screen.say,
            )
            if take_step.gradient_norm is not None:  # None: interrupted before this evaluation
                progress.note_norms(take_step.gradient_norm, take_step.layer_norms)
            try:
                if stopping and progress.epoch + 1 < settings.epochs:
                    raise Interrupted(stop.number)
                metrics = finish_epoch(state, images, settings.precision, ranks, stop)
            except Interrupted:
                checkpoints.save(state)  # all steps of the epoch are done, and not counted yet
                raise
            stopping = stopping or ranks.any(stop.received is not None)  # during the evaluation
            ranks.on_main(partial(run.append_metrics, metrics))
            if progress.best_epoch == progress.epoch:
                ranks.on_main(partial(save_weights, run.best, state.model, progress))
            is_last = progress.epoch == settings.epochs
            if is_last or stopping or checkpoints.is_due_after_epoch(progress):
                checkpoints.save(state)
            screen.epoch_done(metrics, lr=state.lr)
            tracker.log(metrics)
            if stopping and not is_last:
                raise Interrupted(stop.number)
        summary = summarize(
            state,
            ranks,
            schedule_name=settings.schedule.name,
            steps_per_epoch=images.steps_per_epoch,
            batch_size=images.batch_size,
        )
        ranks.on_main(lambda: run.write_summary(summary))
        tracker.finish(summary)
    return summary


def finish_epoch(
    state: RunState, images: ImageData, precision: str, ranks: Ranks, stop: StopSignals
) -> dict[str, Any]:
    """Evaluate, count the epoch, and give its line of metrics.jsonl.

    Raises:
        Interrupted: a rank was asked to stop in the middle; the epoch is not counted.
    """
    started = time.perf_counter()
    network, epoch = state.network, state.progress.epoch

    watch = partial(watched, ranks=ranks, stop=stop)

    def accuracy_of(model: nn.Module) -> float:
        batches = watch(images.test_batches(), images.num_test_batches)
        return evaluate(model, batches, ranks, precision)

    with weights_to_evaluate(network, state.optimizer, images, epoch, precision, watch) as differ:
        accuracy = accuracy_of(network)
        state.evaluated = to_host(network.state_dict()) if differ else None
    ema_accuracy = None
    if state.average is not None:
        ema_accuracy = accuracy_of(state.average.module)
    on_gpu = ranks.device.type == "cuda"
    metrics = state.progress.epoch_done(
        test_accuracy=accuracy,
        ema_test_accuracy=ema_accuracy,
        evaluation_seconds=time.perf_counter() - started,
        scheduler=state.scheduler,
        restored_step=state.guard.restored_step,
        batch_size=images.batch_size,
        gpu_memory=torch.cuda.max_memory_allocated(ranks.device) / 2**30 if on_gpu else None,
    )
    if isinstance(state.scheduler, PlateauSchedule):
        state.scheduler.end_epoch(metrics["train_loss"])
    return metrics
