"""Networks by name: small ones for small images, and all of timm's."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from torch import Tensor

from autowu.trainer.limits import closest

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3
    from torchvision.models import ResNet


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


def cifar_resnet18(in_channels: int, num_classes: int) -> nn.Module:
    """torchvision's ResNet-18 (He et al. 2016) for images of 32x32 pixels: 11.2 M parameters.

    The first convolution is 3x3 with stride 1, and no pooling follows, so that the four stages
    see 32, 16, 8 and 4 pixels a side.
    """
    from torchvision.models import resnet18

    model = resnet18(num_classes=num_classes)
    begin_with_all_pixels(model, in_channels, 64)
    return model


def begin_with_all_pixels(model: "ResNet", in_channels: int, width: int) -> None:
    """Let a ResNet begin with a 3x3 convolution of stride 1 to `width` channels, and no pooling."""
    model.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


class WideResNet(nn.Module):
    """Pre-activation residual network of Zagoruyko and Komodakis 2016, arXiv:1605.07146.

    Args:
        in_channels: of the images.
        num_classes: of the logits.
        depth: `6 n + 4` layers, `n` blocks in each of three stages; 28.
        width: factor on the 16, 32 and 64 channels of the stages; 10: 36.5 M parameters.
    """

    def __init__(
        self, in_channels: int, num_classes: int, depth: int = 28, width: int = 10
    ) -> None:
        super().__init__()
        channels = [16, 16 * width, 32 * width, 64 * width]
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        for stage in range(3):
            for block in range(blocks):
                first = block == 0
                self.stages.append(
                    PreActivationBlock(
                        channels[stage] if first else channels[stage + 1],
                        channels[stage + 1],
                        stride=2 if first and stage > 0 else 1,
                    )
                )
        self.norm = nn.BatchNorm2d(channels[3])
        self.classifier = nn.Linear(channels[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, num_classes)."""
        features = self.norm(self.stages(self.stem(images))).relu()
        return self.classifier(features.mean(dim=(2, 3)))


class PreActivationBlock(nn.Module):
    """Twice norm, ReLU and 3x3 convolution; the shortcut branches off after the first ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        active = self.norm1(inputs).relu()
        residual = self.conv2(self.norm2(self.conv1(active)).relu())
        return residual + (inputs if self.shortcut is None else self.shortcut(active))


OWN_MODELS = {
    "small_cnn": SmallCNN,
    "cifar_resnet18": cifar_resnet18,
    "wide_resnet28_10": WideResNet,
}


def build_model(
    name: str,
    in_channels: int,
    num_classes: int,
    image_size: int = 32,
    drop_path: float = 0.0,
    batch_size: int = 2,
) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: one of `OWN_MODELS`, or a model of timm, such as `resnet50`.
        in_channels: of the images.
        num_classes: of the logits.
        image_size: pixels, for networks that are made for one size.
        drop_path: rate of stochastic depth (Huang et al. 2016), for timm's models.
        batch_size: images of a forward pass in training; batch norm may want more than one.

    Raises:
        ValueError: for an unknown name, or what that network does not have.
    """
    if name not in OWN_MODELS:
        model = _build_timm_model(name, in_channels, num_classes, image_size, drop_path)
    elif drop_path:
        raise ValueError(f"model.drop_path={drop_path}: only models of timm have it, not {name}")
    else:
        model = OWN_MODELS[name](in_channels, num_classes)
    _try_out(model, name, (min(batch_size, 2), in_channels, image_size, image_size))
    return model


def average_of(model: nn.Module, decay: float | None) -> "ModelEmaV3 | None":
    """timm's moving average of the weights and running statistics of a network; None for no decay.

    Args:
        model: on its device already.
        decay: of the average a step; it grows up to that in the first steps.
    """
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)


def _try_out(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError for batches that the network cannot train on: images too small, say."""
    copy = deepcopy(model).train()  # its running statistics may change
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy(torch.zeros(shape))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        images, channels, height, width = shape
        raise ValueError(
            f"model.name={name}: does not train on {'one image' if images == 1 else 'images'} of"
            f" {width}x{height} pixels with {channels} channel{'s' * (channels > 1)} in a forward"
            f" pass ({reason})"
        ) from None


def _build_timm_model(
    name: str, in_channels: int, num_classes: int, image_size: int, drop_path: float
) -> nn.Module:
    import timm

    if not timm.is_model(name):
        hint = closest(name, [*OWN_MODELS, *timm.list_models()])
        raise ValueError(
            f"model.name={name}: must be {', '.join(OWN_MODELS)} or a model of timm{hint}"
        )
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size and image_size != config.input_size[-1]:
        options["img_size"] = image_size
    try:
        return timm.create_model(
            name, pretrained=False, in_chans=in_channels, num_classes=num_classes, **options
        )
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        asked = f"{in_channels} channels, {image_size} pixels, model.drop_path={drop_path}"
        raise ValueError(f"model.name={name}: cannot be built for {asked} ({error})") from None
