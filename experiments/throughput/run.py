"""Images a second of the trainer's loop, against a bare PyTorch loop in the same process.

    python -m experiments.throughput.run                   five minutes on one CPU core
    python -m experiments.throughput.run --device cuda     the cells for a GPU
    python -m experiments.throughput.run --device cuda --compiled    of those, the compiled ones
    python -m experiments.throughput.run --tables          measures nothing, table and figure

The two sides take turns, a block of steps each, and the ratio is the median over the rounds, since
a machine is rarely quiet. Rows of cells that were not measured anew are kept, and a cell for a GPU
that was never measured has a row `not run`. `--tables` makes the table and the figure of the README
from the rows.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from adamp import AdamP
from matplotlib.figure import Figure
from torch import Tensor

from autowu.trainer import optimizers, schedules
from autowu.trainer.checkpoint import Checkpoints
from autowu.trainer.data import ImageData, load_data
from autowu.trainer.distributed import Ranks
from autowu.trainer.guard import DivergenceGuard
from autowu.trainer.journal import Journal
from autowu.trainer.loop import train_epoch
from autowu.trainer.models import build_model
from autowu.trainer.progress import Progress
from autowu.trainer.run_directory import RunDirectory
from autowu.trainer.run_state import RunState
from autowu.trainer.schedule_settings import AutoWUSettings
from autowu.trainer.signals import StopSignals
from autowu.trainer.step import OptimizerStep
from experiments.results import add_results_option, is_committed, refuse_tables_of_others
from experiments.tables import (
    commit,
    done_rows,
    markdown_table,
    put_between_marks,
    save_figure,
    write_rows,
)

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.csv"
SEED = 0
COLUMNS = (
    "source",
    "status",  # done, not run
    "device",
    "model",
    "data",
    "augment",
    "batch_size",
    "precision",
    "compile",
    "phase",
    "bare_loop_on",
    "trainer_images_per_second",
    "bare_images_per_second",
    "ratio",
    "ratio_low",
    "ratio_high",
    "data_wait",
    "rounds",
    "seed",
    "torch",
    "commit",
)
CELL_KEYS = ("model", "data", "augment", "batch_size", "precision", "compile")
Row = dict[str, Any]


class Cell(NamedTuple):
    model: str
    data: dict[str, Any]
    batch_size: int
    epochs: int  # of the schedule, which says how often AutoWU tests; not all of it is run
    steps: int  # in a block
    rounds: int
    precision: str = "fp32"
    bare_data: str = "same batches"  # or "random tensors on the device"
    compile: bool = False
    max_warmup_fraction: float = 0.5


SMALL = {"name": "synthetic", "num_images": 4096, "num_classes": 10, "image_size": 32}
CELLS = {
    "cpu": [
        Cell("small_cnn", {"name": "digits"}, 32, epochs=30, steps=44, rounds=29),
        Cell("small_cnn", SMALL, 128, epochs=60, steps=4, rounds=41),
        Cell("cifar_resnet18", SMALL, 32, epochs=15, steps=2, rounds=15),
    ],
    "cuda": [
        Cell(
            "cifar_resnet18",
            SMALL | {"num_images": 50_000, "augment": augment},
            batch_size,
            epochs=200,
            steps=24_576 // batch_size,
            rounds=7,
            precision="bf16",
            bare_data="random tensors on the device",
            compile=compile,
            max_warmup_fraction=max_warmup_fraction,
        )
        for batch_size, augment, compile, max_warmup_fraction in (
            (8192, "cifar", False, 0.5),
            (512, "cifar", False, 0.5),
            (512, "none", False, 0.5),
            # The sweep ends within the first block: the decay, where most of a run lies.
            (8192, "cifar", True, 1e-3),
            (512, "cifar", True, 1e-3),
        )
    ],
}


def trainer_side(
    cell: Cell, ranks: Ranks, folder: Path
) -> tuple[Callable[[], tuple[str, float]], ImageData]:
    """The loop of train.py but for evaluation and checkpoints; a call is a block of steps."""
    images = load_data(
        **cell.data, batch_size=cell.batch_size, ranks=ranks, channels_last=on_gpu(ranks)
    )
    network = build_model(cell.model, images.num_channels, images.num_classes, images.image_size)
    network, replica = ranks.wrap(network, compile=cell.compile)
    optimizer = optimizers.build(network, "adamp", None, 0.01)
    settings = vars(AutoWUSettings()) | {"max_warmup_fraction": cell.max_warmup_fraction}
    scheduler = schedules.create(
        optimizer=optimizer,
        epochs=cell.epochs,
        steps_per_epoch=images.steps_per_epoch,
        batch_size=cell.batch_size,
        **settings,
    )
    take_step = OptimizerStep(replica, optimizer, precision=cell.precision)
    guard = DivergenceGuard(network, optimizer, take_step.scaler, scheduler)
    state = RunState(network, optimizer, scheduler, take_step.scaler, guard, Progress())
    run = RunDirectory(folder)
    run.start("")
    checkpoints = Checkpoints(run, {}, "epoch", ranks)
    journal = Journal(run, ranks, state.progress, StopSignals(), every=20)

    def batches() -> Iterator[list[tuple[Tensor, Tensor]]]:
        epoch = 0
        while True:
            yield from images.train_batches(epoch)
            epoch += 1

    endless = batches()

    def block() -> tuple[str, float]:
        phase = scheduler.phase.value
        started = time.perf_counter()
        state.progress.epoch_losses = [0.0] * (images.steps_per_epoch - cell.steps)
        train_epoch(state, take_step, images, take(endless, cell.steps), journal, checkpoints)
        return phase, finished(ranks) - started

    return block, images


def bare_side(cell: Cell, ranks: Ranks, images: ImageData) -> Callable[[], float]:
    """What anybody would write: the same network, optimizer, precision and batches, no more."""
    network = build_model(cell.model, images.num_channels, images.num_classes, images.image_size)
    network = network.to(ranks.device).train()
    optimizer = AdamP(network.parameters(), lr=1e-4, weight_decay=0.01)
    compiled = torch.compile(network) if cell.compile else network
    size = (cell.batch_size, images.num_channels, images.image_size, images.image_size)
    pixels = images.train.pixels  # type: ignore[attr-defined]

    def batch(step: int, order: Tensor) -> tuple[Tensor, Tensor]:
        if cell.bare_data != "same batches":
            return random_images, random_labels
        indices = order[step * cell.batch_size : (step + 1) * cell.batch_size]
        return (pixels[indices] - images.mean) / images.deviation, images.train.labels[indices]

    random_images = torch.randn(size, device=ranks.device)
    if on_gpu(ranks):
        random_images = random_images.contiguous(memory_format=torch.channels_last)
    random_labels = torch.randint(0, 10, (cell.batch_size,), device=ranks.device)

    def block() -> float:
        started = time.perf_counter()
        order = torch.randperm(len(images.train))
        for step in range(cell.steps):
            inputs, labels = batch(step, order)
            optimizer.zero_grad(set_to_none=True)
            loss = bare_loss(compiled, inputs, labels, cell.precision)
            loss.backward()
            optimizer.step()
        return finished(ranks) - started

    return block


def bare_loss(
    network: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, precision: str
) -> Tensor:
    if precision == "fp32":
        return F.cross_entropy(network(inputs), labels)
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        return F.cross_entropy(network(inputs), labels)


def take(batches: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        yield next(batches)


def on_gpu(ranks: Ranks) -> bool:
    return ranks.device.type == "cuda"


def finished(ranks: Ranks) -> float:
    """The time once the device has done its work."""
    if on_gpu(ranks):
        torch.cuda.synchronize(ranks.device)
    return time.perf_counter()


def measure(cell: Cell, ranks: Ranks) -> list[Row]:
    """A row for the warmup, in which AutoWU tests, and one for the decay if it came to that."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, images = trainer_side(cell, ranks, Path(folder) / "run")
        bare = bare_side(cell, ranks, images)
        trainer(), bare()  # the first block of each warms up
        times: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(cell.rounds):
            waited = images.wait_seconds
            phase, seconds = trainer()
            times.setdefault(phase, []).append((seconds, bare(), images.wait_seconds - waited))
    return [to_row(cell, ranks, phase, rounds) for phase, rounds in times.items()]


