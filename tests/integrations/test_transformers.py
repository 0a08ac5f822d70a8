"""AutoWUTrainer and AutoWUMixin in Hugging Face's own Trainer, held to a plain loop."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

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

transformers = pytest.importorskip("transformers")
from autowu.integrations.transformers import AutoWUMixin, AutoWUTrainer, _first  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


class Classifier(nn.Module):
    """The model of the plain loop, with the signature that the Trainer wants."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build_model()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.model(inputs), labels)}


class TokenClassifier(Classifier):
    """Divides by the labels of the whole window, as transformers' language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: list[tuple[float, int]] = []  # sum of the losses, and their number

    def forward(
        self, inputs: Tensor, labels: Tensor, num_items_in_batch: Any = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        total = nn.functional.cross_entropy(self.model(inputs), labels, reduction="sum")
        self.totals.append((total.item(), int((labels != -100).sum())))
        assert num_items_in_batch is not None
        return {"loss": total / num_items_in_batch}


class Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, batches: list[Batch]) -> None:
        self.inputs, self.labels = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class Stream(IterableDataset[dict[str, Tensor]]):
    """The same rows, without a length."""

    def __init__(self, batches: list[Batch]) -> None:
        self.rows = Rows(batches)

    def __iter__(self) -> Any:
        return iter([self.rows[index] for index in range(len(self.rows))])


class LRLog(transformers.TrainerCallback):
    """Notes the LR that each step is made with."""

    def __init__(self) -> None:
        self.lrs: list[float] = []

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self.lrs.append(optimizer.param_groups[0]["lr"])


def build_arguments(folder: Path, **arguments: Any) -> Any:
    quiet = {"report_to": [], "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    defaults = {
        "per_device_train_batch_size": BATCH_SIZE,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
    }
    return transformers.TrainingArguments(str(folder), **(quiet | defaults | arguments))


def build_trainer(
    folder: Path,
    *,
    kind: Any = AutoWUTrainer,
    model: nn.Module | None = None,
    data: Any = None,
    scheduler: Any = None,
    autowu: dict[str, Any] | None = SETTINGS,
    probe: int | None = None,
    **arguments: Any,
) -> Any:
    model = model or Classifier()
    optimizer = build_optimizer(model)
    settings: dict[str, Any] = {} if autowu is None else {"autowu": autowu}
    settings |= {} if probe is None else {"probe": probe}
    return kind(
        model,
        build_arguments(folder, **arguments),
        train_dataset=data or Rows(batches_of()),
        optimizers=(optimizer, scheduler and scheduler(optimizer)),
        callbacks=[LRLog()],
        **settings,
    )


def lrs_of(trainer: Any) -> list[float]:
    (log,) = (each for each in trainer.callback_handler.callbacks if isinstance(each, LRLog))
    return log.lrs


def train(folder: Path, resume: str | None = None, **settings: Any) -> dict[str, Any]:
    trainer = build_trainer(folder, **settings)
    trainer.train(resume_from_checkpoint=resume and str(folder / resume))
    scheduler = trainer.lr_scheduler
    assert scheduler.last_epoch == trainer.state.global_step
    return report(scheduler, lrs_of(trainer)) | {"state": scheduler.state_dict()}


@pytest.mark.parametrize("accumulate", [1, 4])  # 4: windows of 4, 4 and 2 batches
@pytest.mark.parametrize("length", ["num_train_epochs", "max_steps"])
def test_the_scheduler_sees_one_loss_a_step_as_in_a_plain_loop(
    accumulate: int, length: str, tmp_path: Path
) -> None:
    num_epochs = NUM_EPOCHS[accumulate]
    plain = train_plainly([batches_of()], num_epochs, accumulate, **SETTINGS)
    lengths = {"num_train_epochs": num_epochs, "max_steps": len(plain["lrs"])}
    arguments = {length: lengths[length], "gradient_accumulation_steps": accumulate}
    assert_equals_plain_loop(train(tmp_path, **arguments), plain)


def with_ignored_labels(batches: list[Batch]) -> list[Batch]:
    """Every batch has another number of labels, as batches of padded texts do."""
    for number, (_, labels) in enumerate(batches):
        labels[: number % 8] = -100
    return batches


def window_means(ranks: list[list[tuple[float, int]]], accumulate: int) -> list[float]:
    """By label over the window and the ranks, from what the models noted for epochs of 10."""
    means = []
    for epoch in range(0, len(ranks[0]), 10):
        for start in range(epoch, epoch + 10, accumulate):
            end = min(start + accumulate, epoch + 10)
            window = [each for totals in ranks for each in totals[start:end]]
            means.append(sum(total for total, _ in window) / sum(number for _, number in window))
    return means


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_model_that_counts_its_labels_has_its_mean_by_label_observed(
    accumulate: int, tmp_path: Path
) -> None:
    model = TokenClassifier()
    data = Rows(with_ignored_labels(batches_of()))
    arguments = {"num_train_epochs": 2, "gradient_accumulation_steps": accumulate}
    settings = {"autowu": {"patience": 100}, "probe": 0}  # or its losses would be among them
    result = train(tmp_path, model=model, data=data, **settings, **arguments)
    expected = window_means([model.totals], accumulate)
    assert len(result["losses"]) == len(expected) // 2
    assert result["losses"] == pytest.approx(expected[: len(expected) // 2], rel=1e-5)


def run_as_rank() -> None:
    """What each of two ranks does: runs with and without accumulation, and one that is resumed."""
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    results: dict[str, Any] = {}
    for accumulate, num_epochs in NUM_EPOCHS.items():
        arguments = {"ddp_backend": "gloo", "gradient_accumulation_steps": accumulate}
        data = Rows(of_both_ranks())
        results[f"accumulate {accumulate}"] = train(
            folder, data=data, num_train_epochs=num_epochs, **arguments
        )
        model, data = TokenClassifier(), Rows(with_ignored_labels(of_both_ranks()))
        counted = train(folder, data=data, model=model, num_train_epochs=2, **arguments)
        results[f"by label {accumulate}"] = counted | {"totals": model.totals}
    arguments = {"ddp_backend": "gloo", "data": Rows(of_both_ranks()), "num_train_epochs": 4}
    arguments |= {"save_strategy": "steps", "save_steps": 13, "autowu": RESUMED}
    results["whole"] = train(folder, **arguments)
    results["resumed"] = train(folder, "checkpoint-13", **arguments)
    torch.save(results, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()  # its threads can abort an exit


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of_two_ranks("test_transformers", tmp_path_factory.mktemp("transformers_ranks"))


@pytest.mark.xdist_group("transformers_ranks")
@pytest.mark.parametrize("accumulate", [1, 4])
def test_two_ranks_see_the_mean_of_their_losses_as_one_plain_loop_over_both(
    accumulate: int, ranks: list[dict[str, Any]]
) -> None:
    batches = [batches_of(rank, 2) for rank in range(2)]
    plain = train_plainly(batches, NUM_EPOCHS[accumulate], accumulate, **SETTINGS)
    one, other = (rank[f"accumulate {accumulate}"] for rank in ranks)
    assert_same_state(one, other)
    assert_equals_plain_loop(one, plain)


@pytest.mark.xdist_group("transformers_ranks")
@pytest.mark.parametrize("accumulate", [1, 4])
def test_two_ranks_that_count_their_labels_see_the_mean_by_label_over_both(
    accumulate: int, ranks: list[dict[str, Any]]
) -> None:
    one, other = (rank[f"by label {accumulate}"] for rank in ranks)
    expected = window_means([one["totals"], other["totals"]], accumulate)
    assert one["losses"] == other["losses"]
    assert one["losses"] == pytest.approx(expected[: len(one["losses"])], rel=1e-5)


@pytest.mark.xdist_group("transformers_ranks")
def test_two_ranks_resume_in_mid_epoch_with_the_same_lrs(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"]["lrs"] == rank["whole"]["lrs"][13:]
        assert_same_state(rank["resumed"]["state"], rank["whole"]["state"])


@pytest.mark.parametrize("step", [30, 33, 60, 65])  # epoch ends and middles, warmup and decay
def test_a_run_resumed_from_a_checkpoint_has_the_same_lrs_bit_for_bit(
    step: int, tmp_path: Path
) -> None:
    arguments = {"num_train_epochs": 8, "save_strategy": "steps", "save_steps": step}
    arguments |= {"autowu": RESUMED}
    whole = train(tmp_path, **arguments)
    assert 33 < whole["switch_step"] < 60
    resumed = train(tmp_path, f"checkpoint-{step}", **arguments)
    assert resumed["lrs"] == whole["lrs"][step:]
    assert_same_state(resumed["state"], whole["state"])


@pytest.mark.parametrize("step", [6, 7])  # with 3 steps an epoch
def test_a_run_resumed_with_accumulation_has_the_same_lrs_bit_for_bit(
    step: int, tmp_path: Path
) -> None:
    arguments = {"num_train_epochs": 8, "gradient_accumulation_steps": 4}
    arguments |= {"save_strategy": "steps", "save_steps": step, "autowu": RESUMED}
    whole = train(tmp_path, **arguments)
    resumed = train(tmp_path, f"checkpoint-{step}", **arguments)
    assert resumed["lrs"] == whole["lrs"][step:]
    assert_same_state(resumed["state"], whole["state"])


def test_a_checkpoint_of_a_run_of_another_length_is_refused(tmp_path: Path) -> None:
    train(tmp_path, num_train_epochs=2, save_strategy="epoch")
    with pytest.raises(ValueError, match="total_steps=20, and this one has 40"):
        train(tmp_path, "checkpoint-10", num_train_epochs=4)
    with pytest.raises(ValueError, match="patience=2, and this one has 3"):
        train(tmp_path, "checkpoint-10", num_train_epochs=2, autowu=SETTINGS | {"patience": 3})


def test_a_checkpoint_without_a_scheduler_is_refused(tmp_path: Path) -> None:
    train(tmp_path, num_train_epochs=2, save_strategy="epoch", save_only_model=True)
    with pytest.raises(ValueError, match="save_only_model"):
        train(tmp_path, "checkpoint-10", num_train_epochs=2)


def test_a_step_that_the_grad_scaler_skips_is_no_step_and_its_loss_joins_the_next(
    tmp_path: Path,
) -> None:
    class Single(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.model.float()
            self.windows: list[list[float]] = []  # losses between changes of the weights
            self.weights = torch.empty(0)

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = super().forward(inputs.float(), labels)
            weights = self.model[0].weight
            if not torch.equal(self.weights, weights):
                self.windows.append([])
                self.weights = weights.detach().clone()
            self.windows[-1].append(outputs["loss"].item())
            return outputs

    model = Single()
    trainer = build_trainer(tmp_path, model=model, num_train_epochs=2)
    # Too much at first for the squares of the gradients, which the Trainer adds up in float32.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**66)
    trainer.train()
    expected = [sum(window) / len(window) for window in model.windows]
    losses = trainer.lr_scheduler.losses.tolist()
    assert len(model.windows[0]) > 1, "the scaler skipped the first steps"
    assert len(expected) == trainer.lr_scheduler.last_epoch < trainer.state.global_step == 20
    assert losses == pytest.approx(expected[: len(losses)], rel=1e-5)


def test_a_network_that_is_lost_ends_the_warmup_though_the_scaler_skips_every_step(
    tmp_path: Path,
) -> None:
    class Lost(Classifier):
        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            loss = super().forward(inputs.float(), labels)["loss"]
            return {"loss": loss * (1.0 if trainer.state.global_step < 10 else float("inf"))}

    model = Lost()
    model.model.float()
    trainer = build_trainer(tmp_path, model=model, num_train_epochs=8)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    with pytest.warns(UserWarning, match="the run has diverged"):
        trainer.train()
    assert trainer.lr_scheduler.diverged


def test_a_step_without_a_test_never_looks_at_the_loss(tmp_path: Path) -> None:
    """A tensor on the meta device has no value: looking at it, as a wait would, is an error."""

    class WithoutValue(transformers.Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().training_step(*args, **kwargs).to("meta")

    class Blind(AutoWUMixin, WithoutValue):  # as with SFTTrainer
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            assert super().training_step(*args, **kwargs).is_meta
            return torch.tensor(0.0)  # which the Trainer itself looks at

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 8

    arguments = {"num_train_epochs": 8, "gradient_accumulation_steps": 2}
    settings = {"test_interval": 100, "sweep": "fixed"}
    trainer = build_trainer(tmp_path, kind=Blind, autowu=settings, **arguments)
    trainer.add_callback(Stop())
    trainer.train()
    assert trainer.lr_scheduler.last_epoch == 8
    assert trainer.lr_scheduler.tests == []


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("model", [Classifier, TokenClassifier])
def test_a_run_begins_where_its_probe_says_and_is_else_the_same(
    model: type[nn.Module], accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the LR that the probe finds, but found by nobody, the run is the same bit for bit."""
    arguments = {"num_train_epochs": 8, "gradient_accumulation_steps": accumulate}
    arguments |= {"max_grad_norm": 1.0, "autowu": {"max_lr": 30.0}}
    probed = train(tmp_path, model=model(), **arguments)
    assert probed["lrs"][0] > 1e-3
    calls = []

    def told(self: AutoWU, *_: Any) -> None:
        calls.append(self.last_epoch)
        self.begin_at(probed["lrs"][0])

    monkeypatch.setattr(AutoWU, "probe", told)
    assert_same_state(train(tmp_path, model=model(), **arguments), probed)
    assert calls == [0]


