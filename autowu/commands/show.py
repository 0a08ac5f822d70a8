"""`python -m autowu show schedule.name=cosine epochs=90`: draw schedules without training."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from autowu import AutoWU
    from autowu.trainer.settings import DataSettings, Settings

DESCRIPTION = """\
Draw learning-rate schedules without training and without loading data. Settings are those of
train.py. Each `schedule.name=` begins another schedule, with the `schedule.*` settings that follow
it; everything else is shared by all of them, and so is what stands before the first.
`schedule.name=cosine,wsd` is short for two that share their settings."""
NUM_ROWS = 20  # of the table
DEFAULT_PLOT = Path("schedules.png")
TRAIN_IMAGES = {"digits": 1437, "cifar10": 50_000, "cifar100": 50_000, "imagenet": 1_281_167}
STEPS_PER_EPOCH = 100  # where the number of images is not known
EXAMPLE_SWITCH, EXAMPLE_MINIMUM = 0.75, 0.5  # of the longest warmup: what a run might find
EXAMPLE_FALL = 0.4  # of the decades of LR, and of the fast piece of its sweep


class Curve(NamedTuple):
    """What a schedule will do, as far as that is known before the run."""

    label: str
    name: str
    lrs: list[float]  # (n,) of each optimizer step
    relative: bool = False  # LR over the peak LR, which is not known
    note: str | None = None  # what the losses will decide
    example_start: int = 0  # the step that `example` begins at
    example: Sequence[float] = ()  # (m,) what follows if the losses are as `note` supposes


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        help="draw learning-rate schedules without training",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    parser.takes_settings = True
    add = parser.add_argument
    add("--config", action="append", default=[], type=Path, metavar="FILE", help="YAML settings")
    add(
        "--steps-per-epoch",
        type=int,
        metavar="N",
        help="optimizer steps an epoch (default: from data.batch_size and the size of the data set"
        f" where that is known, else {STEPS_PER_EPOCH})",
    )
    add(
        "--plot",
        nargs="?",
        type=Path,
        const=DEFAULT_PLOT,
        metavar="FILE",
        help=f"the image, .png, .svg or .pdf ({DEFAULT_PLOT} if FILE is left out)",
    )
    add("--json", action="store_true", help="print the LR of every step as one JSON document")
    add("overrides", nargs="*", metavar="key=value", help="for example schedule.name=cosine")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    given = options.steps_per_epoch
    if given is not None and given < 1:
        raise ValueError(f"--steps-per-epoch must be at least 1, got {given}")
    if options.plot and "=" in options.plot.name:
        raise ValueError(f"--plot {options.plot}: a setting, not a file (--plot alone stands last)")
    curves: list[Curve] = []
    requests = split_schedules(options.overrides)
    for number, (label, overrides) in enumerate(requests):
        settings, relative = read_settings(options.config, overrides, num_schedules=len(requests))
        steps_per_epoch = given or default_steps_per_epoch(settings.data)
        label = label or settings.schedule.name
        taken = [curve.label for curve in curves]
        label = f"{label} ({number + 1})" if label in taken else label
        curves.append(draw(settings, steps_per_epoch, label, relative))
    if options.plot:
        from autowu.plotting_schedules import plot_schedules

        plot = plot_schedules(curves, options.plot, steps_per_epoch=steps_per_epoch)
    if options.json:
        document = {
            "epochs": settings.epochs,
            "steps_per_epoch": steps_per_epoch,
            "schedules": {curve.label: to_dict(curve) for curve in curves},
        }
        print(json.dumps(document | ({"plot": str(plot)} if options.plot else {}), indent=2))
    elif options.plot:
        print(f"plot {plot}")
    else:
        print(to_text(curves, steps_per_epoch))


def split_schedules(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The schedules that the arguments ask for: a label, and the overrides of each.

    A label is empty where no `schedule.name=` says which schedule it is.

    >>> split_schedules(["epochs=3", "schedule.name=a,b", "schedule.x=1", "schedule.name=c"])[0]
    ('a x=1', ['epochs=3', 'schedule.name=a', 'schedule.x=1'])
    >>> [label for label, _ in split_schedules(["schedule.name=a", "schedule.name=a", "seed=2"])]
    ['a', 'a']
    """
    shared: list[str] = []
    groups: list[tuple[str, list[str]]] = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if key == "schedule.name" and separator:
            groups.append((value, []))
        elif groups and key.startswith("schedule."):
            groups[-1][1].append(argument)
        else:
            shared.append(argument)
    requests = []
    for names, own in groups:
        words = [shorten(each.removeprefix("schedule.")) for each in own]
        for name in names.split(","):
            label = " ".join([name.strip(), *words])
            requests.append((label, [*shared, f"schedule.name={name.strip()}", *own]))
    return requests or [("", shared)]


