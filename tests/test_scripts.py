"""The launch scripts: the commands they print under DRY_RUN=1, and what a sweep does with cells.

A stub stands in for Python, so that nothing is trained: it logs its arguments and ends as told.
"""

import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from autowu.trainer.config import build_settings
from autowu.trainer.settings import Settings
from experiments.collect import Key, key_of, planned_rows
from experiments.table1.plot import VARIANTS
from experiments.tables import read_rows

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
DIGITS = "configs/digits.yaml"
TORCHRUN = "python -m torch.distributed.run"
DEFAULT_CONFIGS = [
    f"configs/cifar10_resnet18_adamp_{name}.yaml"
    for name in ("baseline", "autowu_constant_cosine", "autowu")
]
# Logs its arguments. A seed in FAIL ends it with STATUS; one in WAIT lets it wait for a signal and
# then end with 1, as torchrun does, noting each signal it got. A report ends with REPORT_STATUS.
STUB = """#!/usr/bin/env bash
for signal in INT TERM; do trap "echo $signal >>'$LOG'; exit 1" $signal; done
echo "$*" >>"$LOG"
if [[ $* == *experiments.report* ]]; then exit "${REPORT_STATUS:-0}"; fi
for word in "$@"; do
    if [[ $word == seed=${FAIL:-none} ]]; then exit "$STATUS"; fi
    if [[ $word == seed=${WAIT:-none} ]]; then for _ in {1..500}; do sleep 0.02; done; fi
done
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $3 == 'node[1-4]' ]]; then printf 'node1\\nnode2\\nnode3\\nnode4\\n'
elif [[ $3 == 'node[3-4]' ]]; then printf 'node3\\nnode4\\n'
else echo "scontrol $*" >>"$LOG"; fi
"""


def default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Shell:
    """Runs the scripts from a foreign folder in an environment that holds nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        for name, text in (("stub", STUB), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def start(self, script: str, *arguments: str, **knobs: object) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHON": "python",
            "LOG": str(self.log),
        }
        return subprocess.Popen(
            ["bash", str(SCRIPTS / script), *arguments],
            env=environment | {key: str(value) for key, value in knobs.items()},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell cannot trap a signal that it was started to ignore, as under nohup.
            preexec_fn=default_signals,
        )

    def run(
        self, script: str, *arguments: str, **knobs: object
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *arguments, **knobs)
        output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def dry_run(self, script: str, *arguments: str, **knobs: object) -> list[str]:
        """The commands that the script would run, a line each."""
        result = self.run(script, *arguments, DRY_RUN=1, **knobs)
        assert (result.returncode, result.stderr) == (0, "")
        assert not self.log.exists()
        return result.stdout.splitlines()

    def sweep(self, **knobs: object) -> subprocess.CompletedProcess[str]:
        return self.run("sweep_batch_size.sh", **self.knobs(**knobs))

    def knobs(self, **knobs: object) -> dict[str, object]:
        """Cells of seeds 0, 1 and 2, with the stub for Python."""
        return {
            "PYTHON": self.folder / "stub",
            "CONFIGS": DIGITS,
            "BATCH_SIZES": 64,
            "OUTPUT_DIR": self.folder / "runs",
        } | knobs

    def finish(self, name: str) -> None:
        (self.folder / "runs" / name).mkdir(parents=True)
        (self.folder / "runs" / name / "summary.json").write_text("{}")

    def logged(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def seeds_run(self) -> list[str]:
        return [
            word
            for line in self.logged()
            for word in line.split()
            if word.startswith("seed=") and "train.py" in line
        ]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def waiting(shell: Shell, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A script whose cell with seed 1 waits for a signal, once it does."""
    script, knobs = request.param
    process = shell.start(script, **shell.knobs(WAIT=1, **knobs))
    deadline = time.monotonic() + 30
    while "seed=1" not in shell.seeds_run() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # the stub sets its traps before it logs; this is for the script's own wait
    yield process
    process.kill()
    process.communicate()


def settings_of(command: str) -> Settings:
    """What train.py would read in a printed command."""
    words = shlex.split(command)
    words = words[words.index("train.py") + 1 :]
    files = [ROOT / words[i + 1] for i, word in enumerate(words) if word == "--config"]
    overrides = [word for word in words if "=" in word]
    assert len(words) == 2 * len(files) + len(overrides)
    return build_settings(files, overrides)


@pytest.mark.parametrize(
    "script", sorted(path.name for path in SCRIPTS.iterdir() if path.suffix in (".sh", ".sbatch"))
)
def test_every_script_is_valid_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(SCRIPTS / script)], check=True)


def test_train_starts_plain_python_for_one_process(shell: Shell) -> None:
    commands = shell.dry_run("train.sh", DIGITS, "seed=1", "checkpoint_every=2 epochs")
    assert commands == [
        f"python train.py --config {DIGITS} seed=1 checkpoint_every=2\\ epochs",
    ]
    assert settings_of(commands[0]).checkpoint_every == "2 epochs"