def test_a_compiled_model_is_compiled_for_whole_batches_alone(tmp_path: Path) -> None:
    sizes = []

    class Counting(Classifier):
        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            if torch.compiler.is_compiling():
                sizes.append(inputs.shape[0])
            return super().forward(inputs, labels)

    arguments = {"torch_compile": True, "torch_compile_backend": "eager", "num_train_epochs": 2}
    result = train(tmp_path, model=Counting(), autowu={}, probe=2, **arguments)
    assert result["lrs"][0] > 1e-3
    assert set(sizes) == {BATCH_SIZE}


@pytest.mark.parametrize(
    "batch",
    [
        {"patches": torch.zeros(80, 8), "grid": torch.zeros(4)},
        {"inputs": torch.zeros(64, 8), "names": ["a"] * 64},
        {"inputs": torch.zeros(64, 8), "scale": torch.tensor(1.0)},
        (torch.zeros(64, 8), torch.zeros(64)),
        {"inputs": torch.zeros(8, 8), "labels": torch.zeros(8)},
    ],
)
def test_a_batch_that_cannot_be_cut_is_probed_whole(batch: Any) -> None:
    assert _first(batch, 32) is batch


def test_a_batch_of_tensors_is_cut_and_keeps_its_type() -> None:
    batch = transformers.BatchEncoding({"inputs": torch.rand(64, 8), "labels": torch.rand(64)})
    few = _first(batch, 32)
    assert type(few) is transformers.BatchEncoding
    assert torch.equal(few.inputs, batch.inputs[:32])
    assert torch.equal(few.labels, batch.labels[:32])


