"""experiments/report.py and what the paper's folders draw, on run directories made by hand."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments.collect import COLUMNS, Row, run_row
from experiments.curves import draw_curves, thin
from experiments.figure7 import plot as figure7
from experiments.paper import (
    LOOKS,
    cell_text,
    comparison_table,
    draw_accuracies,
    full_budget,
    mean_and_deviation,
    whiskers,
    with_looks,
)
from experiments.report import compare, main, summarize, to_markdown
from experiments.table1.plot import label_of
from experiments.table1.scheduler_share import IDENTITY
from experiments.tables import read_rows, write_rows

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
SUMMARY = {
    "test_accuracy": 90.0,
    "best_test_accuracy": 99.9,
    "schedule": "autowu",
    "switch_step": 40,
    "start_lr": 0.0123456789,
    "diverged": False,
    "epochs": 8,
    "steps_per_epoch": 11,
    "total_steps": 88,
    "seconds": 1.25,
    "images_per_second": 1000.0,
    "world_size": 1,
    "device": "cpu",
    "versions": {"torch": "2.15.0"},
    "commit": "0123456789abcdef0123456789abcdef01234567-dirty",
}
AUTOWU = "schedule: {name: autowu}"
BASELINE = "optimizer: {lr: 0.001}\nschedule: {name: warmup_cosine}"


def write_run(
    folder: Path,
    config: str,
    seed: int,
    accuracy: float,
    *,
    batch_size: int = 128,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run of 8 epochs on digits, as far as a report reads it."""
    run = folder / f"{config}-batch{batch_size}-seed{seed}"
    run.mkdir(parents=True)
    schedule = BASELINE if config.endswith("baseline") else AUTOWU
    (run / "config.yaml").write_text(
        f"data: {{name: digits, batch_size: {batch_size}}}\nepochs: 8\nseed: {seed}\n{schedule}\n"
    )
    (run / "summary.json").write_text(
        json.dumps({**SUMMARY, "test_accuracy": accuracy, **(summary or {})})
    )
    return run