@pytest.mark.parametrize(
    "knobs", [{"NPROC": 2}, {"CUDA_VISIBLE_DEVICES": "0,3"}, {"CUDA_VISIBLE_DEVICES": "1,5,-1,2"}]
)
def test_train_starts_torchrun_for_several_gpus(shell: Shell, knobs: dict[str, object]) -> None:
    assert shell.dry_run("train.sh", DIGITS, "seed=1", **knobs) == [
        f"{TORCHRUN} --standalone --nproc-per-node 2 train.py --config {DIGITS} seed=1"
    ]


def test_train_hands_more_words_to_torchrun(shell: Shell) -> None:
    command = shell.dry_run("train.sh", DIGITS, NPROC=2, TORCHRUN_ARGS="--max-restarts 1")[0]
    assert " --nproc-per-node 2 --max-restarts 1 train.py " in command


def test_train_becomes_the_trainer_and_so_gets_its_signals_and_exit_code(shell: Shell) -> None:
    result = shell.run(
        "train.sh", DIGITS, "seed=1", PYTHON=shell.folder / "stub", FAIL=1, STATUS=143
    )
    assert result.returncode == 143
    assert shell.logged() == [f"train.py --config {DIGITS} seed=1"]


@pytest.mark.parametrize(
    ("arguments", "knobs", "message"),
    [
        ([], {}, "usage:"),
        (["seed=1"], {}, "usage:"),
        (["--config", DIGITS], {}, "--config: not an argument"),
        ([DIGITS], {"NPROC": 0}, "NPROC=0: must be"),
        (["configs/digit.yaml"], {}, "configs/digit.yaml: no such CONFIG file"),
        ([DIGITS, "config=configs/digit.yaml"], {}, "configs/digit.yaml: no such CONFIG file"),
        (["configs"], {}, "configs: no such CONFIG file"),
    ],
)
@pytest.mark.parametrize("script", ["train.sh", "multi_node.sh"])
@pytest.mark.parametrize("dry_run", [0, 1])
def test_a_mistake_in_the_arguments_is_one_line(
    shell: Shell,
    script: str,
    dry_run: int,
    arguments: list[str],
    knobs: dict[str, object],
    message: str,
) -> None:
    result = shell.run(script, *arguments, DRY_RUN=dry_run, **knobs)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["train.sh", "multi_node.sh"])
def test_a_python_without_torch_is_one_line(shell: Shell, script: str) -> None:
    python = shell.folder / "bare"
    python.write_text(f'#!/usr/bin/env bash\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    result = shell.run(script, DIGITS, NPROC=2, PYTHON=python)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"{script}: PYTHON={python}: torch is not installed there: `pip install -r"
        " requirements.txt`, or `. .venv/bin/activate` where that has been done\n"
    )


@pytest.mark.parametrize("python", ["python3.99", "/"])
@pytest.mark.parametrize("nproc", [1, 2])
def test_a_python_that_is_not_there_is_one_line(shell: Shell, nproc: int, python: str) -> None:
    result = shell.run("train.sh", DIGITS, NPROC=nproc, PYTHON=python)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"train.sh: PYTHON={python}: no such program\n"


def test_torchrun_is_told_of_nohup(shell: Shell) -> None:
    """It takes a terminal's end for a wish to stop even where it was started to ignore it."""
    (shell.folder / "stub").write_text('#!/usr/bin/env bash\necho "$PET_SIGNALS_TO_HANDLE"\n')
    command = f'exec bash {shlex.quote(str(SCRIPTS / "train.sh"))} "$@"\n'
    for name, start in (("plain", ""), ("nohup", "trap '' HUP\n")):
        (shell.folder / name).write_text(start + command)
    knobs: dict[str, object] = {"NPROC": 2, "PYTHON": shell.folder / "stub"}
    told = [
        shell.run(str(shell.folder / name), DIGITS, **knobs, **more).stdout.split()[-1:]
        for name, more in (("plain", {}), ("nohup", {}), ("nohup", {"PET_SIGNALS_TO_HANDLE": "X"}))
    ]
    assert told == [[], ["SIGTERM,SIGINT,SIGQUIT"], ["X"]]


def test_multi_node_meets_at_the_head(shell: Shell) -> None:
    knobs = {"NNODES": 2, "NPROC": 8, "HEAD": "node7:1234", "RDZV_ID": "big"}
    assert shell.dry_run("multi_node.sh", DIGITS, "seed=1", **knobs) == [
        f"{TORCHRUN} --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d"
        f" --rdzv-endpoint node7:1234 --rdzv-id big train.py --config {DIGITS} seed=1"
    ]


