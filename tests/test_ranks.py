"""Several ranks: they train as one would, stop together, go on bit for bit, and one speaks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fake_data import write_image_folders, write_parquet
from tests.launch import TRAIN, Process, finish, free_port, start, train
from tests.test_train import assert_same_run, metrics_of

pytestmark = pytest.mark.xdist_group("ranks")  # they share runs, so one worker takes them all

# A transformer: without batch statistics, ranks and one process can agree. With stochastic depth
# off; augmented, so that the random numbers of the images are put to the test too.
SETTINGS = [
    "data.name=parquet",
    "data.augment=cifar",
    "data.batch_size=32",
    "model.name=test_vit",
    "optimizer.name=sgd",
    "epochs=8",
    "log_every=3",
    "checkpoint_every=5",
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("images")
    write_parquet(root, num_train=256, num_test=51)
    return [*SETTINGS, f"data.root={root}", f"output_dir={tmp_path_factory.mktemp('runs')}"]


@pytest.fixture(scope="module")
def runs(settings: list[str]) -> Path:
    return Path(settings[-1].partition("=")[2])


@pytest.fixture(scope="module")
def two_ranks(settings: list[str], runs: Path) -> Path:
    """An undisturbed run of two ranks."""
    outcomes = train([*settings, "name=two"], world_size=2)
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert outcomes[1][1:] == ("", "")  # one rank speaks
    assert "test accuracy" in outcomes[0][1]
    assert outcomes[0][2] == ""
    return runs / "two"


def rows(folder: Path) -> list[list[float]]:
    lines = (folder / "steps.csv").read_text().splitlines()[1:]
    return [[float(cell) for cell in line.split(",")] for line in lines]


def summary(folder: Path) -> dict[str, object]:
    return json.loads((folder / "summary.json").read_text())


def test_two_ranks_train_as_one_does(settings: list[str], runs: Path, two_ranks: Path) -> None:
    (outcome,) = train([*settings, "name=one"])
    assert outcome[0] == 0, outcome
    one, two = rows(runs / "one"), rows(two_ranks)
    assert len(one) == len(two) == 64
    for (_, lr, loss), (_, other_lr, other_loss) in zip(one, two, strict=True):
        assert lr == other_lr
        assert loss == pytest.approx(other_loss, abs=1e-4)
    for key in ("switch_step", "start_lr"):
        assert summary(runs / "one")[key] == summary(two_ranks)[key]
    assert (summary(runs / "one")["world_size"], summary(two_ranks)["world_size"]) == (1, 2)
    for line, other in zip(metrics_of(runs / "one"), metrics_of(two_ranks), strict=True):
        # 51 test images on two ranks: each counts once, or the share would not be a 51st.
        assert line["test_accuracy"] == pytest.approx(other["test_accuracy"], abs=100 / 51 + 1e-9)
        assert other["test_accuracy"] * 51 / 100 == pytest.approx(
            round(other["test_accuracy"] * 51 / 100)
        )


COUNT_COLLECTIVES = """
import json, sys
from collections import Counter
import torch.distributed as dist
counts = Counter()
for name in ("all_reduce", "broadcast", "barrier", "all_gather", "gather", "scatter"):
    def counted(*args, name=name, original=getattr(dist, name), **options):
        counts[name] += 1
        return original(*args, **options)
    setattr(dist, name, counted)
from train import main
code = main(sys.argv[1:])
print(json.dumps(counts))
sys.exit(code)
"""


def test_the_trainer_communicates_at_looks_tests_and_evaluations_alone(
    settings: list[str], runs: Path
) -> None:
    """DDP's own collectives are started in C++, and are not counted here."""
    program = ("-c", COUNT_COLLECTIVES)
    outcomes = finish(start([*settings, "name=counted"], world_size=2, program=program))
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    # Looks every 3 steps, before a save every 5, at the end of an epoch of 8, and after the first
    # two, before it is known how long a step takes.
    looks = sum(
        step <= 2 or step % 3 == 0 or step % 5 == 0 or step % 8 == 0 for step in range(1, 65)
    )
    tests = sum(len(line["tests"]) for line in metrics_of(runs / "counted"))
    assert tests > 5
    # After an epoch one for the evaluation, and one in case somebody asked to stop meanwhile. The
    # network has no buffers to be shared.
    probe = 18 + 18  # its steps, in each of which somebody may ask to stop; and their losses
    expected = {"all_reduce": probe + looks + tests + 2 * 8, "broadcast": tests}
    for _, output, _ in outcomes:
        assert json.loads(output.splitlines()[-1]) == expected


