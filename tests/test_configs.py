"""configs/: every file is valid, the paper's rows are all there, and each experiment trains."""

import csv
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autowu.settings import PAPER
from autowu.trainer.config import build_settings
from autowu.trainer.models import OWN_MODELS, WideResNet
from autowu.trainer.settings import Settings
from tests.fake_data import write_cifar10, write_cifar100, write_image_folders
from tests.test_train import load_main

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
CIFAR_FILES = [file for file in FILES if file.name.startswith("cifar")]
TABLES = {  # the paper's rows: the table, and what the three schedules of a row have in common
    "cifar10_resnet18_adamp": ("Table 1", "cifar10", "cifar_resnet18", "adamp"),
    "cifar100_wrn28_10_adamp": ("Table 1", "cifar100", "wide_resnet28_10", "adamp"),
    "imagenet_resnet50_adamp": ("Table 1", "imagenet", "resnet50", "adamp"),
    "cifar10_resnet18_lamb": ("Table 2", "cifar10", "cifar_resnet18", "lamb"),
    "cifar100_wrn28_10_lamb": ("Table 2", "cifar100", "wide_resnet28_10", "lamb"),
    "imagenet_efficientnet_b0_adamp": ("Table 3", "imagenet", "efficientnet_b0", "adamp"),
    "imagenet_vit_s16_adamp": ("Table 3", "imagenet", "vit_small_patch16_224", "adamp"),
}
ABLATIONS = {
    "imagenet_resnet50_adamp_autowu_warmup0.125": "Table 4",
    "imagenet_resnet50_adamp_autowu_warmup0.25": "Table 4",
    "imagenet_resnet50_adamp_autowu_linear1.0": "Appendix C.2",
    "imagenet_resnet50_adamp_autowu_linear0.1": "Appendix C.2",
    "cifar10_resnet18_adamp_autowu_published": "Table 1",
}
SOURCES = ABLATIONS | {
    f"{row}_{schedule}": table
    for row, (table, *_) in TABLES.items()
    for schedule in ("baseline", "autowu_constant_cosine", "autowu")
}
RECIPES = {  # not AutoWU's paper: where they come from
    "imagenet_resnet50_lars_polynomial": "You et al. 2017",
    "imagenet_resnet50_lars_autowu": "You et al. 2017",
    "imagenet_resnet50_lars_composite": "VISSL's documentation",
}
EXPERIMENTS = [CONFIGS / f"{name}.yaml" for name in SOURCES | RECIPES]
# Of the six that train it, these do with all of its 36 M parameters; others differ in the schedule.
WHOLE_WIDE_RESNETS = ("cifar100_wrn28_10_adamp_autowu", "cifar100_wrn28_10_lamb_baseline")


def by_name(files: list[Path]) -> list[Any]:
    return [pytest.param(file, id=file.stem) for file in files]


def settings_of(name: str) -> Settings:
    return build_settings([CONFIGS / f"{name}.yaml"], [])


def values(settings: Settings, *keys: str) -> list[Any]:
    """The values of dotted keys."""
    found: list[Any] = []
    for key in keys:
        value: Any = settings
        for name in key.split("."):
            value = getattr(value, name)
        found.append(value)
    return found


@pytest.mark.parametrize("file", by_name(FILES))
def test_every_file_is_valid(file: Path) -> None:
    build_settings([file], [])


@pytest.mark.parametrize("file", by_name(CIFAR_FILES))
def test_cifar_configs_take_parquet_files_instead(file: Path) -> None:
    settings = build_settings([file], ["data.name=parquet", "data.root=cifar10-jpeg"])
    assert values(settings, "data.name", "data.image_size") == ["parquet", None]
    assert values(settings, "data.augment") == values(build_settings([file], []), "data.augment")


def test_no_file_is_left_over() -> None:
    others = {"digits", "digits_baseline", "cifar10_small"}
    assert {file.stem for file in FILES} == set(SOURCES) | set(RECIPES) | others


@pytest.mark.parametrize("name", SOURCES | RECIPES)
def test_header_says_where_the_numbers_come_from(name: str) -> None:
    header = re.match(r"(#.*\n)+", (CONFIGS / f"{name}.yaml").read_text())
    assert header
    text = header[0]
    assert text.startswith(f"# {(SOURCES | RECIPES)[name]}, ")
    assert f"--config configs/{name}.yaml" in text
    assert "not measured" in text
    assert ("V100" if name in SOURCES else "Chosen by us") in text
    assert ("schedule.fit=adam" in text) == ("autowu" in name)


