"""What the experiments run and report: the cells, which of them are left, and what tables say."""

import math
import re
import runpy
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch.optim import SGD

from autowu import AutoWU
from autowu.sweep import Piece
from experiments.budgets import plot as budgets_plot
from experiments.budgets.run import BUDGETS, METHODS, TUNED, UNTUNED, cells, tuned_cells
from experiments.divergence import run as divergence
from experiments.divergence.run import DisturbedCell, with_noisy_labels
from experiments.divergence.run import cells as divergence_cells
from experiments.finetuning import run as finetuning
from experiments.finetuning import transfer
from experiments.finetuning.run import cells as fine_tuning_cells
from experiments.loss_scale import run as loss_scale
from experiments.loss_scale.run import cells as scale_cells
from experiments.memorisation import run as memorisation
from experiments.memorisation.run import cells as memorisation_cells
from experiments.optimizers import run as optimizers
from experiments.optimizers.run import OptimizerCell
from experiments.optimizers.run import cells as optimizer_cells
from experiments.overshoot.run import FIRST_LR, given_lrs
from experiments.sweep.run import PARTS, simulated_cells
from experiments.sweep.run import cells as sweep_cells
from experiments.sweep.simulation import final_loss
from experiments.sweep.variants import VARIANTS, HeldSweep
from experiments.tables import (
    append_row,
    done_rows,
    put_between_marks,
    read_rows,
    save_figure,
    write_rows,
)
from experiments.training.cells import add_not_run, run_cells
from experiments.training.figures import dots, rows_of_dots
from experiments.training.summary import mean_text
from experiments.training.tasks import digits
from experiments.training.trial import Recipe, train
from tests.square import Square

NOWHERE = Path("nowhere")
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ROOT = EXPERIMENTS.parent
# What a reader may call: by their names, or because a text tells him to, with or without a main.
TEXTS = [
    path.read_text(encoding="utf-8")
    for pattern in ("*.md", "experiments/**/*.py", "experiments/**/*.md", "scripts/*")
    for path in ROOT.glob(pattern)
    if path.is_file()
]
COMMANDS = sorted(
    {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in EXPERIMENTS.rglob("*.py")
        if path.stem in ("run", "plot") or '__name__ == "__main__"' in path.read_text("utf-8")
    }
    | {name for text in TEXTS for name in re.findall(r"-m (experiments(?:\.\w+)+)", text)}
)
ROWS_KEPT = [name for name in COMMANDS if re.search(r"\.(run|lars|live|paths)$", name)]


def test_finished_cells_are_not_run_again_and_the_rest_is_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "squares" / "results.csv"
    path.parent.mkdir()
    run_cells(path, [Square(2), Square(3)], processes=1)
    # From here on without importing torch anew.
    monkeypatch.setattr("experiments.training.cells.get_context", lambda _: get_context("fork"))
    run_cells(path, [Square(2), Square(3), Square(4)], processes=1)
    assert "2 of 3 runs are there" in capsys.readouterr().out
    run_cells(path, [Square(3), Square(4)], processes=1)
    expected = f"2 of 2 runs are there (in {path.resolve()}; --results FILE makes them anew)\n"
    assert capsys.readouterr().out == expected
    add_not_run(path, [Square(4), Square(5)])
    rows = [(row["number"], row["square"], row["status"]) for row in read_rows(path)]
    done = [("2", "4", "done"), ("3", "9", "done"), ("4", "16", "done")]
    assert rows == [*done, ("5", "", "not run")]
    assert all(row["commit"] and row["device"] for row in read_rows(path)[:3])
    run_cells(path, [Square(5)], processes=1)
    assert [row["status"] for row in read_rows(path)] == ["done"] * 4


