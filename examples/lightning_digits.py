"""AutoWU in Lightning: the callback is all there is to add.

    python examples/lightning_digits.py

trains a small network on scikit-learn's handwritten digits for a few seconds. Add
`devices=2, strategy="ddp"` to the Trainer for several ranks, `accumulate_grad_batches=4` for
larger steps and `ckpt_path=...` to `fit` to go on with a saved run: nothing else changes.
"""

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from autowu.integrations.lightning import AutoWUCallback


class DigitsClassifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        accuracy = (self.model(images).argmax(1) == labels).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)  # no scheduler


def main() -> None:
    lightning.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    train, test = random_split(digits, [0.8, 0.2])

    autowu = AutoWUCallback()  # any setting of AutoWU: AutoWUCallback(decay="constant_cosine")
    trainer = lightning.Trainer(
        max_epochs=10, callbacks=[autowu], accelerator="auto", devices=1, log_every_n_steps=10
    )
    trainer.fit(DigitsClassifier(), DataLoader(train, 32, shuffle=True), DataLoader(test, 256))

    assert autowu.scheduler is not None
    print(
        f"warmup of {autowu.scheduler.switch_step} steps, then decay from LR "
        f"{autowu.scheduler.start_lr:.3g}; accuracy {trainer.callback_metrics['accuracy']:.3f}"
    )


if __name__ == "__main__":
    main()