SLURM_JOB = {"SLURM_NNODES": 4, "SLURM_JOB_ID": 77, "SLURM_JOB_NODELIST": "node[1-4]"}
SLURM_STEP = {"SLURM_STEP_NUM_NODES": 2, "SLURM_STEP_ID": 3, "SLURM_STEP_NODELIST": "node[3-4]"}


@pytest.mark.parametrize(
    ("slurm", "nodes", "endpoint", "name"),
    [  # the port is 20000 + (101 * job + step) % 10000
        (SLURM_JOB, 4, "node1:27777", "77"),
        (SLURM_JOB | SLURM_STEP, 2, "node3:27780", "77.3"),
        (SLURM_JOB | SLURM_STEP | {"SLURM_JOB_ID": 12345678}, 2, "node3:23481", "12345678.3"),
    ],
)
def test_multi_node_takes_its_defaults_from_the_step_or_else_the_job(
    shell: Shell, slurm: dict[str, object], nodes: int, endpoint: str, name: str
) -> None:
    assert shell.dry_run("multi_node.sh", DIGITS, **slurm) == [
        f"{TORCHRUN} --nnodes {nodes} --nproc-per-node 1 --rdzv-backend c10d"
        f" --rdzv-endpoint {endpoint} --rdzv-id {name} train.py --config {DIGITS}"
    ]


def test_the_first_steps_of_jobs_in_a_row_have_ports_of_their_own(shell: Shell) -> None:
    ports = set()
    for job, step in itertools.product((999, 1000), (0, 1)):
        ids = {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step}
        (command,) = shell.dry_run("multi_node.sh", DIGITS, **SLURM_JOB | SLURM_STEP | ids)
        ports.add(int(command.partition("--rdzv-endpoint node3:")[2].split()[0]))
    assert len(ports) == 4
    assert all(20000 <= port < 30000 for port in ports)


@pytest.mark.parametrize("knobs", [{}, SLURM_JOB | SLURM_STEP | {"SLURM_STEP_NUM_NODES": 1}])
def test_one_machine_needs_no_port(shell: Shell, knobs: dict[str, object]) -> None:
    commands = shell.dry_run("multi_node.sh", DIGITS, NPROC=2, **knobs)
    assert commands == shell.dry_run("train.sh", DIGITS, NPROC=2)
    (command,) = shell.dry_run("multi_node.sh", DIGITS, HEAD="localhost:1234", **knobs)
    assert "--rdzv-endpoint localhost:1234 " in command


@pytest.mark.parametrize(
    "head",
    ["localhost", ":29500", "node1:", "node1:port", "node1:0", "node1:65536", "::1:29500", "a b:1"],
)
def test_a_head_that_is_not_host_and_port_is_refused(shell: Shell, head: str) -> None:
    result = shell.run("multi_node.sh", DIGITS, HEAD=head, DRY_RUN=1)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"multi_node.sh: HEAD={head}: must be host:port, with a port from 1 to 65535\n"
    )


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "[::1]", "0.0.0.0"])
def test_several_machines_need_a_head_that_is_one_of_them(shell: Shell, host: str) -> None:
    result = shell.run("multi_node.sh", DIGITS, NNODES=2, HEAD=f"{host}:29500", DRY_RUN=1)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{host}:29500: must be one of the 2 machines, and {host} is another" in result.stderr


def test_several_machines_need_a_head(shell: Shell) -> None:
    result = shell.run("multi_node.sh", DIGITS, NNODES=2, DRY_RUN=1)
    assert (result.returncode, result.stdout) == (2, "")
    assert "HEAD: must be host:port of one of the 2 machines" in result.stderr


def test_the_batch_size_sweep_prints_every_cell(shell: Shell) -> None:
    commands = shell.dry_run(
        "sweep_batch_size.sh",
        CONFIGS=f"{DIGITS} configs/digits_baseline.yaml",
        BATCH_SIZES="32 64",
        SEEDS="0 7",
        OVERRIDES="epochs=3 'checkpoint_every=2 epochs'",
        OUTPUT_DIR="runs/a table",
    )
    assert commands == [
        f"python train.py --config configs/{stem}.yaml output_dir=runs/a\\ table"
        f" name={stem}-batch{batch_size}-seed{seed} data.batch_size={batch_size} seed={seed}"
        " epochs=3 checkpoint_every=2\\ epochs"
        for batch_size in (32, 64)
        for stem in ("digits", "digits_baseline")
        for seed in (0, 7)
    ]
    settings = [settings_of(command) for command in commands]
    assert {(one.data.batch_size, one.seed) for one in settings} == {
        (32, 0),
        (32, 7),
        (64, 0),
        (64, 7),
    }
    assert {one.output_dir for one in settings} == {"runs/a table"}