@pytest.mark.parametrize(
    "every",
    [
        [
            cell
            for task, epochs, sizes in BUDGETS
            for size in sizes
            for method in (TUNED, UNTUNED, *METHODS)
            for cell in cells(NOWHERE, method, task, epochs, size)
        ],
        scale_cells(NOWHERE),
        optimizer_cells(NOWHERE),
        divergence_cells(NOWHERE),
        fine_tuning_cells(NOWHERE),
        memorisation_cells(NOWHERE),
        [cell for part in PARTS for cell in sweep_cells(part, NOWHERE)],
        simulated_cells(),
    ],
    ids=[
        *("budgets", "loss_scale", "optimizers", "divergence", "finetuning", "memorisation"),
        *("sweep", "simulated"),
    ],
)
def test_no_two_cells_have_the_same_key(every: list[Any]) -> None:
    keys = [tuple(cell.key().values()) for cell in every]
    assert len(keys) == len(set(keys)) > 20


@pytest.mark.parametrize(
    "experiment", [loss_scale, optimizers, divergence, finetuning, memorisation]
)
def test_a_report_says_which_runs_are_missing(
    experiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(experiment.__file__).parent
    rows = read_rows(folder / "results.csv")
    readme = tmp_path / "README.md"
    readme.write_text((folder / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(experiment, "FOLDER", tmp_path)
    write_rows(tmp_path / "results.csv", rows[:-3])
    add_not_run(tmp_path / "results.csv", experiment.cells(NOWHERE))
    assert len(read_rows(tmp_path / "results.csv")) == len(rows)
    experiment.report(done_rows(tmp_path / "results.csv"))
    assert len(list(tmp_path.glob("*.png"))) == 1
    experiment.report([])
    assert "not run" in readme.read_text(encoding="utf-8") or experiment is loss_scale


def test_a_row_of_other_columns_is_refused_and_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    append_row(path, {"a": 1, "b": 2})
    with pytest.raises(ValueError, match=r"has the columns \['a', 'b'\], and the row \['b', 'a'\]"):
        append_row(path, {"b": 2, "a": 1})
    write_rows(path, [{"c": 3}])
    assert read_rows(path) == [{"c": "3"}]
    write_rows(path, [])
    assert read_rows(path) == []


def test_the_tuned_baseline_is_the_best_of_its_whole_grid() -> None:
    grid = cells(NOWHERE, TUNED, "digits", 5, 128)
    rows = [
        cell.key() | {"status": "done", "test_accuracy": "90.0", "train_loss": str(index)}
        for index, cell in enumerate(grid)
    ]
    rows[3] |= {"test_accuracy": "95.0"}
    rows[6] |= {"test_accuracy": "95.0", "train_loss": "0.1"}
    assert tuned_cells(rows[:-1], NOWHERE, "digits", 5, 128) == []
    others = tuned_cells(rows, NOWHERE, "digits", 5, 128)
    assert [cell.seed for cell in others] == [1, 2, 3, 4]
    assert {(cell.lr, cell.warmup) for cell in others} == {(grid[6].lr, grid[6].warmup)}

    found = [
        cell.key() | {"status": "done", "test_accuracy": "94.0", "train_loss": "1"}
        for cell in others
    ]
    values = budgets_plot.accuracies([*rows, *found], ("digits", 5, 128), TUNED)
    assert values == {"0": 95.0} | dict.fromkeys(("1", "2", "3", "4"), 94.0)
    assert budgets_plot.difference({"0": 95.0, "1": 93.5}, values) == ("-0.25 ± 0.35", True)
    assert budgets_plot.difference({}, values) == ("not run", None)


def test_a_trial_is_the_same_twice_and_says_what_was_found() -> None:
    runs = [train(digits(), Recipe(), batch_size=479, epochs=20, seed=3) for _ in range(2)]
    assert runs[0].losses == runs[1].losses and runs[0].lrs == runs[1].lrs
    assert runs[0].switch_step is not None and 5 < runs[0].switch_step <= 30
    assert len(runs[0].losses) == runs[0].total_steps == 60
    assert runs[0].test_accuracy > 80
    columns = runs[0].columns()
    assert float(columns["test_accuracy"]) == pytest.approx(runs[0].test_accuracy, abs=1e-3)


def test_a_variant_of_the_sweep_takes_the_place_of_the_scheduler() -> None:
    outcomes = {
        name: train(digits(), Recipe(schedule=VARIANTS[name]), batch_size=479, epochs=20, seed=0)
        for name in ("fixed", "adaptive", "at most 10 % a step after the fall")
    }
    reached = {name: max(outcome.lrs[:30]) for name, outcome in outcomes.items()}
    assert reached["adaptive"] < reached["at most 10 % a step after the fall"] < reached["fixed"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_the_quadratic(name: str) -> None:
    loss, scheduler = final_loss(VARIANTS[name], 500, 30.0, seed=0)
    assert loss < -1
    assert scheduler.start_lr is not None and 0.005 < scheduler.start_lr < 0.2


def test_a_nan_has_no_gradient_and_a_spike_has_its_own() -> None:
    import torch

    loss = torch.tensor(2.0, requires_grad=True)
    for condition, value, gradient in (("NaN", float("nan"), 0.0), ("spikes", 200.0, 100.0)):
        cell = DisturbedCell(condition, "autowu", 0)
        disturbed = [cell.disturb(step, loss) for step in range(300)]
        changed = [one for one in disturbed if one is not loss]
        assert 0 < len(changed) < 20
        (found,) = torch.autograd.grad(changed[0], loss, retain_graph=True)
        assert float(found) == gradient
        assert float(changed[0]) == value or value != value


def test_noisy_labels_are_a_fraction_of_the_training_labels() -> None:
    changed = (with_noisy_labels(0.4).labels != digits().labels).float().mean().item()
    assert changed == pytest.approx(0.4 * 0.9, abs=0.04)
    assert with_noisy_labels(0.4).test_labels is digits().test_labels


def test_fine_tuning_begins_with_what_was_trained_on_the_other_labels_and_a_new_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = []

    def train_and_note(task: Any, *args: Any, **settings: Any) -> Any:
        tasks.append(task)
        return train(task, *args, **settings)

    monkeypatch.setattr(transfer, "train", train_and_note)
    short = transfer.Source(700, batch_size=350, epochs=1, lr=0.001)
    monkeypatch.setitem(transfer.SOURCES, "digits_vit", short)
    transfer.trained_network.cache_clear()
    task = transfer.from_trained("digits_vit", NOWHERE, 200)
    odd = digits().labels % 2 == 1
    assert task.images.equal(digits().images[odd][:200])
    assert task.labels.equal(digits().labels[odd][:200] // 2)
    assert task.test_images.equal(digits().test_images[digits().test_labels % 2 == 1])
    (first,) = tasks
    assert first.images.equal(digits().images[~odd][:700])
    assert first.labels.equal(digits().labels[~odd][:700] // 2)
    assert task.mean.item() == pytest.approx(first.images.float().mean().item())

    trained = dict(transfer.trained_network("digits_vit", NOWHERE).named_parameters())
    torch.manual_seed(0)
    untrained = dict(transfer.few_images("digits_vit", NOWHERE, 200).network().named_parameters())
    one, other = (dict(task.network().named_parameters()) for _ in range(2))
    for name, values in one.items():
        assert values is not trained[name] and not trained[name].equal(untrained[name])
        assert values.equal(trained[name]) == values.equal(other[name]) == ("head" not in name)
    transfer.trained_network.cache_clear()


def test_the_best_peak_of_a_fine_tuning_is_the_reference_seed_by_seed() -> None:
    budget = finetuning.BUDGETS[0]
    low, high, *_ = finetuning.PEAKS
    accuracies = {low: ("60", "64"), high: ("63", "62"), "AutoWU": ("64", "61")}
    rows = finetuning.Rows(
        [
            finetuning.FineTuningCell(*budget, finetuning.TRAINED, method, seed, NOWHERE).key()
            | {"test_accuracy": accuracy, "start_lr": "0.01"}
            for method, values in accuracies.items()
            for seed, accuracy in enumerate(values)
        ]
    )
    assert rows.best_peak(budget) == high
    assert rows.above_best(budget, "AutoWU") == [1.0, -1.0]
    assert rows.above_best(finetuning.BUDGETS[1], "AutoWU") == []
    line = finetuning.difference_table(rows).splitlines()[2]
    assert line.startswith("| CIFAR-10, 1000 images, 300 steps | 0.0003 | 0.01 0.01 | 0.0 ± 1.4 |")


def test_memorisation_compares_with_the_best_peak_on_the_same_images() -> None:
    plain, augmented, short, vgg, *_ = memorisation.SETTINGS
    _, low, high, *_ = memorisation.PEAKS
    accuracies = [
        *((plain, low, 50.0), (plain, high, 60.0), (plain, "AutoWU", 59.0)),
        *((augmented, low, 70.0), (augmented, "AutoWU", 71.0)),
        *((short, high, 50.0), (short, "AutoWU", 48.0)),
        *((vgg, high, 90.0), (vgg, "AutoWU", 93.0)),
    ]
    rows = [
        memorisation.MemorisationCell(setting, method, seed, NOWHERE).key()
        | {"test_accuracy": str(accuracy + seed), "start_lr": "0.01" if method == "AutoWU" else ""}
        | {"loss_at_half": "0.5", "train_loss": "0.25"}
        for setting, method, accuracy in accuracies
        for seed in (0, 1)
    ]
    lines = memorisation.table(rows).splitlines()[2:]
    shown = [line for line in lines if "AutoWU |" in line and "0.01" in line]
    equal = "0.500 ± 0.000 | 0.250 ± 0.000 | 0.01 0.01"
    assert shown == [
        f"| no augmentation, 900 steps | AutoWU | 59.5 ± 0.7 | {equal} | -1.000 | n/a |",
        f"| crops and flips, 900 steps | AutoWU | 71.5 ± 0.7 | {equal} | 1.000 | n/a |",
        f"| crops and flips, 450 steps | AutoWU | 48.5 ± 0.7 | {equal} | -2.000 | n/a |",
        f"| VGG, crops and flips, 900 steps | AutoWU | 93.5 ± 0.7 | {equal} | 3.000 | n/a |",
    ]


def test_the_table_of_the_optimizers_names_the_best_peak() -> None:
    from experiments.optimizers.run import groups_of, table

    rows = [
        OptimizerCell("lion", None, lr, seed).key() | {"test_accuracy": accuracy, "start_lr": ""}
        for lr, accuracy in ((0.001, "98"), (0.01, "90"))
        for seed in (0, 1)
    ]
    rows.append(
        OptimizerCell("lion", 1e-5, 1.0, 0).key() | {"test_accuracy": "97", "start_lr": "0.012"}
    )
    lines = table(rows).splitlines()
    assert "| lion | warmup-cosine, best of 2 | 0.001 | 98.00 ± 0.00 |" in lines
    assert "| lion | AutoWU, 1e-05 to 1 | 0.012 | 97.00 |" in lines
    assert groups_of(rows)["lion"]["warmup-cosine, best of its grid"] == [98.0, 98.0]


def test_fresh_statistics_change_the_test_and_not_the_training() -> None:
    tuned = Recipe("adamp", {"lr": 0.1}, "constant")
    settings = {"batch_size": 479, "epochs": 1, "seed": 0}
    kept = train(digits(), tuned, **settings)
    fresh = train(digits(), tuned, **settings, fresh_statistics=True)
    assert kept.kept_statistics_accuracy is None
    assert fresh.kept_statistics_accuracy == kept.test_accuracy
    assert fresh.losses == kept.losses
    # Three steps at so large an LR: what is left of the statistics of the first weights guesses.
    assert fresh.test_accuracy > kept.test_accuracy + 10
    free = train(digits(), Recipe("schedulefree", {"lr": 0.0025}, "constant"), **settings)
    assert free.kept_statistics_accuracy is None


def test_the_exponent_of_the_batch_size_has_the_error_of_a_regression() -> None:
    from scipy.stats import linregress

    from experiments.small_figures.plot import exponent

    points = [(64, 0.003), (64, 0.004), (256, 0.005), (256, 0.013), (1024, 0.012)]
    rows = [{"batch_size": str(size), "start_lr": str(lr)} for size, lr in points]
    expected = linregress(
        *([math.log(value) for value in column] for column in zip(*points, strict=True))
    )
    assert exponent(rows) == pytest.approx((expected.slope, expected.stderr))
    assert exponent(rows[:2]) is None


def test_a_throughput_cell_for_a_gpu_has_a_row_that_is_done_or_not_run() -> None:
    from experiments.throughput.run import CELLS, not_run_rows, planned_row, table

    first, *others = (planned_row(cell, "cuda") for cell in CELLS["cuda"])
    done = {name: str(value) for name, value in first.items()} | {"device": "some GPU"}
    assert not_run_rows([done | {"status": "done", "phase": "warmup"}]) == others
    assert not_run_rows([done | {"device": "cpu"}]) == [first, *others]
    assert table(others).count("| no | not run |") == 2
    assert table(others).count("| yes | not run |") == 2


def test_a_row_of_the_overhead_has_the_quartiles_of_the_ratios_of_its_rounds() -> None:
    from experiments.overhead.run import ratio_text, to_rows

    # Ratios 1/2, 1, 3/2, 2 and 5/2; quartiles are at ranks 1.5 and 4.5 of 1 to 5.
    times = {"ours": [1.0, 2.0, 3.0, 4.0, 5.0], "theirs": [2.0] * 5}
    ours, theirs = to_rows(times, baseline="theirs", num_losses=100)
    names = ("times_baseline", "lower_quartile", "upper_quartile", "rounds")
    assert [float(ours[name]) for name in names] == [1.5, 0.75, 2.25, 5]
    assert [float(theirs[name]) for name in names] == [1, 1, 1, 5]
    assert ratio_text(ours) == "1.50x (0.75 to 2.25) the time of theirs"
    fast = ours | {"times_baseline": 0.02, "lower_quartile": 0.01, "upper_quartile": 0.04}
    assert ratio_text(fast) == "50x (25 to 100) faster than theirs"


def test_a_rate_of_the_minimum_test_is_rounded_once() -> None:
    from experiments.minimum_test.report import percent

    assert percent({"false_alarms": 13, "n": 840}, "false_alarm") == "1.5 (0.9-2.6)"
    assert percent({"found": "", "num_minima": 0}, "found") == "-"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", COMMANDS)
@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--no-such-option", 2)])
def test_help_and_a_wrong_argument_do_no_work(
    module: str,
    argument: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [module, argument])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__")
    assert stop.value.code == status
    printed = capsys.readouterr()
    assert "usage:" in (printed.err if status else printed.out)
    if module in ROWS_KEPT and not status:
        assert "--results FILE" in printed.out


def test_what_writes_a_table_or_a_figure_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("<!-- a -->\nold\n<!-- end of a -->\n")
    put_between_marks(tmp_path / "README.md", "a", "new")
    save_figure(Figure(), tmp_path / "a.png", dpi=20)
    assert Path("README.md").read_text() == "<!-- a -->\nnew\n<!-- end of a -->\n"
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == "README.md: a\na.png\n"


def test_dots_have_means_whiskers_of_one_deviation_and_a_mark_where_the_scale_changes() -> None:
    looks = {"a": ("o", "black"), "b": ("s", "black")}
    (axes,) = dots({"x": {"a": [-9.0, -11.0], "b": [1.0]}, "y": {"a": [0.0]}}, looks, "c").axes
    first, second = (container.lines for container in axes.containers)  # type: ignore[attr-defined]
    assert first[0].get_xdata() == pytest.approx([-10.0, 0.0])
    (whiskers,) = first[2]
    assert [line[:, 0].tolist() for line in whiskers.get_segments()] == [
        pytest.approx([-10.0 - 2**0.5, -10.0 + 2**0.5]),
        [0.0, 0.0],
    ]
    assert second[0].get_xdata() == [1.0] and second[2] == ()
    assert [text.get_text() for text in axes.texts] == ["linear scale", "logarithmic"]
    (near,) = dots({"x": {"a": [0.5]}}, looks, "c").axes
    assert not near.texts


def test_rows_of_dots_have_a_panel_a_group_and_leave_out_what_is_not_there() -> None:
    groups = {"x": {"tuned": [98.0, 99.0], "ours": [97.0]}, "y": {"tuned": [50.0], "ours": []}}
    left, right = rows_of_dots(groups, "tuned", num_columns=2).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["tuned", "ours"]
    shown = [
        [(float(c.lines[0].get_xdata()[0]), c.lines[0].get_ydata()[0]) for c in axes.containers]  # type: ignore[attr-defined]
        for axes in (left, right)
    ]
    assert shown == [[(98.5, 0), (97.0, 1)], [(50.0, 0)]]


def test_mean_text_of_rows(tmp_path: Path) -> None:
    append_row(tmp_path / "rows.csv", {"a": 1.0})
    append_row(tmp_path / "rows.csv", {"a": 3.0})
    values = [float(row["a"]) for row in read_rows(tmp_path / "rows.csv")]
    assert mean_text(values) == "2.00 ± 1.41"


def test_a_sweep_that_rests_or_goes_back_knows_its_steps() -> None:
    settings = AutoWU(SGD([torch.zeros(1)], lr=1.0), 400).settings
    first = Piece(0, 300, 1e-3)  # by 2.3 % a step to LR 1
    top = HeldSweep(settings, [first], first).lr(50)
    rest = Piece(50, math.inf, top)
    grows = Piece(60, 300 * math.log(1 / top) / math.log(1e3), top)
    sweep = HeldSweep(settings, [first, rest, grows], first)
    lrs = [sweep.lr(step) for step in range(100)]
    assert lrs[:51] == sorted(lrs[:51])
    assert set(lrs[50:61]) == {top}, "it rests"
    assert lrs[61] / lrs[60] == pytest.approx(lrs[1] / lrs[0]), "as fast as before"
    for lr in (1.1e-3, 1.01 * top, 2 * top):
        assert sweep.lr(sweep.step_of(lr)) == pytest.approx(lr)
    assert sweep.step_of(top) == 60, "the last step with that LR"
    begin = sweep.plateau_begin(99)
    assert begin is not None
    assert sweep.lr(begin) == pytest.approx(lrs[99] / 3)
    back = HeldSweep(settings, [first, rest, grows, Piece(90, math.inf, 2e-3)], first)
    assert [back.lr(step) for step in (89, 90, 99)] == [lrs[89], 2e-3, 2e-3]
    assert back.plateau_begin(99) is None, "the LR has not grown threefold"


def test_given_lrs_rise_are_late_and_fall_to_nothing() -> None:
    lrs = given_lrs(100, 0.01, 0.2, 10, 1.03)
    assert len(lrs) == 100
    assert lrs[0] == pytest.approx(FIRST_LR)
    assert lrs[1] / lrs[0] == pytest.approx((0.01 / FIRST_LR) ** (1 / 20))
    assert lrs[20:30] == pytest.approx([0.01 * 1.03**step for step in range(10)])
    assert lrs[30] == pytest.approx(0.01)
    assert lrs[65] == pytest.approx(0.005)
    assert lrs[30:] == sorted(lrs[30:], reverse=True)
