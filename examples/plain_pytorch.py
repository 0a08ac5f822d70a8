"""AutoWU in a training loop of your own, four times: as it is, and with what loops often have.

    python examples/plain_pytorch.py
    python examples/plain_pytorch.py accumulation
    python examples/plain_pytorch.py grad_scaler
    torchrun --nproc-per-node 2 examples/plain_pytorch.py ddp

Each trains a small network on scikit-learn's handwritten digits for a few seconds. The lines that
are there for AutoWU are marked.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from autowu import AutoWU

EPOCHS = 10
BATCH_SIZE = 32  # images a step, on one rank
device = "cuda" if torch.cuda.is_available() else "cpu"


def plain() -> AutoWU:
    model, loader = build_model(), DataLoader(digits(), BATCH_SIZE, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # the LR plays no part
    scheduler = AutoWU(optimizer, EPOCHS * len(loader), len(loader))  # AutoWU
    for _ in range(EPOCHS):
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step(loss)  # AutoWU
    return scheduler


def accumulation(accumulate: int = 4) -> AutoWU:
    """Several batches a step: each one's loss is observed, and `step` averages them."""
    model, loader = build_model(), DataLoader(digits(), BATCH_SIZE // accumulate, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps_per_epoch = -(-len(loader) // accumulate)  # the last step may have fewer batches
    scheduler = AutoWU(optimizer, EPOCHS * steps_per_epoch, steps_per_epoch)  # AutoWU
    for _ in range(EPOCHS):
        for number, (images, labels) in enumerate(loader, 1):
            loss = cross_entropy(model(images), labels)
            (loss / accumulate).backward()
            scheduler.observe(loss)  # AutoWU: before it is divided
            if number % accumulate == 0 or number == len(loader):
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()  # AutoWU
    return scheduler


def grad_scaler() -> AutoWU:
    """float16: the scaler skips a step whose gradients overflow, and then AutoWU makes none."""
    model, loader = build_model(), DataLoader(digits(), BATCH_SIZE, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(device)
    scheduler = AutoWU(optimizer, EPOCHS * len(loader), len(loader))  # AutoWU
    # AutoWU: runs when the optimizer did make its step; register it after a probe. With fused=True,
    # which looks for overflows on the GPU, it runs for those that it skips, too: compare
    # scaler.get_scale() before and after update() then, which waits for the GPU.
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    for _ in range(EPOCHS):
        for images, labels in loader:
            with torch.autocast(device, torch.float16):
                loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scheduler.observe(loss)  # AutoWU: the loss itself, not scaled
            num_steps = scheduler.last_epoch
            scaler.step(optimizer)
            if scheduler.last_epoch == num_steps:  # AutoWU: the scaler left the step out
                scheduler.skip()
            scaler.update()
    return scheduler


def ddp() -> AutoWU:
    """Every rank hands over its own loss; AutoWU averages them when it tests."""
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    dataset = digits()
    sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(dataset)
    loader = DataLoader(dataset, BATCH_SIZE, sampler=sampler)
    model = nn.parallel.DistributedDataParallel(build_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = AutoWU(optimizer, EPOCHS * len(loader), len(loader))  # AutoWU
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step(loss)  # AutoWU
        scheduler.synchronize()  # AutoWU: on every rank, before rank 0 saves state_dict() for all
    return scheduler


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)


def digits() -> TensorDataset:
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images / 16, dtype=torch.float32, device=device)
    return TensorDataset(inputs, torch.tensor(labels, device=device))


if __name__ == "__main__":
    loops = {loop.__name__: loop for loop in (plain, accumulation, grad_scaler, ddp)}
    chosen = sys.argv[1:] or ["plain"]
    if len(chosen) != 1 or chosen[0] not in loops:
        sys.exit(f"usage: plain_pytorch.py [{'|'.join(loops)}]")
    found = loops[chosen[0]]()
    print(f"warmup of {found.switch_step} steps, then decay from LR {found.start_lr:.3g}")
    if dist.is_initialized():
        time.sleep(0.1)  # a thread of gloo that drops its last tensors later aborts the exit
        dist.destroy_process_group()