@pytest.mark.parametrize(
    ("limit", "nproc", "accumulate"),
    [(0, 1, {}), (256, 1, {}), (100, 1, {256: 4}), (64, 2, {256: 2}), (1, 1, {64: 64, 256: 256})],
)
def test_a_batch_too_large_for_the_gpus_is_accumulated(
    shell: Shell, limit: int, nproc: int, accumulate: dict[int, int]
) -> None:
    commands = shell.dry_run(
        "sweep_batch_size.sh",
        CONFIGS=DIGITS,
        BATCH_SIZES="64 256",
        SEEDS=0,
        NPROC=nproc,
        MAX_BATCH_PER_GPU=limit,
    )
    for batch_size, command in zip((64, 256), commands, strict=True):
        assert settings_of(command).accumulate == accumulate.get(batch_size, 1)


def test_the_baseline_sweep_crosses_lrs_and_warmups(shell: Shell) -> None:
    commands = shell.dry_run(
        "sweep_baseline_lr.sh",
        CONFIG="configs/digits_baseline.yaml",
        BATCH_SIZE=64,
        LRS="0.008 0.016",
        WARMUP_EPOCHS="1 2.5",
    )
    assert commands == [
        "python train.py --config configs/digits_baseline.yaml output_dir=runs/sweep_baseline_lr"
        f" name=digits_baseline-batch64-lr{lr}-warmup{warmup}-seed0 data.batch_size=64"
        f" optimizer.lr={lr} schedule.scale_lr=none schedule.warmup_epochs={warmup} seed=0"
        for lr in ("0.008", "0.016")
        for warmup in ("1", "2.5")
    ]
    assert [settings_of(command).optimizer.lr for command in commands] == [
        0.008,
        0.008,
        0.016,
        0.016,
    ]


def test_finished_cells_are_skipped(shell: Shell) -> None:
    shell.finish("digits-batch64-seed1")
    result = shell.sweep()
    assert result.returncode == 0
    assert f"done: {shell.folder}/runs/digits-batch64-seed1\n" in result.stderr
    assert shell.seeds_run() == ["seed=0", "seed=2"]


def test_a_failed_cell_is_reported_and_the_rest_still_run(shell: Shell) -> None:
    result = shell.sweep(FAIL=1, STATUS=2)
    assert result.returncode == 1
    assert shell.seeds_run() == ["seed=0", "seed=1", "seed=2"]
    assert "failed: digits-batch64-seed1 (exit code 2)\n" in result.stderr
    assert result.stderr.endswith("1 of 3 cells failed:\n    digits-batch64-seed1\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_sweep_goes_on_where_its_lines_cannot_be_written(shell: Shell) -> None:
    script = shlex.quote(str(SCRIPTS / "sweep_batch_size.sh"))
    (shell.folder / "unheard").write_text(f"exec bash {script} 2>/dev/full\n")
    result = shell.run(str(shell.folder / "unheard"), **shell.knobs(FAIL=1, STATUS=2))
    assert result.returncode == 1
    assert shell.seeds_run() == ["seed=0", "seed=1", "seed=2"]


def test_a_sweep_goes_on_where_nobody_reads_its_lines(shell: Shell) -> None:
    script = shlex.quote(str(SCRIPTS / "sweep_batch_size.sh"))
    status = shlex.quote(str(shell.folder / "status"))
    (shell.folder / "unread").write_text(
        f"{{ bash {script} 2>&1; echo $? >{status}; }} | true\n"
        f"while [[ ! -s {status} ]]; do sleep 0.1; done\n"
    )
    shell.run(str(shell.folder / "unread"), **shell.knobs())
    assert (shell.folder / "status").read_text() == "0\n"
    assert shell.seeds_run() == ["seed=0", "seed=1", "seed=2"]


@pytest.mark.parametrize("status", [129, 130, 143])
def test_an_interrupted_cell_stops_the_sweep(shell: Shell, status: int) -> None:
    result = shell.sweep(FAIL=1, STATUS=status)
    assert result.returncode == status
    assert shell.seeds_run() == ["seed=0", "seed=1"]
    assert "stopped at digits-batch64-seed1" in result.stderr


@pytest.mark.parametrize("waiting", [("sweep_batch_size.sh", {})], indirect=True)
@pytest.mark.parametrize(
    ("sent", "status", "received"),
    [
        (signal.SIGINT, 130, "INT"),
        (signal.SIGTERM, 143, "TERM"),
        (signal.SIGHUP, 129, "TERM"),
    ],
)
def test_a_signal_to_the_sweep_reaches_the_cell_and_stops_the_sweep(
    shell: Shell,
    waiting: subprocess.Popen[str],
    sent: signal.Signals,
    status: int,
    received: str,
) -> None:
    waiting.send_signal(sent)
    assert waiting.wait(timeout=30) == status
    assert shell.seeds_run() == ["seed=0", "seed=1"]
    assert shell.logged()[-1] == received  # once


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"OVERRIDES": "epochs=3 seed=1"}, "the sweep itself sets seed"),
        ({"OVERRIDES": "name=x"}, "the sweep itself sets name"),
        ({"OVERRIDES": "epochs"}, "epochs must be key=value"),
        ({"OVERRIDES": "epochs='3"}, "bad quotes"),
        ({"OVERRIDES": "config=gone.yaml"}, "gone.yaml: no such CONFIG file"),
        ({"CONFIGS": f"{DIGITS} configs/sub/digits.yaml"}, "two cells have the name digits-"),
        ({"CONFIGS": f"{DIGITS} configs/a.yaml"}, "configs/a.yaml: no such CONFIG file"),
        ({"CONFIGS": "configs/a.yaml", "DRY_RUN": 1}, "configs/a.yaml: no such CONFIG file"),
        ({"BATCH_SIZES": "256,512"}, "256,512 must be a number"),
        ({"MAX_BATCH_PER_GPU": "big"}, "MAX_BATCH_PER_GPU=big: must be"),
    ],
)
def test_a_mistake_in_the_knobs_ends_the_sweep_before_it_trains(
    shell: Shell, knobs: dict[str, object], message: str
) -> None:
    result = shell.sweep(**knobs)
    assert result.returncode == 2
    assert message in result.stderr
    assert shell.logged() == []