def shorten(word: str, most: int = 12) -> str:
    """A setting for a label: a long value is left out.

    >>> shorten("gamma=0.5"), shorten("curves=[{name: linear, length: 0.1}]")
    ('gamma=0.5', 'curves=[...]')
    """
    key, _, value = word.partition("=")
    if len(value) <= most:
        return word
    return f"{key}=[...]" if value[:1] == "[" else f"{key}=..."


def read_settings(
    files: Sequence[Path], overrides: Sequence[str], num_schedules: int = 1
) -> tuple["Settings", bool]:
    """The settings of one schedule, and whether its peak LR is unknown and stands for 1.

    Among several schedules, `optimizer.lr` is that of those that take one.
    """
    from autowu.trainer.config import build_settings
    from autowu.trainer.config_files import read_file
    from autowu.trainer.schedule_settings import SCHEDULES, FindsLRSettings, canonical

    entries = {key: entry.value for file in files for key, entry in read_file(file).items()}
    entries |= {key: value for key, _, value in (each.partition("=") for each in overrides)}
    name = entries.get("schedule.name", "autowu")
    try:
        finds_lr = issubclass(SCHEDULES[canonical(str(name))], FindsLRSettings)
    except ValueError:
        return build_settings(files, overrides), False  # says what is wrong
    lr_is_given = entries.get("optimizer.lr") not in (None, "null")
    if finds_lr and lr_is_given and num_schedules > 1:
        overrides = [*overrides, "optimizer.lr=null"]
    elif not finds_lr and not lr_is_given:
        overrides = [*overrides, "optimizer.lr=1"]
    settings = build_settings(files, overrides)
    late = settings.schedule.name == "range_test_onecycle"
    return settings, late or (not finds_lr and not lr_is_given)


