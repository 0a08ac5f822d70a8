"""LR, training loss and test accuracy over the epochs, from run directories to a picture.

`collect_curves` thins what train.py wrote (steps.csv, metrics.jsonl) to a few hundred points a run,
so that they can be kept as curves.csv; `draw_curves` draws from these.
"""

import argparse
import json
import statistics
from collections.abc import Collection, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.collect import ReportError, Row, find_runs, run_row
from experiments.paper import TITLES, full_budget, row_of, say_not_run, shared_legend
from experiments.results import shown
from experiments.tables import read_rows, save_figure, write_rows

NUM_POINTS = 200  # of the LR and the loss of a run
IDENTITY = ("config", "method", "epochs", "batch_size", "seed", "data", "commit", "device")
METHOD = "AutoWU + cos"  # of Figures 2 to 4
PANELS = {"lr": "LR", "loss": "training loss", "test_accuracy": "test accuracy, %"}


def collect_curves(folders: Iterable[Path]) -> list[Row]:
    """The points of all finished runs in some folders.

    Each is either the LR at the end of a stretch of steps with the mean loss of them, or the test
    accuracy at the end of an epoch; `epoch` is the number of those done.
    """
    points: list[Row] = []
    for run in (run for folder in folders for run in find_runs(folder)):
        row = run_row(run)
        identity = {name: row[name] for name in IDENTITY}
        nothing = {"epoch": "", "lr": "", "loss": "", "test_accuracy": ""}
        steps = read_rows(run / "steps.csv")
        if not steps:
            raise ReportError(f"{run / 'steps.csv'}: has no steps")
        for point in thin(steps, int(row["steps_per_epoch"])):
            points.append(identity | nothing | point)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            epoch = json.loads(line)
            accuracy = f"{epoch['test_accuracy']:.3f}"
            points.append(
                identity | nothing | {"epoch": str(epoch["epoch"]), "test_accuracy": accuracy}
            )
    return points


def thin(steps: Sequence[Row], steps_per_epoch: int) -> list[Row]:
    """Equal stretches of steps: where each ends, its last LR, its mean loss."""
    length = -(-len(steps) // NUM_POINTS)
    stretches = [steps[start : start + length] for start in range(0, len(steps), length)]
    return [
        {
            "epoch": f"{(int(stretch[-1]['step']) + 1) / steps_per_epoch:.4g}",
            "lr": f"{float(stretch[-1]['lr']):.4g}",
            "loss": f"{statistics.fmean(float(step['loss']) for step in stretch):.4g}",
        }
        for stretch in stretches
    ]


def draw_curves(
    points: Sequence[Row],
    columns: str,
    lines: str,
    panels: Sequence[str],
    path: Path,
    titles: Sequence[str] = (),
    smooth_epochs: float = 0.0,
) -> None:
    """One column of panels for each value of `columns`, one line for each of `lines`.

    Args:
        points: of `collect_curves`; of several seeds the lowest is drawn.
        columns, lines: names of entries of a point; `row` is the paper's row of its config.
        panels: lr, loss, test_accuracy, from top to bottom.
        path: of the picture.
        titles: of the columns, also of those without a point, whose panels say `not run`; by
            default those of the points.
        smooth_epochs: the loss is a mean over so many epochs around each point.
    """
    seed = min((point["seed"] for point in points), key=int, default="")
    points = [point | {"row": row_of(point["config"])} for point in points if point["seed"] == seed]
    titles = titles or list(dict.fromkeys(point[columns] for point in points))
    runs = list(dict.fromkeys((point["config"], point["batch_size"]) for point in points))
    names = sorted({point[lines] for point in points}, key=lambda n: (not n.isdigit(), len(n), n))
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(3.6 * len(titles) + 0.6, 2.0 * len(panels) + 0.8), layout="constrained"
        )
        grid = figure.subplots(len(panels), len(titles), squeeze=False, sharex="col")
        for column, title in zip(grid.T, titles, strict=True):
            column[0].set_title(TITLES.get(title, title))
            column[-1].set_xlabel("epoch")
            for axes, panel in zip(column, panels, strict=True):
                for run, (index, name) in product(runs, enumerate(names)):
                    chosen = [
                        point
                        for point in points
                        if (point["config"], point["batch_size"]) == run
                        and (point[columns], point[lines]) == (title, name)
                    ]
                    line = [(float(p["epoch"]), float(p[panel])) for p in chosen if p[panel]]
                    if panel == "loss":
                        line = smoothed(line, smooth_epochs)
                    if line:
                        axes.plot(*zip(*line, strict=True), label=name, **_look(index, len(names)))
                if not axes.lines:
                    say_not_run(axes)
                elif panel == "lr":  # its fall to 0 leaves the panel at the bottom
                    axes.set_yscale("log")
                    top = axes.get_ylim()[1]
                    axes.set_ylim(max(axes.get_ylim()[0], 1e-4 * top), top)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            axes.set_ylabel(PANELS[panel])
        shared_legend(figure, grid.flat, len(titles), lines.replace("_", " "))
        save_figure(figure, path, dpi=150)


def smoothed(line: Sequence[tuple[float, float]], width: float) -> list[tuple[float, float]]:
    """Each value the mean of those that are at most half of `width` away.

    >>> smoothed([(0.0, 1.0), (1.0, 2.0), (2.0, 6.0)], 2.0)
    [(0.0, 1.5), (1.0, 3.0), (2.0, 4.0)]
    """
    return [
        (x, statistics.fmean(y for other, y in line if abs(other - x) <= width / 2))
        for x, _ in line
    ]


def _look(index: int, count: int) -> dict[str, Any]:
    """Lines from light to dark, so that the order of batch sizes shows."""
    dashes = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
    color = matplotlib.colormaps["plasma"](0.82 * (1 - index / max(count - 1, 1)))
    return {"color": color, "linestyle": dashes[index % len(dashes)], "linewidth": 1.6}


def of_configs(
    points: Sequence[Row], configs: Collection[str], batch_size: str | None = None
) -> list[Row]:
    """The points of these configs; all where none is among them, to try a figure on other runs."""
    chosen = [
        point
        for point in points
        if point["config"] in configs and batch_size in (None, point["batch_size"])
    ]
    return chosen or list(points)


def draw_runs(description: str | None, folder: Path) -> None:
    """The command of Figures 2 to 4: LR and training loss of AutoWU, a line a batch size.

    What is drawn are the cells of results.csv, and on other runs than these all that were given.
    """
    points, output = read_points(description, folder)
    configs = {row["config"]: row_of(row["config"]) for row in read_rows(folder / "results.csv")}
    points = [point for point in full_budget(points) if point["method"] == METHOD]
    points = of_configs(points, configs)
    planned = list(dict.fromkeys(configs.values()))
    titles = planned if all(point["config"] in configs for point in points) else ()
    draw_curves(points, "row", "batch_size", ("lr", "loss"), output, titles)


def read_points(description: str | None, folder: Path) -> tuple[list[Row], Path]:
    """The points of the runs that the command line names, or those of curves.csv; the picture."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="run directories, or folders of them",
    )
    parser.add_argument(
        "--curves", type=Path, default=folder / "curves.csv", help="their points, kept for a redraw"
    )
    parser.add_argument(
        "--output", type=Path, default=folder / f"{folder.name}.png", help="the picture"
    )
    options = parser.parse_args()
    try:
        points = collect_curves(options.folders) if options.folders else read_rows(options.curves)
    except ReportError as error:
        raise SystemExit(f"{folder.name}: {error}") from None
    if options.folders and points:
        write_rows(options.curves, points)
        print(shown(options.curves))
    return points, options.output