def report(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def results(folder: Path) -> list[Row]:
    return read_rows(folder / "results.csv")


def only(rows: list[Row], **columns: str) -> Row:
    (row,) = [row for row in rows if columns.items() <= row.items()]
    return row


def test_a_run_is_a_row_with_its_commit_device_and_final_accuracy(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "digits", 3, 97.5)
    (run / "metrics.jsonl").write_text(
        '{"timing": {"seconds": 1.0, "data_wait": 0.1, "gpu_memory_gib": 2.5}}\n'
        '{"timing": {"seconds": 3.0, "data_wait": 0.3, "gpu_memory_gib": 2.0}}\n'
    )
    assert report(tmp_path / "runs", "--into", tmp_path / "out") == 0
    (row,) = results(tmp_path / "out")
    assert tuple(row) == COLUMNS
    expected = {
        "source": "ours",
        "status": "done",
        "config": "digits",
        "variant": "",
        "method": "AutoWU + cos",
        "epochs": "8",
        "batch_size": "128",
        "max_warmup_fraction": "0.5",
        "seed": "3",
        "n": "1",
        "test_accuracy": "97.500000",
        "switch_step": "40",
        "start_lr": "0.0123457",
        "total_steps": "88",
        "data": "digits",
        "data_wait": "0.2500",  # (0.1 + 0.9) / 4
        "gpu_memory_gib": "2.50",
        "commit": "0123456789-dirty",
        "device": "cpu",
    }
    assert expected.items() <= row.items()


def test_the_accuracy_of_the_best_epoch_is_nowhere(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "digits", 0, 97.5)
    report(tmp_path / "runs", "--into", tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert "99.9" not in file.read_text()


def test_a_rerun_changes_nothing(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs", "digits", seed, 97.5 + seed)
        write_run(tmp_path / "runs", "digits_baseline", seed, 97.0)
    report(tmp_path / "runs", "--into", tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert set(before) == {"results.csv", "summary.csv", "summary.md"}
    assert report(tmp_path / "runs", "--into", tmp_path / "out") == 0
    assert report("--into", tmp_path / "out") == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


PLAN = [
    "python train.py --config configs/digits.yaml output_dir=runs"
    f" name=digits-batch128-seed{seed} data.batch_size=128 seed={seed} epochs=8"
    for seed in (0, 1)
]


def test_a_planned_cell_is_not_run_until_its_run_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "plan").write_text("\n".join([*PLAN, PLAN[0]]))
    into = ("--into", tmp_path / "out")
    assert report("--plan", tmp_path / "plan", *into) == 0
    first, second = results(tmp_path / "out")
    cell = {"source", "status", "config", "method", "epochs", "batch_size", "seed"}
    assert {name for name, value in first.items() if value} == cell | {"max_warmup_fraction"}
    assert {first["status"], second["status"]} == {"not run"}
    assert "not run" in (tmp_path / "out" / "summary.md").read_text()

    write_run(tmp_path / "runs", "digits", 1, 95.0)
    assert report(tmp_path / "runs", *into) == 0
    assert [row["status"] for row in results(tmp_path / "out")] == ["not run", "done"]
    line = only(read_rows(tmp_path / "out" / "summary.csv"), config="digits")
    assert (line["n"], line["mean"], line["deviation"]) == ("1", "95.000", "n/a")


def test_runs_of_other_cells_are_left_out_unless_they_are_to_be_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "digits", 0, 95.0)
    report(tmp_path / "runs", "--into", tmp_path / "out")
    write_run(tmp_path / "runs", "digits", 1, 96.0)
    report(tmp_path / "runs", "--into", tmp_path / "out")
    assert "left out: 1 runs" in capsys.readouterr().out
    assert [row["seed"] for row in results(tmp_path / "out")] == ["0"]
    report(tmp_path / "runs", "--into", tmp_path / "out", "--add")
    assert [row["seed"] for row in results(tmp_path / "out")] == ["0", "1"]


def test_a_finished_row_is_kept_unless_it_is_to_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "digits", 0, 95.0)
    report(tmp_path / "runs", "--into", tmp_path / "out")
    write_run(tmp_path / "again", "digits", 0, 96.0)
    report(tmp_path / "again", "--into", tmp_path / "out")
    assert "kept: digits-batch128-seed0 (8 epochs)" in capsys.readouterr().out
    assert results(tmp_path / "out")[0]["test_accuracy"] == "95.000000"
    report(tmp_path / "again", "--into", tmp_path / "out", "--replace")
    assert results(tmp_path / "out")[0]["test_accuracy"] == "96.000000"


def test_the_summary_is_the_paired_t_test_done_by_hand(tmp_path: Path) -> None:
    ours, baseline = [97.0, 96.0, 98.5], [96.0, 95.5, 96.0]
    for seed in range(3):
        write_run(tmp_path / "runs", "digits", seed, ours[seed])
        write_run(tmp_path / "runs", "digits_baseline", seed, baseline[seed])
    write_run(tmp_path / "runs", "digits_baseline", 0, 10.0, batch_size=32)  # another cell
    report(tmp_path / "runs", "--into", tmp_path / "out")
    line = only(read_rows(tmp_path / "out" / "summary.csv"), config="digits")
    # Differences 1.0, 0.5, 2.5: their mean 4/3, their variance (1/9 + 25/36 + 49/36) / 2.
    deviation = math.sqrt((1 / 9 + 25 / 36 + 49 / 36) / 2)
    t = (4 / 3) / (deviation / math.sqrt(3))
    p = 1 - t / math.sqrt(2 + t * t)  # Student's t with 2 degrees of freedom, both sides
    assert line["mean"] == "97.167"
    assert line["deviation"] == f"{math.sqrt((1 / 36 + 49 / 36 + 16 / 9) / 2):.3f}"
    assert (line["n"], line["pairs"], line["difference"]) == ("3", "3", "1.333")
    assert line["difference_deviation"] == f"{deviation:.3f}"
    assert float(line["p_value"]) == pytest.approx(p, abs=5e-5)


def test_only_equal_seeds_are_pairs() -> None:
    line = compare({"0": 90.0, "1": 80.0, "5": 10.0}, {"1": 70.0, "0": 89.0, "7": 1.0})
    assert (line["pairs"], line["difference"]) == ("2", "5.500")


@pytest.mark.parametrize(
    ("ours", "baseline", "difference"),
    [
        ({"0": 90.0}, {"0": 89.0}, "1.000"),  # one pair
        ({"0": 90.0}, {"1": 89.0}, "n/a"),  # none
        ({"0": 90.000001, "1": 91.0}, {"0": 89.0, "1": 90.0}, "1.000"),  # equal but for rounding
    ],
)
def test_there_is_no_p_without_a_spread(
    ours: dict[str, float], baseline: dict[str, float], difference: str
) -> None:
    line = compare(ours, baseline)
    assert (line["difference"], line["p_value"]) == (difference, "n/a")


def test_runs_on_other_data_are_another_line(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "digits", 0, 95.0)
    run = write_run(tmp_path / "runs", "digits", 1, 85.0)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: digits", "name: cifar10"))
    report(tmp_path / "runs", "--into", tmp_path / "out")
    lines = read_rows(tmp_path / "out" / "summary.csv")
    assert sorted((line["data"], line["mean"]) for line in lines) == [
        ("cifar10", "85.000"),
        ("digits", "95.000"),
    ]


def damage(runs: Path, what: str | None) -> None:
    run = write_run(runs, "digits", 0, 95.0)
    if what == "json":
        (run / "summary.json").write_text("{")
    elif what == "empty":
        (run / "summary.json").write_text("{}")
    elif what in ("high", None):
        (run / "summary.json").write_text(json.dumps({**SUMMARY, "test_accuracy": what}))
    elif what == "config":
        (run / "config.yaml").unlink()
    elif what == "yaml":
        (run / "config.yaml").write_text("epochs: [8\nseed: 0\n")
    elif what == "half a line":
        (run / "metrics.jsonl").write_text('{"timi\n{"timing": {"seconds": 1.0}}\n')
    elif what == "no seconds":
        (run / "metrics.jsonl").write_text('{"timing": {"data_wait": 1.0}}\n')
    elif what == "name":
        run.rename(runs / "digits-seed0")
    elif what == "other batch":
        run.rename(runs / "digits-batch64-seed0")
    elif what == "twice":
        write_run(runs / "more", "digits", 0, 96.0)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("json", "summary.json: cannot be read"),
        ("empty", "summary.json: has no test_accuracy"),
        ("high", "summary.json: "),
        (None, "summary.json: "),
        ("config", "config.yaml"),
        ("yaml", "config.yaml: not valid YAML"),
        ("half a line", "metrics.jsonl: is not a line of JSON an epoch"),
        ("no seconds", "metrics.jsonl: is not a line of JSON an epoch"),
        ("name", "digits-seed0: must be called <config>-batch<B>[-<variant>]-seed<S>"),
        ("other batch", "digits-batch64-seed0: its settings have batch_size=128"),
        ("twice", "the same cell as "),
    ],
)
def test_a_damaged_run_is_one_line_and_the_rest_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str | None, message: str
) -> None:
    damage(tmp_path / "runs", what)
    write_run(tmp_path / "runs", "digits", 1, 97.0)
    assert report(tmp_path / "runs", "--into", tmp_path / "out") == 1
    output, error = capsys.readouterr()
    assert error.startswith("report: left out: ")
    assert message in error
    assert error.count("\n") == 1
    assert "1 of 1 cells are done" in output
    assert [row["seed"] for row in results(tmp_path / "out")] == ["1"]


