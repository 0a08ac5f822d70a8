"""The tables and the figure of the README, from results.csv.

    python -m experiments.budgets.plot

It makes the tables in the README of the repository, too. The tuned baseline is the cell
of its grid that is best with seed 0, with all its seeds. A difference is that of equal seeds.
Everything can be told apart in greyscale.
"""

import argparse
import math
import statistics
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.stats import t

from autowu.plotting import STYLE
from experiments.budgets.run import BUDGETS, KEPT, PEAK_LRS, RESULTS, TUNED, UNTUNED, WARMUPS
from experiments.report import compare
from experiments.tables import markdown_table, put_between_marks, read_rows, save_figure
from experiments.training.summary import mean_text

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
GOAL = 0.3  # points within which the default shall be of the tuned baseline
DEFAULT, FIXED = "autowu_cosine", "autowu_fixed_sweep"
PROBED = "1 + 18 steps of 32 images"
NAMES = {  # method: (name, runs that it takes)
    TUNED: ("warmup-cosine, tuned", len(PEAK_LRS) * len(WARMUPS)),
    UNTUNED: ("warmup-cosine, LR 0.001", 1),
    DEFAULT: ("AutoWU", PROBED),
    "autowu_constant_cosine": ("AutoWU, constant-cosine", PROBED),
    "autowu_no_probe": ("AutoWU without its probe", 1),
    FIXED: ("AutoWU, fixed sweep", 1),
    "paper": ("AutoWU as published", 1),
    "range_test_onecycle": ("range test + one-cycle", "1 + 100 steps"),
    "prodigy": ("Prodigy", 1),
    "schedulefree": ("Schedule-Free", 1),
}
LINES = {  # of the figure: colour, dashes, marker
    TUNED: ("black", "-", "o"),
    UNTUNED: ("0.6", ":", "o"),
    DEFAULT: ("tab:blue", "-", "s"),
    "autowu_constant_cosine": ("tab:cyan", "--", "P"),
    "paper": ("tab:red", "--", "^"),
    "range_test_onecycle": ("tab:green", "-.", "D"),
    "prodigy": ("tab:purple", ":", "v"),
    "schedulefree": ("tab:orange", "--", "x"),
}
LENGTHS = (  # of a run: name, optimizer steps from, and below
    ("below 30 steps", 0, 30),
    ("30 to 299 steps", 30, 300),
    ("300 steps and more", 300, math.inf),
)
Row = dict[str, str]
Budget = tuple[str, int, int]  # task, epochs, batch size


def by_kept_statistics(rows: list[Row]) -> list[Row]:
    """Those that have them, tested by the statistics that batch norms kept in training."""
    return [row | {"test_accuracy": row[KEPT]} for row in rows if row[KEPT]]


def accuracies(rows: list[Row], budget: Budget, method: str) -> dict[str, float]:
    """By seed; of the tuned baseline those of its best cell."""
    task, epochs, size = budget
    chosen = [
        row
        for row in rows
        if row["status"] == "done"
        and (row["task"], row["epochs"], row["batch_size"]) == (task, str(epochs), str(size))
        and row["method"] == method
    ]
    if method == TUNED:
        others = [row for row in chosen if row["seed"] != "0"]
        if not others:
            return {}
        best = (others[0]["lr"], others[0]["warmup"])
        chosen = [row for row in chosen if (row["lr"], row["warmup"]) == best]
    return {row["seed"]: float(row["test_accuracy"]) for row in chosen}


def difference(ours: dict[str, float], baseline: dict[str, float]) -> tuple[str, bool | None]:
    """Mean ± deviation of the differences of equal seeds, and whether the goal is met."""
    differences = [ours[seed] - baseline[seed] for seed in ours if seed in baseline]
    if not differences:
        return "not run", None
    return mean_text(differences), statistics.fmean(differences) >= -GOAL


