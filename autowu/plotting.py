"""The figure of a run: the loss, the tests and the learning rate over the same steps.

Drawn through matplotlib's object interface, so that nothing global changes and no display is
needed. What each panel shows is in `plotting_panels.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from torch import Tensor

from autowu.plotting_panels import (
    draw_legend,
    draw_losses,
    draw_lr,
    draw_smoothed_loss,
    draw_switch,
    draw_tests,
)
from autowu.recordings import read_run
from autowu.scheduler import AutoWU

Numbers = Sequence[float] | np.ndarray | Tensor

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.titlesize": 12,
    "legend.fontsize": 10,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.borderpad": 0.2,
    "legend.labelspacing": 0.3,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.92",
}
WIDTH, HEIGHT = 7.5, 6.5  # inches, three panels
LOSS_HEIGHT, TESTS_HEIGHT, LR_HEIGHT = 4.0, 2.2, 2.6  # of the panels, relative to each other


def plot_scheduler(
    scheduler: AutoWU,
    path: str | Path,
    *,
    steps: Numbers | None = None,
    losses: Numbers | None = None,
    lrs: Numbers | None = None,
    title: str | None = None,
    other_lrs_after_warmup: bool = False,
) -> Path:
    """Draw what a scheduler saw, how it decided, and the learning rate that came of it.

    Args:
        scheduler: in any phase.
        path: of the image; the suffix chooses the format (png, svg, pdf; none: png).
        steps: (n,) optimizer steps done before each loss; if left out, from the scheduler's
            first on.
        losses: (n,) of the whole run; the scheduler's own, those of the warmup, if left out.
        lrs: (n,) used in these steps; the schedule from its start to its end if left out, or to
            its cap while the warmup goes on.
        title: a line over the figure.
        other_lrs_after_warmup: whether the losses after the warmup may have been recorded at other
            LRs than those of the decay: they are fainter, and play no part in the range shown.

    Returns:
        Where the image is.

    Raises:
        ValueError: the lengths differ, or matplotlib does not know the format.
    """
    losses = _array(scheduler.losses if losses is None else losses)
    steps = scheduler.first_step + np.arange(len(losses)) if steps is None else _array(steps)
    if len(steps) != len(losses):
        raise ValueError(f"got {len(steps)} steps for {len(losses)} losses")
    if lrs is not None and len(lrs) != len(losses):
        raise ValueError(f"got {len(lrs)} learning rates for {len(losses)} losses")
    settings = scheduler.settings
    if scheduler.switch_step is not None:
        num_steps = settings.total_steps
    else:  # of a warmup that goes on, the schedule is known to its cap only
        num_steps = scheduler.first_step + len(losses)
        if lrs is None or not len(losses):
            num_steps = max(scheduler.warmup_steps, num_steps)
    with matplotlib.rc_context(STYLE):
        figure, panels = _figure((LOSS_HEIGHT, TESTS_HEIGHT, LR_HEIGHT), title)
        draw_losses(
            panels[0], steps, losses, scheduler.switch_step if other_lrs_after_warmup else None
        )
        draw_smoothed_loss(panels[0], scheduler)
        draw_tests(panels[1], scheduler.tests, settings.confidence)
        first_lr = scheduler.lr_at(scheduler.first_step)
        if lrs is None:
            lr_steps = np.arange(num_steps + 1)
            lr_curve = [scheduler.lr_at(int(t)) for t in lr_steps]
            draw_lr(panels[2], lr_steps, lr_curve, first_lr)
        else:
            draw_lr(panels[2], steps, _array(lrs), first_lr)
        marks = draw_switch(panels, scheduler)
        _finish(figure, panels, num_steps, settings.steps_per_epoch)
        draw_legend(panels[0])
        if marks:
            figure.legend(handles=marks, loc="outside upper center")
        return save(figure, path)


def plot_run(run_dir: str | Path, path: str | Path | None = None) -> Path:
    """Draw a run of train.py, finished or not; without AutoWU the loss and the learning rate alone.

    Args:
        run_dir: what train.py wrote.
        path: of the image; `<run_dir>/schedule.png` if left out.

    Returns:
        Where the image is.

    Raises:
        ValueError: something is missing in `run_dir`, or matplotlib does not know the format.
    """
    run = read_run(run_dir)
    path = Path(run_dir) / "schedule.png" if path is None else path
    if run.scheduler is not None:
        return plot_scheduler(run.scheduler, path, steps=run.steps, losses=run.losses, lrs=run.lrs)
    with matplotlib.rc_context(STYLE):
        figure, panels = _figure((LOSS_HEIGHT, LR_HEIGHT), None)
        draw_losses(panels[0], run.steps, run.losses)
        draw_lr(panels[1], run.steps, run.lrs)
        draw_legend(panels[0])
        _finish(figure, panels, len(run.steps), run.summary.get("steps_per_epoch"))
        return save(figure, path)


def _array(numbers: Numbers) -> np.ndarray:
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().cpu().double().numpy()
    return np.asarray(numbers, dtype=float)


def _figure(heights: Sequence[float], title: str | None) -> tuple[Figure, list[Axes]]:
    full = LOSS_HEIGHT + TESTS_HEIGHT + LR_HEIGHT
    figure = Figure(figsize=(WIDTH, HEIGHT * sum(heights) / full), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure, list(panels)


def _finish(
    figure: Figure, panels: Sequence[Axes], num_steps: int, steps_per_epoch: int | None
) -> None:
    """The axes that the panels share, and the legends that belong to all of them."""
    panels[-1].set_xlabel("optimizer step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 2.5, 5, 10]))
    panels[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panels[-1].set_xlim(-0.01 * num_steps, 1.01 * num_steps)
    if steps_per_epoch:
        scales = (lambda step: step / steps_per_epoch, lambda epoch: epoch * steps_per_epoch)
        epochs = panels[0].secondary_xaxis("top", functions=scales)
        epochs.set_xlabel("epoch")
    figure.align_ylabels()


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the suffix of `path` chooses the format, without one it is png."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a directory, expected the name of an image (.png, .svg or .pdf)")
    if not path.suffix:
        path = path.with_suffix(".png")
    figure.savefig(path, dpi=150)
    return path