def default_steps_per_epoch(data: "DataSettings") -> int:
    """Optimizer steps of an epoch of a data set whose size is known; else a round number."""
    num_images = getattr(data, "num_images", None) or TRAIN_IMAGES.get(data.name)
    return max(1, num_images // data.batch_size) if num_images else STEPS_PER_EPOCH


def draw(settings: "Settings", steps_per_epoch: int, label: str, relative: bool) -> Curve:
    """Run a schedule over a whole run, on an optimizer that has one parameter and never steps."""
    import torch

    from autowu import AutoWU
    from autowu.trainer import schedules
    from autowu.trainer.schedule_settings import AutoWUSettings

    lr = 1.0 if settings.optimizer.lr is None else settings.optimizer.lr
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    name = settings.schedule.name
    own = {key: value for key, value in vars(settings.schedule).items() if key != "name"}
    schedule: Any = schedules.create(
        name,
        optimizer,
        epochs=settings.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=settings.data.batch_size,
        **own,
    )
    num_steps = settings.epochs * steps_per_epoch
    if isinstance(schedule, AutoWU):
        assert isinstance(settings.schedule, AutoWUSettings)
        return _draw_autowu(schedule, label, num_steps, settings.schedule.begins_with_probe)
    note = None
    if name == "lr_range_test":
        num_steps = own["num_steps"]
        note = "the sweep of the test, over its own steps"
    elif name == "range_test_onecycle":
        schedule.set_peak(1.0)
        note = "the range test decides on the peak LR"
    elif name == "plateau":
        note = "reduced when the loss stalls"
    return Curve(label, name, _lrs_of(schedule, num_steps), relative, note)


def _lrs_of(schedule: Any, num_steps: int) -> list[float]:
    """The LR of each step: these curves depend on the number of steps done, and on nothing else."""
    lrs = []
    for step in range(num_steps):
        schedule.last_epoch = step
        lrs.append(float(schedule.get_lr()[0]))
    return lrs


def _draw_autowu(scheduler: "AutoWU", label: str, num_steps: int, is_probed: bool) -> Curve:
    """The sweep up to the longest warmup; and the decay from what a run might find."""
    from autowu.probe import Fall
    from autowu.sweep import fast_steps, first_lr

    own, supposes = scheduler.settings, ""
    if is_probed:
        fall_lr = own.min_lr * (own.max_lr / own.min_lr) ** EXAMPLE_FALL
        scheduler.begin_at(first_lr(own, Fall(fall_lr, fall_lr)))
        supposes = f" the probe sees the loss begin to fall at LR {fall_lr:.3g}, and"
    longest = min(scheduler.warmup_steps, num_steps)
    switch = max(1, round(EXAMPLE_SWITCH * scheduler.warmup_steps))
    state = scheduler.state_dict()
    if state["fall_step"] is None:  # an adaptive sweep
        fall = max(1, round(EXAMPLE_FALL * fast_steps(scheduler.settings)))
        if fall < scheduler.warmup_steps:
            scheduler.load_state_dict(state | {"fall_step": fall})
            supposes = f" the loss begins to fall at step {fall:,}, and"
    lr = scheduler.lr_at(EXAMPLE_MINIMUM * scheduler.warmup_steps)
    sweep = [scheduler.lr_at(step) for step in range(longest)]
    found = scheduler.state_dict() | {"switch_step": switch, "start_lr": lr}
    scheduler.load_state_dict(found)
    return Curve(
        label,
        "autowu",
        sweep,
        note="the losses decide when the warmup ends; the example supposes that"
        f"{supposes} at step {switch:,} the minimum is found to lie at LR {lr:.3g}",
        example_start=switch,
        example=[scheduler.lr_at(step) for step in range(switch, num_steps)],
    )


def to_dict(curve: Curve) -> dict[str, Any]:
    """A curve as plain values."""
    document: dict[str, Any] = {
        "name": curve.name,
        "lrs": curve.lrs,
        "relative": curve.relative,
        "note": curve.note,
    }
    if curve.example:
        document["example"] = {"first_step": curve.example_start, "lrs": curve.example}
    return document


def to_text(curves: Sequence[Curve], steps_per_epoch: int) -> str:
    """A table with a line for about 20 steps, evenly spread, and a column for each schedule."""
    length = max(max(len(c.lrs), c.example_start + len(c.example)) for c in curves)
    num_rows = min(NUM_ROWS, length)
    steps = [round(row * (length - 1) / max(1, num_rows - 1)) for row in range(num_rows)]
    widths = [max(10, len(curve.label)) for curve in curves]
    heads = [f"{c.label:>{width}}" for c, width in zip(curves, widths, strict=True)]
    lines = ["  ".join([f"{'epoch':>8}", f"{'step':>9}", *heads])]
    for step in steps:
        cells = [f"{_cell(c, step):>{width}}" for c, width in zip(curves, widths, strict=True)]
        lines.append("  ".join([f"{step / steps_per_epoch:>8.2f}", f"{step:>9}", *cells]))
    for curve in curves:
        notes = [curve.note] if curve.note else []
        if curve.relative:
            notes.append("LR over the peak LR")
        if curve.example:
            notes.append("(...) is that example")
        if notes:
            lines.append(f"{curve.label}: {'; '.join(notes)}")
    return "\n".join(lines)


def _cell(curve: Curve, step: int) -> str:
    in_example = step - curve.example_start
    if curve.example and 0 <= in_example < len(curve.example):
        return f"({curve.example[in_example]:.4g})"
    return f"{curve.lrs[step]:.4g}" if step < len(curve.lrs) else "-"