def to_row(cell: Cell, ranks: Ranks, phase: str, times: list[tuple[float, float, float]]) -> Row:
    """Of seconds of the trainer, of the bare loop, and waited for data, in each round."""
    block_images = cell.steps * cell.batch_size
    trainer_seconds = statistics.median(trainer for trainer, _, _ in times)
    bare_seconds = statistics.median(bare for _, bare, _ in times)
    ratios = sorted(bare / trainer for trainer, bare, _ in times)
    return planned_row(cell, ranks.device.type) | {
        "status": "done",
        "device": torch.cuda.get_device_name(ranks.device) if on_gpu(ranks) else "cpu",
        "phase": phase,
        "seed": SEED,
        "trainer_images_per_second": f"{block_images / trainer_seconds:.1f}",
        "bare_images_per_second": f"{block_images / bare_seconds:.1f}",
        "ratio": f"{statistics.median(ratios):.4f}",
        "ratio_low": f"{ratios[len(ratios) // 4]:.4f}",
        "ratio_high": f"{ratios[-1 - len(ratios) // 4]:.4f}",
        "data_wait": f"{sum(w for _, _, w in times) / sum(t for t, _, _ in times):.4f}",
        "rounds": len(times),
        "torch": torch.__version__,
        "commit": commit(),
    }