@pytest.mark.parametrize(
    ("script", "knobs"),
    [
        ("sweep_baseline_lr.sh", {"CONFIG": "configs/a.yaml", "DRY_RUN": 1}),
        ("slurm_array.sbatch", {"CONFIGS": "configs/a.yaml", "LIST": 1}),
        ("gpu_table1.sh", {"CONFIGS": "configs/a.yaml", "DRY_RUN": 1}),
        ("gpu_table1.sh", {"BUDGET_CONFIGS": "configs/a.yaml", "DRY_RUN": 1}),
    ],
)
def test_no_script_takes_a_config_that_is_not_there(
    shell: Shell, script: str, knobs: dict[str, object]
) -> None:
    result = shell.run(script, **knobs)
    assert (result.returncode, result.stdout) == (2, "")
    assert "configs/a.yaml: no such CONFIG file" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_slurm_array_has_the_cells_of_the_sweep(shell: Shell) -> None:
    knobs: dict[str, object] = {"CONFIGS": DIGITS, "BATCH_SIZES": "32 64", "SEEDS": "0 1"}
    sweep = shell.dry_run("sweep_batch_size.sh", **knobs)
    array = [
        command
        for task in range(4)
        for command in shell.dry_run("slurm_array.sbatch", SLURM_ARRAY_TASK_ID=task, **knobs)
    ]
    assert array == sweep
    listed = shell.run("slurm_array.sbatch", LIST=1, **knobs)
    assert listed.stdout == "--array=0-3\n"
    assert listed.stderr.splitlines()[3] == "3 digits-batch64-seed1"
    assert shell.run("slurm_array.sbatch", SLURM_ARRAY_TASK_ID=4, **knobs).returncode == 2
    assert shell.run("slurm_array.sbatch", **knobs).returncode == 2


def test_cells_that_no_job_of_the_array_runs_are_said(shell: Shell) -> None:
    knobs: dict[str, object] = {"CONFIGS": DIGITS, "BATCH_SIZES": 64, "SEEDS": "0 1 2 3"}
    for end, rest in ((0, "1-3"), (2, "3-3")):
        task = {"SLURM_ARRAY_TASK_ID": 0, "SLURM_ARRAY_TASK_MAX": end}
        result = shell.run("slurm_array.sbatch", DRY_RUN=1, **knobs, **task)
        assert (result.returncode, result.stdout.count("seed=0")) == (0, 1)
        assert result.stderr == (
            f"warning: the --array ends at {end}, and the last cell is 3; for the rest, with the"
            f" same knobs: sbatch --array={rest} scripts/slurm_array.sbatch\n"
        )
    task = {"SLURM_ARRAY_TASK_ID": 0, "SLURM_ARRAY_TASK_MAX": 3}
    shell.dry_run("slurm_array.sbatch", **knobs, **task)  # says nothing else


def test_torchrun_has_most_of_the_time_before_a_slurm_job_ends(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    (shell.folder / "python").write_text(
        f'#!/usr/bin/env bash\nif [[ $* == *train.py* ]]; then echo "${variable}" >>"$LOG"; fi\n'
    )
    (shell.folder / "python").chmod(0o755)
    for given in ({}, {variable: 7}):
        knobs = shell.knobs(PYTHON=shell.folder / "python", SLURM_ARRAY_TASK_ID=0, NPROC=2, **given)
        assert shell.run("slurm_array.sbatch", **knobs).returncode == 0
    assert shell.logged() == ["100", "7"]

    from torch.distributed.launcher.api import LaunchConfig

    if not hasattr(LaunchConfig, "shutdown_timeout"):
        pytest.skip("this torchrun always leaves its processes 30 seconds")
    monkeypatch.setenv(variable, "100")
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1)
    assert config.shutdown_timeout == 100