def test_a_probe_is_not_made_where_it_is_not_wanted_or_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 13}
    whole = train(tmp_path, autowu={}, **arguments)
    assert whole["lrs"][0] > 1e-3
    monkeypatch.setattr(AutoWU, "probe", None)  # a call would be an error
    resumed = train(tmp_path, "checkpoint-13", autowu={}, **arguments)
    assert resumed["lrs"] == whole["lrs"][13:]
    assert train(tmp_path, autowu={}, probe=0, num_train_epochs=1)["lrs"][0] == 1e-5
    assert train(tmp_path, autowu={"sweep": "fixed"}, num_train_epochs=1)["lrs"][0] == 1e-5
    with pytest.raises(ValueError, match="probe must be at least 0, got -1"):
        build_trainer(tmp_path, probe=-1)


def test_no_settings_are_needed_and_epochs_are_counted_in_updates(tmp_path: Path) -> None:
    trainer = build_trainer(
        tmp_path, autowu=None, num_train_epochs=1.5, gradient_accumulation_steps=4
    )
    trainer.train()
    first = trainer.lr_scheduler
    assert (first.settings.total_steps, first.settings.steps_per_epoch) == (5, 3)
    assert (first.last_epoch, first.get_last_lr()) == (5, [0.0])
    trainer.train()
    assert trainer.lr_scheduler is not first, "a second train() is a run of its own"
    lrs = lrs_of(trainer)
    assert len(lrs) == 10
    assert min(lrs[0], lrs[5]) > 1e-3, "each with a probe"


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_dataset_without_a_length_needs_max_steps_alone(accumulate: int, tmp_path: Path) -> None:
    trainer = build_trainer(
        tmp_path,
        data=Stream(batches_of()),  # with 4: the last two batches have no window of their own
        max_steps=15,
        gradient_accumulation_steps=accumulate,
    )
    trainer.train()
    scheduler = trainer.lr_scheduler
    assert (scheduler.settings.total_steps, scheduler.settings.steps_per_epoch) == (15, None)
    assert scheduler.last_epoch == trainer.state.global_step == 15


