"""Train an image classifier with AutoWU, or with a baseline schedule.

    python train.py                                     digits, AdamP, AutoWU: under a minute
    python train.py --config configs/digits.yaml epochs=10
    python train.py schedule.name=warmup_cosine optimizer.lr=0.003
    torchrun --nproc-per-node 8 train.py --config configs/imagenet_resnet50_adamp_autowu.yaml

Settings come from YAML files and `key=value` arguments (--help lists them). A run lies in
`<output_dir>/<name>/`; the same command continues it when it was interrupted, and shows its
result when it is finished.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from autowu.trainer.errors import (
    Interrupted,
    RunError,
    missing_requirement,
    mistakes_in_settings,
)
from autowu.trainer.settings import Settings
from autowu.trainer.signals import StopSignals
from autowu.trainer.stdout import say, unfailing_outputs

if TYPE_CHECKING:
    from autowu.trainer.data import ImageData
    from autowu.trainer.distributed import Ranks
    from autowu.trainer.run_state import RunState
    from autowu.trainer.step import OptimizerStep

# AutoWU says this to whoever can restore weights; here the divergence guard does, and says so.
warnings.filterwarnings("ignore", "the last .* training losses before step .* not finite")


def train(settings: Settings, stop: StopSignals) -> None:
    """Train one network, or take an unfinished run up where it was left."""
    # Imported here, so that a mistake in the settings is reported without waiting for torch.
    from autowu.random_state import seed_everything
    from autowu.trainer.config_files import common_to_ranks
    from autowu.trainer.distributed import Ranks
    from autowu.trainer.lr_search import search_lr
    from autowu.trainer.resume import begin, find_run
    from autowu.trainer.session import run_to_the_end
    from autowu.trainer.summary import commit_of_code, show_result

    with Ranks(settings.device, settings.deterministic) as ranks, ExitStack() as held:
        ranks.agree_on(common_to_ranks(settings))
        found = ranks.on_main(lambda: find_run(settings, held))
        if found.summary is not None:
            if ranks.is_main:
                say(f"{found.run.path} is finished (resume=never trains it again)")
                show_result(found.summary, found.run)
            return

        if ranks.is_main:
            commit_of_code()  # before somebody updates the files
        seed_everything(settings.seed, ranks.rank, ranks.device)
        images, state, take_step = build(settings, ranks)
        begin(found, settings, state, ranks)
        found = found._replace(saved=None)  # as large as all of the run's state
        run = (settings, found.run, state, take_step, images, ranks, stop)
        if search_lr(*run):
            return
        summary = run_to_the_end(*run)
        if ranks.is_main:
            show_result(summary, found.run)


def build(settings: Settings, ranks: "Ranks") -> "tuple[ImageData, RunState, OptimizerStep]":
    """The images, all that changes as they are trained on, and what changes it."""
    from autowu.trainer import data, models, optimizers, schedules
    from autowu.trainer.guard import DivergenceGuard
    from autowu.trainer.progress import Progress
    from autowu.trainer.run_state import RunState
    from autowu.trainer.step import OptimizerStep

    with ranks.together(), mistakes_in_settings():
        images = data.load_data(
            **asdict(settings.data),
            ranks=ranks,
            seed=settings.seed,
            accumulate=settings.accumulate,
            epochs=settings.epochs,
            channels_last=settings.channels_last,
        )
        network = models.build_model(
            **asdict(settings.model),
            in_channels=images.num_channels,
            num_classes=images.num_classes,
            image_size=images.image_size,
            batch_size=images.micro_batch_size,
        )
    network, replica = ranks.wrap(
        network,
        compile=settings.compile,
        sync_batchnorm=settings.sync_batchnorm,
    )
    with mistakes_in_settings():
        optimizer = optimizers.build(network, **asdict(settings.optimizer))
        scheduler = schedules.create(
            **asdict(settings.schedule),
            optimizer=optimizer,
            epochs=settings.epochs,
            steps_per_epoch=images.steps_per_epoch,
            batch_size=images.batch_size,
        )
    take_step = OptimizerStep(
        replica,
        optimizer,
        precision=settings.precision,
        clip_grad_norm=settings.clip_grad_norm,
        clip_grad_value=settings.clip_grad_value,
        label_smoothing=settings.label_smoothing,
        layer_norms=settings.layer_norms,
        check_finite=settings.check_finite,
        create_graph=optimizers.needs_create_graph(optimizer),
    )
    take_step.warm_up(images.micro_batch_shape)
    guard = DivergenceGuard(network, optimizer, take_step.scaler, scheduler)
    average = models.average_of(network, settings.ema_decay)
    state = RunState(network, optimizer, scheduler, take_step.scaler, guard, Progress(), average)
    return images, state, take_step


@unfailing_outputs()
def main(arguments: Sequence[str]) -> int:
    """Run, and turn every way to end into an exit code; what went wrong is one line."""
    is_main = os.environ.get("RANK", "0") == "0"
    settings = None
    try:
        # Imported here, so that a package that is not installed is one line, too.
        from autowu.trainer.config import parse_settings
        from autowu.trainer.validation import check_shares

        with StopSignals() as stop:
            settings = parse_settings(arguments, __doc__)
            check_shares(settings, int(os.environ.get("WORLD_SIZE", 1)))
            train(settings, stop)
    except Interrupted as error:
        # Whatever `resume` was, from here on it is this run that goes on.
        again = [argument for argument in arguments if not argument.startswith("resume=")]
        again += ["resume=auto"] * (settings is not None and settings.resume != "auto")
        command = shlex.join(["python", os.path.relpath(__file__), *again])
        if "RANK" in os.environ:
            command = "the same torchrun command" + " with resume=auto" * ("resume=auto" in again)
        how = f", everything is saved; go on: {command}"
        if not error.is_saved:
            how = " before the first step: nothing to save; the same command begins anew"
        if is_main:
            print(f"train.py: {error}{how}", file=sys.stderr)
        return error.exit_code
    except RunError as error:
        if is_main or not error.is_shared:
            print(f"train.py: {error}", file=sys.stderr)
        return error.exit_code
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch says so wherever the rank is just then
            raise
        print(f"train.py: a loader process died (out of memory?): {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # each machine has packages of its own
            print(f"train.py: {missing_requirement(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code and "RANK" in os.environ:
        # Collectives that will never be finished could abort or hold up an orderly exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
