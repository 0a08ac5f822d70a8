"""What the folders of the paper's tables and figures share: the published numbers beside ours.

Rows are those of experiments/collect.py. A published row is a mean as the paper prints it; ours are
single runs, or cells `not run`.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.collect import Row
from experiments.report import read_results
from experiments.tables import markdown_table, put_between_marks, save_figure

TITLES = {  # of the rows of Tables 1 to 4, by the beginning of their configs' names
    "cifar10_resnet18_adamp": "CIFAR-10, ResNet-18, AdamP",
    "cifar100_wrn28_10_adamp": "CIFAR-100, Wide-ResNet-28-10, AdamP",
    "imagenet_resnet50_adamp": "ImageNet, ResNet-50, AdamP",
    "cifar10_resnet18_lamb": "CIFAR-10, ResNet-18, LAMB",
    "cifar100_wrn28_10_lamb": "CIFAR-100, Wide-ResNet-28-10, LAMB",
    "imagenet_efficientnet_b0_adamp": "ImageNet, EfficientNet-B0, AdamP",
    "imagenet_vit_s16_adamp": "ImageNet, ViT-S/16, AdamP",
}
LOOKS: tuple[dict[str, Any], ...] = (  # of the lines of a panel; they differ in greyscale too
    {"color": "0.55", "linestyle": (0, (4, 2)), "marker": "s"},
    {"color": "black", "linestyle": "-", "marker": "o"},
    {"color": "C0", "linestyle": (0, (1, 1.2)), "marker": "D"},
    {"color": "C3", "linestyle": "-.", "marker": "^"},
    {"color": "C1", "linestyle": (0, (6, 1.5)), "marker": "v"},
    {"color": "C2", "linestyle": (0, (3, 1, 1, 1, 1, 1)), "marker": "P"},
)
FILLS = ("full", "left", "right", "top", "bottom")  # of the markers of our runs, by their data set
Label = Callable[[Row], str]


def row_of(config: str) -> str:
    """The row of the paper's tables that a config belongs to.

    >>> row_of("imagenet_resnet50_adamp_autowu_warmup0.25")
    'imagenet_resnet50_adamp'
    """
    return config.partition("_autowu")[0].removesuffix("_baseline")


def full_budget(rows: Sequence[Row]) -> list[Row]:
    """Without the shorter budgets, which the paper does not have."""
    epochs: dict[str, int] = {}
    for row in rows:
        stem = row_of(row["config"])
        epochs[stem] = max(epochs.get(stem, 0), int(row["epochs"]))
    return [row for row in rows if int(row["epochs"]) == epochs[row_of(row["config"])]]


def by_data_set(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows that are done, apart by what they were trained on."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "done":
            found.setdefault(row["data"], []).append(row)
    return found


def mean_and_deviation(rows: Sequence[Row]) -> tuple[float, float | None] | None:
    """Of published rows as printed, of ours over the runs; None where nothing has been run.

    Raises:
        ValueError: they are runs on several data sets, which have no mean.
    """
    found = by_data_set(rows)
    if not found:
        return None
    if len(found) > 1:
        config, names = rows[0]["config"], ", ".join(found)
        raise ValueError(f"{config}: runs on several data sets ({names}) are one cell")
    (done,) = found.values()
    if done[0]["source"] == "published":
        (row,) = done
        return float(row["test_accuracy"]), float(row["deviation"]) if row["deviation"] else None
    values = [float(row["test_accuracy"]) for row in done]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def cell_text(rows: Sequence[Row]) -> str:
    """`96.58 ± 0.07`, with the number of runs and the data set behind ours; `not run`; `-`.

    Of runs on several data sets one after the other, as they have no mean; `-` without a cell.
    """
    if not rows:
        return "-"
    texts = [_mean_text(data, of_data) for data, of_data in by_data_set(rows).items()]
    return ", ".join(texts) or "not run"


def _mean_text(data: str, rows: Sequence[Row]) -> str:
    found = mean_and_deviation(rows)
    assert found is not None
    mean, deviation = found
    text = f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"
    return text if rows[0]["source"] == "published" else f"{text} (n = {len(rows)}, {data})"


def comparison_table(rows: Sequence[Row], label: Label) -> str:
    """A pair of lines, published and ours, for each row of the paper's table."""
    rows = full_budget(rows)
    tables = []
    for stem in dict.fromkeys(row_of(row["config"]) for row in rows):
        of_row = [row for row in rows if row_of(row["config"]) == stem]
        batch_sizes = sorted({row["batch_size"] for row in of_row}, key=int)
        lines = []
        for name in dict.fromkeys(label(row) for row in of_row):
            for source in ("published", "ours"):
                chosen = [r for r in of_row if label(r) == name and r["source"] == source]
                if not chosen:
                    continue
                cells = [
                    cell_text([r for r in chosen if r["batch_size"] == size])
                    for size in batch_sizes
                ]
                lines.append([name, source, *cells])
        title = TITLES.get(stem, stem)
        tables.append(markdown_table([title, "", *batch_sizes], lines))
    return "\n\n".join(tables)


