"""What a step of LARS around SGD costs on a ResNet-50's parameters, as a ratio to timm's Lars.

    python -m experiments.overhead.lars       a minute on one core; lars.csv

Both start from the same weights and gradients and are timed in turns, so that a noisy machine hits
both alike; the ratio is the median over the rounds. The extra memory is the most that a step of
the optimizer has allocated at once, by PyTorch's profiler.
"""

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import timm.optim
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from autowu.lars import LARS
from experiments.results import add_results_option, is_committed
from experiments.tables import commit, markdown_table, put_between_marks, write_rows

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "lars.csv"
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "timm.optim.Lars": lambda p: timm.optim.Lars(p, **SGD),
    "LARS around SGD": lambda p: LARS(torch.optim.SGD(p, **SGD)),
    "timm.optim.Lars, foreach": lambda p: timm.optim.Lars(p, foreach=True, **SGD),
    "LARS around SGD, foreach": lambda p: LARS(torch.optim.SGD(p, foreach=True, **SGD)),
    "LARS around SGD, fused": lambda p: LARS(torch.optim.SGD(p, fused=True, **SGD)),
    "SGD alone": lambda p: torch.optim.SGD(p, **SGD),
}
BASELINE = "timm.optim.Lars"


def make_parameters(weights: list[Tensor], seed: int) -> list[nn.Parameter]:
    """Copies of the weights with the same random gradients every time."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
    return parameters


def peak_memory(step: Callable[[], Any]) -> int:
    """Bytes, at most, that a step has allocated and not yet freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def measure(rounds: int, seed: int) -> list[dict[str, Any]]:
    torch.manual_seed(seed)
    weights = [p.detach() for p in timm.create_model("resnet50").parameters()]
    optimizers = {name: build(make_parameters(weights, seed)) for name, build in OPTIMIZERS.items()}
    for optimizer in optimizers.values():
        for _ in range(3):
            optimizer.step()  # moments, caches
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    order = random.Random(seed)
    for _ in range(rounds):
        for name in order.sample(list(optimizers), len(optimizers)):
            started = time.perf_counter()
            optimizers[name].step()
            times[name].append(time.perf_counter() - started)
    ratios = {
        name: [a / b for a, b in zip(values, times[BASELINE], strict=True)]
        for name, values in times.items()
    }
    return [
        {
            "source": "ours",
            "status": "done",
            "what": name,
            "num_parameters": sum(weight.numel() for weight in weights),
            "milliseconds": f"{1e3 * statistics.median(times[name]):.3f}",
            "baseline": BASELINE,
            "times_baseline": f"{statistics.median(ratios[name]):.4f}",
            "lower_quartile": f"{statistics.quantiles(ratios[name])[0]:.4f}",
            "upper_quartile": f"{statistics.quantiles(ratios[name])[2]:.4f}",
            "extra_megabytes": f"{peak_memory(optimizer.step) / 1e6:.1f}",
            "rounds": rounds,
            "seed": seed,
            "commit": commit(),
            "device": f"cpu, {platform.machine()}, 1 thread, torch {torch.__version__}, "
            f"timm {timm.__version__}",
        }
        for name, optimizer in optimizers.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            row["what"],
            f"{float(row['milliseconds']):.1f}",
            f"{float(row['times_baseline']):.2f} "
            f"({float(row['lower_quartile']):.2f} to {float(row['upper_quartile']):.2f})",
            row["extra_megabytes"],
        ]
        for row in rows
    ]
    header = ["step of", "ms", f"times {BASELINE} (quartiles)", "extra MB at most"]
    return markdown_table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    add_results_option(parser, RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.rounds, options.seed)
    write_rows(options.results, rows)
    print(table(rows))
    if is_committed(options.results, RESULTS):
        put_between_marks(FOLDER / "README.md", "lars", table(rows))


if __name__ == "__main__":
    main()