def all_budgets(rows: list[Row]) -> list[Budget]:
    known = [(task, epochs, size) for task, epochs, sizes in BUDGETS for size in sizes]
    return sorted(known, key=lambda budget: (budget[0] == "cifar10", budget[2], budget[1]))


def steps_of(budget: Budget) -> int:
    task, epochs, size = budget
    return epochs * ({"digits": 1437, "cifar10": 10_000}[task] // size)


def table(rows: list[Row]) -> str:
    lines = []
    for budget in all_budgets(rows):
        task, epochs, size = budget
        values = {method: accuracies(rows, budget, method) for method in NAMES}
        gap, met = difference(values[DEFAULT], values[TUNED])
        gain, _ = difference(values[DEFAULT], values[FIXED])
        p_value = compare(values[DEFAULT], values[FIXED], decimals=3)["p_value"]
        lines.append(
            [
                f"{task}, batch {size}",
                epochs,
                f"{steps_of(budget):,}",
                f"**{gap}**" if met else gap,
                gain,
                p_value,
                *(mean_text(list(values[method].values())) for method in NAMES),
            ]
        )
    names = [name for name, _ in NAMES.values()]
    header = ["task", "epochs", "steps", "AutoWU - tuned", "AutoWU - fixed sweep", "p", *names]
    return markdown_table(header, lines)


def costs(rows: list[Row]) -> str:
    """Runs that each method takes, and in how many budgets it is within the goal."""
    lines = []
    for method, (name, runs) in NAMES.items():
        if method == TUNED:
            lines.append((name, runs, "-", "-"))
            continue
        outcomes = [
            difference(accuracies(rows, budget, method), accuracies(rows, budget, TUNED))[1]
            for budget in all_budgets(rows)
        ]
        known = [outcome for outcome in outcomes if outcome is not None]
        lost = [
            statistics.fmean(accuracies(rows, budget, TUNED).values())
            - statistics.fmean(accuracies(rows, budget, method).values())
            for budget in all_budgets(rows)
            if accuracies(rows, budget, method) and accuracies(rows, budget, TUNED)
        ]
        median = f"{statistics.median(lost):.2f}" if lost else "not run"
        lines.append((name, runs, f"{sum(known)} of {len(known)}", median))
    header = ("method", "runs", f"budgets within {GOAL} points of tuned", "median points below it")
    return markdown_table(header, lines)


def cifar10_table(rows: list[Row]) -> str:
    """What AutoWU and the published procedure have on CIFAR-10, less the tuned baseline."""
    lines = []
    budgets = [budget for budget in all_budgets(rows) if budget[0] == "cifar10"]
    for budget in sorted(budgets, key=lambda budget: (-budget[2], budget[1])):
        ours, published, tuned = (accuracies(rows, budget, m) for m in (DEFAULT, "paper", TUNED))
        shown = [
            f"{float(gap['difference']):+.1f} ± {float(gap['difference_deviation']):.1f}"
            for gap in (compare(ours, tuned), compare(published, tuned))
        ]
        lines.append([f"{budget[2]:,}", f"{steps_of(budget):,}", *shown])
    header = ["batch", "steps", "AutoWU - tuned, mean ± standard deviation of the seeds"]
    return markdown_table([*header, "published AutoWU - tuned, the same"], lines)


def by_length(rows: list[Row]) -> str:
    """Of the README: methods minus the tuned one in short, middling and long runs."""
    methods = (DEFAULT, "paper", "schedulefree", UNTUNED)
    lines = []
    for name, least, end in LENGTHS:
        chosen = [b for b in all_budgets(rows) if least <= steps_of(b) < end]
        reached = sum(gap >= -GOAL for gap in mean_gaps(rows, chosen, DEFAULT, TUNED))
        gaps = (interval_text(mean_gaps(rows, chosen, each, TUNED)) for each in methods)
        lines.append([name, len(chosen), f"{reached} of {len(chosen)}", *gaps])
    header = ["runs of", "budgets", f"AutoWU within {GOAL} points"]
    return markdown_table([*header, *(f"{NAMES[each][0]} - tuned" for each in methods)], lines)


def means(rows: list[Row]) -> str:
    """By how much AutoWU is above others, in the mean over budgets, with 95 % intervals."""
    budgets = all_budgets(rows)
    groups = {
        name: [b for b in budgets if least <= steps_of(b) < end] for name, least, end in LENGTHS
    } | {
        "30 steps and more": [b for b in budgets if steps_of(b) >= 30],
        "CIFAR-10": [b for b in budgets if b[0] == "cifar10"],
        "all": budgets,
    }
    lines = []
    for name, chosen in groups.items():
        tuned = mean_gaps(rows, chosen, DEFAULT, TUNED)
        other_seeds = mean_gaps(rows, chosen, DEFAULT, TUNED, without_seed="0")
        lines.append(
            [
                name,
                len(chosen),
                interval_text(tuned),
                interval_text(other_seeds),
                f"{sum(gap >= -GOAL for gap in other_seeds)} of {len(other_seeds)}",
                *(
                    interval_text(mean_gaps(rows, chosen, DEFAULT, baseline))
                    for baseline in ("autowu_no_probe", "schedulefree")
                ),
            ]
        )
    header = ["budgets", "n", "AutoWU - tuned", "the same without seed 0"]
    header += [f"within {GOAL} points without it", "AutoWU - without its probe"]
    return markdown_table([*header, "AutoWU - Schedule-Free"], lines)


def methods_table(rows: list[Row]) -> str:
    """By how much each method is above the tuned baseline, in the mean over groups of budgets."""
    budgets = all_budgets(rows)
    groups: dict[str, list[Budget]] = {}
    for task, name in (("digits", "digits"), ("cifar10", "CIFAR-10")):
        for length, least, end in LENGTHS:
            chosen = [b for b in budgets if b[0] == task and least <= steps_of(b) < end]
            if chosen:
                groups[f"{name}, {length}"] = chosen
    groups["both, 300 steps and more"] = [b for b in budgets if steps_of(b) >= 300]
    methods = [method for method in NAMES if method != TUNED]
    lines = [
        [name, len(chosen), *(interval_text(mean_gaps(rows, chosen, m, TUNED)) for m in methods)]
        for name, chosen in groups.items()
    ]
    return markdown_table(["budgets", "n", *(NAMES[method][0] for method in methods)], lines)


def kept_table(rows: list[Row]) -> str:
    """What changes where batch norms are tested by the statistics that they kept in training."""
    kept = by_kept_statistics(rows)
    methods = (TUNED, DEFAULT, UNTUNED, "paper", "range_test_onecycle")
    lines = []
    for name, least, end in LENGTHS:
        chosen = [
            b
            for b in all_budgets(rows)
            if least <= steps_of(b) < end and accuracies(kept, b, TUNED)
        ]
        gaps = mean_gaps(kept, chosen, DEFAULT, TUNED)
        reached = f"{sum(gap >= -GOAL for gap in gaps)} of {len(gaps)}"
        fresh = (
            interval_text(
                [
                    statistics.fmean(accuracies(rows, b, method).values())
                    - statistics.fmean(accuracies(kept, b, method).values())
                    for b in chosen
                ]
            )
            for method in methods
        )
        lines.append([name, len(chosen), interval_text(gaps), reached, *fresh])
    header = ["budgets", "n", "AutoWU - tuned, by kept statistics", f"within {GOAL} points by them"]
    return markdown_table(
        [*header, *(f"fresh - kept, {NAMES[each][0]}" for each in methods)], lines
    )


def mean_gaps(
    rows: list[Row],
    budgets: list[Budget],
    method: str,
    baseline: str,
    without_seed: str | None = None,
) -> list[float]:
    """Of each budget the mean difference of equal seeds between a method and a baseline."""
    gaps = []
    for budget in budgets:
        ours, others = accuracies(rows, budget, method), accuracies(rows, budget, baseline)
        seeds = (ours.keys() & others.keys()) - {without_seed}
        if seeds:
            gaps.append(statistics.fmean(ours[seed] - others[seed] for seed in seeds))
    return gaps


def interval_text(values: list[float]) -> str:
    """`mean ± half of the 95 % interval` by Student's t.

    >>> interval_text([1.0, 2.0, 3.0]), interval_text([])
    ('2.00 ± 2.48', 'not run')
    """
    if len(values) < 2:
        return "not run"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):z.2f} ± {half:.2f}"