@pytest.mark.parametrize("schedule", ["baseline", "autowu_constant_cosine", "autowu"])
@pytest.mark.parametrize("row", TABLES)
def test_rows_have_the_papers_setup(row: str, schedule: str) -> None:
    settings = settings_of(f"{row}_{schedule}")
    expected = list(TABLES[row][1:])
    assert values(settings, "data.name", "model.name", "optimizer.name") == expected
    if "cifar" in row:
        recipe = [200, 256, "cifar", 0.1]
    elif "vit" in row:
        recipe = [300, 1024, "deit", 0.1]
    else:
        recipe = [120, 1024, "imagenet", 0.1 if "efficientnet" in row else 0.0]
    assert values(settings, "epochs", "data.batch_size", "data.augment", "label_smoothing") == (
        recipe
    )


@pytest.mark.parametrize("row", TABLES)
def test_the_optimizer_is_the_same_for_all_schedules(row: str) -> None:
    keys = ["weight_decay", "decay_norms", "decay_biases"]
    expected = [0.05, False, False] if "vit" in row else [0.1, True, True]
    if "adamp" in row:
        keys += ["delta", "wd_ratio"]
        expected += [0.1, 0.1]
    else:
        expected = [0.02, False, False]
    for schedule in ("baseline", "autowu_constant_cosine", "autowu"):
        optimizer = settings_of(f"{row}_{schedule}").optimizer
        assert [getattr(optimizer, key) for key in keys] == expected


@pytest.mark.parametrize("row", TABLES)
def test_baselines_scale_the_base_lr_by_the_square_root(row: str) -> None:
    settings = settings_of(f"{row}_baseline")
    keys = ["name", "warmup_epochs", "end_lr_ratio", "scale_lr", "base_batch_size"]
    schedule = [getattr(settings.schedule, key) for key in keys]
    assert schedule == ["warmup_cosine", 5.0, 0.0, "sqrt", 256]
    assert settings.optimizer.lr == (0.01 if "lamb" in row else 0.0005 if "vit" in row else 0.001)


AUTOWU_KEYS = ("min_lr", "max_lr", "max_warmup_fraction", "growth", "decay", "cooldown_fraction")


@pytest.mark.parametrize("row", TABLES)
@pytest.mark.parametrize("decay", ["cosine", "constant_cosine"])
def test_autowu_searches_the_papers_range(row: str, decay: str) -> None:
    suffix = "_constant_cosine" if decay == "constant_cosine" else ""
    schedule = settings_of(f"{row}_autowu{suffix}").schedule
    found = [getattr(schedule, key) for key in AUTOWU_KEYS]
    assert found == [1e-5, 1.0, 0.5, "exponential", decay, 0.2]


@pytest.mark.parametrize(
    ("name", "changed", "batch_size"),
    [
        ("warmup0.125", {"max_warmup_fraction": 0.125}, 1024),
        ("warmup0.25", {"max_warmup_fraction": 0.25}, 1024),
        ("linear1.0", {"growth": "linear", "max_lr": 1.0}, 16384),
        ("linear0.1", {"growth": "linear", "max_lr": 0.1}, 16384),
    ],
)
def test_ablations_change_only_what_they_are_about(
    name: str, changed: dict[str, Any], batch_size: int
) -> None:
    reference = settings_of("imagenet_resnet50_adamp_autowu")
    settings = settings_of(f"imagenet_resnet50_adamp_autowu_{name}")
    expected = {key: getattr(reference.schedule, key) for key in AUTOWU_KEYS} | changed
    assert {key: getattr(settings.schedule, key) for key in AUTOWU_KEYS} == expected
    assert settings.data.batch_size == batch_size
    assert (settings.model, settings.optimizer) == (reference.model, reference.optimizer)
    assert settings.epochs == reference.epochs


def test_the_published_procedure_is_all_that_its_config_changes() -> None:
    reference = settings_of("cifar10_resnet18_adamp_autowu")
    settings = settings_of("cifar10_resnet18_adamp_autowu_published")
    schedule = dataclasses.replace(reference.schedule, **PAPER)
    assert settings == dataclasses.replace(reference, schedule=schedule)


def test_vit_trains_as_deit_does() -> None:
    keys = ("data.mixup", "data.cutmix", "model.drop_path", "data.image_size")
    assert values(settings_of("imagenet_vit_s16_adamp_autowu"), *keys) == [0.8, 1.0, 0.1, 224]


def test_peak_lr_of_vit_is_deits_at_its_batch_size() -> None:
    settings = settings_of("imagenet_vit_s16_adamp_baseline")
    lr, batch, base = values(
        settings, "optimizer.lr", "data.batch_size", "schedule.base_batch_size"
    )
    assert lr * math.sqrt(batch / base) == pytest.approx(5e-4 * 1024 / 512)


