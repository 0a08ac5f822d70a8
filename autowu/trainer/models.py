"""Networks by name."""

import torch.nn as nn
from torch import Tensor


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with batch normalisation, a global average and a linear layer.

    For images of about 8x8 pixels: 56 thousand parameters, a few milliseconds a step on a CPU.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(in_channels, width),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 2 * width),
        )
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, num_classes)."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def _block(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        # The bias would be undone by the normalisation that follows.
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


def build_model(name: str, in_channels: int, num_classes: int) -> nn.Module:
    """Build a network with random weights; ValueError for an unknown name."""
    models = {"small_cnn": SmallCNN}
    if name not in models:
        raise ValueError(f"model.name={name}: must be one of {', '.join(models)}")
    return models[name](in_channels, num_classes)
