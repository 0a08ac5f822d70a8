"""On a GPU: what never waits for it, and what is the same every time. Passed over without one."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autowu import AutoWU, Phase
from autowu.trainer.data import load_data
from autowu.trainer.distributed import Ranks
from autowu.trainer.guard import DivergenceGuard
from autowu.trainer.models import build_model
from autowu.trainer.step import OptimizerStep
from tests.helpers import assert_same_state
from tests.test_train import assert_same_run, main, stop_after

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
NUM_STEPS, TEST_INTERVAL = 400, 10


@contextmanager
def no_waiting() -> Iterator[None]:
    """A block in which an operation that waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def scheduler_on(device: str, **settings: Any) -> AutoWU:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(3, device=device))])
    settings = {"sweep": "fixed", "test_interval": TEST_INTERVAL} | settings
    return AutoWU(optimizer, NUM_STEPS, **settings)


def losses_of_a_sweep() -> Tensor:
    """A loss that falls, and rises from the middle of the longest warmup on: float32 (n,)."""
    time = torch.linspace(0, 2, NUM_STEPS)
    noise = torch.randn(NUM_STEPS, generator=torch.Generator().manual_seed(0))
    return 2 - time.clamp(max=0.5) + 3 * (time - 0.5).clamp(min=0) + 0.02 * noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_without_a_test_never_waits(dtype: torch.dtype) -> None:
    scheduler = scheduler_on("cuda")
    weight = torch.tensor(3, device="cuda")
    for step, loss in enumerate(losses_of_a_sweep().to("cuda", dtype), 1):
        scheduler.optimizer.step()
        if scheduler.phase is Phase.WARMUP and step % TEST_INTERVAL == 0:
            scheduler.step(loss)
            continue
        with no_waiting():
            scheduler.observe(loss, weight)
            scheduler.step()
    assert scheduler.phase is Phase.DECAY
    assert [test.step % TEST_INTERVAL for test in scheduler.tests] == [0] * len(scheduler.tests)


@pytest.mark.parametrize("sweep", ["fixed", "adaptive"])
def test_a_test_decides_as_on_the_cpu(sweep: str) -> None:
    schedulers = {device: scheduler_on(device, sweep=sweep) for device in ("cpu", "cuda")}
    for device, scheduler in schedulers.items():
        for loss in losses_of_a_sweep().to(device):
            scheduler.optimizer.step()
            scheduler.step(loss)
    one, other = (scheduler.state_dict() for scheduler in schedulers.values())
    assert_same_state(one, other)
    assert one["switch_step"] is not None


@pytest.mark.parametrize("sweep", ["fixed", "adaptive"])
def test_a_state_goes_on_on_another_device(sweep: str) -> None:
    losses = losses_of_a_sweep()
    whole, first, second = (scheduler_on(name, sweep=sweep) for name in ("cuda", "cuda", "cpu"))
    for loss in losses.cuda():
        whole.optimizer.step()
        whole.step(loss)
    for loss in losses[:57].cuda():
        first.optimizer.step()
        first.step(loss)
    second.load_state_dict(first.state_dict())
    for loss in losses[57:]:
        second.optimizer.step()
        second.step(loss)
    assert_same_state(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_step_never_waits(precision: str) -> None:
    ranks = Ranks("cuda", deterministic=False)
    images = load_data("digits", 64, ranks=ranks, num_workers=0, channels_last=True)
    network, replica = ranks.wrap(build_model("small_cnn", 1, 10, 8))
    optimizer = torch.optim.AdamW(network.parameters())
    scheduler = AutoWU(
        optimizer, NUM_STEPS, images.steps_per_epoch, test_interval=TEST_INTERVAL, sweep="fixed"
    )
    take_step = OptimizerStep(replica, optimizer, precision=precision, clip_grad_norm=1.0)
    guard = DivergenceGuard(network, optimizer, take_step.scaler, scheduler)
    for step, batch in enumerate(images.train_batches(0), 1):
        if step % TEST_INTERVAL == 0 or step == 1:  # the first makes the optimizer's state
            scheduler.step(take_step(batch))
            guard.after_step()
            continue
        with no_waiting():
            scheduler.step(take_step(batch))
            guard.after_step()


@pytest.mark.parametrize(
    "settings",
    [
        ["precision=bf16", "channels_last=true"],
        ["precision=fp16", "ema_decay=0.9"],
        ["precision=bf16", "channels_last=true", "compile=true"],
    ],
    ids=["bf16", "fp16", "compiled"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> int:
        words = ["data.batch_size=64", "epochs=4", "device=cuda", *settings]
        return main([*words, f"output_dir={tmp_path}", f"name={name}"])

    assert run("whole") == 0
    with monkeypatch.context() as patch:
        stop_after(1, signal.SIGTERM, patch)
        assert run("interrupted") == 128 + signal.SIGTERM
    assert run("interrupted") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "interrupted")


def test_nccl_as_a_single_rank(tmp_path: Path) -> None:
    words = ["epochs=1", "device=cuda", f"output_dir={tmp_path}", "name=nccl"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "train.py", *words]
    root = Path(__file__).parents[1]
    done = subprocess.run(launch, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