def lrs_of(settings: Settings, steps_per_epoch: int) -> list[float]:
    """The LR of every step of a run whose schedule the losses do not change."""
    from autowu.commands.show import draw

    return draw(settings, steps_per_epoch, label="", relative=False).lrs


def test_the_large_batch_recipe_has_the_numbers_of_its_source() -> None:
    settings = settings_of("imagenet_resnet50_lars_polynomial")
    keys = ("data.batch_size", "epochs", "optimizer.lr", "optimizer.lars", "optimizer.nesterov")
    assert values(settings, *keys) == [8192, 90, 12.8, True, False]
    lrs = lrs_of(settings, steps_per_epoch=20)
    assert lrs[:100] == pytest.approx([12.8 * (step + 1) / 101 for step in range(100)])
    assert lrs[100:] == pytest.approx([12.8 * (1 - step / 1700) ** 2 for step in range(1700)])


@pytest.mark.parametrize("name", ["autowu", "composite"])
def test_large_batch_configs_differ_in_their_schedule(name: str) -> None:
    optimizer = ("name", "momentum", "nesterov", "weight_decay", "lars")
    keys = ["data.name", "data.augment", "model", "epochs", "precision"]
    keys += [f"optimizer.{key}" for key in optimizer]
    reference = values(settings_of("imagenet_resnet50_lars_polynomial"), *keys)
    assert values(settings_of(f"imagenet_resnet50_lars_{name}"), *keys) == reference


def test_autowu_with_lars_sweeps_past_the_largest_lr_of_the_recipe() -> None:
    settings = settings_of("imagenet_resnet50_lars_autowu")
    assert values(settings, "schedule.min_lr", "schedule.max_lr") == [0.01, 30]
    assert values(settings, "optimizer.lr", "data.batch_size") == [None, 8192]


def test_the_four_pieces_have_the_learning_rates_of_their_source() -> None:
    settings = settings_of("imagenet_resnet50_lars_composite")
    lrs = lrs_of(settings, steps_per_epoch=10_000)
    ends = [0.0256, 0.51282, 0.53842]  # fractions of the run, over 1.00008
    starts = [0, *(math.ceil(900_000 * end / 1.00008) for end in ends)]
    assert [lrs[step] for step in starts] == pytest.approx([0.6, 4.8, 0.0048, 2.114], rel=0.02)
    assert lrs[-1] == pytest.approx(0.0048, rel=1e-3)
    middle = starts[0] + round(900_000 * 0.0128 / 1.00008)
    assert lrs[middle] == pytest.approx((0.6 + 4.8) / 2, rel=1e-3)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three data sets, ten images to train on each: two steps of four and two left over."""
    root = tmp_path_factory.mktemp("data")
    write_cifar10(root, num_train=10, num_test=4)
    write_cifar100(root, num_train=10, num_test=4)
    write_image_folders(root, num_classes=2, per_class=5)
    return root


@pytest.fixture
def output_dir(tmp_path: Path) -> Iterator[Path]:
    """Emptied after the test: the checkpoints of all the networks are several GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("file", by_name([*EXPERIMENTS, CONFIGS / "cifar10_small.yaml"]))
def test_two_steps_of_every_experiment(
    file: Path, data_root: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [
        f"data.root={data_root}",
        "data.batch_size=4",
        "data.num_workers=0",
        "accumulate=1",
        "epochs=1",
        "device=cpu",
        "precision=fp32",
        f"output_dir={output_dir}",
        "name=run",
    ]
    if file.name.startswith("imagenet"):
        overrides.append("data.image_size=32")
    if file.stem.endswith(("baseline", "polynomial")):
        overrides.append("schedule.warmup_epochs=0.5")
    if "autowu" in file.stem:
        overrides += ["schedule.min_lr=1e-5", "schedule.max_lr=4e-5"]  # a probe of 3 steps, not 18
    if "wrn28_10" in file.stem and file.stem not in WHOLE_WIDE_RESNETS:
        monkeypatch.setitem(OWN_MODELS, "wide_resnet28_10", partial(WideResNet, width=2))
    assert load_main()(["--config", str(file), *overrides]) == 0
    summary = json.loads((output_dir / "run" / "summary.json").read_text())
    assert summary["total_steps"] == 2
    with (output_dir / "run" / "steps.csv").open() as steps:
        losses = [float(row["loss"]) for row in csv.DictReader(steps)]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
