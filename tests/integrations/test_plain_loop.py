"""The four loops of `examples/plain_pytorch.py`, and the other examples, run as they stand."""

import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from autowu import AutoWU
from tests import launch
from tests.helpers import assert_same_state
from tests.integrations.plain_loop import (
    NUM_EPOCHS,
    SETTINGS,
    assert_equals_plain_loop,
    batches_of,
    build_model,
    build_optimizer,
    report,
    results_of_two_ranks,
    train_plainly,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
FOUND = re.compile(r"warmup of (\d+) (?:steps|updates), then decay from LR ([\d.e-]+)")


def load_example(name: str) -> Any:
    spec = util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example, on the batches of the reference instead of its own."""
    module = load_example("plain_pytorch")
    inputs, targets = (torch.cat(parts) for parts in zip(*batches_of(), strict=True))
    monkeypatch.setattr(module, "digits", lambda: torch.utils.data.TensorDataset(inputs, targets))
    monkeypatch.setattr(module, "build_model", build_model)
    monkeypatch.setattr(module, "EPOCHS", 8)
    monkeypatch.setattr(module, "BATCH_SIZE", 16)
    monkeypatch.setattr(module, "device", "cpu")

    def in_order(dataset: Any, batch_size: int, shuffle: bool) -> Any:
        return torch.utils.data.DataLoader(dataset, batch_size)

    monkeypatch.setattr(module, "DataLoader", in_order)

    def with_settings(*arguments: Any) -> AutoWU:
        return AutoWU(*arguments, **SETTINGS)

    monkeypatch.setattr(module, "AutoWU", with_settings)
    return module


def test_the_plain_loop_finds_what_the_reference_finds(example: Any) -> None:
    found, plain = example.plain(), train_plainly([batches_of()], 8, **SETTINGS)
    assert found.losses.tolist() == pytest.approx(plain["losses"], rel=1e-5)
    assert found.switch_step == plain["switch_step"]
    assert found.start_lr == pytest.approx(plain["start_lr"], rel=1e-5)


def test_the_accumulating_loop_sees_the_mean_of_every_window(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "BATCH_SIZE", 16 * 4)  # in windows of 4, 4 and 2 batches of 16
    monkeypatch.setattr(example, "EPOCHS", 24)
    found = example.accumulation(4)
    plain = train_plainly([batches_of()], 24, 4, False, **SETTINGS)
    assert found.losses.tolist() == pytest.approx(plain["losses"], rel=1e-5)
    assert found.switch_step == plain["switch_step"]
    assert found.start_lr == pytest.approx(plain["start_lr"], rel=1e-5)


def test_with_the_grad_scaler_a_skipped_step_is_none(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_digits() -> Any:
        inputs, targets = (torch.cat(parts) for parts in zip(*batches_of(), strict=True))
        return torch.utils.data.TensorDataset(inputs.float(), targets)

    losses: list[list[float]] = [[]]
    model = build_model().float()

    def cross_entropy(logits: Any, labels: Any) -> Any:
        weights = model[0].weight.detach().clone()
        if losses[-1] and not torch.equal(weights, seen[0]):
            losses.append([])
        seen[0] = weights
        loss = nn.functional.cross_entropy(logits, labels)
        losses[-1].append(loss.item())
        return loss

    seen: list[Any] = [None]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**23)  # too much for float16
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler)
    monkeypatch.setattr(example, "digits", half_digits)
    monkeypatch.setattr(example, "build_model", lambda: model)
    monkeypatch.setattr(example, "cross_entropy", cross_entropy)
    monkeypatch.setattr(example, "EPOCHS", 2)
    found = example.grad_scaler()
    assert len(losses[0]) > 1, "the scaler skipped the first steps"
    assert found.last_epoch < 20
    seen_losses = found.losses.tolist()
    expected = [sum(window) / len(window) for window in losses[: len(seen_losses)]]
    assert seen_losses == pytest.approx(expected, rel=1e-5)


def check_found(output: str) -> tuple[int, float]:
    match = FOUND.search(output)
    assert match, output
    steps, lr = int(match[1]), float(match[2])
    assert steps > 10
    assert 1e-3 < lr < 1.0
    return steps, lr


def train_with_ddp(rank: int, accumulate: int) -> dict[str, Any]:
    """The loops of the example under DDP, with accumulation; the gradients' windows are whole."""
    batches = batches_of(rank, 2)
    model = build_model()
    optimizer = build_optimizer(model)
    parallel = nn.parallel.DistributedDataParallel(model)
    num_epochs, steps_per_epoch = NUM_EPOCHS[accumulate], -(-len(batches) // accumulate)
    scheduler = AutoWU(optimizer, num_epochs * steps_per_epoch, steps_per_epoch, **SETTINGS)
    lrs = []
    for _ in range(num_epochs):
        for number, (inputs, targets) in enumerate(batches, 1):
            loss = nn.functional.cross_entropy(parallel(inputs), targets)
            (loss / accumulate).backward()
            scheduler.observe(loss)
            if number % accumulate == 0 or number == len(batches):
                lrs.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
    return report(scheduler, lrs) | {"state": scheduler.state_dict()}


def run_as_rank() -> None:
    """What each of two ranks does."""
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo")
    results = {str(accumulate): train_with_ddp(rank, accumulate) for accumulate in NUM_EPOCHS}
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()


def test_under_ddp_both_ranks_see_the_mean_of_their_losses(tmp_path: Path) -> None:
    one, other = results_of_two_ranks("test_plain_loop", tmp_path)
    for accumulate, num_epochs in NUM_EPOCHS.items():  # 4: windows of 4, 4 and 2 batches
        batches = [batches_of(rank, 2) for rank in range(2)]
        plain = train_plainly(batches, num_epochs, accumulate, False, **SETTINGS)
        assert_same_state(one[str(accumulate)], other[str(accumulate)])
        assert_equals_plain_loop(one[str(accumulate)], plain)


def test_a_fused_optimizer_counts_the_steps_that_it_skips(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the README says: it looks for infinities itself, and its hooks run all the same."""
    make = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **keys: make(*args, **keys, fused=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler)
    model = build_model().float()
    before = model[0].weight.detach().clone()
    monkeypatch.setattr(example, "build_model", lambda: model)
    monkeypatch.setattr(example, "EPOCHS", 1)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches_of(), strict=True))
    dataset = torch.utils.data.TensorDataset(inputs.float(), targets)
    monkeypatch.setattr(example, "digits", lambda: dataset)
    found = example.grad_scaler()
    assert torch.equal(model[0].weight, before)
    assert found.last_epoch == 10


def test_an_example_runs_from_any_folder(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(EXAMPLES / "plain_pytorch.py"), "plain"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    check_found(ended.stdout)


def test_the_ddp_example_finds_the_same_on_both_ranks() -> None:
    program = (str(EXAMPLES / "plain_pytorch.py"), "ddp")
    ended = launch.finish(launch.start([], 2, program=program))
    assert [returncode for returncode, _, _ in ended] == [0, 0], ended
    one, other = (check_found(output) for _, output, _ in ended)
    assert one == other


def test_the_lightning_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    load_example("lightning_digits").main()
    check_found(capsys.readouterr().out)


def test_the_timm_example_runs_and_resumes_to_the_same_lrs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    example = load_example("timm_script")
    example.main()
    whole = capsys.readouterr().out
    check_found(whole)
    example.main(f"{example.OUTPUT_DIR}/checkpoint-7.pth.tar")
    resumed = capsys.readouterr().out
    lrs = [re.findall(r"LR ([\d.e-]+)\n", output) for output in (whole, resumed)]
    assert len(lrs[1]) == 3, "two epochs, and what was found"
    assert lrs[1] == lrs[0][-3:]