def test_a_trial_run_of_one_step_goes_through(tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, max_steps=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*swapped")
        trainer.train()
    assert trainer.lr_scheduler.last_epoch == trainer.state.global_step == 1


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_small_gpt_with_two_parameter_groups_has_the_losses_observed_that_the_trainer_logs(
    accumulate: int, tmp_path: Path
) -> None:
    size = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0)
    texts = torch.arange(16).repeat(96, 1) + torch.arange(96)[:, None] % 16  # 6 batches
    trainer = AutoWUTrainer(
        transformers.GPT2LMHeadModel(config),
        build_arguments(
            tmp_path,
            num_train_epochs=10,
            gradient_accumulation_steps=accumulate,
            weight_decay=0.1,
            logging_strategy="steps",
            logging_steps=1,
        ),
        train_dataset=[{"input_ids": text, "labels": text} for text in texts],
    )
    trainer.train()
    scheduler = trainer.lr_scheduler
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == trainer.state.global_step == scheduler.last_epoch
    assert scheduler.switch_step >= 10
    assert scheduler.losses.tolist() == pytest.approx(logged[: scheduler.switch_step], rel=1e-5)
    assert scheduler.get_last_lr() == [0.0, 0.0]


def step_lr(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


def bare(optimizer: Any) -> AutoWU:
    return AutoWU(optimizer, 20, 10, **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autowu": {"patience": 0}}, "patience.*0"),
        ({"autowu": {"min_lr": 2.0}}, "min_lr"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type='cosine'"),
        ({"warmup_steps": 5}, "warmup_steps=5"),
        ({"lr_scheduler_kwargs": {"a": 1}}, "lr_scheduler_kwargs={'a': 1}"),
        ({"scheduler": step_lr}, "StepLR"),
        ({"scheduler": bare}, "AutoWU: pass"),
        ({"data": Stream(batches_of()), "autowu": {"test_interval": "epoch"}}, "test_interval"),
    ],
)
def test_what_it_cannot_serve_is_refused_by_name_before_the_first_step(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trainer = build_trainer(tmp_path, **({"max_steps": 20} | settings))
    with pytest.raises((ValueError, TypeError), match=message):
        trainer.train()
    assert lrs_of(trainer) == []


def test_a_learning_rate_that_plays_no_part_is_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"learning_rate=0\.1 of the TrainingArguments plays no"):
        build_trainer(tmp_path, max_steps=2, learning_rate=0.1).train()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "AutoWUTrainer finds the LR")
        build_trainer(tmp_path, max_steps=2).train()


