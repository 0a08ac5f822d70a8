"""AutoWU in a loop with Accelerate: `step(accelerator, scheduler, loss)` is `scheduler.step()`.

    python examples/accelerate_digits.py [RESUME]
    ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 examples/accelerate_digits.py

trains a small network on scikit-learn's handwritten digits for a few seconds, with accumulation.
RESUME is a folder of `save_state`, `runs/accelerate_digits/epoch3` say. The lines that are there
for AutoWU are marked.
"""

import math
import os
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from autowu import AutoWU
from autowu.integrations.accelerate import step

EPOCHS = 10
ACCUMULATE = 2  # batches of an optimizer step
OUTPUT_DIR = os.path.join("runs", "accelerate_digits")


def main(resume: str = "") -> None:
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, test = random_split(digits, [0.8, 0.2])

    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATE)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # the LR plays no part
    model, optimizer, loader, test_loader = accelerator.prepare(
        model, optimizer, DataLoader(train, 16, shuffle=True), DataLoader(test, 256)
    )
    # After the loader was prepared: its length is the number of batches on one rank.
    steps_per_epoch = math.ceil(len(loader) / ACCUMULATE)  # AutoWU
    scheduler = AutoWU(optimizer, EPOCHS * steps_per_epoch, steps_per_epoch)  # AutoWU
    scheduler = accelerator.prepare(scheduler)  # AutoWU: save_state and load_state hold it then
    if resume:
        accelerator.load_state(resume)

    for epoch in range(scheduler.last_epoch // steps_per_epoch, EPOCHS):
        model.train()
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                step(accelerator, scheduler, loss)  # AutoWU: in the place of scheduler.step()
                optimizer.zero_grad()
        accelerator.save_state(os.path.join(OUTPUT_DIR, f"epoch{epoch}"))

    model.eval()
    num_correct = torch.zeros((), device=accelerator.device)
    with torch.no_grad():
        for inputs, targets in test_loader:
            hits = accelerator.gather_for_metrics(model(inputs).argmax(1) == targets)
            num_correct += hits.sum()
    accelerator.print(
        f"warmup of {scheduler.switch_step} steps, then decay from LR {scheduler.start_lr:.3g}; "
        f"accuracy {num_correct.item() / len(test):.3f}"
    )
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
