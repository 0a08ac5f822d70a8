"""AutoWU in timm's train script.

timm's `train.py` (https://github.com/huggingface/pytorch-image-models) is copied and edited rather
than imported. One line makes the scheduler; `import` it at the top:

    from autowu.integrations.timm import AutoWUScheduler

     updates_per_epoch = (len(loader_train) + args.grad_accum_steps - 1) // args.grad_accum_steps
    -lr_scheduler, num_epochs = create_scheduler_v2(
    -    optimizer,
    -    **scheduler_kwargs(args, decreasing_metric=decreasing_metric),
    -    updates_per_epoch=updates_per_epoch,
    -)
    +lr_scheduler, num_epochs = AutoWUScheduler(optimizer, args.epochs, len(loader_train) / args.grad_accum_steps), args.epochs

timm saves no scheduler. One line right below loads its state, and one below `saver.save_checkpoint`
saves it, under the same `if saver is not None`:

    +if resume_epoch: lr_scheduler.load_state_dict(torch.load(os.path.join(os.path.dirname(args.resume), f"autowu-{resume_epoch - 1}.pt")))

     best_metric, best_epoch = saver.save_checkpoint(epoch, metric=latest_metric)
    +torch.save(lr_scheduler.state_dict(), os.path.join(output_dir, f"autowu-{epoch}.pt"))

A run that resumes without them is refused, not restarted. With `--grad-accum-steps` the division is
not rounded: its fraction tells how short the last window of an epoch is.

    python examples/timm_script.py [RESUME]

runs the same lines in a loop of that shape, on scikit-learn's handwritten digits, for some seconds;
RESUME is a checkpoint of an earlier run, `runs/timm_script/last.pth.tar` say.
"""  # noqa: E501

import os
import sys

import torch
from sklearn.datasets import load_digits
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, CheckpointSaver
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autowu.integrations.timm import AutoWUScheduler

EPOCHS = 10
ACCUMULATE = 4
OUTPUT_DIR = os.path.join("runs", "timm_script")


def main(resume: str = "") -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    loader_train = DataLoader(digits, 16, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = create_optimizer_v2(model, opt="momentum", lr=0.1)  # the LR plays no part
    resume_epoch = resume_checkpoint(model, resume, optimizer) if resume else None

    updates_per_epoch = (len(loader_train) + ACCUMULATE - 1) // ACCUMULATE
    lr_scheduler = AutoWUScheduler(optimizer, EPOCHS, len(loader_train) / ACCUMULATE)
    if resume_epoch:
        state_file = os.path.join(os.path.dirname(resume), f"autowu-{resume_epoch - 1}.pt")
        lr_scheduler.load_state_dict(torch.load(state_file))
        lr_scheduler.step(resume_epoch)

    os.makedirs(OUTPUT_DIR, exist_ok=True)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=OUTPUT_DIR, decreasing=True)
    for epoch in range(resume_epoch or 0, EPOCHS):
        losses_m = AverageMeter()
        num_updates = epoch * updates_per_epoch
        last_window = len(loader_train) % ACCUMULATE or ACCUMULATE  # batches
        for batch_idx, (inputs, targets) in enumerate(loader_train):
            is_in_last_window = batch_idx >= len(loader_train) - last_window
            accum_steps = last_window if is_in_last_window else ACCUMULATE
            loss = nn.functional.cross_entropy(model(inputs), targets) / accum_steps
            loss.backward()
            losses_m.update(loss.item() * accum_steps, inputs.size(0))
            if (batch_idx + 1) % ACCUMULATE and batch_idx + 1 < len(loader_train):
                continue
            num_updates += 1
            optimizer.step()
            optimizer.zero_grad()
            lr_scheduler.step_update(num_updates=num_updates, metric=losses_m.avg)
        print(f"epoch {epoch}: loss {losses_m.avg:.3f}, LR {optimizer.param_groups[0]['lr']:.3g}")
        saver.save_checkpoint(epoch, metric=losses_m.avg)
        torch.save(lr_scheduler.state_dict(), os.path.join(OUTPUT_DIR, f"autowu-{epoch}.pt"))
        lr_scheduler.step(epoch + 1, losses_m.avg)

    found = lr_scheduler.scheduler
    print(f"warmup of {found.switch_step} updates, then decay from LR {found.start_lr:.3g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
