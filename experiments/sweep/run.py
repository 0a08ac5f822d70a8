"""Ways to skip the decades of the sweep in which the loss does not move, against the fixed sweep.

    python -m experiments.sweep.run --part digits      55, 121, 495 and 4,972 steps, 3 optimizers
    python -m experiments.sweep.run --part cifar10     residual network, 108 steps
    python -m experiments.sweep.run --part cnn         the cell: small CNN, 120 steps
    python -m experiments.sweep.run --part vit         vision transformer on digits, 660, 880 steps
    python -m experiments.sweep.run --part wide        half a ResNet-18, 90 and 45 steps
    python -m experiments.sweep.run --part simulated   a noisy quadratic, seconds a run

A row for each run in results.csv (simulated.csv); those that are there are not made again.
`python -m experiments.sweep.plot` makes the tables and the figure.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from autowu import AutoWU, probe, sweep
from autowu.probe import NUM_SAMPLES, probe_lrs
from experiments.sweep.variants import VARIANTS
from experiments.training.cells import carry_out, command_line
from experiments.training.methods import warmup_cosine
from experiments.training.trial import Recipe, train

PARTS = ("digits", "cifar10", "cnn", "vit", "wide")
RESULTS = Path(__file__).parent / "results.csv"
SIMULATED = Path(__file__).parent / "simulated.csv"
OPTIMIZERS = ("adamp", "momentum", "lamb")
PEAK_LRS = {
    "adamp": (0.003, 0.01, 0.03),
    "lamb": (0.003, 0.01, 0.03),
    "momentum": (0.1, 0.3, 1.0),
    "adamw": (0.001, 0.003, 0.01),  # of the vision transformer
}
WARMUPS = (0.1, 0.3)
KEPT = ("adaptive", "fixed")
BOUNDED = "adaptive, max_lr 0.01"
PROBED = "adaptive, after a probe"
PROBED_LESS = "adaptive, after a probe, its images taken off the run"
PROBED_BY_HALF = "adaptive, after a probe, by half of the fall alone"
PROBED_ALIKE = "adaptive, after a probe, 2 % a step whatever its fall"
PROBED_LOW = "adaptive, after a probe, from a tenth of its LR however spread its fall"
PROBES = (PROBED, PROBED_LESS)
EARLIER_RULES: dict[str, tuple[object, str, object]] = {  # method -> what it changes
    PROBED_BY_HALF: (probe, "MAX_DISTANCE", math.inf),
    PROBED_ALIKE: (probe.Fall, "is_spread", False),
    PROBED_LOW: (sweep, "SPREAD_POWER", -math.inf),
}
MORE = {
    BOUNDED: partial(AutoWU, max_lr=0.01),
    **dict.fromkeys((*PROBES, *EARLIER_RULES), AutoWU),
}
# Of the variants that were not kept those that are run at 4,972 steps, too.
LONG = ("without the test of a plateau", "a tenth of that LR a step", "slow only while it falls")
SIMULATED_STEPS = (60, 120, 500, 5_000)
Method = tuple[str, float | None, float | None]  # variant or warmup_cosine, peak LR, warmup


def steps_off(method: str, batch_size: int) -> int:
    """Steps that have as many images as the probe, rounded up, where they are to be taken off."""
    num_images = NUM_SAMPLES * len(probe_lrs(1e-5, 1.0))
    return math.ceil(num_images / batch_size) if method == PROBED_LESS else 0


@dataclass(frozen=True)
class SweepCell:
    """One run of a network."""

    task: str
    optimizer: str
    batch_size: int
    epochs: int
    method: Method
    seed: int
    data_root: Path

    def key(self) -> dict[str, str]:
        method, lr, warmup = self.method
        return {
            "task": self.task,
            "optimizer": self.optimizer,
            "batch_size": str(self.batch_size),
            "epochs": str(self.epochs),
            "method": method,
            "lr": "" if lr is None else f"{lr:g}",
            "warmup": "" if warmup is None else f"{warmup:g}",
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        from experiments.training import tasks

        task = tasks.named(self.task, self.data_root)
        method, lr, warmup = self.method
        if lr is not None and warmup is not None:
            recipe = warmup_cosine(lr, warmup, self.epochs, self.optimizer)
        else:
            probed = (*PROBES, *EARLIER_RULES)
            num_images = NUM_SAMPLES if method in probed else 0
            recipe = Recipe(
                self.optimizer, schedule=(VARIANTS | MORE)[method], num_probe_images=num_images
            )
        with (
            mock.patch.object(*EARLIER_RULES[method]) if method in EARLIER_RULES else nullcontext()
        ):
            outcome = train(
                task,
                recipe,
                batch_size=self.batch_size,
                epochs=self.epochs,
                seed=self.seed,
                steps_off=steps_off(method, self.batch_size),
            )
        return outcome.columns()


@dataclass(frozen=True)
class SimulatedCell:
    """One run on the noisy quadratic."""

    total_steps: int
    curvature: float  # the largest: LRs above 2 over it diverge
    method: str
    seed: int

    def key(self) -> dict[str, str]:
        return {
            "total_steps": str(self.total_steps),
            "curvature": f"{self.curvature:g}",
            "method": self.method,
            "seed": str(self.seed),
        }

    def run(self) -> dict[str, Any]:
        from experiments.sweep.simulation import final_loss, tuned_loss

        if self.method == "warmup_cosine":
            loss, lr = tuned_loss(self.total_steps, self.curvature)
            return {"log10_loss": f"{loss:.4f}", "lr": f"{lr:.4g}", "switch_step": ""}
        make = (VARIANTS | MORE)[self.method]
        loss, scheduler = final_loss(
            make, self.total_steps, self.curvature, self.seed, is_probed=self.method == PROBED
        )
        assert scheduler.start_lr is not None
        return {
            "log10_loss": f"{loss:.4f}",
            "lr": f"{scheduler.start_lr:.4g}",
            "switch_step": str(scheduler.switch_step),
        }


def simulated_cells() -> list[SimulatedCell]:
    from experiments.sweep.simulation import CURVATURES

    return [
        SimulatedCell(total_steps, curvature, method, seed)
        for total_steps in SIMULATED_STEPS
        for curvature in CURVATURES
        for method in ("warmup_cosine", PROBED, *VARIANTS)
        for seed in range(1 if method == "warmup_cosine" else 5)
    ]


def methods(optimizer: str, variants: tuple[str, ...] = (*PROBES, *VARIANTS)) -> list[Method]:
    grid = [("warmup_cosine", lr, warmup) for lr in PEAK_LRS[optimizer] for warmup in WARMUPS]
    return [*((name, None, None) for name in variants), *grid]


def cells(part: str, root: Path) -> list[SweepCell]:
    if part == "cifar10":
        return [
            SweepCell("cifar10", "adamp", 1024, 12, method, seed, root)
            for seed in range(3)
            for method in methods("adamp")
        ]
    if part == "cnn":
        peaks = ((0.016, 0.1), (0.008, 0.1), (0.032, 0.1), (0.016, 0.3), (0.032, 0.3))
        grid = [("warmup_cosine", lr, warmup) for lr, warmup in peaks]
        return [
            SweepCell("cifar10_cnn", "adamp", 1024, 12, method, seed, root)
            for seed in range(5)
            for method in [
                *((name, None, None) for name in (*PROBES, *KEPT)),
                *[("without the test of a plateau", None, None)] * (seed < 3),
                *grid,
            ]
        ]
    if part == "wide":
        names = (PROBED, PROBED_BY_HALF, *KEPT)
        peaks = ((0.001, 0.1), (0.003, 0.1), (0.003, 0.3), (0.01, 0.1), (0.01, 0.3))
        grid = [("warmup_cosine", lr, warmup) for lr, warmup in peaks]
        return [
            SweepCell("cifar10_wide", "adamp", 128, epochs, method, seed, root)
            for epochs in (2, 1)
            for seed in range(3)
            for method in [*((name, None, None) for name in names), *grid]
        ]
    if part == "vit":
        names = (*PROBES, PROBED_ALIKE, PROBED_LOW, *KEPT, "without the test of a plateau", BOUNDED)
        return [
            SweepCell("digits_vit", "adamw", size, epochs, method, seed, root)
            for seed in range(3)
            for size, epochs in ((128, 60), (32, 20))
            for method in methods("adamw", names)
        ]
    short = [
        SweepCell("digits", optimizer, 128, epochs, method, seed, root)
        for epochs in (5, 11, 45)
        for seed in range(5)
        for optimizer in OPTIMIZERS
        for method in methods(optimizer)
    ]
    return short + [
        SweepCell("digits", optimizer, 32, 113, method, seed, root)
        for seed in range(3)
        for optimizer in OPTIMIZERS
        for method in methods(optimizer, (PROBED, *KEPT, *LONG))
    ]


def main() -> None:
    parser = command_line(__doc__, results=None)
    parser.add_argument("--part", choices=(*PARTS, "simulated"), required=True)
    options = parser.parse_args()
    if options.part == "simulated":
        carry_out(options, options.results or SIMULATED, simulated_cells())
    else:
        wanted = cells(options.part, options.data_root)
        carry_out(options, options.results or RESULTS, wanted)


if __name__ == "__main__":
    main()
