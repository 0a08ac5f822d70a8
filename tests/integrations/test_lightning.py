"""AutoWUCallback in Lightning's own Trainer, held to a plain loop over the same batches."""

import itertools
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autowu import AutoWU
from tests.helpers import assert_same_state
from tests.integrations.plain_loop import (
    NUM_EPOCHS,
    RESUMED,
    SETTINGS,
    Batch,
    StatefulLoader,
    assert_equals_plain_loop,
    batches_of,
    build_model,
    build_optimizer,
    report,
    results_of_two_ranks,
    train_plainly,
)

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import (  # noqa: E402
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

from autowu.integrations.lightning import AutoWUCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]


class Classifier(lightning.LightningModule):
    """The model of the plain loop; notes the LR that each step is made with."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build_model()
        self.lrs: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        inputs, targets = batch
        return nn.functional.cross_entropy(self.model(inputs), targets)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.lrs.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        return build_optimizer(self.model)


def build_trainer(callbacks: list[Any], **settings: Any) -> Any:
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return lightning.Trainer(callbacks=callbacks, **(quiet | settings))


def fit(
    batches: list[Batch],
    num_epochs: int,
    *others: Any,
    module: Classifier | None = None,
    ckpt_path: Path | None = None,
    autowu: dict[str, Any] = SETTINGS,
    **settings: Any,
) -> dict[str, Any]:
    callback = AutoWUCallback(**autowu)
    module = module or Classifier()
    trainer = build_trainer([callback, *others], max_epochs=num_epochs, **settings)
    trainer.fit(module, StatefulLoader(batches), ckpt_path=ckpt_path)
    assert callback.scheduler is not None
    result = report(callback.scheduler, module.lrs)
    return result | {"state": callback.scheduler.state_dict()}


@pytest.mark.parametrize("accumulate", [1, 4])  # 4: windows of 4, 4 and 2 batches
def test_the_scheduler_sees_one_loss_a_step_as_in_a_plain_loop(accumulate: int) -> None:
    num_epochs = NUM_EPOCHS[accumulate]
    result = fit(batches_of(), num_epochs, accumulate_grad_batches=accumulate)
    plain = train_plainly([batches_of()], num_epochs, accumulate, False, **SETTINGS)
    assert_equals_plain_loop(result, plain)


def run_as_rank() -> None:
    """What each of two ranks does: runs with and without accumulation, and one that is resumed."""
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    ranks: dict[str, Any] = {"strategy": "ddp", "devices": 2}
    batches = batches_of(rank, 2)
    results: dict[str, Any] = {}
    for accumulate, num_epochs in NUM_EPOCHS.items():
        settings = ranks | {"accumulate_grad_batches": accumulate}
        results[f"accumulate {accumulate}"] = fit(batches, num_epochs, **settings)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=13, save_top_k=-1)
    ranks["autowu"] = RESUMED
    results["whole"] = fit(batches, 4, saver, **ranks)
    results["resumed"] = fit(batches, 4, ckpt_path=folder / "step=13.ckpt", **ranks)
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of_two_ranks("test_lightning", tmp_path_factory.mktemp("lightning_ranks"))


@pytest.mark.xdist_group("lightning_ranks")
@pytest.mark.parametrize("accumulate", [1, 4])
def test_two_ranks_see_the_mean_of_their_losses_as_one_plain_loop_over_both(
    accumulate: int, ranks: list[dict[str, Any]]
) -> None:
    batches = [batches_of(rank, 2) for rank in range(2)]
    plain = train_plainly(batches, NUM_EPOCHS[accumulate], accumulate, False, **SETTINGS)
    one, other = (rank[f"accumulate {accumulate}"] for rank in ranks)
    assert_same_state(one, other)
    assert_equals_plain_loop(one, plain)


@pytest.mark.xdist_group("lightning_ranks")
def test_two_ranks_resume_in_mid_epoch_with_the_same_lrs(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"]["lrs"] == rank["whole"]["lrs"][13:]
        assert_same_state(rank["resumed"]["state"], rank["whole"]["state"])


@pytest.mark.parametrize("step", [30, 33, 60, 65])  # epoch ends and middles, warmup and decay
def test_a_run_resumed_from_ckpt_path_has_the_same_lrs_bit_for_bit(
    step: int, tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    whole = fit(batches_of(), 8, saver, autowu=RESUMED)
    assert 33 < whole["switch_step"] < 60
    path = tmp_path / f"step={step}.ckpt"
    resumed = fit(batches_of(), 8, ckpt_path=path, autowu=RESUMED)
    assert resumed["lrs"] == whole["lrs"][step:]
    assert_same_state(resumed["state"], whole["state"])


def test_a_run_resumed_with_accumulation_has_the_same_lrs_bit_for_bit(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"accumulate_grad_batches": 4, "autowu": RESUMED}
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)
    whole = fit(batches_of(), 8, saver, **settings)
    resumed = fit(batches_of(), 8, ckpt_path=tmp_path / "step=7.ckpt", **settings)
    assert resumed["lrs"] == whole["lrs"][7:]
    assert_same_state(resumed["state"], whole["state"])


def test_a_checkpoint_that_was_tested_does_not_leak_into_the_next_fit(tmp_path: Path) -> None:
    class Testable(Classifier):
        def test_step(self, batch: Batch, batch_idx: int) -> None:
            pass

    callback, saver = AutoWUCallback(**SETTINGS), ModelCheckpoint(tmp_path, "{step}")
    trainer = build_trainer([callback, saver], max_epochs=2)
    trainer.fit(Testable(), StatefulLoader(batches_of()))
    trainer.test(
        Testable(), StatefulLoader(batches_of()), ckpt_path=saver.best_model_path, verbose=False
    )
    module = Testable()
    build_trainer([callback], max_epochs=1).fit(module, StatefulLoader(batches_of()))
    assert module.lrs[0] == SETTINGS["min_lr"]
    assert callback.scheduler is not None
    assert callback.scheduler.last_epoch == 10


def test_a_step_that_the_grad_scaler_skips_is_no_step_and_its_loss_joins_the_next() -> None:
    class Half(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.model.float()
            self.windows: list[list[float]] = [[]]  # losses up to a change of the weights

        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            loss = super().training_step((batch[0].float(), batch[1]), batch_idx)
            self.weights = self.model[0].weight.clone()
            self.windows[-1].append(loss.item())
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            if not torch.equal(self.weights, self.model[0].weight):
                self.windows.append([])

    module = Half()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**23)  # too much for gradients in float16
    plugin = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    result = fit(batches_of(), 2, module=module, plugins=[plugin])
    done = [sum(window) / len(window) for window in module.windows[:-1]]
    assert len(module.windows[0]) > 1, "the scaler skipped the first steps"
    assert len(done) == result["last_step"] < 20
    assert result["losses"] == pytest.approx(done[: len(result["losses"])], rel=1e-5)


def test_a_network_that_is_lost_ends_the_warmup_though_the_scaler_skips_every_step() -> None:
    class Lost(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss if self.trainer.global_step < 10 else loss * math.inf

    plugin = lightning.plugins.MixedPrecision(
        "16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0)
    )
    module = Lost()
    module.model.float()
    batches = [(inputs.float(), targets) for inputs, targets in batches_of()]
    with pytest.warns(UserWarning, match="the run has diverged"):
        result = fit(batches, 8, module=module, plugins=[plugin])
    assert result["state"]["diverged"]


def test_a_batch_that_training_step_skips_has_no_weight() -> None:
    class Skipping(Classifier):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return None if batch_idx in (0, 2, 3) else super().training_step(batch, batch_idx)

    result = fit(batches_of(), 2, module=Skipping(), accumulate_grad_batches=2)
    seen = [math.isfinite(loss) for loss in result["losses"]]
    assert result["last_step"] == 10  # windows of 1, 0, 2, 2 and 2 losses, twice
    assert seen == [True, False, True, True, True]


def test_the_learning_rate_monitor_logs_the_lr_of_every_step(tmp_path: Path) -> None:
    monitor = LearningRateMonitor("step")
    logger = lightning.loggers.CSVLogger(tmp_path)
    result = fit(batches_of(), 2, monitor, logger=logger, log_every_n_steps=1)
    assert monitor.lrs == {"lr-SGD": result["lrs"]}
    assert len(set(result["lrs"])) == len(result["lrs"]) == 20


def test_a_step_without_a_test_never_looks_at_the_loss() -> None:
    """A tensor on the meta device has no value: looking at it, as a wait would, is an error."""

    class Enough(Exception):
        pass

    class Blind(AutoWUCallback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *batch: Any) -> None:
            super().on_train_batch_end(
                trainer, module, {"loss": outputs["loss"].to("meta")}, *batch
            )
            if trainer.global_step == 8:
                raise Enough

    callback = Blind(test_interval=100, sweep="fixed")
    with pytest.raises(Enough):
        build_trainer([callback], max_epochs=4).fit(Classifier(), StatefulLoader(batches_of()))
    assert callback.scheduler is not None
    assert callback.scheduler.last_epoch == 8
    assert callback.scheduler.tests == []


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class TwoOptimizers(Classifier):
    def configure_optimizers(self) -> Any:
        return [build_optimizer(self.model), build_optimizer(self.model)]


class OwnScheduler(Classifier):
    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def finite() -> StatefulLoader:
    return StatefulLoader(batches_of())


def endless() -> torch.utils.data.DataLoader[Any]:
    class Endless(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return itertools.cycle(batches_of())

    return torch.utils.data.DataLoader(Endless(), batch_size=None)


@pytest.mark.parametrize(
    ("module", "loader", "settings", "message"),
    [
        (Manual, finite, {"max_epochs": 2}, "needs automatic optimization"),
        (
            TwoOptimizers,
            finite,
            {"max_epochs": 2},
            "multiple optimizers is only supported with manual",
        ),
        (OwnScheduler, finite, {"max_epochs": 2}, "StepLR"),
        (Classifier, finite, {"max_epochs": -1}, "estimates inf: set max_steps"),
        (Classifier, endless, {"max_epochs": 2}, "estimates -1: set max_steps"),
    ],
)
def test_what_it_cannot_serve_is_refused_before_the_first_step(
    module: Any, loader: Any, settings: dict[str, Any], message: str
) -> None:
    model = module()
    with pytest.raises((ValueError, RuntimeError), match=message):
        build_trainer([AutoWUCallback()], **settings).fit(model, loader())
    assert model.lrs == []


def test_max_steps_is_enough_when_the_dataloader_has_no_length() -> None:
    callback = AutoWUCallback()
    build_trainer([callback], max_steps=15).fit(Classifier(), endless())
    assert callback.scheduler is not None
    assert callback.scheduler.settings.total_steps == callback.scheduler.last_epoch == 15
    assert callback.scheduler.settings.steps_per_epoch is None


@pytest.mark.parametrize(
    "other", [GradientAccumulationScheduler({0: 4}), StochasticWeightAveraging(swa_lrs=0.05)]
)
def test_callbacks_that_change_the_lr_or_the_number_of_steps_are_refused(other: Any) -> None:
    module = Classifier()
    with pytest.raises(ValueError, match=f"{type(other).__name__} changes one of them"):
        fit(batches_of(), 2, other, module=module)
    assert module.lrs == []


class Renamed(AutoWUCallback):
    """Its state has another name in a checkpoint."""


@pytest.mark.parametrize("callbacks", [[], [Renamed()]])
def test_a_checkpoint_without_a_state_is_refused_instead_of_a_second_warmup(
    callbacks: list[Any], tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}")
    build_trainer([*callbacks, saver], max_epochs=1).fit(Classifier(), StatefulLoader(batches_of()))
    module = Classifier()
    with pytest.raises(ValueError, match="after step 10 without a state of AutoWUCallback"):
        fit(batches_of(), 2, module=module, ckpt_path=saver.best_model_path)
    assert module.lrs == []


def test_a_run_that_resumes_as_a_longer_one_is_refused(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}")
    fit(batches_of(), 2, saver)
    warns = pytest.warns(UserWarning, match="its own settings: total_steps=20")
    with warns, pytest.raises(ValueError, match="a run with total_steps=20, and this one has 40"):
        fit(batches_of(), 4, ckpt_path=saver.best_model_path)


def test_a_second_fit_with_more_epochs_is_refused() -> None:
    trainer = build_trainer([AutoWUCallback()], max_epochs=1)
    module = Classifier()
    trainer.fit(module, StatefulLoader(batches_of()))
    trainer.fit_loop.max_epochs = 3
    with pytest.raises(ValueError, match="after step 10 without a state"):
        trainer.fit(module, StatefulLoader(batches_of()))
    assert len(module.lrs) == 10


def test_a_trial_run_of_one_step_goes_through() -> None:
    module = Classifier()
    trainer = build_trainer([AutoWUCallback()], fast_dev_run=True)
    trainer.fit(module, StatefulLoader(batches_of()))
    assert module.lrs == [1e-5]


def test_a_run_of_half_an_epoch_is_not_asked_whether_its_lengths_are_swapped() -> None:
    module, batches = Classifier(), batches_of()
    trainer = build_trainer([AutoWUCallback()], max_steps=len(batches) // 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*swapped")
        trainer.fit(module, StatefulLoader(batches))
    assert len(module.lrs) == len(batches) // 2


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_bare_autowu_in_configure_optimizers_is_an_error_that_names_the_callback(
    interval: str,
) -> None:
    class Bare(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = build_optimizer(self.model)
            config = {"scheduler": AutoWU(optimizer, 20, 10), "interval": interval}
            return {"optimizer": optimizer, "lr_scheduler": config}

    module = Bare()
    with pytest.raises(ValueError, match=r"autowu\.integrations\.lightning\.AutoWUCallback"):
        build_trainer([], max_epochs=2).fit(module, StatefulLoader(batches_of()))
    assert set(module.lrs) == {1e-5}


class Probing(Classifier):
    """Makes a probe where the docs say."""

    def on_train_start(self) -> None:
        (autowu,) = (each for each in self.trainer.callbacks if isinstance(each, AutoWUCallback))
        inputs, targets = batches_of()[0]

        def take_step() -> torch.Tensor:
            loss = nn.functional.cross_entropy(self.model(inputs), targets)
            optimizer = self.trainer.optimizers[0]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        autowu.scheduler.probe(self, take_step)


def test_the_steps_of_a_probe_are_none_of_the_run() -> None:
    result = fit(batches_of(), 1, module=Probing(), accumulate_grad_batches=4, autowu={})
    assert result["state"]["last_epoch"] == 3  # windows of 4, 4 and 2 batches


def test_a_total_steps_of_ones_own_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="no total_steps, got 5: set max_steps or max_epochs"):
        AutoWUCallback(total_steps=5)
    with pytest.raises(TypeError, match=r"no keyword of AutoWU \(did you mean max_lr\?"):
        AutoWUCallback(maxlr=1.0)
