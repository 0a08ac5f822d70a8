"""A small GPT on Python's sources for one epoch: AutoWU beside ten warmup-cosines.

    nice python -m experiments.language_model.run               a quarter of an hour on two cores
    nice python -m experiments.language_model.run --held-out    as long: another network
    nice python -m experiments.language_model.run --muon 0.1    as long: Muon and AdamW
    nice python -m experiments.language_model.run --muon 0      as long: without weight decay

Hugging Face's Trainer trains both; a run that has a row already is not made again.
The figure and the table of the README: `python -m experiments.language_model.plot`.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from autowu import CombinedOptimizer, sweep
from autowu.integrations.transformers import AutoWUTrainer
from autowu.probe import NUM_SAMPLES
from experiments.language_model.text import Text, standard_library
from experiments.results import add_results_option, curves_beside, still_to_run
from experiments.tables import append_row, commit, read_rows, write_rows
from experiments.training.cells import cpu_name
from experiments.training.methods import EARLIER_GROWTH

FOLDER = Path(__file__).parent
SEEDS = (0, 1, 2)
PEAK_LRS = (0.0003, 0.001, 0.003, 0.01, 0.03)  # of the baseline
WARMUPS = (0.1, 0.3)  # of the baseline's steps
PROBED = "autowu after a probe"  # the Trainer's default
PROBED_BEFORE = "autowu after a probe, 3 % a step"  # as it was; the others begin at `min_lr`
VARIANTS: dict[str, dict[str, Any]] = {  # settings of AutoWU
    PROBED: {},
    PROBED_BEFORE: {},
    "autowu": {},
    "autowu max_lr=0.01": {"max_lr": 0.01},
    "autowu max_lr=0.1": {"max_lr": 0.1},
    "autowu fixed": {"sweep": "fixed"},
    "autowu fixed max_lr=0.01": {"sweep": "fixed", "max_lr": 0.01},
    "autowu fixed max_lr=0.1": {"sweep": "fixed", "max_lr": 0.1},
    "autowu fixed max_lr=0.1 max_warmup_fraction=0.25": {
        "sweep": "fixed",
        "max_lr": 0.1,
        "max_warmup_fraction": 0.25,
    },
}


@dataclass(frozen=True)
class Size:
    """Of the network, its text and its budget."""

    num_steps: int = 600  # optimizer steps, one epoch in all
    batch_size: int = 32  # sequences
    context: int = 64  # bytes of a sequence
    width: int = 96
    num_layers: int = 2
    num_heads: int = 4
    num_validation_sequences: int = 2048
    # Weight decay of Muon for the matrices of its blocks, AdamW for the rest; None: AdamW for all.
    muon_decay: float | None = None

    @property
    def num_train_bytes(self) -> int:
        return self.num_steps * self.batch_size * self.context


# Deeper and narrower, longer and with smaller batches: nothing of AutoWU was chosen by it.
HELD_OUT = Size(num_steps=900, batch_size=16, context=96, width=64, num_layers=4)
# By Muon's weight decay, of which 0.1 is torch's default.
MUON = {0.1: Size(muon_decay=0.1), 0.0: Size(muon_decay=0.0)}
MUON_RESULTS = {0.1: "muon_results.csv", 0.0: "muon_undecayed_results.csv"}


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str  # warmup_cosine, or a key of VARIANTS
    peak_lr: float | None  # None: AutoWU finds it
    warmup: float | None  # of the steps; None: AutoWU decides
    seed: int  # of weights and order of the sequences

    def columns(self, size: Size) -> dict[str, str]:
        """What tells its rows from those of other runs."""
        return {
            "method": self.method,
            "peak_lr": "" if self.peak_lr is None else f"{self.peak_lr:g}",
            "warmup": "" if self.warmup is None else f"{self.warmup:g}",
            "seed": str(self.seed),
            "total_steps": str(size.num_steps),
            **({} if size.muon_decay is None else {"muon_decay": f"{size.muon_decay:g}"}),
        }


def cells(methods: Iterable[str]) -> list[Cell]:
    grid = list(itertools.product(PEAK_LRS, WARMUPS))
    return [
        Cell(method, peak_lr, warmup, seed)
        for seed in SEEDS
        for method in methods
        for peak_lr, warmup in (grid if method == "warmup_cosine" else [(None, None)])
    ]


def sequences(text: bytes, context: int) -> list[dict[str, torch.Tensor]]:
    """Pieces of `context` bytes, a byte a token (context,); the network shifts the labels."""
    pieces = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().view(-1, context)
    return [{"input_ids": piece, "labels": piece} for piece in pieces]


def build_model(size: Size) -> GPT2LMHeadModel:
    """With random weights, and without dropout, because no text is seen twice."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=256,
            n_positions=size.context,
            n_embd=size.width,
            n_layer=size.num_layers,
            n_head=size.num_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def build_optimizer(model: GPT2LMHeadModel, lr: float, muon_decay: float) -> CombinedOptimizer:
    """Both with the same LR, to which Muon's steps are scaled; AdamW without weight decay.

    By `match_rms_adamw`, whatever way round the matrices lie: those of GPT-2 are transposed.
    """
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return CombinedOptimizer(
        torch.optim.Muon(matrices, lr=lr, weight_decay=muon_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, weight_decay=0.0),
    )


