"""A run killed with SIGKILL again and again, against the same run undisturbed, bit for bit.

    python -m experiments.resume.run        15 minutes on two cores; results.csv and resume.png

For one process, and for two and four gloo ranks: 20 kills each at random moments, a third of them
while the program is starting, a third inside a save, the rest anywhere. What is compared at the end
are the SHA-256 sums of all that the runs left behind, without what depends on the clock.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from experiments.results import add_results_option, is_committed
from experiments.tables import commit, markdown_table, put_between_marks, save_figure, write_rows
from tests.launch import finish, start

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.csv"
NUM_KILLS = 20
WORLD_SIZES = (1, 2, 4)
# Batch norm, stochastic depth, Mixup, augmentation, accumulation: whatever has a state, or draws
# random numbers. 768 steps; every fourth of them is saved.
SETTINGS = [
    "data.name=synthetic",
    "data.num_images=1024",
    "data.batch_size=64",
    "data.augment=cifar",
    "data.mixup=0.2",
    "accumulate=2",
    "model.name=test_efficientnet",
    "model.drop_path=0.1",
    "schedule.decay=constant_cosine",
    "epochs=48",
    "checkpoint_every=4",
    "log_every=5",
    "device=cpu",
]


def rows_in(run: Path) -> int:
    """Steps that steps.csv shows."""
    try:
        return max((run / "steps.csv").read_bytes().count(b"\n") - 1, 0)
    except FileNotFoundError:
        return 0


def saved_step(run: Path) -> int:
    """The step that last.pt continues from; 0 without one."""
    try:
        return torch.load(run / "last.pt", weights_only=True)["progress"]["step"]
    except FileNotFoundError:
        return 0


def wait_for_moment(
    kind: str, run: Path, processes: list[subprocess.Popen[str]], rng: random.Random
) -> None:
    """Return at the moment to kill at, or when a process has ended by itself."""

    def alive() -> bool:
        return all(process.poll() is None for process in processes)

    if kind == "start":
        time.sleep(rng.uniform(0.0, 8.0))
        return
    before = rows_in(run)
    while alive() and rows_in(run) <= before:
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 1.5))
    while kind == "save" and alive() and not (run / ".last.pt.tmp").exists():
        pass  # a save takes a few milliseconds: too short to sleep for


def digest(run: Path) -> dict[str, str]:
    """SHA-256 of the steps, the metrics, the weights and the whole state at the end."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["timing"]
    last = torch.load(run / "last.pt", weights_only=True)
    best = torch.load(run / "best.pt", weights_only=True)
    del last["config"]
    seconds = [key for key in last["progress"] if key.endswith("seconds")]
    for key in seconds:
        del last["progress"][key]
    contents = {
        "steps.csv": (run / "steps.csv").read_bytes(),
        "metrics": json.dumps(lines).encode(),
        "weights": flat(last["model"]) + flat(best["model"]),
        "state": flat(last) + flat(best),
    }
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in contents.items()}


def flat(value: Any) -> bytes:
    """The bits of nested dicts, lists and tensors."""
    if isinstance(value, torch.Tensor):
        header = f"{value.dtype}{tuple(value.shape)}".encode()
        return header + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return b"".join(str(key).encode() + flat(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return b"".join(flat(entry) for entry in value)
    return repr(value).encode()


def measure(world_size: int, output_dir: Path, seed: int) -> list[dict[str, Any]]:
    """Rows of the kills, and one that compares the ends."""
    settings = [*SETTINGS, f"output_dir={output_dir}"]
    calm, killed = (output_dir / f"{name}-ranks{world_size}" for name in ("calm", "killed"))
    outcomes = finish(start([*settings, f"name={calm.name}"], world_size), timeout=1200)
    if any(code for code, _, _ in outcomes):
        raise RuntimeError(f"the undisturbed run failed: {outcomes}")

    rng = random.Random(seed)
    kinds = ["start", "save", "any"] * (NUM_KILLS // 3 + 1)
    common = {
        "source": "ours",
        "status": "done",
        "ranks": world_size,
        "seed": seed,
        "commit": commit(),
        "device": "cpu",
    }
    rows: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds[:NUM_KILLS], 1):
        resumed_from = saved_step(killed)
        started = time.perf_counter()
        processes = start([*settings, f"name={killed.name}"], world_size)
        wait_for_moment(kind, killed, processes, rng)
        for process in processes:
            process.kill()
        seconds = time.perf_counter() - started
        outcomes = finish(processes)
        codes = [code for code, _, _ in outcomes]
        if any(code != -9 for code in codes):
            raise RuntimeError(f"kill {number} came too late, or found an error: {outcomes}")
        row = {
            "what": "kill",
            **common,
            "number": number,
            "moment": kind,
            "seconds_after_start": f"{seconds:.2f}",
            "resumed_from_step": resumed_from,
            "steps_written": rows_in(killed),
            "saved_step": saved_step(killed),
            "inside_a_save": (killed / ".last.pt.tmp").exists(),
            "equal": "",
        }
        print({key: row[key] for key in ("ranks", "number", "moment", "saved_step")}, flush=True)
        rows.append(row)
    outcomes = finish(start([*settings, f"name={killed.name}"], world_size), timeout=1200)
    if any(code for code, _, _ in outcomes):
        raise RuntimeError(f"the last resumption failed: {outcomes}")
    expected, found = digest(calm), digest(killed)
    for name in expected:
        rows.append(
            dict.fromkeys(rows[0], "")
            | common
            | {"what": name, "equal": expected[name] == found[name], "number": NUM_KILLS}
        )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Each session as a line from the step it resumed from to the step it was killed at."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    worlds = sorted({row["ranks"] for row in rows})
    for axes, world in zip(figure.subplots(1, len(worlds), sharey=True), worlds, strict=True):
        kills = [row for row in rows if row["ranks"] == world and row["what"] == "kill"]
        for row in kills:
            session = row["number"]
            reached = max(row["steps_written"], row["resumed_from_step"])
            axes.plot([session - 1, session], [row["resumed_from_step"], reached], color="C0")
            inside = row["inside_a_save"]
            axes.plot(session, reached, "x" if inside else ".", color="C3" if inside else "0.3")
        axes.set_title(f"{world} process" + ("es, gloo" if world > 1 else ""), fontsize=10)
        axes.set_xlabel("session, ended by SIGKILL (x: inside a save)", fontsize=8)
    figure.axes[0].set_ylabel("optimizer steps")
    save_figure(figure, path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/resume"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    add_results_option(parser, RESULTS)
    options = parser.parse_args()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    rows = [
        row
        for world_size in WORLD_SIZES
        for row in measure(world_size, options.output_dir, options.seed)
    ]
    write_rows(options.results, rows)
    ends = [row for row in rows if row["what"] != "kill"]
    inside = {
        world: sum(row["inside_a_save"] is True for row in rows if row["ranks"] == world)
        for world in WORLD_SIZES
    }
    table = markdown_table(
        ["ranks", "kills", "inside a save", "steps.csv", "metrics", "weights", "whole state"],
        [
            [
                world,
                NUM_KILLS,
                inside[world],
                *(
                    "equal" if row["equal"] else "DIFFERENT"
                    for row in ends
                    if row["ranks"] == world
                ),
            ]
            for world in WORLD_SIZES
        ],
    )
    print(table)
    if is_committed(options.results, RESULTS):
        plot(rows, FOLDER / "resume.png")
        put_between_marks(FOLDER / "README.md", "table", table)


if __name__ == "__main__":
    main()