def test_two_torchrun_agents_train_as_two_nodes(
    settings: list[str], runs: Path, two_ranks: Path
) -> None:
    agent = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=test"),
        *(str(TRAIN), *settings, "name=nodes"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            agent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    outcomes = finish(nodes)
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert sum("test accuracy" in output for _, output, _ in outcomes) == 1
    assert_same_run(two_ranks, runs / "nodes")


def test_a_signal_to_one_rank_stops_both_and_they_go_on_bit_for_bit(
    settings: list[str], runs: Path, two_ranks: Path
) -> None:
    mine = [*settings, "name=signalled"]
    processes = start(mine, world_size=2)
    wait_for_rows(runs / "signalled", 9, processes)
    processes[1].send_signal(signal.SIGTERM)
    outcomes = finish(processes)
    assert [code for code, _, _ in outcomes] == [143, 143], outcomes
    assert outcomes[0][2].count("\n") == 1
    assert "stopped by SIGTERM, everything is saved" in outcomes[0][2]
    assert outcomes[1][2] == ""
    assert not (runs / "signalled" / "summary.json").exists()
    again = train(mine, world_size=2)
    assert [code for code, _, _ in again] == [0, 0], again
    assert "going on after step" in again[0][1]
    assert_same_run(two_ranks, runs / "signalled")


def test_killed_ranks_go_on_bit_for_bit(settings: list[str], runs: Path, two_ranks: Path) -> None:
    mine = [*settings, "name=killed"]
    kill_after(21, mine, runs / "killed", world_size=2)
    again = train(mine, world_size=2)
    assert [code for code, _, _ in again] == [0, 0], again
    assert_same_run(two_ranks, runs / "killed")


def test_three_ranks_go_on_bit_for_bit_too(settings: list[str], runs: Path) -> None:
    """With more than two, the order of a sum depends on how DDP groups the gradients."""
    three = [*settings, "data.batch_size=48", "model.name=test_efficientnet", "epochs=4"]
    outcomes = train([*three, "name=three"], world_size=3)
    assert [code for code, _, _ in outcomes] == [0] * 3, outcomes
    kill_after(6, [*three, "name=stopped"], runs / "stopped", world_size=3)
    again = train([*three, "name=stopped"], world_size=3)
    assert [code for code, _, _ in again] == [0] * 3, again
    assert "going on after step" in again[0][1]
    assert_same_run(runs / "three", runs / "stopped")


def test_another_number_of_ranks_goes_on_and_says_that_it_is_not_the_same(
    settings: list[str], runs: Path, two_ranks: Path
) -> None:
    mine = [*settings, "name=fewer"]
    processes = start(mine, world_size=2)
    wait_for_rows(runs / "fewer", 9, processes)
    processes[0].send_signal(signal.SIGTERM)
    assert [code for code, _, _ in finish(processes)] == [143, 143]
    ((code, output, error),) = train(mine)
    assert code == 0, error
    assert "with 1 rank instead of 2: not bit for bit" in output
    assert summary(runs / "fewer")["total_steps"] == 64


def kill_after(num_rows: int, settings: list[str], folder: Path, world_size: int) -> None:
    """Start a run, and end all its ranks by SIGKILL when steps.csv has so many rows."""
    processes = start(settings, world_size)
    wait_for_rows(folder, num_rows, processes)
    for process in processes:
        process.kill()
    finish(processes)


def wait_for_rows(folder: Path, count: int, processes: list[Process]) -> None:
    """Until steps.csv has so many rows and a checkpoint is there."""
    until = time.monotonic() + 60
    while time.monotonic() < until and all(process.poll() is None for process in processes):
        if (folder / "last.pt").exists() and len(rows_so_far(folder)) > count:
            return
        time.sleep(0.002)
    raise AssertionError(f"{folder} did not get {count} rows: {finish(processes, timeout=10)}")


def rows_so_far(folder: Path) -> list[str]:
    return (folder / "steps.csv").read_text().splitlines()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.batch_size=31", "data.batch_size=31: must be a multiple of 2: 2 ranks"),
        ("data.root=/nowhere", "data.root=/nowhere: holds no .parquet files"),
        ("model.name=resnet5o", "did you mean resnet50?"),
    ],
)
def test_a_mistake_is_said_by_one_rank_and_ends_both(
    setting: str, said: str, settings: list[str]
) -> None:
    outcomes = train([*settings, "name=bad", setting], world_size=2)
    assert [code for code, _, _ in outcomes] == [2, 2], outcomes
    assert said in outcomes[0][2]
    assert outcomes[0][2].count("\n") == 1
    assert outcomes[1][2] == ""