def test_an_autowu_of_ones_own_is_fed_like_any_other(tmp_path: Path) -> None:
    own = train(tmp_path, num_train_epochs=2, scheduler=bare, autowu=None)
    assert_same_state(own, train(tmp_path, num_train_epochs=2))


def test_a_bare_autowu_in_the_stock_trainer_is_an_error_that_names_the_adapter(
    tmp_path: Path,
) -> None:
    trainer = build_trainer(
        tmp_path, kind=transformers.Trainer, num_train_epochs=2, scheduler=bare, autowu=None
    )
    with pytest.raises(ValueError, match=r"autowu\.integrations\.transformers\.AutoWUTrainer"):
        trainer.train()
    assert lrs_of(trainer) == [SETTINGS["min_lr"]]


def test_the_example_runs_and_resumes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = load_example("transformers_digits")
    example.main()
    whole = check_found(capsys.readouterr().out)
    example.main("runs/transformers_digits/checkpoint-180")
    assert check_found(capsys.readouterr().out) == whole


@pytest.mark.parametrize(
    ("autowu", "said"),
    [
        ("linear", "autowu must be a dict of AutoWU's keywords, got 'linear'"),
        ({"total_steps": 5}, "no total_steps, got 5: set max_steps or num_train_epochs"),
        ({"probe": 0}, "no probe, got 0: give it to the Trainer itself, probe=0"),
        ({"patiance": 3}, r"patiance=3, which is no keyword of AutoWU \(did you mean patience"),
        ({"qqq": 3}, "qqq=3, which is no keyword of AutoWU, which has steps_per_epoch, min_lr"),
    ],
)
def test_settings_that_are_not_its_own_are_refused_at_construction(autowu: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        AutoWUTrainer(autowu=autowu)