def test_the_default_array_covers_the_default_cells(shell: Shell) -> None:
    array = shell.run("slurm_array.sbatch", LIST=1).stdout.strip()
    assert f"#SBATCH {array}\n" in (SCRIPTS / "slurm_array.sbatch").read_text()


def test_slurm_may_run_a_copy_of_the_script(shell: Shell) -> None:
    copy = shell.folder / "job" / "slurm_script"
    copy.parent.mkdir()
    copy.write_text((SCRIPTS / "slurm_array.sbatch").read_text())
    knobs: dict[str, object] = {"CONFIGS": DIGITS, "SLURM_ARRAY_TASK_ID": 0}
    commands = shell.dry_run(str(copy), SLURM_SUBMIT_DIR=ROOT, **knobs)
    assert commands == shell.dry_run("slurm_array.sbatch", **knobs)


SLURM_TASK = {"SLURM_ARRAY_TASK_ID": 1, "SLURM_ARRAY_JOB_ID": 42, "SLURM_JOB_ID": 44}


@pytest.mark.parametrize("waiting", [("slurm_array.sbatch", SLURM_TASK)], indirect=True)
def test_a_slurm_job_whose_time_is_up_saves_and_is_queued_again(
    shell: Shell, waiting: subprocess.Popen[str]
) -> None:
    waiting.send_signal(signal.SIGUSR1)
    assert waiting.wait(timeout=30) != 0
    assert shell.logged()[1:] == ["TERM", "scontrol requeue 42_1"]


@pytest.mark.parametrize("waiting", [("slurm_array.sbatch", SLURM_TASK)], indirect=True)
def test_a_cancelled_slurm_job_waits_for_the_trainer_and_is_not_queued_again(
    shell: Shell, waiting: subprocess.Popen[str]
) -> None:
    children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc to find the trainer")
    trainer = int(children.read_text().split()[0])
    waiting.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=0.2)
    os.kill(trainer, signal.SIGTERM)  # Slurm signals every process of the job
    assert waiting.wait(timeout=30) != 0
    assert shell.logged()[1:] == ["TERM"]


@pytest.mark.parametrize("script", ["sweep_batch_size.sh", "sweep_baseline_lr.sh"])
def test_the_default_cells_are_settings_that_train_takes(shell: Shell, script: str) -> None:
    for command in shell.dry_run(script, NPROC=8, MAX_BATCH_PER_GPU=512):
        settings = settings_of(command)
        assert f"-batch{settings.data.batch_size}-" in str(settings.name)
        assert str(settings.name).endswith(f"-seed{settings.seed}")


RESULTS = {  # of the paper's tables and figures
    name: ROOT / "experiments" / name / "results.csv"
    for name in [f"table{n}" for n in range(1, 5)] + [f"figure{n}" for n in range(2, 8)]
}


