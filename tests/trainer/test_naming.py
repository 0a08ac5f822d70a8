"""Names of runs: as they were for usual settings, and different for runs that differ."""

import itertools
import re
from pathlib import Path

import pytest

from autowu.trainer.config import build_settings
from autowu.trainer.naming import run_name

CONFIGS = Path(__file__).parents[2] / "configs"
USUAL = "digits-small_cnn-adamp-autowu-batch32-epochs30-seed0"


def name_of(*overrides: str) -> str:
    return run_name(build_settings([], overrides))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("", USUAL),
        ("schedule.decay=wsd_linear", f"{USUAL}-decay=wsd_linear"),
        ("log_every=7 checkpoint_every=7 device=cpu", f"{USUAL}-device=cpu-log_every=7"),
        ("optimizer.name=rmsprop", USUAL.replace("adamp", "rmsprop")),
        ("schedule.seed=3", f"{USUAL}-schedule.seed=3"),  # there is another `seed`
        ("clip_grad_norm=1 compile=true", f"{USUAL}-clip_grad_norm=1.0-compile=true"),
        ("optimizer.betas=[0.9,0.99]", f"{USUAL}-betas=0.9,0.99"),
        (
            "epochs=5 data.batch_size=64 seed=2 optimizer.name=AdamW model.name=wide_resnet28_10",
            "digits-wide_resnet28_10-adamw-autowu-batch64-epochs5-seed2",
        ),
        (
            "schedule.name=warmup_cosine optimizer.lr=0.003 schedule.warmup_epochs=null",
            "digits-small_cnn-adamp-warmup_cosine-batch32-epochs30-seed0-lr=0.003",
        ),
        ("name=mine schedule.decay=wsd_linear", "mine"),
    ],
)
def test_a_name_has_the_main_settings_and_what_is_not_as_usual(overrides: str, name: str) -> None:
    assert name_of(*overrides.split()) == name


@pytest.mark.parametrize(
    "override",
    [
        "schedule.decay=cosine",  # as usual
        "output_dir=elsewhere",
        "resume=never",
        "tracking.wandb=offline",
        "data.num_workers=3",
    ],
)
def test_what_may_change_while_a_run_goes_on_is_not_in_the_name(override: str) -> None:
    assert name_of(override) == USUAL


def test_where_the_images_lie_is_not_in_the_name() -> None:
    cifar = ["data.name=cifar10", "data.download=true"]
    assert name_of(*cifar, "data.root=/here") == name_of("data.name=cifar10")


def test_settings_that_do_not_fit_or_no_folder_can_be_called_by_are_a_hash() -> None:
    curves = "schedule.curves=[{{name: linear, length: 1.0, start: {}, end: 1}}]"
    many = [f"schedule.{key}=7" for key in ("patience", "num_tests", "grid_size", "seed")]
    many += ["schedule.num_fit_samples=7", "schedule.num_posterior_samples=7"]
    names = [
        *(name_of(*many, f"label_smoothing={value}") for value in (0.1, 0.2)),
        *(name_of(f"optimizer.lr_mult={{features: {value}}}") for value in (0.1, 0.2)),
        *(
            name_of("schedule.name=composite", "optimizer.lr=1", curves.format(value))
            for value in (0.1, 0.2)
        ),
    ]
    assert len(set(names)) == len(names)
    assert names[0].startswith(f"{USUAL}-patience=7-num_tests=7-")
    for name in names:
        assert len(name) <= 120
        assert re.fullmatch(r"[\w.=-]+-[0-9a-f]{8}", name)


def test_two_shipped_configs_are_never_one_run() -> None:
    names = {file: run_name(build_settings([file], [])) for file in sorted(CONFIGS.glob("*.yaml"))}
    assert names[CONFIGS / "digits.yaml"] == USUAL
    assert all(len(name) <= 120 for name in names.values())
    for one, other in itertools.combinations(names, 2):
        assert names[one] != names[other], f"{one.name} and {other.name}"
