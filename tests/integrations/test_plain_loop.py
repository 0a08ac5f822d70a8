"""The four loops of `examples/plain_pytorch.py`, and the other examples, run as they stand."""

import re
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autowu import AutoWU
from tests import launch
from tests.integrations.plain_loop import SETTINGS, batches_of, build_model, train_plainly

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


def test_the_ddp_example_finds_the_same_on_both_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
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