def cells_of(commands: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """The cells that a report would see in printed commands."""
    monkeypatch.chdir(ROOT)
    return [key_of(row) for row in planned_rows(commands)]


def cells_in(results: Path) -> list[Key]:
    """Rows of ours, but for those of runs with an earlier probe or none, which no script makes."""
    ours = [row for row in read_rows(results) if row["source"] == "ours"]
    return [key_of(row) for row in ours if row["variant"] not in VARIANTS]


@pytest.mark.parametrize("name", RESULTS)
def test_every_cell_of_the_papers_sweeps_has_its_row(
    shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(shell.dry_run("paper.sh", name), monkeypatch)
    if name == "table1":
        cells += cells_of(shell.dry_run("gpu_table1.sh"), monkeypatch)
    assert sorted(set(cells)) == sorted(cells_in(RESULTS[name]))
    assert len(cells) - len(set(cells)) == (36 if name == "table1" else 0)  # CIFAR-10 is in both


@pytest.mark.parametrize(
    ("figure", "table"),
    [("figure2", "table1"), ("figure3", "table2"), ("figure4", "table3"), ("figure7", "table4")],
)
def test_some_figures_show_the_runs_of_a_table(shell: Shell, figure: str, table: str) -> None:
    shown, all_runs = (shell.dry_run("paper.sh", name) for name in (figure, table))
    if figure != "figure7":  # a line of AutoWU with a cosine for each batch size, of one seed
        all_runs = [one for one in all_runs if "_autowu-batch" in one and "-seed0 " in one]
    assert sorted(shown) == sorted(all_runs)


@pytest.mark.parametrize("nproc", [1, 8])
def test_the_papers_cells_are_settings_that_train_takes(shell: Shell, nproc: int) -> None:
    for name in RESULTS:
        for command in shell.dry_run("paper.sh", name, NPROC=nproc):
            settings = settings_of(command)
            assert f"-batch{settings.data.batch_size}-" in str(settings.name)
            per_gpu, rest = divmod(settings.data.batch_size, nproc * settings.accumulate)
            assert rest == 0
            assert per_gpu <= (2048 if settings.data.name.startswith("cifar") else 256)


def test_the_grid_of_figure_5_is_that_of_the_baseline_sweep(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = cells_of(shell.dry_run("paper.sh", "figure5"), monkeypatch)
    assert grid == cells_of(shell.dry_run("sweep_baseline_lr.sh"), monkeypatch)


def test_a_pattern_chooses_among_the_papers_cells(shell: Shell) -> None:
    knobs = {"ONLY": "cifar10_*_baseline-batch8192-*", "SEEDS": "4 5", "MAX_BATCH_PER_GPU": 4096}
    assert shell.dry_run("paper.sh", "table1", OVERRIDES="data.root=/data", **knobs) == [
        "python train.py --config configs/cifar10_resnet18_adamp_baseline.yaml"
        f" output_dir=runs/paper name=cifar10_resnet18_adamp_baseline-batch8192-seed{seed}"
        f" data.batch_size=8192 seed={seed} accumulate=2 data.root=/data"
        for seed in (4, 5)
    ]


@pytest.mark.parametrize(
    ("arguments", "knobs", "message"),
    [
        ([], {}, "usage:"),
        (["table9"], {}, "table9: must be one of figure2 figure3"),
        (["table1"], {"ONLY": "cifar"}, "ONLY=cifar: no cell has such a name"),
        (["table1"], {"SEEDS": "0,1"}, "SEEDS: 0,1 must be"),
        (["table1"], {"MAX_BATCH_PER_GPU": "big"}, "MAX_BATCH_PER_GPU=big: must be"),
    ],
)
def test_a_mistake_in_what_the_paper_has_is_one_line(
    shell: Shell, arguments: list[str], knobs: dict[str, object], message: str
) -> None:
    result = shell.run("paper.sh", *arguments, DRY_RUN=1, **knobs)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_slurm_array_takes_the_papers_cells(shell: Shell) -> None:
    knobs: dict[str, object] = {"ONLY": "*-batch16384-*"}
    sweep = shell.dry_run("paper.sh", "table4", **knobs)
    array = [
        command
        for task in range(3)
        for command in shell.dry_run(
            "slurm_array.sbatch", SWEEP="table4", SLURM_ARRAY_TASK_ID=task, **knobs
        )
    ]
    assert array == sweep
    listed = shell.run("slurm_array.sbatch", LIST=1, SWEEP="table4", **knobs)
    assert listed.stdout == "--array=0-2\n"


def test_the_gpus_cells_come_one_seed_at_a_time_and_the_large_batches_first(shell: Shell) -> None:
    settings = [settings_of(command) for command in shell.dry_run("gpu_table1.sh")]
    full = [one for one in settings if one.epochs == 200]
    assert settings[: len(full)] == full
    assert [one.seed for one in full] == sorted(one.seed for one in full)
    of_a_seed = [one.data.batch_size for one in full if one.seed == 0]
    assert of_a_seed == sorted(of_a_seed, reverse=True)
    assert len(full) == 3 * 4 * 3
    short = settings[len(full) :]
    assert [one.seed for one in short] == sorted(one.seed for one in short)
    assert {one.epochs for one in short} == {10, 30, 60}
    assert len(short) == 3 * 3 * 4 * 3  # budgets, batch sizes, schedules, seeds
    assert {(one.precision, one.channels_last, one.compile) for one in settings} == {
        ("bf16", True, True)
    }
    assert {(one.data.name, one.data.root) for one in settings} == {  # type: ignore[attr-defined]
        ("parquet", "data/cifar10-jpeg")
    }
    assert len({(one.output_dir, one.name) for one in settings}) == len(settings)


def gpu_knobs(shell: Shell, **knobs: object) -> dict[str, object]:
    return {
        "PYTHON": shell.folder / "stub",
        "CONFIGS": DIGITS,
        "BATCH_SIZES": 64,
        "BUDGETS": "",
        "THROUGHPUT": "none",
        "OUTPUT_DIR": shell.folder / "runs",
    } | knobs


def test_a_piece_ends_in_time_and_the_next_one_goes_on(shell: Shell) -> None:
    (shell.folder / "runs").mkdir()
    short = {"PIECE_SECONDS": 4, "SAVE_SECONDS": 2}
    result = shell.run("gpu_table1.sh", **gpu_knobs(shell, WAIT=1, **short))
    assert result.returncode == 75
    assert result.stderr.endswith("there is more to do: run the same command again\n")
    assert shell.seeds_run() == ["seed=0", "seed=1"]
    report = f"-m experiments.report {shell.folder}/runs --into experiments/table1"
    assert shell.logged()[-2:] == ["TERM", report]  # one signal, then the rows

    result = shell.run("gpu_table1.sh", **gpu_knobs(shell))
    assert (result.returncode, shell.logged()[-1]) == (0, report)
    assert shell.seeds_run()[2:] == ["seed=0", "seed=1", "seed=2"]


@pytest.mark.parametrize(
    ("knobs", "status"),
    [({"SEEDS": 0}, 0), ({"SEEDS": 1, "WAIT": 1, "PIECE_SECONDS": 2, "SAVE_SECONDS": 1}, 75)],
)
def test_a_report_that_leaves_runs_out_does_not_end_the_pieces(
    shell: Shell, knobs: dict[str, object], status: int
) -> None:
    (shell.folder / "runs").mkdir()
    result = shell.run("gpu_table1.sh", **gpu_knobs(shell, REPORT_STATUS=1, **knobs))
    assert result.returncode == status
    assert f"the report of {shell.folder}/runs ended with exit code 1\n" in result.stderr


@pytest.mark.parametrize("root", ["/dätä", 'it\'s a "folder"', "back\\slash $HOME"])
def test_the_gpus_data_may_lie_in_a_folder_of_any_name(shell: Shell, root: str) -> None:
    knobs = gpu_knobs(shell, SEEDS=0, DATA_ROOT=root, LC_ALL="C")
    assert shell.run("gpu_table1.sh", **knobs).returncode == 0
    assert f" data.root={root} compile=true " in shell.logged()[0]


def test_a_failed_cell_keeps_no_other_from_its_gpu(shell: Shell) -> None:
    knobs = gpu_knobs(
        shell, FAIL=1, STATUS=2, THROUGHPUT="cpu", BUDGETS="10", BUDGET_CONFIGS=DIGITS
    )
    result = shell.run("gpu_table1.sh", BUDGET_BATCH_SIZES=64, PIECES=3, **knobs)
    assert result.returncode == 1
    assert shell.seeds_run() == ["seed=0", "seed=1", "seed=2"] * 2
    assert shell.logged()[-1] == "-m experiments.throughput.run --device cpu"


@pytest.mark.parametrize(
    "waiting", [("gpu_table1.sh", {"PIECES": 5, "BUDGETS": ""})], indirect=True
)
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_gpus_script_reaches_the_cell_once_and_stops_all(
    shell: Shell, waiting: subprocess.Popen[str], sent: signal.Signals, status: int
) -> None:
    waiting.send_signal(sent)
    assert waiting.wait(timeout=30) == status
    assert shell.seeds_run() == ["seed=0", "seed=1"]
    assert shell.logged()[-1] == sent.name.removeprefix("SIG")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"PIECES": 0}, "PIECES=0: must be"),
        ({"PIECE_SECONDS": "9m"}, "PIECE_SECONDS=9m: must be"),
        ({"PIECE_SECONDS": 30}, "SAVE_SECONDS=40: must be below PIECE_SECONDS"),
    ],
)
def test_a_mistake_in_the_gpus_knobs_is_one_line(
    shell: Shell, knobs: dict[str, object], message: str
) -> None:
    result = shell.run("gpu_table1.sh", **gpu_knobs(shell, **knobs))
    assert result.returncode == 2
    assert message in result.stderr
    assert shell.logged() == []


