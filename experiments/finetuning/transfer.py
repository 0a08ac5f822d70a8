"""Networks that are trained on half of the classes, and few images of the other half."""

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from autowu.trainer.parameter_groups import find_head
from experiments.training import tasks
from experiments.training.methods import warmup_cosine
from experiments.training.tasks import SmallResNet, Task
from experiments.training.trial import train

NUM_CLASSES = 5  # of the even labels to train on first, of the odd ones then


@dataclass(frozen=True)
class Source:
    """What a network is trained on first: `count` images of the even labels."""

    count: int
    batch_size: int
    epochs: int
    lr: float  # peak of a warmup-cosine


SOURCES = {
    "cifar10": Source(10_000, batch_size=128, epochs=20, lr=0.01),
    "digits_vit": Source(700, batch_size=32, epochs=40, lr=0.001),
}


def few_images(name: str, root: Path, count: int) -> Task:
    """So many images of the odd labels, and a network of random weights."""
    return _of_classes(name, root, 1, count)


def from_trained(name: str, root: Path, count: int) -> Task:
    """The same images, and a network that is trained on the even labels: a new classifier."""
    trained = trained_network(name, root)

    def network() -> nn.Module:
        result = deepcopy(trained)
        classifier = find_head(result)
        assert isinstance(classifier, nn.Linear)
        classifier.reset_parameters()
        return result

    first = _of_classes(name, root, 0, SOURCES[name].count)
    return replace(few_images(name, root, count), network=network, mean=first.mean, std=first.std)


@cache
def trained_network(name: str, root: Path) -> nn.Module:
    """The same weights for all runs, trained once in a process: a minute or two."""
    source = SOURCES[name]
    task = _of_classes(name, root, 0, source.count)
    torch.manual_seed(0)
    network = task.network()
    train(
        replace(task, network=lambda: network),
        warmup_cosine(source.lr, 0.1, source.epochs),
        batch_size=source.batch_size,
        epochs=source.epochs,
        seed=0,
    )
    return network


@cache
def _of_classes(name: str, root: Path, remainder: int, count: int) -> Task:
    """The first images whose label leaves this remainder by 2; their labels are 0 to 4."""
    whole = _whole(name, root)

    def chosen(images: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
        index = (labels % 2 == remainder).nonzero().flatten()[:most]
        return images[index], labels[index] // 2

    train_images = chosen(whole.images, whole.labels, count)
    assert len(train_images[0]) == count
    test_images = chosen(whole.test_images, whole.test_labels, len(whole.test_labels))
    return tasks.task_of(name, train_images, test_images, whole.augment, whole.network)


@cache
def _whole(name: str, root: Path) -> Task:
    """All classes, and a network for half of them."""
    if name == "digits_vit":
        return replace(tasks.digits(), network=lambda: tasks.digits_transformer(NUM_CLASSES))
    images = tasks.cifar10(root, num_train=21_000, num_test=6_000)
    return replace(images, network=lambda: SmallResNet(NUM_CLASSES))
