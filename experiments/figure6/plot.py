"""Figure 6: exponential against linear growth of the LR in AutoWU's warmup.

python -m experiments.figure6.plot                final accuracies, from results.csv
python -m experiments.figure6.plot runs/paper     LR, training loss and test accuracy as well:
                                                  curves.csv and figure6_curves.png
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from autowu.plotting import STYLE
from experiments.collect import Row
from experiments.curves import draw_curves, of_configs, read_points
from experiments.paper import cell_text, full_budget, mean_and_deviation
from experiments.report import read_results
from experiments.tables import markdown_table, put_between_marks, save_figure

FOLDER = Path(__file__).parent
NAMES = {
    "imagenet_resnet50_adamp_baseline": "baseline",
    "imagenet_resnet50_adamp_autowu": "AutoWU, exponential growth",
    "imagenet_resnet50_adamp_autowu_linear1.0": "AutoWU, linear growth, max_lr 1.0 (our guess)",
    "imagenet_resnet50_adamp_autowu_linear0.1": "AutoWU, linear growth, max_lr 0.1 (our guess)",
}


def cell(rows: Sequence[Row], config: str, source: str) -> list[Row]:
    return [row for row in rows if (row["config"], row["source"]) == (config, source)]


def table(rows: Sequence[Row]) -> str:
    lines = [
        [name, cell_text(cell(rows, config, "published")), cell_text(cell(rows, config, "ours"))]
        for config, name in NAMES.items()
    ]
    return markdown_table(["ImageNet, ResNet-50, AdamP, batch 16384", "published", "ours"], lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Final test accuracies: published open, ours filled where they have been run."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        axes = figure.subplots()
        for source, face in (("published", "white"), ("ours", "black")):
            points = [
                (found[0], height)
                for height, config in enumerate(NAMES)
                if (found := mean_and_deviation(cell(rows, config, source))) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), "o", color="black", markersize=7,
                          markerfacecolor=face, label=source)  # fmt: skip
        axes.set_yticks(range(len(NAMES)), list(NAMES.values()))
        axes.set(xlabel="test accuracy, %", xlim=(20, 80), ylim=(len(NAMES) - 0.5, -0.5))
        figure.legend(loc="outside upper right")
        save_figure(figure, path, dpi=150)


def main() -> None:
    points, output = read_points(__doc__, FOLDER)
    if points:
        curves = output.with_name(f"{output.stem}_curves{output.suffix}")
        points = of_configs(full_budget(points), NAMES, batch_size="16384")
        named = [point | {"schedule": NAMES.get(name := point["config"], name)} for point in points]
        draw_curves(named, "row", "schedule", ("lr", "loss", "test_accuracy"), curves)
    rows = read_results(FOLDER / "results.csv")
    draw(rows, output)
    put_between_marks(FOLDER / "README.md", "table", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
