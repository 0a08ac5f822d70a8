"""The tables of README.md, one of docs/differences.md, summary.csv and minimum_test.png.

    python -m experiments.minimum_test.report

All from results.csv, and for docs/differences.md from live.csv.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest  # type: ignore[import-untyped]

from experiments.minimum_test.curves import SHAPES, noisy_losses, true_losses
from experiments.minimum_test.live import RESULTS as LIVE
from experiments.minimum_test.live import count_outcomes
from experiments.minimum_test.run import LABELS
from experiments.results import shown
from experiments.tables import (
    markdown_table,
    put_between_marks,
    read_rows,
    save_figure,
    wilson_interval,
    write_rows,
)

FOLDER = Path(__file__).parent
DIFFERENCES = FOLDER.parents[1] / "docs" / "differences.md"
Rows = list[dict[str, str]]
COUNTS = {"false_alarm": ("false_alarms", "n"), "found": ("found", "num_minima")}


def summarize(rows: Rows) -> dict[str, Any]:
    """Rates with 95 % intervals, and the mean delay and error, of some curves.

    `found`: of the curves with a minimum, those whose warmup ended by detection, after the fall.
    """
    valleys = [row for row in rows if SHAPES[row["shape"]].minimum is not None]
    found = [row for row in valleys if is_found(row)]
    num_false = sum(int(row["false_alarm"]) for row in rows)
    errors = [abs(float(row["lr_error_decades"])) for row in valleys]
    low, high = wilson_interval(num_false, len(rows))
    summary: dict[str, Any] = {
        "n": len(rows),
        "false_alarms": num_false,
        "false_alarm_rate": f"{num_false / len(rows):.4f}",
        "false_alarm_low": f"{low:.4f}",
        "false_alarm_high": f"{high:.4f}",
        "num_minima": len(valleys),
        "found": len(found) if valleys else "",
        "found_rate": "",
        "found_low": "",
        "found_high": "",
        "mean_delay_fraction": "",
        "mean_abs_lr_error_decades": "",
    }
    if valleys:
        low, high = wilson_interval(len(found), len(valleys))
        summary |= {
            "found_rate": f"{len(found) / len(valleys):.4f}",
            "found_low": f"{low:.4f}",
            "found_high": f"{high:.4f}",
            "mean_abs_lr_error_decades": f"{statistics.fmean(errors):.4f}",
        }
    if found:
        delays = [float(row["delay_fraction"]) for row in found]
        summary["mean_delay_fraction"] = f"{statistics.fmean(delays):.4f}"
    return summary


def is_found(row: dict[str, str]) -> bool:
    return row["detected"] == "1" and row["false_alarm"] == "0"


def group(rows: Rows, *keys: str) -> dict[tuple[str, ...], Rows]:
    groups: dict[tuple[str, ...], Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def percent(summary: dict[str, Any], what: str) -> str:
    """A rate with its interval, from the counts: those in the summary are rounded already."""
    count, n = (summary[key] for key in COUNTS[what])
    if not n:
        return "-"
    low, high = wilson_interval(count, n)
    return f"{100 * count / n:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def compare(rows: Rows, key: str, title: str) -> str:
    """A row for each value of `key`, both methods side by side."""
    lines = []
    values = list(dict.fromkeys(row[key] for row in rows))
    for value in values:
        both = []
        for method in ("default", "paper"):
            chosen = [row for row in rows if row[key] == value and row["method"] == method]
            both.append(summarize(chosen))
        ours, paper = both
        label = f"{int(value) // 2:,}" if key == "total_steps" else value
        lines.append(
            [
                label,
                f"{ours['n']} / {paper['n']}",
                percent(ours, "false_alarm"),
                percent(paper, "false_alarm"),
                percent(ours, "found"),
                percent(paper, "found"),
                f"{ours['mean_delay_fraction'] or '-'} / {paper['mean_delay_fraction'] or '-'}",
                f"{ours['mean_abs_lr_error_decades'] or '-'}"
                f" / {paper['mean_abs_lr_error_decades'] or '-'}",
            ]
        )
    ours_name, paper_name = LABELS.values()
    both_names = f"{ours_name} / {paper_name}"
    header = [
        title,
        f"n, {both_names}",
        f"false alarms %, {ours_name}",
        paper_name,
        f"minima found %, {ours_name}",
        paper_name,
        f"delay, {both_names}",
        f"LR error, {both_names}",
    ]
    return markdown_table(header, lines)


def rates(rows: Rows, live_rows: Rows) -> str:
    """Of both methods, and of the default test under the sweep that is the default, met live."""
    lines: list[tuple[object, ...]] = []
    shortest = min((row["total_steps"] for row in rows), key=int)
    for name, chosen in (
        ("", rows),
        (
            f", {int(shortest) // 2} steps",
            [row for row in rows if row["total_steps"] == shortest],
        ),
    ):
        for method, title in (("default", LABELS["default"]), ("paper", "published")):
            summary = summarize([row for row in chosen if row["method"] == method])
            error = f"{float(summary['mean_abs_lr_error_decades']):.2f}"
            what = (percent(summary, "false_alarm"), percent(summary, "found"), error)
            lines.append((f"{title}{name}", summary["n"], *what))
    for total in dict.fromkeys(row["total_steps"] for row in live_rows if row["shape"] in SHAPES):
        adaptive = {"total_steps": total, "sweep": "adaptive"}
        chosen = [r for r in live_rows if r["shape"] in SHAPES and adaptive.items() <= r.items()]
        num_early, num_found, errors = count_outcomes(chosen)
        summary = {"false_alarms": num_early, "n": len(chosen)}
        summary |= {"found": num_found, "num_minima": len(errors)}
        what = (
            percent(summary, "false_alarm"),
            percent(summary, "found"),
            f"{statistics.fmean(errors):.2f}",
        )
        name = f"default test, adaptive sweep, live, {int(total) // 2} steps"
        lines.append((name, len(chosen), *what))
    header = ("", "n", "false alarms %", "minima found %", "mean LR error, decades")
    return markdown_table(header, lines)


def pairs(rows: Rows) -> str:
    """False alarms on the curves that both methods saw, with the p of an exact McNemar test.

    Of the curves on which one method alone has a false alarm each has half, if none is better.
    """
    alarms: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)
    curves: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)
    for row in rows:
        curve = row["shape"], row["noise"], row["seed"]
        curves[row["total_steps"], row["method"]].add(curve)
        if row["false_alarm"] == "1":
            alarms[row["total_steps"], row["method"]].add(curve)
    lines = []
    for total in dict.fromkeys(row["total_steps"] for row in rows):
        both = curves[total, "default"] & curves[total, "paper"]
        ours, paper = (alarms[total, method] & both for method in ("default", "paper"))
        only_ours, only_paper = len(ours - paper), len(paper - ours)
        differing = only_ours + only_paper
        p_value = f"{binomtest(only_ours, differing).pvalue:.2g}" if differing else "n/a"
        counts = len(both), len(ours), len(paper), only_ours, only_paper
        lines.append([f"{int(total) // 2:,}", *counts, p_value])
    ours_name, paper_name = LABELS.values()
    header = ["steps of the sweep", "curves", f"false alarms, {ours_name}", paper_name]
    return markdown_table([*header, f"of {ours_name} alone", f"of {paper_name} alone", "p"], lines)


def lost_rows(cells: list[dict[str, Any]]) -> str:
    """Where the default test has more false alarms, finds less or errs more than the published."""
    by_cell = {(c["shape"], c["total_steps"], c["method"]): c for c in cells}
    lines = []
    for (shape, total, method), ours in by_cell.items():
        if method != "default":
            continue
        paper = by_cell[shape, total, "paper"]
        worse = []
        if float(ours["false_alarm_rate"]) > float(paper["false_alarm_rate"]):
            worse.append(f"false alarms {percent(ours, 'false_alarm')} %, paper"
                         f" {percent(paper, 'false_alarm')} %")  # fmt: skip
        if ours["found_rate"] and float(ours["found_rate"]) < float(paper["found_rate"]):
            worse.append(f"found {percent(ours, 'found')} %, paper {percent(paper, 'found')} %")
        for key, name in (
            ("mean_abs_lr_error_decades", "LR error"),
            ("mean_delay_fraction", "delay"),
        ):
            if ours[key] and paper[key] and float(ours[key]) > float(paper[key]):
                worse.append(f"{name} {ours[key]}, paper {paper[key]}")
        if worse:
            lines.append(f"- {shape}, sweep of {int(total) // 2:,} steps: {'; '.join(worse)}")
    return "\n".join(lines) if lines else "- nowhere"


def draw(rows: Rows, path: Path) -> None:
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False,
                                "axes.spines.right": False}):  # fmt: skip
        figure = Figure(figsize=(9.5, 6), layout="constrained")
        panels = figure.subplots(2, 4)
        for axes, name in zip(panels.flat, SHAPES, strict=False):
            _draw_shape(axes, name, rows)
        _draw_rates(panels.flat[len(SHAPES)], rows)
        save_figure(figure, path, dpi=150)


def _draw_shape(axes: Axes, name: str, rows: Rows) -> None:
    """One noisy curve, the true one, and where the warmups of both methods ended."""
    shape, num_steps = SHAPES[name], 400
    u = np.arange(num_steps) / num_steps
    axes.plot(u, noisy_losses(shape, num_steps, 0.1, 0), ".", color="0.75", markersize=2)
    axes.plot(u, true_losses(shape, num_steps), color="black", linewidth=1.2)
    top = 2.7
    for method, color, height in (("default", "black", 2.3), ("paper", "0.55", 1.75)):
        chosen = [r for r in rows if r["shape"] == name and r["method"] == method]
        ends = [2 * int(row["switch_step"]) / int(row["total_steps"]) for row in chosen]
        jitter = np.random.default_rng(0).uniform(-0.1, 0.1, len(ends))
        marker = "|" if method == "default" else "x"
        axes.plot(ends, height + jitter, marker, color=color, markersize=3, alpha=0.6)
        axes.text(0.0, height + 0.14, LABELS[method], color=color, va="bottom", fontsize=7.5)
    if shape.minimum is not None:
        axes.axvline(shape.minimum, ymax=2.42 / top, color="0.4", linestyle=":", linewidth=1)
    axes.set(title=name, ylim=(0.0, top), xlim=(-0.02, 1.02))
    axes.set(xlabel="progress of the sweep", ylabel="loss", yticks=np.arange(0.0, 1.6, 0.5))


def _draw_rates(axes: Axes, rows: Rows) -> None:
    for method, color, marker in (("default", "black", "o"), ("paper", "0.55", "s")):
        for what, style in (("found", "-"), ("false_alarm", ":")):
            points = []
            for (total,), chosen in group(
                [row for row in rows if row["method"] == method], "total_steps"
            ).items():
                summary = summarize(chosen)
                points.append((int(total) // 2, 100 * float(summary[f"{what}_rate"])))
            break_or_space = "\n" if method == "default" else " "  # its label is long
            rate = "minima found" if what == "found" else "false alarms"
            label = f"{LABELS[method]},{break_or_space}{rate}"
            axes.semilogx(*zip(*points, strict=True), style, marker=marker, color=color,
                          markersize=4, label=label)  # fmt: skip
    axes.set(title="rates, %", xlabel="steps of the sweep", ylim=(-4, 215))
    axes.set_yticks(range(0, 101, 20))
    axes.legend(fontsize=7, loc="upper left")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = read_rows(FOLDER / "results.csv")
    by_cell = group(rows, "method", "shape", "noise", "total_steps", "steps_per_epoch")
    names = ("method", "shape", "noise", "total_steps", "steps_per_epoch")
    write_rows(
        FOLDER / "summary.csv",
        [dict(zip(names, key, strict=True)) | summarize(cell) for key, cell in by_cell.items()],
    )
    print(shown(FOLDER / "summary.csv"))
    by_row = group(rows, "method", "shape", "total_steps")
    table_rows = [
        dict(zip(("method", "shape", "total_steps"), key, strict=True)) | summarize(cell)
        for key, cell in by_row.items()
    ]
    overall = compare([row | {"all": "all curves"} for row in rows], "all", "")
    tables = [
        overall,
        compare(rows, "total_steps", "steps of the sweep"),
        compare(rows, "noise", "noise"),
        compare(rows, "shape", "shape"),
    ]
    put_between_marks(FOLDER / "README.md", "tables", "\n\n".join(tables))
    put_between_marks(FOLDER / "README.md", "pairs", pairs(rows))
    put_between_marks(FOLDER / "README.md", "lost rows", lost_rows(table_rows))
    put_between_marks(DIFFERENCES, "rates", rates(rows, read_rows(LIVE)))
    draw(rows, FOLDER / "minimum_test.png")
    print(overall)


if __name__ == "__main__":
    main()