def build_trainer(cell: Cell, size: Size, text: Text, output_dir: str) -> Trainer:
    """The clipping of gradients is the Trainer's default, and AdamW, where there is no Muon."""
    common: dict[str, Any] = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": size.batch_size,
        "per_device_eval_batch_size": 64,
        "seed": cell.seed,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "use_cpu": True,
    }
    data: dict[str, Any] = {
        "train_dataset": sequences(text.train, size.context),
        "eval_dataset": sequences(text.validation, size.context),
    }
    model = build_model(size)
    if size.muon_decay is not None:
        optimizer = build_optimizer(model, cell.peak_lr or 1e-3, size.muon_decay)
        data["optimizers"] = (optimizer, None)
    if cell.peak_lr is None or cell.warmup is None:
        settings = {"steps_per_epoch": None, **VARIANTS[cell.method]}
        arguments = TrainingArguments(output_dir, **common)
        num_samples = NUM_SAMPLES if cell.method in (PROBED, PROBED_BEFORE) else 0
        return AutoWUTrainer(model, arguments, autowu=settings, probe=num_samples, **data)
    arguments = TrainingArguments(
        output_dir,
        learning_rate=cell.peak_lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(cell.warmup * size.num_steps),
        **common,
    )
    return Trainer(model, arguments, **data)


def train(cell: Cell, size: Size) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of one run, and its loss curve in rows of ten steps each."""
    text = standard_library(size.num_train_bytes, size.num_validation_sequences * size.context)
    transformers.set_seed(cell.seed)
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = build_trainer(cell, size, text, output_dir)
        trainer.remove_callback(PrinterCallback)
        start = time.process_time()
        growth = EARLIER_GROWTH if cell.method == PROBED_BEFORE else sweep.PROBED_GROWTH
        with mock.patch.object(sweep, "PROBED_GROWTH", growth):
            trainer.train()
        cpu_seconds = time.process_time() - start
        validation_loss = trainer.evaluate()["eval_loss"]
    assert trainer.state.global_step == size.num_steps
    found = trainer.lr_scheduler if cell.peak_lr is None else None
    row = {
        "source": "ours",
        "status": "done",
        **cell.columns(size),
        "validation_loss": f"{validation_loss:.4f}",  # nats a byte
        "switch_step": found.switch_step if found else "",
        "start_lr": f"{found.start_lr:.6g}" if found else "",
        "highest_lr": f"{found.tests[-1].lr:.6g}" if found else "",
        "parameters": trainer.model.num_parameters(),
        "cpu_seconds": f"{cpu_seconds:.1f}",
        "text_sha256": text.sha256[:16],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit(),
        "device": cpu_name(),
    }
    curve = [
        {
            **cell.columns(size),
            "step": entry["step"],
            "loss": f"{entry['loss']:.4f}",
            "lr": f"{entry['learning_rate']:.4g}",
        }
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return row, curve


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    names = ("method", "peak_lr", "warmup", "seed", "total_steps", "muon_decay")
    return tuple(row.get(name, "") for name in names)


def run(todo: Sequence[Cell], size: Size, results: Path, num_processes: int) -> None:
    """Make the runs that have no row there, and write each down when it ends."""
    curves = curves_beside(results)
    done = {key_of(row) for row in read_rows(results)}
    # A curve is written before its row, and so may lie there without one after a kill.
    write_rows(curves, [row for row in read_rows(curves) if key_of(row) in done])
    missing = still_to_run(results, todo, lambda cell: key_of(cell.columns(size)), done)
    spawn = get_context("spawn")
    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(num_processes, spawn, **one_thread) as pool:
        for future in as_completed(pool.submit(train, cell, size) for cell in missing):
            row, curve = future.result()
            for point in curve:
                append_row(curves, point)
            append_row(results, row)
            print(*key_of(row), row["validation_loss"], row["start_lr"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = ("warmup_cosine", *VARIANTS)
    parser.add_argument("--methods", nargs="+", choices=methods, help="default: all")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, a core each")
    parser.add_argument(
        "--held-out", action="store_true", help="the other network; by default without max_lr"
    )
    parser.add_argument(
        "--muon",
        type=float,
        choices=tuple(MUON),
        metavar="DECAY",
        help="Muon, with weight decay of 0.1 or 0, and AdamW; by default as --held-out",
    )
    add_results_option(parser, committed=None)
    options = parser.parse_args()
    if options.held_out and options.muon is not None:
        parser.error("--held-out and --muon are runs of their own: one of them")
    size, name = Size(), "results.csv"
    if options.held_out:
        size, name = HELD_OUT, "held_out_results.csv"
    elif options.muon is not None:
        size, name = MUON[options.muon], MUON_RESULTS[options.muon]
    chosen = options.methods or methods
    if size != Size() and not options.methods:
        chosen = [each for each in methods if "max_lr" not in each and each != PROBED_BEFORE]
    run(cells(chosen), size, options.results or FOLDER / name, options.processes)


if __name__ == "__main__":
    main()