def test_every_damaged_run_is_said_and_the_row_it_had_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / "runs", "digits", seed, 97.0) for seed in range(3)]
    assert report(tmp_path / "runs", "--into", tmp_path / "out") == 0
    before = results(tmp_path / "out")
    for run in runs[:2]:
        (run / "config.yaml").unlink()
    assert report(tmp_path / "runs", "--into", tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(str(run) in line for run, line in zip(runs, lines, strict=False))
    assert results(tmp_path / "out") == before


def test_other_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.csv").write_text("method,accuracy\nautowu,95\n")
    (tmp_path / "plan").write_text("python other.py\n")
    for arguments, message in (
        ([tmp_path / "none"], f"{tmp_path / 'none'}: no such folder"),
        ([], "has not the columns"),
        (["--plan", tmp_path / "plan"], "not a command that runs train.py"),
        (["--plan", tmp_path / "gone"], "No such file"),
    ):
        into = tmp_path if message == "has not the columns" else tmp_path / "out"
        assert report(*arguments, "--into", into) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_what_train_writes_can_be_collected(tmp_path: Path) -> None:
    from tests.test_train import load_main

    overrides = ["epochs=1", "data.batch_size=479", f"output_dir={tmp_path}"]
    name = "digits-batch479-lr0.01-seed2"
    arguments = ["schedule.name=onecycle", "optimizer.lr=0.01", "seed=2", f"name={name}"]
    assert load_main()(["--config", str(ROOT / "configs/digits.yaml"), *overrides, *arguments]) == 0
    row = run_row(tmp_path / name)
    summary = json.loads((tmp_path / name / "summary.json").read_text())
    assert float(row["test_accuracy"]) == pytest.approx(summary["test_accuracy"], abs=1e-6)
    assert (row["variant"], row["total_steps"], row["method"]) == ("lr0.01", "3", "onecycle")


def test_the_scheduler_alone_makes_the_tests_of_its_run(tmp_path: Path) -> None:
    from experiments.table1 import scheduler_share
    from tests.test_train import load_main

    for name, more in (
        ("digits-batch64-seed0", []),
        ("digits_baseline-batch64-seed0", ["schedule.name=onecycle", "optimizer.lr=0.01"]),
    ):
        overrides = ["epochs=2", "data.batch_size=64", f"output_dir={tmp_path}", f"name={name}"]
        config = ["--config", str(ROOT / "configs/digits.yaml")]
        assert load_main()([*config, *overrides, *more]) == 0
    scheduler_share.main([str(tmp_path), "--output", str(tmp_path / "scheduler.csv")])
    (row,) = read_rows(tmp_path / "scheduler.csv")  # nothing of the run without AutoWU
    assert (row["source"], row["status"], row["variant"]) == ("ours", "done", "")
    lines = (tmp_path / "digits-batch64-seed0" / "metrics.jsonl").read_text().splitlines()
    assert int(row["tests"]) == sum(len(json.loads(line)["tests"]) for line in lines) > 0
    summary = json.loads((tmp_path / "digits-batch64-seed0" / "summary.json").read_text())
    assert float(row["run_seconds"]) == pytest.approx(summary["seconds"], abs=0.051)
    share = float(row["scheduler_seconds"]) / float(row["run_seconds"])
    # Both are rounded, and the share is that of the seconds before they were.
    assert 0 < float(row["share"]) == pytest.approx(share, rel=0.2, abs=1e-3)


def test_rows_of_the_share_whose_runs_are_gone_stay(tmp_path: Path) -> None:
    from experiments.table1 import scheduler_share

    output = tmp_path / "scheduler.csv"
    rows = read_rows(EXPERIMENTS / "table1" / "scheduler.csv")
    write_rows(output, rows)
    with pytest.raises(SystemExit, match="no finished run of AutoWU, nothing is written"):
        scheduler_share.main([str(tmp_path), "--output", str(output)])
    again, other = rows[0] | {"share": "0.5"}, rows[0] | {"seed": "1"}
    assert scheduler_share.merged(rows, [again, other]) == [again, *rows[1:], other]
    assert read_rows(output) == rows


HEADER = re.compile(r"(\d+K?) (\d+\.\d+)(?: \((\d+\.\d+)\))?")


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4"])
def test_published_rows_agree_with_the_headers_of_the_configs(table: str) -> None:
    """Two transcriptions of the paper, made apart."""
    published = [row for row in results(EXPERIMENTS / table) if row["source"] == "published"]
    assert len(published) == {"table1": 36, "table2": 24, "table3": 24, "table4": 12}[table]
    for config in {row["config"] for row in published}:
        text = (ROOT / "configs" / f"{config}.yaml").read_text()
        paper = re.search(r"# Paper, accuracy.*?by batch size: (.*?)\.\n", text, re.DOTALL)
        assert paper
        in_header = {
            str(int(size.removesuffix("K")) * (1024 if size.endswith("K") else 1)): (mean, spread)
            for size, mean, spread in HEADER.findall(re.sub(r"\n# +", " ", paper[1]))
        }
        in_rows = {
            row["batch_size"]: (row["test_accuracy"], row["deviation"])
            for row in published
            if row["config"] == config
        }
        assert in_rows == in_header


@pytest.mark.parametrize(
    "folder", [f"table{n}" for n in range(1, 5)] + [f"figure{n}" for n in range(2, 8)]
)
def test_every_table_and_figure_has_its_folder(folder: str) -> None:
    path = EXPERIMENTS / folder
    text = (path / "README.md").read_text()
    assert "needs a GPU" in "".join(text.splitlines()[:3])
    assert "**Claim**" in text
    assert (path / "sweep.sh").exists()
    assert (path / "plot.py").exists()
    assert f"]({folder}.png)" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (path / link).exists()
    assert results(path)
    for row in results(path):
        assert tuple(row) == COLUMNS
        if row["status"] == "not run":
            assert not any(row[name] for name in COLUMNS[COLUMNS.index("n") :])


@pytest.mark.parametrize(
    "path", sorted(EXPERIMENTS.glob("*/summary.md")), ids=lambda path: path.parent.name
)
def test_a_committed_summary_is_that_of_its_rows(path: Path) -> None:
    lines = summarize(results(path.parent))
    assert read_rows(path.with_name("summary.csv")) == lines
    assert path.read_text() == to_markdown(lines) + "\n"


def test_each_share_of_the_scheduler_is_of_one_run_of_table_1() -> None:
    shares = read_rows(EXPERIMENTS / "table1" / "scheduler.csv")
    assert [row["variant"] for row in shares] == ["noprobe", "noprobe", "", "noprobe"]
    for share in shares:
        identity = {name: share[name] for name in IDENTITY}
        run = only(results(EXPERIMENTS / "table1"), seconds=share["run_seconds"], **identity)
        assert run["variant"] or run["method"] == "published AutoWU + cos"


@pytest.mark.parametrize(
    "path",
    [path.parent for path in sorted(EXPERIMENTS.glob("*/README.md"))],
    ids=lambda path: path.name,
)
def test_every_experiment_has_rows_and_a_picture(path: Path) -> None:
    rows = results(path)
    assert {"source", "status", "seed", "commit", "device"} <= set(rows[0])
    assert {row["status"] for row in rows} <= {"done", "not run"}
    text = (path / "README.md").read_text()
    if any(row["device"].startswith(("cuda", "NVIDIA")) for row in rows):
        assert "needs a GPU" in "".join(text.splitlines()[:3])
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", text)
    assert pictures
    assert all((path / picture).exists() for picture in pictures)


def test_the_panels_of_runs_that_are_not_there_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    rows = results(EXPERIMENTS / "figure7")
    figure7.draw(rows, tmp_path / "empty.png")
    run = rows[0] | {"status": "done", "start_lr": "0.01"}
    figure7.draw([run, *rows[1:]], tmp_path / "one.png")
    point = dict.fromkeys(("epoch", "lr", "loss"), "1") | {"seed": "0", "batch_size": "64"}
    panels = ("lr", "loss")
    for points in ([], [point | {"config": "a_autowu"}]):
        draw_curves(points, "row", "batch_size", panels, tmp_path / "curves.png", ["a", "b"])
    texts = [[[text.get_text() for text in axes.texts] for axes in one.axes] for one in drawn]
    assert texts == [[["not run"]], [[]], [["not run"]] * 4, [[], ["not run"]] * 2]
    legends = [[text.get_text() for text in one.legends[0].get_texts()] for one in drawn[:2]]
    assert legends[0] == ["0.125, not run", "0.25, not run", "0.5, not run"]
    assert legends[1] == ["0.125, not run", "0.25, not run", "0.5"]


def test_the_readme_tables_are_those_of_the_rows() -> None:
    for number in range(1, 4):
        folder = EXPERIMENTS / f"table{number}"
        table = comparison_table(results(folder), label_of)
        assert table in (folder / "README.md").read_text()


def test_published_numbers_stand_beside_ours() -> None:
    empty = dict.fromkeys(COLUMNS, "")
    cell = empty | {"config": "x_autowu", "method": "m", "epochs": "2", "batch_size": "64"}
    done = cell | {"source": "ours", "status": "done", "data": "digits"}
    rows = [
        cell | {"source": "published", "status": "done", "test_accuracy": "96.20",
                "deviation": "0.03", "n": "3"},
        done | {"seed": "0", "test_accuracy": "95.0"},
        done | {"seed": "1", "test_accuracy": "97.0"},
        cell | {"source": "ours", "status": "not run", "seed": "2"},
        cell | {"source": "ours", "status": "not run", "batch_size": "128", "seed": "0"},
        done | {"epochs": "1", "seed": "0", "test_accuracy": "11.0"},  # a shorter budget
    ]  # fmt: skip
    assert comparison_table(rows, lambda row: row["method"]).splitlines()[2:] == [
        "| m | published | 96.20 ± 0.03 | - |",
        "| m | ours | 96.00 ± 1.41 (n = 2, digits) | not run |",
    ]


def test_runs_on_several_data_sets_have_no_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = dict.fromkeys(COLUMNS, "") | {"config": "x_autowu", "epochs": "2", "batch_size": "64"}
    done = cell | {"source": "ours", "status": "done", "start_lr": "0.01"}
    rows = [
        done | {"data": data, "seed": str(seed), "test_accuracy": accuracy}
        for seed, (data, accuracy) in enumerate(
            [("parquet", "90.0"), ("cifar10", "95.0"), ("cifar10", "97.0"), ("parquet", "91.0")]
        )
    ]
    apart = "90.50 ± 0.71 (n = 2, parquet), 96.00 ± 1.41 (n = 2, cifar10)"
    assert cell_text(rows) == apart
    assert comparison_table(rows, lambda row: "m").splitlines()[2:] == [f"| m | ours | {apart} |"]
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_accuracies(rows, lambda row: "m", tmp_path / "picture.png")
    means = [(line.get_label(), *line[0].get_ydata()) for line in drawn[0].axes[0].containers]
    assert means == [("m, ours, cifar10", 96.0), ("m, ours, parquet", 90.5)]
    with pytest.raises(ValueError, match=r"x_autowu: runs on several data sets \(parquet, cifar10"):
        mean_and_deviation(rows)
    with pytest.raises(ValueError, match=r"runs on several data sets \(parquet, cifar10\)"):
        figure7.start_lrs(rows, "")


def test_one_run_has_no_cap_of_its_deviation() -> None:
    assert str(whiskers([0.5, 0.0, None])) == "[0.5, 0.0, nan]"


def test_no_line_of_a_table_is_left_out_of_its_picture() -> None:
    for number in range(1, 5):
        labels = dict.fromkeys(map(label_of, full_budget(results(EXPERIMENTS / f"table{number}"))))
        drawn = dict(with_looks(labels))
        assert list(drawn) == list(labels)
        assert len({str(look) for look in drawn.values()}) == len(labels)
    with pytest.raises(ValueError, match=r"7 lines \(0, 1, 2, 3, 4, 5, 6\), and only 6 LOOKS"):
        with_looks(str(number) for number in range(len(LOOKS) + 1))


def test_curves_are_thinned_to_stretches_with_the_mean_loss() -> None:
    steps = [{"step": str(i), "lr": str(i / 1000), "loss": str(float(i % 3))} for i in range(600)]
    points = thin(steps, steps_per_epoch=30)
    assert len(points) == 200
    assert points[0] == {"epoch": "0.1", "lr": "0.002", "loss": "1"}
    assert points[-1] == {"epoch": "20", "lr": "0.599", "loss": "1"}
    assert len(thin(steps[:7], steps_per_epoch=7)) == 7