def with_looks(names: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """Each line of a panel and its look.

    Raises:
        ValueError: there are more lines than looks.
    """
    names = list(names)
    if len(names) > len(LOOKS):
        raise ValueError(f"{len(names)} lines ({', '.join(names)}), and only {len(LOOKS)} LOOKS")
    return list(zip(names, LOOKS, strict=False))


def draw_accuracies(rows: Sequence[Row], label: Label, path: Path) -> None:
    """Test accuracy over the batch size, a panel for each row of the paper's table.

    Published means have open markers; ours, where they have been run, filled ones.
    """
    rows = full_budget(rows)
    stems = list(dict.fromkeys(row_of(row["config"]) for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(stems) + 0.4, 3.6), layout="constrained")
        panels = figure.subplots(1, len(stems), squeeze=False)[0]
        names = list(dict.fromkeys(label(row) for row in rows))
        for axes, stem in zip(panels, stems, strict=True):
            of_row = [row for row in rows if row_of(row["config"]) == stem]
            for name, look in with_looks(names):
                chosen = [row for row in of_row if label(row) == name]
                draw_line(axes, chosen, "published", name, markerfacecolor="white", **look)
                draw_line(axes, chosen, "ours", name, **(look | {"linestyle": "none"}))
            mark_batch_sizes(axes, of_row)
            axes.set(title=TITLES.get(stem, stem))
        panels[0].set_ylabel("test accuracy, %")
        shared_legend(figure, panels, len(stems))
        save_figure(figure, path, dpi=150)


def draw_line(axes: Axes, rows: Sequence[Row], source: str, name: str, **look: Any) -> None:
    """Mean and deviation of one schedule over the batch size, as far as it has been run.

    A line for each data set, with other halves of its markers filled.
    """
    found = by_data_set(row for row in rows if row["source"] == source)
    for (data, of_data), fill in zip(sorted(found.items()), cycle(FILLS), strict=False):
        points = []
        for size in sorted({int(row["batch_size"]) for row in of_data}):
            mean = mean_and_deviation([r for r in of_data if r["batch_size"] == str(size)])
            assert mean is not None
            points.append((size, *mean))
        x, y, deviations = zip(*points, strict=True)
        axes.errorbar(
            x, y, whiskers(deviations), label=", ".join(filter(None, (name, source, data))),
            markersize=5, capsize=3, linewidth=1.2, fillstyle=fill, **look,
        )  # fmt: skip


def whiskers(deviations: Iterable[float | None]) -> list[float]:
    """As errorbar takes them: no cap where there is no deviation."""
    return [math.nan if deviation is None else deviation for deviation in deviations]


def mark_batch_sizes(axes: Axes, rows: Sequence[Row]) -> None:
    """A logarithmic axis with the batch sizes as its ticks."""
    sizes = sorted({int(row["batch_size"]) for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size // 1024}K" if size >= 1024 else str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("batch size")


def say_not_run(axes: Axes) -> None:
    """In a panel whose runs have not been made; for want of values it has no scales."""
    axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_yticks([], minor=True)


def shared_legend(
    figure: Figure, panels: Iterable[Axes], num_columns: int, title: str | None = None
) -> None:
    """One legend below the panels, each label once; none where no line has a label."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if not found:
        return
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=1 if num_columns == 1 else 3,
        title=title,
    )


def rows_option(description: str | None, folder: Path, rows_of: Path) -> argparse.ArgumentParser:
    """The arguments that the plotting commands share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=Path, default=rows_of / "results.csv", help="of experiments/report.py"
    )
    parser.add_argument(
        "--output", type=Path, default=folder / f"{folder.name}.png", help="the picture"
    )
    return parser


def draw_table(description: str | None, folder: Path, label: Label) -> None:
    """The picture and the README's table of one of the paper's tables, from its rows."""
    options = rows_option(description, folder, folder).parse_args()
    rows = read_results(options.rows)
    draw_accuracies(rows, label, options.output)
    table = comparison_table(rows, label)
    if options.rows == folder / "results.csv":
        put_between_marks(folder / "README.md", "table", table)
    print(table)