def label_of(method: str) -> str:
    """Its name and what it takes, for the legend.

    >>> label_of(TUNED), label_of("range_test_onecycle")
    ('warmup-cosine, tuned: 10 runs', 'range test + one-cycle: 1 run + 100 steps')
    """
    name, runs = NAMES[method]
    number, *more = str(runs).split(" + ")
    return " + ".join((f"{name}: {number} {'run' if number == '1' else 'runs'}", *more))


def figure(rows: list[Row]) -> Figure:
    panels = sorted({(b[0], b[2]) for b in all_budgets(rows)}, key=lambda p: (p[0] != "digits", p))
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(12, 8), layout="constrained")
        axes = drawing.subplots(2, 3).flat
        for panel, (task, size) in zip(axes, panels, strict=True):
            budgets = [b for b in all_budgets(rows) if (b[0], b[2]) == (task, size)]
            # Markers stand side by side: many methods have the same error.
            shift = (max(b[1] for b in budgets) / min(b[1] for b in budgets)) ** 0.007
            for index, (method, (colour, dashes, marker)) in enumerate(LINES.items()):
                points = [(b[1], accuracies(rows, b, method)) for b in budgets]
                points = [(epochs, values) for epochs, values in points if values]
                place = shift ** (index - (len(LINES) - 1) / 2)
                known = [place * epochs for epochs, _ in points]
                errors = [100 - statistics.fmean(values.values()) for _, values in points]
                if method in (TUNED, DEFAULT) and points:
                    spread = [statistics.stdev(values.values()) for _, values in points]
                    both = list(zip(errors, spread, strict=True))
                    least = [max(error - each, error / 3) for error, each in both]
                    most = [error + each for error, each in both]
                    panel.fill_between(known, least, most, color=colour, alpha=0.15, linewidth=0)
                panel.plot(
                    known,
                    errors,
                    color=colour,
                    linestyle=dashes,
                    marker=marker,
                    markersize=5,
                    linewidth=2 if method == DEFAULT else 0.9,
                    label=label_of(method),
                )
            if panel.get_legend_handles_labels()[0] and panel.lines[0].get_xdata().size:
                panel.set(xscale="log", yscale="log")
            panel.set_title(f"{task}, batch {size}")
            ticks = sorted({budget[1] for budget in budgets})
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.minorticks_off()
            narrow = (4, 6, 7) if task == "cifar10" else ()  # more ticks where it is
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, *narrow)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.set_xlabel("epochs")
            panel.set_ylabel("test error, %")
        handles, labels = panel.get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return drawing


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = read_rows(RESULTS)
    put_between_marks(FOLDER / "README.md", "table", table(rows))
    put_between_marks(FOLDER / "README.md", "costs", costs(rows))
    put_between_marks(FOLDER / "README.md", "means", means(rows))
    put_between_marks(FOLDER / "README.md", "methods", methods_table(rows))
    put_between_marks(FOLDER / "README.md", "kept", kept_table(rows))
    put_between_marks(ROOT / "README.md", "cifar10", cifar10_table(rows))
    put_between_marks(ROOT / "README.md", "lengths", by_length(rows))
    put_between_marks(ROOT / "README.md", "costs", costs(rows))
    save_figure(figure(rows), FOLDER / "budgets.png", dpi=110)


if __name__ == "__main__":
    main()