def planned_row(cell: Cell, device: str) -> Row:
    """The row of a cell that has not been run."""
    return dict.fromkeys(COLUMNS, "") | {
        "source": "ours",
        "status": "not run",
        "device": device,
        "model": cell.model,
        "data": cell.data["name"],
        "augment": cell.data.get("augment", "none"),
        "batch_size": cell.batch_size,
        "precision": cell.precision,
        "compile": str(cell.compile).lower(),
        "bare_loop_on": cell.bare_data,
    }


def key_of(row: Row) -> tuple[str, ...]:
    return (row["device"], *cell_key(row), row["phase"])


def cell_key(row: Row) -> tuple[str, ...]:
    """What tells its cell from the others of a kind of device."""
    return tuple(str(row[key]) for key in CELL_KEYS)


def label(row: Row) -> str:
    what = f"{row['model']}, {row['data']}, {row['augment']}"
    compiled = ", compiled" if row["compile"] == "true" else ""
    where = row["device"].removeprefix("NVIDIA ").partition(" ")[0]
    how = f"batch {row['batch_size']}, {row['precision']}{compiled}, {row['phase']}"
    return f"{where}: {what}\n{how}"


def plot(rows: Sequence[Row], path: Path) -> None:
    figure = Figure(figsize=(7, 0.8 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(rows):
        ratio, low, high = (float(row[key]) for key in ("ratio", "ratio_low", "ratio_high"))
        axes.errorbar(ratio, height, xerr=[[ratio - low], [high - ratio]], fmt="o", capsize=3)
    axes.axvline(1.0, color="0.5", linewidth=1)
    axes.axvspan(0.0, 0.95, color="C3", alpha=0.12)
    axes.text(0.945, -0.45, "more than 5 % slower", ha="right", va="top", fontsize=8)
    axes.set_xlim(0.75, 1.1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    axes.set_xlabel("trainer / bare loop: images a second, median and quartiles")
    save_figure(figure, path, dpi=150)


def not_run_rows(done: Sequence[Row]) -> list[Row]:
    """A row for each cell for a GPU that none of these was measured of."""
    measured = {cell_key(row) for row in done if row["device"] != "cpu"}
    planned = [planned_row(cell, "cuda") for cell in CELLS["cuda"]]
    return [row for row in planned if cell_key(row) not in measured]


def table(rows: Sequence[Row]) -> str:
    header = [
        "device",
        "model",
        "data",
        "augment",
        "batch",
        "compiled",
        "phase",
        "trainer",
        "bare loop",
        "ratio (quartiles)",
        "rounds",
        "data wait",
        "commit",
    ]
    lines = []
    for row in rows:
        what = [row[key] for key in ("device", "model", "data", "augment", "batch_size")]
        what.append("yes" if row["compile"] == "true" else "no")
        if row["status"] == "not run":
            lines.append([*what, *["not run"] * (len(header) - len(what))])
            continue
        ratio, low, high = (float(row[key]) for key in ("ratio", "ratio_low", "ratio_high"))
        lines.append(
            [
                *what,
                row["phase"],
                f"{float(row['trainer_images_per_second']):,.0f}/s",
                f"{float(row['bare_images_per_second']):,.0f}/s",
                f"{ratio:.3f} ({low:.3f} to {high:.3f})",
                row["rounds"],
                f"{100 * float(row['data_wait']):.1f} %",
                row["commit"],
            ]
        )
    return markdown_table(header, lines)


def report(done: Sequence[Row], results: Path) -> None:
    """Write the rows, those `not run` as well, and what the README shows if they are committed."""
    rows = [*done, *not_run_rows(done)]
    write_rows(results, rows)
    text = table(rows)
    print(text)
    if is_committed(results, RESULTS):
        plot(done, FOLDER / "throughput.png")
        put_between_marks(FOLDER / "README.md", "table", text)


def measure_cells(device: str, cells: Sequence[Cell]) -> list[Row]:
    if device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(SEED)
    ranks = Ranks(device)
    rows: list[Row] = []
    with ranks:
        for cell in cells:
            rows += measure(cell, ranks)
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=list(CELLS), help="default: cpu")
    parser.add_argument("--compiled", action="store_true", help="only the compiled cells")
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing, write the table and the figure"
    )
    add_results_option(parser, RESULTS)
    options = parser.parse_args()
    kept: list[Row] = [*done_rows(options.results)]
    if options.tables:
        if options.device or options.compiled:
            parser.error("--tables measures nothing: leave --device and --compiled out")
        refuse_tables_of_others(parser, options, RESULTS)
        return report(kept, RESULTS)
    device = options.device or "cpu"
    cells = [cell for cell in CELLS[device] if cell.compile or not options.compiled]
    if not cells:
        parser.error(f"--compiled: no cell of --device {device} is compiled")
    new = measure_cells(device, cells)
    measured = {key_of(row) for row in new}
    kept = [row for row in kept if key_of(row) not in measured]
    report(sorted([*kept, *new], key=lambda row: row["device"] != "cpu"), options.results)


if __name__ == "__main__":
    main()
