"""Networks: their sizes are those of the papers, and mistakes in their names help."""

import pytest
import torch

from autowu.trainer.models import build_model


def num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "millions"),
    [
        # He et al. 2016 with the stem for 32x32 pixels; Zagoruyko and Komodakis 2016, table 5.
        ("cifar_resnet18", 10, 32, 11.17),
        ("wide_resnet28_10", 100, 32, 36.5),
        # Table 3 of torchvision's and timm's documentation: 25.6, 5.3 and 22.1 million.
        ("resnet50", 1000, 224, 25.56),
        ("efficientnet_b0", 1000, 224, 5.29),
        ("vit_small_patch16_224", 1000, 224, 22.05),
    ],
)
def test_the_networks_of_the_paper_have_their_size(
    name: str, num_classes: int, size: int, millions: float
) -> None:
    model = build_model(name, in_channels=3, num_classes=num_classes, image_size=size)
    assert num_parameters(model) / 1e6 == pytest.approx(millions, rel=0.003)


def test_the_cifar_resnet_sees_32_16_8_and_4_pixels() -> None:
    model = build_model("cifar_resnet18", 3, 10)
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [32, 16, 8, 4]


def test_a_wide_resnet_of_depth_28_has_28_layers() -> None:
    model = build_model("wide_resnet28_10", 3, 100)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    # 25 of 3x3 and the linear layer on the path, and two more for counting as the authors do.
    assert sum(c.kernel_size == (3, 3) for c in convolutions) == 25
    assert sum(c.kernel_size == (1, 1) for c in convolutions) == 3  # a shortcut a stage
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 100)


def test_a_transformer_is_made_for_the_size_of_the_images() -> None:
    model = build_model("vit_small_patch16_224", 3, 5, image_size=32, drop_path=0.1)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "resnet5o"}, r"model\.name=resnet5o: .*did you mean resnet50\?"),
        ({"name": "cifar_resnet19"}, "did you mean cifar_resnet18"),
        ({"name": "small_cnn", "drop_path": 0.1}, r"model\.drop_path=0\.1: only models of timm"),
        ({"name": "vgg11", "drop_path": 0.1}, r"model\.name=vgg11: cannot be .*drop_path=0\.1"),
        ({"name": "vgg11", "image_size": 8}, r"model\.name=vgg11: does not train on images of 8x8"),
        ({"name": "resnet18", "batch_size": 1}, "does not train on one image of 32x32"),
        ({"name": "alexnet"}, r"model\.name=alexnet"),
    ],
)
def test_what_cannot_be_built_is_said(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_model(**{"in_channels": 3, "num_classes": 10, "image_size": 32, **options})  # type: ignore[arg-type]


def test_batch_norms_over_all_ranks_keep_their_activations() -> None:
    """torch's own conversion drops the activation that timm fuses with a batch norm."""
    from timm.layers import SyncBatchNormAct, convert_sync_batchnorm
    from timm.layers.norm_act import BatchNormAct2d

    model = build_model("efficientnet_b0", 3, 10)
    fused = sum(isinstance(module, BatchNormAct2d) for module in model.modules())
    converted = convert_sync_batchnorm(model)
    assert sum(isinstance(module, SyncBatchNormAct) for module in converted.modules()) == fused > 0
