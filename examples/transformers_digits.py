"""AutoWU in Hugging Face's Trainer: the class is all there is to change.

    python examples/transformers_digits.py [RESUME]

trains a small network on scikit-learn's handwritten digits for a few seconds. RESUME is a
checkpoint, `runs/transformers_digits/checkpoint-180` say. With `gradient_accumulation_steps` and
under torchrun nothing else changes. A subclass of Trainer takes the mixin, and takes it first:
`class MyTrainer(AutoWUMixin, SFTTrainer)`.
"""

import os
import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import random_split
from transformers import EvalPrediction, TrainingArguments, set_seed

from autowu.integrations.transformers import AutoWUTrainer


class DigitsClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids).mean()}


def main(resume: str | None = None) -> None:
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images / 16, dtype=torch.float32)
    digits = [
        {"images": image, "labels": label} for image, label in zip(pixels, labels, strict=True)
    ]
    train, test = random_split(digits, [0.8, 0.2])

    arguments = TrainingArguments(  # no schedule and no warmup; the learning_rate plays no part
        output_dir=os.path.join("runs", "transformers_digits"),
        num_train_epochs=10,
        per_device_train_batch_size=32,
        logging_strategy="epoch",
        save_strategy="epoch",
        dataloader_pin_memory=torch.cuda.is_available(),  # without a GPU torch warns of it
        report_to=[],
    )
    trainer = AutoWUTrainer(  # any setting of AutoWU: autowu={"decay": "constant_cosine"}
        DigitsClassifier(),
        arguments,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=resume)

    scheduler = trainer.lr_scheduler
    print(
        f"warmup of {scheduler.switch_step} steps, then decay from LR {scheduler.start_lr:.3g}; "
        f"accuracy {trainer.evaluate()['eval_accuracy']:.3f}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
