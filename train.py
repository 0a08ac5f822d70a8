"""Train an image classifier with AutoWU, or with a baseline schedule.

    python train.py                                     digits, AdamP, AutoWU: under a minute
    python train.py --config configs/digits.yaml epochs=10
    python train.py schedule.name=warmup_cosine optimizer.lr=0.003

Settings come from YAML files and `key=value` arguments (--help lists them). A run lies in
`<output_dir>/<name>/`; the same command continues it when it was interrupted, and shows its
result when it is finished.
"""

import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from autowu.trainer.config import parse_settings
from autowu.trainer.config_files import to_dict, to_yaml
from autowu.trainer.errors import Interrupted, RunError, mistakes_in_settings
from autowu.trainer.settings import Settings, run_name
from autowu.trainer.signals import StopSignals

# linear_operator, a part of gpytorch, says this at its import; nobody here can act on it.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)


def train(settings: Settings, stop: StopSignals) -> None:
    """Train one network, or take an unfinished run up where it was left."""
    # Imported here, so that a mistake in the settings is reported without waiting for torch.
    import torch

    from autowu.trainer import checkpoint, data, loop, models, optimizers, tracking
    from autowu.trainer.build_schedule import build_schedule
    from autowu.trainer.display import Display
    from autowu.trainer.progress import Progress
    from autowu.trainer.run_directory import RunDirectory
    from autowu.trainer.summary import show_result, summarize

    name = run_name(settings)
    config = to_dict(settings)
    run = RunDirectory(Path(settings.output_dir) / name)
    resume_from = run.find_checkpoint(settings.resume)
    saved = checkpoint.load_checkpoint(resume_from) if resume_from else None
    if resume_from and saved:
        checkpoint.check_same_settings(resume_from, saved["config"], config)
    if saved and (summary := run.read_summary()):
        print(f"{run.path} is finished (resume=never trains it again)")
        show_result(summary, run)
        return

    torch.manual_seed(settings.seed)
    with mistakes_in_settings():
        device = loop.choose_device(settings.device)
        images = data.load_data(**asdict(settings.data), device=device)
        model = models.build_model(
            **asdict(settings.model),
            in_channels=images.num_channels,
            num_classes=images.num_classes,
        ).to(device)
        optimizer = optimizers.build_optimizer(model.parameters(), **asdict(settings.optimizer))
        scheduler = build_schedule(
            **asdict(settings.schedule),
            optimizer=optimizer,
            epochs=settings.epochs,
            steps_per_epoch=images.steps_per_epoch,
            batch_size=images.batch_size,
        )

    progress = Progress()
    if resume_from and saved:
        progress = checkpoint.restore_checkpoint(resume_from, saved, model, optimizer, scheduler)
        run.go_on(resume_from, to_yaml(settings), progress.epoch, progress.step)
        print(f"{run.path}: going on after epoch {progress.epoch} of {settings.epochs}")
    else:
        run.start(to_yaml(settings))

    tracker = tracking.start_tracker(settings.tracking.wandb, run.path, name, config)
    screen = Display(settings.epochs, images.steps_per_epoch, progress.step)
    with tracker, screen:
        while progress.epoch < settings.epochs:
            started = time.perf_counter()
            batches = images.train_batches(settings.seed, progress.epoch)
            trace = loop.train_epoch(
                model,
                optimizer,
                scheduler,
                screen.count(stop.watch(batches)),
                num_steps=images.steps_per_epoch,
                accumulate=settings.accumulate,
                clip_grad_norm=settings.clip_grad_norm,
                precision=settings.precision,
            )
            run.append_steps(progress.step, trace.lrs, trace.losses)
            loop.check_finite(trace.losses, progress.step, scheduler)
            accuracy = loop.evaluate(model, images.test_batches(), settings.precision)

            metrics = progress.epoch_done(trace, accuracy, scheduler, images.batch_size, started)
            run.append_metrics(metrics)
            if progress.best_epoch == progress.epoch:
                checkpoint.save_weights(run.best, model, progress)
            checkpoint.save_checkpoint(run.last, config, progress, model, optimizer, scheduler)
            screen.epoch_done(metrics)
            tracker.log(metrics)
        summary = summarize(
            progress,
            scheduler,
            schedule_name=settings.schedule.name,
            steps_per_epoch=images.steps_per_epoch,
            batch_size=images.batch_size,
            device=device,
        )
        run.write_summary(summary)
        tracker.finish(summary)

    show_result(summary, run)


def main(arguments: Sequence[str]) -> int:
    """Run, and turn every way to end into an exit code; what went wrong is one line."""
    settings = None
    try:
        with StopSignals() as stop:
            settings = parse_settings(arguments, __doc__)
            train(settings, stop)
    except Interrupted as error:
        # Whatever `resume` was, from here on it is this run that goes on.
        again = [argument for argument in arguments if not argument.startswith("resume=")]
        again += ["resume=auto"] * (settings is not None and settings.resume != "auto")
        command = shlex.join(["python", "train.py", *again])
        print(f"train.py: {error}, finished epochs are kept; go on: {command}", file=sys.stderr)
        return error.exit_code
    except RunError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
