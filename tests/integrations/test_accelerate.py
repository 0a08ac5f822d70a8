"""The loop with Accelerate and `step`, held to a plain loop over the same batches."""

import gc
import math
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autowu import AutoWU
from tests.helpers import assert_same_state
from tests.integrations.plain_loop import (
    BATCH_SIZE,
    NUM_EPOCHS,
    RESUMED,
    SETTINGS,
    Batch,
    assert_equals_plain_loop,
    batches_of,
    build_model,
    build_optimizer,
    of_both_ranks,
    report,
    results_of_two_ranks,
    train_plainly,
)
from tests.integrations.test_plain_loop import check_found, load_example

accelerate = pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState, GradientState  # noqa: E402

from autowu.integrations.accelerate import step  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


def reset_accelerate() -> None:
    """Its accumulation is a singleton that a new Accelerator would take over."""
    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()


class Run:
    """A run with Accelerate, from its start or from a folder of `save_state`."""

    def __init__(
        self,
        batches: list[Batch],
        num_epochs: int,
        accumulate: int = 1,
        settings: dict[str, Any] = SETTINGS,
    ) -> None:
        reset_accelerate()
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        model = build_model()
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        loader = DataLoader(TensorDataset(inputs, targets), BATCH_SIZE)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            model, build_optimizer(model), loader
        )
        self.num_epochs, self.num_updates = num_epochs, math.ceil(len(self.loader) / accumulate)
        scheduler = AutoWU(
            self.optimizer,
            num_epochs * self.num_updates,
            self.num_updates,
            **settings,
        )
        self.scheduler = self.accelerator.prepare(scheduler)
        self.lrs: list[float] = []

    def train(
        self, folder: Path | None = None, save_at: int | None = None, resume: bool = False
    ) -> dict[str, Any]:
        """Saves to the folder after the step `save_at`, or goes on with what is there."""
        num_done = 0  # batches of the run
        if resume:
            self.accelerator.load_state(str(folder))
            epochs, updates = divmod(self.scheduler.last_epoch, self.num_updates)
            num_skipped = updates * self.accelerator.gradient_accumulation_steps
            num_done = epochs * len(self.loader) + num_skipped
        for epoch in range(num_done // len(self.loader), self.num_epochs):
            loader = self.loader
            if num_done > epoch * len(loader):
                loader = self.accelerator.skip_first_batches(loader, num_done % len(loader))
            for inputs, targets in loader:
                with self.accelerator.accumulate(self.model):
                    self.train_on(inputs, targets)
                if self.accelerator.sync_gradients and self.scheduler.last_epoch == save_at:
                    self.accelerator.save_state(str(folder))
        return report(self.scheduler, self.lrs) | {"state": self.scheduler.state_dict()}

    def train_on(self, inputs: Tensor, targets: Tensor) -> None:
        loss = nn.functional.cross_entropy(self.model(inputs), targets)
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            self.lrs.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        step(self.accelerator, self.scheduler, loss)
        self.optimizer.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 4])  # 4: windows of 4, 4 and 2 batches
def test_the_scheduler_sees_one_loss_a_step_as_in_a_plain_loop(accumulate: int) -> None:
    num_epochs = NUM_EPOCHS[accumulate]
    plain = train_plainly([batches_of()], num_epochs, accumulate, False, **SETTINGS)
    assert_equals_plain_loop(Run(batches_of(), num_epochs, accumulate).train(), plain)


