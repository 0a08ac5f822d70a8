"""AutoWU with six optimizers: which range of LRs each needs, and what is found in it.

    python -m experiments.optimizers.run

Digits, batch size 128, 30 epochs; a warmup-cosine at five peak LRs beside it. A row for each run
in results.csv; `--tables` makes the README's table from them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autowu.probe import NUM_SAMPLES
from experiments.tables import markdown_table, put_between_marks, save_figure
from experiments.training.cells import main as cells_main
from experiments.training.figures import rows_of_dots
from experiments.training.methods import warmup_cosine
from experiments.training.summary import mean_text
from experiments.training.trial import Recipe, train

FOLDER = Path(__file__).parent
BATCH_SIZE, EPOCHS = 128, 30
SEEDS = (0, 1, 2)
RANGES = ((1e-5, 1.0), (1e-3, 1.0), (1e-5, 0.1), (1e-5, 10.0))  # (min_lr, max_lr)
PROBED_RANGES = ((1e-5, 1.0), (1e-5, 10.0), (1e-5, 0.01))  # after a probe
LOWER_RANGES = {"lion": ((1e-5, 0.003), (1e-5, 0.001))}  # after a probe, too
BEST = "warmup-cosine, best of its grid"
PEAK_LRS = {  # of the warmup-cosine
    "momentum": (0.03, 0.1, 0.3, 1.0, 3.0),
    "adamw": (0.0003, 0.001, 0.003, 0.01, 0.03),
    "adamp": (0.001, 0.003, 0.01, 0.03, 0.1),
    "lamb": (0.001, 0.003, 0.01, 0.03, 0.1),
    "lion": (0.0001, 0.0003, 0.001, 0.003, 0.01),
    "muon": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
}


@dataclass(frozen=True)
class OptimizerCell:
    """One run: of AutoWU over a range of LRs, or of a warmup-cosine to a peak (`low` None)."""

    optimizer: str
    low: float | None
    high: float
    seed: int
    is_probed: bool = False

    def key(self) -> dict[str, str]:
        return {
            "optimizer": self.optimizer,
            "method": "warmup_cosine" if self.low is None else "autowu" + "_probe" * self.is_probed,
            "min_lr": "" if self.low is None else f"{self.low:g}",
            "max_lr": f"{self.high:g}",  # of the warmup-cosine its peak
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        from experiments.training.tasks import digits

        if self.low is None:
            recipe = warmup_cosine(self.high, 0.1, EPOCHS, self.optimizer)
        else:
            settings = {"min_lr": self.low, "max_lr": self.high}
            num_images = NUM_SAMPLES if self.is_probed else 0
            recipe = Recipe(self.optimizer, schedule_settings=settings, num_probe_images=num_images)
        outcome = train(digits(), recipe, batch_size=BATCH_SIZE, epochs=EPOCHS, seed=self.seed)
        return outcome.columns()


def probed_ranges(optimizer: str) -> tuple[tuple[float, float], ...]:
    return PROBED_RANGES + LOWER_RANGES.get(optimizer, ())


def cells(data_root: Path) -> list[OptimizerCell]:
    return [
        OptimizerCell(optimizer, low, high, seed)
        for seed in SEEDS
        for optimizer, peaks in PEAK_LRS.items()
        for low, high in (*RANGES, *((None, peak) for peak in peaks))
    ] + [
        OptimizerCell(optimizer, low, high, seed, is_probed=True)
        for seed in SEEDS
        for optimizer in PEAK_LRS
        for low, high in probed_ranges(optimizer)
    ]


def table(rows: list[dict[str, str]]) -> str:
    def select(
        optimizer: str, low: float | None, high: float, is_probed: bool = False
    ) -> list[dict[str, str]]:
        wanted = OptimizerCell(optimizer, low, high, 0, is_probed).key()
        del wanted["seed"]
        return [row for row in rows if all(row[name] == value for name, value in wanted.items())]

    def accuracies(chosen: list[dict[str, str]]) -> list[float]:
        return [float(row["test_accuracy"]) for row in chosen]

    lines = []
    for optimizer, peaks in PEAK_LRS.items():
        grid = {peak: accuracies(select(optimizer, None, peak)) for peak in peaks}
        done = {peak: values for peak, values in grid.items() if values}
        if done:
            best = max(done, key=lambda peak: sum(done[peak]) / len(done[peak]))
            name = f"warmup-cosine, best of {len(done)}"
            lines.append((optimizer, name, f"{best:g}", mean_text(done[best])))
        spans = [(*span, False) for span in RANGES]
        spans += [(*span, True) for span in probed_ranges(optimizer)]
        for low, high, is_probed in spans:
            chosen = select(optimizer, low, high, is_probed)
            found = " ".join(f"{float(row['start_lr']):.2g}" for row in chosen)
            name = f"AutoWU, {low:g} to {high:g}" + ", after a probe" * is_probed
            lines.append((optimizer, name, found, mean_text(accuracies(chosen))))
    return markdown_table(("optimizer", "method", "LR", "accuracy %"), lines)


def groups_of(rows: list[dict[str, str]]) -> dict[str, dict[str, list[float]]]:
    """By optimizer: the accuracies of the best peak LR, and of each range of AutoWU."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in PEAK_LRS}
    for row in rows:
        span = f"to LR {row['max_lr']}"
        if row["method"] != "warmup_cosine":
            probed = ", after a probe" * (row["method"] == "autowu_probe")
            span = f"AutoWU, {row['min_lr']} to {row['max_lr']}{probed}"
        found[row["optimizer"]].setdefault(span, []).append(float(row["test_accuracy"]))
    result = {}
    for name, values in found.items():
        peaks = [values[key] for key in values if key.startswith("to LR")]
        ours = {key: values[key] for key in values if key.startswith("AutoWU")}
        best = max(peaks, key=lambda accuracies: sum(accuracies) / len(accuracies), default=[])
        result[name] = {BEST: best} | ours
    return result


def report(rows: list[dict[str, str]]) -> None:
    put_between_marks(FOLDER / "README.md", "table", table(rows))
    drawing = rows_of_dots(groups_of(rows), BEST)
    save_figure(drawing, FOLDER / "optimizers.png", dpi=110)


def main() -> None:
    assert __doc__ is not None
    cells_main(__doc__, FOLDER / "results.csv", cells, report)


if __name__ == "__main__":
    main()
