"""`python -m autowu replay losses.csv`: when a warmup would have ended, on recorded losses."""

import argparse
import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from autowu.recordings import read_losses
from autowu.settings import AtCap, Decay, Fit, Growth, SweepKind

if TYPE_CHECKING:
    from autowu.scheduler import AutoWU

DESCRIPTION = """\
Run AutoWU over a recorded loss curve: when, and at which learning rate, the warmup would have
ended. The losses should come from a learning rate that grew as AutoWU's sweep does; where the
file has a column lr too, as steps.csv of train.py, this is checked."""
FILE_HELP = "CSV with a loss column, one number a line, or JSON Lines; - is the standard input"
FIRST_LR_HELP = "of that run, if it probed (with --sweep adaptive: the first of a column lr)"
DECAY_HELP = f"after the warmup (cosine): {', '.join(get_args(Decay))}"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "replay",
        help="run AutoWU over a recorded loss curve",
        description=DESCRIPTION,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help=FILE_HELP)
    add("--column", default="loss", metavar="NAME", help="of the losses (default: loss)")
    add("--ignore-lr", action="store_true", default=False, help="leave a column lr unread")
    add("--json", action="store_true", default=False, help="print one JSON document")
    add("--plot", type=Path, default=None, metavar="FILE", help="draw it (.png, .svg or .pdf)")
    add("--paper", action="store_true", default=False, help="behave as published")
    add("--total-steps", type=int, required=True, metavar="N", help="optimizer steps of the run")
    add("--steps-per-epoch", type=int, default=None, metavar="N", help="optimizer steps an epoch")
    _add_settings(parser.add_argument_group("settings of AutoWU"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    settings = vars(options).copy()
    for name in ("command", "run"):
        settings.pop(name, None)
    file, column = settings.pop("file"), settings.pop("column")
    plot, as_json, paper = settings.pop("plot"), settings.pop("json"), settings.pop("paper")
    if paper and settings["steps_per_epoch"] is None:
        raise ValueError("--paper needs --steps-per-epoch: it tests at the ends of epochs")
    ignores_lrs = settings.pop("ignore_lr")
    losses, lrs = read_losses(file, column, with_lrs=not ignores_lrs)
    total_steps = settings["total_steps"]

    from autowu.offline import OtherSweepError, advice, follows_decay, replay
    from autowu.settings import PAPER

    try:
        scheduler = replay(losses, lrs=lrs, **((PAPER if paper else {}) | settings))
    except OtherSweepError as error:
        if paper and error.fitting.get("sweep") == "adaptive":
            way_out = "the sweep of that run was adaptive, and --paper knows none"
        else:
            way_out = advice(_flags(error.fitting))
        raise ValueError(
            f"{error.difference}; {way_out}; or the losses alone, with --ignore-lr, if they come"
            " from other LRs than the column says"
        ) from None
    if ignores_lrs:
        _warn_of_other_lrs(file, column, scheduler)
    _warn_of_lengths(len(losses), total_steps, settings["steps_per_epoch"])
    if plot:
        from autowu.plotting import plot_scheduler

        if lrs is not None and not follows_decay(scheduler, lrs):
            lrs = None
        plot = plot_scheduler(
            scheduler,
            plot,
            losses=losses[:total_steps],
            # Of a record that ends sooner the rest of the decay is shown, too.
            lrs=lrs[:total_steps] if lrs and len(lrs) >= total_steps else None,
            other_lrs_after_warmup=lrs is None,
        )
    if as_json:
        print(json.dumps(to_dict(scheduler, len(losses), plot), indent=2, allow_nan=False))
        return
    if "first_lr" not in settings and scheduler.lr_at(0) > scheduler.settings.min_lr:
        print(f"the sweep begins at LR {scheduler.lr_at(0):.6g}, the first of the column lr")
    num_skipped = min(len(losses), total_steps) - scheduler.last_epoch
    if num_skipped:
        print(f"{num_skipped} rows with the LR of the next one: steps that a GradScaler skipped")
    print(to_text(scheduler))
    if plot:
        print(f"plot {plot}")


def _warn_of_other_lrs(file: str, column: str, scheduler: "AutoWU") -> None:
    """A line on the standard error where the losses come from LRs that this replay did not have."""
    from autowu.offline import LR_TOLERANCE

    if not Path(file).is_file():  # standard input or a pipe, which can be read but once
        return
    try:
        _, lrs = read_losses(file, column)
    except ValueError:  # what makes one leave it unread
        return
    known = ((step, lr) for step, lr in enumerate(lrs or []) if math.isfinite(lr))
    step, lr = next(known, (0, scheduler.lr_at(0)))
    if not math.isclose(lr, scheduler.lr_at(step), rel_tol=LR_TOLERANCE):
        warnings.warn(
            f"the column lr, which is left unread, has {lr:g} for step {step}, and the sweep of"
            f" this replay {scheduler.lr_at(step):g}: if the column is right, the LRs told here are"
            " not those of the losses",
            stacklevel=2,
        )


def _warn_of_lengths(num_losses: int, total_steps: int, steps_per_epoch: int | None) -> None:
    """A line on the standard error for what is legal and seldom meant."""
    if num_losses > total_steps:
        warnings.warn(
            f"{num_losses:,} losses, of which the last {num_losses - total_steps:,} lie after"
            f" --total-steps {total_steps} and are left out",
            stacklevel=2,
        )
    # Of a whole fraction of an epoch AutoWU itself asks whether the two are swapped.
    if steps_per_epoch and steps_per_epoch > total_steps and steps_per_epoch % total_steps:
        warnings.warn(
            f"--steps-per-epoch {steps_per_epoch} is more than --total-steps {total_steps}: the run"
            " ends within its first epoch",
            stacklevel=2,
        )


def to_dict(scheduler: "AutoWU", num_losses: int, plot: Path | None = None) -> dict[str, Any]:
    """The outcome of a replay as plain values; epochs are None where their length is unknown."""
    settings = scheduler.settings
    return {
        "num_losses": num_losses,
        "total_steps": settings.total_steps,
        "steps_per_epoch": settings.steps_per_epoch,
        "first_lr": scheduler.lr_at(0),
        "phase": scheduler.phase.name.lower(),
        "switch_step": scheduler.switch_step,
        "switch_epoch": _epoch(scheduler.switch_step, settings.steps_per_epoch),
        "start_lr": scheduler.start_lr,
        "found_minimum": scheduler.found_minimum,
        "diverged": scheduler.diverged,
        "tests": [
            {
                "step": test.step,
                "epoch": _epoch(test.step, settings.steps_per_epoch),
                "lr": test.lr,
                "probabilities": list(test.probabilities),
                "positive": test.positive,
                "lr_at_minimum": test.lr_at_minimum,
            }
            for test in scheduler.tests
        ],
        "plot": str(plot) if plot else None,
    }


def to_text(scheduler: "AutoWU") -> str:
    """The outcome of a replay: a line a test, and the verdict."""
    return "\n".join([*_test_lines(scheduler), verdict(scheduler)])


def verdict(scheduler: "AutoWU") -> str:
    """When and at which LR the warmup ended, in one line."""
    total, per_epoch = scheduler.settings.total_steps, scheduler.settings.steps_per_epoch
    if scheduler.switch_step is None or scheduler.start_lr is None:
        return (
            f"the warmup goes on after {scheduler.last_epoch:,} of {total:,} steps,"
            f" at LR {scheduler.get_last_lr()[0]:.4g}"
        )
    epoch = f" (epoch {scheduler.switch_step / per_epoch:.2f})" if per_epoch else ""
    reason = "the run diverged: " if scheduler.diverged else ""
    if not scheduler.found_minimum and not scheduler.diverged:
        reason = "no minimum is certain by the cap: "
    return (
        f"{reason}the warmup ends after step {scheduler.switch_step:,} of {total:,}{epoch};"
        f" decay starts from LR {scheduler.start_lr:.4g}"
    )


def _test_lines(scheduler: "AutoWU") -> list[str]:
    per_epoch = scheduler.settings.steps_per_epoch
    width = max(18, 6 * scheduler.settings.num_tests - 1)
    lines = [
        f"{'step':>9}  {'epoch':>7}  {'LR':>9}  {'P(fall is over)':<{width}}  "
        f"{'positive':<8}  LR at minimum"
    ]
    for test in scheduler.tests:
        epoch = f"{test.step / per_epoch:.2f}" if per_epoch else "-"
        are_equal = len(set(test.probabilities)) == 1  # of one subset, that of all losses
        shown = test.probabilities[:1] if are_equal else test.probabilities
        probabilities = " ".join(f"{p:.3f}" for p in shown)
        lr = scheduler.lr_at(test.step - 1)  # the last that these losses have met
        lines.append(
            f"{test.step:>9}  {epoch:>7}  {lr:>9.3g}  {probabilities:<{width}}  "
            f"{'yes' if test.positive else 'no':<8}  {test.lr_at_minimum:.3g}"
        )
    settings = scheduler.settings
    if any(len(set(test.probabilities)) > 1 for test in scheduler.tests):
        lines.append(
            f"P(fall is over): {settings.num_tests} random subsets of"
            f" {settings.num_posterior_samples} losses vote, and the majority decides; one number"
            " where all say the same"
        )
    return lines


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())


def _epoch(step: int | None, steps_per_epoch: int | None) -> float | None:
    return None if step is None or not steps_per_epoch else step / steps_per_epoch


def _interval(text: str) -> str | int:
    if text in ("auto", "epoch"):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, epoch or a number") from None


def _add_settings(group: Any) -> None:
    """A flag for each keyword of AutoWU; one that is not given is left to AutoWU."""
    add = group.add_argument
    add("--min-lr", type=float, metavar="LR", help="where the sweep begins (1e-5)")
    add("--max-lr", type=float, metavar="LR", help="where it would end (1.0)")
    add("--max-warmup-fraction", type=float, metavar="F", help="of the run, at most (0.5)")
    add("--probed-warmup-fraction", type=float, metavar="F", help="that, after a probe (1)")
    add("--growth", choices=get_args(Growth), help="of the sweep (exponential)")
    add("--sweep", choices=get_args(SweepKind), help="of the run that was recorded (fixed)")
    add("--first-lr", type=float, metavar="LR", help=FIRST_LR_HELP)
    add("--decay", choices=get_args(Decay), metavar="NAME", help=DECAY_HELP)
    add("--cooldown-fraction", type=float, metavar="F", help="of constant_cosine and wsd_* (0.2)")
    add("--patience", type=int, metavar="N", help="positive tests in a row that end it (3)")
    add("--confidence", type=float, metavar="P", help="of a positive test (0.95)")
    add("--num-tests", type=int, metavar="N", help="posteriors of a test (5)")
    add("--test-interval", type=_interval, metavar="WHEN", help="auto, epoch, or steps (auto)")
    add("--fit", choices=get_args(Fit), help="of the GP (mle)")
    add("--at-cap", choices=get_args(AtCap), help="LR when nothing was found (minimum)")
    add("--num-fit-samples", type=int, metavar="N", help="losses that the GP is fitted on (100)")
    add("--num-posterior-samples", type=int, metavar="N", help="losses of a posterior (500)")
    add("--grid-size", type=int, metavar="N", help="points searched for the minimum (500)")
    add("--seed", type=int, metavar="N", help="of the random subsets (0)")