def run_as_rank() -> None:
    """What each of two ranks does: runs with and without accumulation, and one that is resumed."""
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    results: dict[str, Any] = {}
    for accumulate, num_epochs in NUM_EPOCHS.items():
        results[f"accumulate {accumulate}"] = Run(of_both_ranks(), num_epochs, accumulate).train()
    results["whole"] = Run(of_both_ranks(), 4, settings=RESUMED).train(folder / "state", save_at=13)
    results["resumed"] = Run(of_both_ranks(), 4, settings=RESUMED).train(
        folder / "state", resume=True
    )
    torch.save(results, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()  # its threads can abort an exit


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of_two_ranks("test_accelerate", tmp_path_factory.mktemp("accelerate_ranks"))


@pytest.mark.xdist_group("accelerate_ranks")
@pytest.mark.parametrize("accumulate", [1, 4])
def test_two_ranks_see_the_mean_of_their_losses_as_one_plain_loop_over_both(
    accumulate: int, ranks: list[dict[str, Any]]
) -> None:
    batches = [batches_of(rank, 2) for rank in range(2)]
    plain = train_plainly(batches, NUM_EPOCHS[accumulate], accumulate, False, **SETTINGS)
    one, other = (rank[f"accumulate {accumulate}"] for rank in ranks)
    assert_same_state(one, other)
    assert_equals_plain_loop(one, plain)


@pytest.mark.xdist_group("accelerate_ranks")
def test_two_ranks_resume_in_mid_epoch_with_the_same_lrs(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"]["lrs"] == rank["whole"]["lrs"][13:]
        assert_same_state(rank["resumed"]["state"], rank["whole"]["state"])


@pytest.mark.parametrize("saved", [30, 33, 60, 65])  # epoch ends and middles, warmup and decay
def test_a_run_resumed_from_save_state_has_the_same_lrs_bit_for_bit(
    saved: int, tmp_path: Path
) -> None:
    whole = Run(batches_of(), 8, settings=RESUMED).train(tmp_path, save_at=saved)
    assert 33 < whole["switch_step"] < 60
    resumed = Run(batches_of(), 8, settings=RESUMED).train(tmp_path, resume=True)
    assert resumed["lrs"] == whole["lrs"][saved:]
    assert_same_state(resumed["state"], whole["state"])


@pytest.mark.parametrize("saved", [6, 7])  # with 3 steps an epoch
def test_a_run_resumed_with_accumulation_has_the_same_lrs_bit_for_bit(
    saved: int, tmp_path: Path
) -> None:
    whole = Run(batches_of(), 8, 4, RESUMED).train(tmp_path, save_at=saved)
    resumed = Run(batches_of(), 8, 4, RESUMED).train(tmp_path, resume=True)
    assert resumed["lrs"] == whole["lrs"][saved:]
    assert_same_state(resumed["state"], whole["state"])


def test_a_scheduler_made_before_its_optimizer_was_prepared_sets_the_lr_too() -> None:
    run, late = Run(batches_of(), 2), Run(batches_of(), 2)
    model = build_model()
    optimizer = build_optimizer(model)
    scheduler = AutoWU(optimizer, 20, 10, **SETTINGS)
    run.accelerator = accelerate.Accelerator(cpu=True)
    run.model, run.optimizer, run.scheduler = run.accelerator.prepare(model, optimizer, scheduler)
    assert run.scheduler is scheduler
    assert_same_state(run.train(), late.train())


def test_a_step_that_the_grad_scaler_skips_is_no_step_and_its_loss_joins_the_next() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # 4 * 2**126 overflows
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, AutoWU(optimizer, 40))
    windows: list[list[float]] = [[]]  # losses up to a step that is made
    for _ in range(8):
        loss = 4 * model(torch.ones(1, 1)).sum()
        accelerator.backward(loss)
        optimizer.step()
        step(accelerator, scheduler, loss)
        optimizer.zero_grad()
        windows[-1].append(loss.item())
        if not accelerator.optimizer_step_was_skipped:
            windows.append([])
    expected = [sum(window) / len(window) for window in windows[:-1]]
    assert len(windows[0]) == 3, "the scaler skipped the first two steps"
    assert scheduler.losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert scheduler.last_epoch == 8 - 2


def test_a_network_that_is_lost_ends_the_warmup_though_the_scaler_skips_every_step() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, AutoWU(optimizer, 400))
    with pytest.warns(UserWarning, match="the run has diverged"):
        for number in range(60):
            loss = model(torch.ones(1, 1)).sum() * (1.0 if number < 10 else math.inf)
            accelerator.backward(loss)
            optimizer.step()
            step(accelerator, scheduler, loss)
            optimizer.zero_grad()
    assert scheduler.diverged


def test_a_step_without_a_test_never_looks_at_the_loss() -> None:
    """A tensor on the meta device has no value: looking at it, as a wait would, is an error."""
    run = Run(batches_of(), 8)
    scheduler = run.accelerator.prepare(AutoWU(run.optimizer, 80, test_interval=20, sweep="fixed"))
    for _ in range(8):
        run.optimizer.step()
        step(run.accelerator, scheduler, torch.empty((), device="meta"))
    assert scheduler.last_epoch == 8
    assert scheduler.tests == []


def test_a_prepared_autowu_stepped_without_a_loss_is_an_error_that_names_the_adapter() -> None:
    run = Run(batches_of(), 2)
    run.optimizer.step()
    with pytest.raises(ValueError, match=r"autowu\.integrations\.accelerate\.step"):
        run.scheduler.step()
    assert run.optimizer.param_groups[0]["lr"] == SETTINGS["min_lr"]


def test_a_scheduler_that_no_checkpoint_would_hold_is_refused() -> None:
    run = Run(batches_of(), 2)
    scheduler = AutoWU(run.optimizer, 20, 10)
    with pytest.raises(ValueError, match=r"accelerator\.prepare\(scheduler\)"):
        step(run.accelerator, scheduler, 1.0)


def test_another_scheduler_is_refused() -> None:
    run = Run(batches_of(), 2)
    other = run.accelerator.prepare(torch.optim.lr_scheduler.StepLR(run.optimizer, 1))
    with pytest.raises(TypeError, match="must be an AutoWU, got AcceleratedScheduler"):
        step(run.accelerator, other, 1.0)


def test_nothing_is_kept_of_a_run_that_is_over() -> None:
    """The registry of schedulers holds none of them."""
    run = Run(batches_of(), 1)
    run.train()
    scheduler = weakref.ref(run.scheduler)
    del run
    gc.collect()
    assert scheduler() is None


def test_the_example_runs_and_resumes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = load_example("accelerate_digits")
    reset_accelerate()
    example.main()
    whole = check_found(capsys.readouterr().out)
    reset_accelerate()
    example.main("runs/accelerate_digits/epoch3")
    assert check_found(capsys.readouterr().out) == whole