def test_the_wandb_sweep_has_the_cells_of_the_sweep(shell: Shell) -> None:
    sweep = yaml.safe_load((SCRIPTS / "wandb_sweep.yaml").read_text())
    parameters = {
        key: entry.get("values", [entry.get("value")]) for key, entry in sweep["parameters"].items()
    }
    cells = set(
        itertools.product(parameters["config"], parameters["data.batch_size"], parameters["seed"])
    )
    printed = [shlex.split(line) for line in shell.dry_run("sweep_batch_size.sh")]
    assert cells == {
        (words[words.index("--config") + 1], *(int(word.split("=")[1]) for word in words[-2:]))
        for words in printed
    }
    assert parameters["config"] == DEFAULT_CONFIGS


def test_the_wandb_command_hands_the_parameters_to_train(shell: Shell) -> None:
    sweep = yaml.safe_load((SCRIPTS / "wandb_sweep.yaml").read_text())
    values = {
        key: entry["value"] if "value" in entry else entry["values"][0]
        for key, entry in sweep["parameters"].items()
    } | {"config": DIGITS}
    filled = [
        word
        for chunk in sweep["command"]
        for word in (
            [f"{key}={value}" for key, value in values.items()]
            if chunk == "${args_no_hyphens}"
            else [chunk]
        )
    ]
    result = subprocess.run(
        filled,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "CUDA_VISIBLE_DEVICES": "",
            "DRY_RUN": "1",
            "WANDB_RUN_ID": "a1b2",
            "PYTHON": "python",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == (
        f"python train.py name=a1b2 --config {DIGITS} data.batch_size=256 seed=0"
        " data.root=data output_dir=runs/wandb_sweep tracking.wandb=online\n"
    )