@pytest.mark.parametrize("file", ["image", "steps.csv"])
def test_what_goes_wrong_on_one_rank_is_one_line_and_no_traceback(
    file: str, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    write_image_folders(root, num_classes=2, per_class=8)
    folder = tmp_path / "run"
    settings = [
        *("data.name=folder", f"data.root={root}", "data.image_size=32", "data.batch_size=16"),
        *("model.name=test_vit", "epochs=60", "data.num_workers=1", "data.augment=none"),
        *(f"output_dir={tmp_path}", "name=run"),
    ]
    if file == "image":  # the second of the test images is read by the second rank alone
        bad = sorted((root / "val").rglob("*.JPEG"))[1]
        bad.write_bytes(bad.read_bytes()[:100])
        processes = start(settings, world_size=2)
    else:
        processes = start(settings, world_size=2)
        wait_for_rows(folder, 1, processes)
        (folder / "steps.csv").unlink()
        (folder / "steps.csv").symlink_to("/dev/full")
    outcomes = finish(processes)
    assert all(code in (1, 2) for code, _, _ in outcomes), outcomes
    errors = outcomes[0][2] + outcomes[1][2]
    assert "Traceback" not in errors
    said = "not a readable image" if file == "image" else "No space left on device"
    assert sum(said in error for _, _, error in outcomes) == 1
    assert errors.count("\n") <= 2  # that line, and that the other rank has ended


def test_two_ranks_come_back_from_a_divergence_as_one_does(settings: list[str], runs: Path) -> None:
    # What an adaptive sweep does at the edge hangs on the last bit of the losses.
    lost = [*settings, "schedule.max_lr=1e20", "schedule.patience=100", "schedule.sweep=fixed"]
    lost.append("accumulate=2")
    for name, world_size in (("lost1", 1), ("lost2", 2)):
        outcomes = train([*lost, f"name={name}"], world_size)
        assert all(code == 0 for code, _, _ in outcomes), outcomes
        assert "going on from the weights" in outcomes[0][1]
    keys = ("diverged", "restored_step", "switch_step", "start_lr")
    one, two = ([summary(runs / name)[key] for key in keys] for name in ("lost1", "lost2"))
    assert one == two
    assert one[0] is True


def test_ranks_with_different_settings_do_not_train(settings: list[str], runs: Path) -> None:
    outcomes = finish(start([*settings, "name=apart"], world_size=2, own={1: ["log_every=5"]}))
    assert [code for code, _, _ in outcomes] == [2, 2], outcomes
    assert "log_every=5 (rank 1): must be the same on all ranks" in outcomes[0][2]
    assert (outcomes[0][2].count("\n"), outcomes[1][2]) == (1, "")
    assert not (runs / "apart").exists()


def test_a_mistake_of_one_rank_is_that_of_all(settings: list[str], tmp_path: Path) -> None:
    """The images are missing on the second node alone."""
    nowhere = {1: [f"data.root={tmp_path}"]}
    outcomes = finish(start([*settings, "name=half"], world_size=2, own=nowhere))
    assert [code for code, _, _ in outcomes] == [2, 2], outcomes
    assert f"data.root={tmp_path}: holds no .parquet files (rank 1)" in outcomes[0][2]
    assert outcomes[1][2] == ""
