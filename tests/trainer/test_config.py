"""Settings: what is merged, what is refused, and that a refusal is one line that helps."""

import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autowu.trainer.config import build_settings, main
from autowu.trainer.config_files import to_yaml
from autowu.trainer.errors import ConfigError
from autowu.trainer.schedule_settings import AutoWUSettings, WarmupCosineSettings
from autowu.trainer.settings import Settings

BASELINE = ["schedule.name=warmup_cosine", "optimizer.lr=0.1"]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["epocs=3"], ["epocs=3", "did you mean epochs?"]),
        (["schedule.patiance=3"], ["schedule.patiance=3", "did you mean schedule.patience?"]),
        (["optimizer.nam=sgd"], ["optimizer.nam=sgd", "did you mean optimizer.name?"]),
        (["schedule.nme=wsd"], ["schedule.nme=wsd", "did you mean schedule.name?"]),
        (["name=" + "x" * 256], ["name=xxx", "at most 255 bytes"]),
        (["weight_decay=3"], ["weight_decay=3", "did you mean optimizer.weight_decay?"]),
        (["optimizer=adamw"], ["optimizer=adamw", "optimizer.name"]),
        (["epochs=abc"], ["epochs=abc", "an integer"]),
        (["epochs=1.5"], ["epochs=1.5", "an integer"]),
        (["epochs=null"], ["epochs=null", "an integer"]),
        (["schedule.patience=true"], ["schedule.patience=true", "an integer"]),
        (["clip_grad_norm="], ["clip_grad_norm=", "a number or null"]),
        (["epochs=0"], ["epochs=0", "at least 1"]),
        (["optimizer.weight_decay=nan"], ["optimizer.weight_decay=nan", "at least 0"]),
        (["schedule.confidence=1"], ["schedule.confidence=1", "below 1"]),
        (["seed=-1"], ["seed=-1", "at least 0"]),
        (["precision=bf61"], ["precision=bf61", "bf16 or fp16", "did you mean bf16?"]),
        (["optimizer.name=adamx"], ["optimizer.name=adamx", "adam", "adamax", "list optimizers"]),
        (
            ["optimizer.name=adamw", "optimizer.beta=1"],
            ["beta=1", "betas", "adamw takes"],
        ),
        (["optimizer.name=adan", "optimizer.no=1"], ["optimizer.no=1", "adan takes", "betas"]),
        (["optimizer.betas=[0.9]"], ["optimizer.betas=[0.9]", "a list of 2 numbers"]),
        (["optimizer.betas=[0.9,1]"], ["optimizer.betas", "below 1"]),
        (["optimizer.lr_mult=3"], ["optimizer.lr_mult=3", "a mapping to numbers"]),
        (["optimizer.lr_mult.head=x"], ["optimizer.lr_mult", "a mapping to numbers"]),
        (["clip_grad_value=1", "clip_grad_norm=1"], ["clip_grad_value=1", "clip_grad_norm=1.0"]),
        (["check_finite=true", "compile=true"], ["check_finite=true", "compile=true"]),
        (["ema_decay=1"], ["ema_decay=1", "below 1"]),
        (["schedule.name=warmup_cosin"], ["warmup_cosin", "did you mean warmup_cosine?"]),
        (["device=gpu"], ["device=gpu", "cuda"]),
        (["schedule.warmup_epochs=2"], ["schedule.warmup_epochs=2", "warmup_cosine", "autowu"]),
        ([*BASELINE, "schedule.patience=3"], ["schedule.patience=3", "autowu", "warmup_cosine"]),
        (["optimizer.lr=0.1"], ["optimizer.lr=0.1", "schedule.name=autowu"]),
        (["schedule.name=warmup_cosine"], ["optimizer.lr", "schedule.name=warmup_cosine"]),
        (["schedule.min_lr=2"], ["schedule.min_lr=2", "schedule.max_lr=1"]),
        (["schedule.test_interval=epcoh"], ["schedule.test_interval=epcoh", "mean epoch?"]),
        (["schedule.cooldown_fraction=0.3"], ["cooldown_fraction=0.3", "constant_cosine"]),
        ([*BASELINE, "schedule.base_batch_size=128"], ["base_batch_size=128", "scale_lr"]),
        ([*BASELINE, "schedule.warmup_epochs=30"], ["warmup_epochs=30", "epochs=30"]),
        (["accumulate=3"], ["accumulate=3", "data.batch_size=32"]),
        (["accumulate=32", "data.mixup=0.8"], ["data.batch_size=32", "even", "accumulate=32"]),
        (["data.root=x"], ["data.root=x", "a setting of cifar10", "data.name is digits"]),
        (["data.name=cifar"], ["data.name=cifar", "did you mean cifar10 or cifar100?"]),
        (["data.batch_size=0"], ["data.batch_size=0", "at least 1"]),
        (["data.num_workers=-1"], ["data.num_workers=-1", "at least 0"]),
        (["data.augment=imagenet"], ["data.augment=imagenet", "crop_flip"]),
        (["data.name=parquet", "data.augment=deit"], ["data.augment=deit", "data.image_size=null"]),
        (["data.name=imagenet", "data.augment=cifar"], ["data.augment=cifar", "image_size=224"]),
        (["optimizer.momentum=0.8"], ["optimizer.momentum=0.8", "sgd", "adamp"]),
        (["optimizer.weight_decay=-1"], ["optimizer.weight_decay=-1", "at least 0"]),
        (["optimizer.name=sgd", "optimizer.momentum=0"], ["optimizer.momentum=0", "nesterov"]),
        (["tracking.tensorboard=maybe"], ["tracking.tensorboard=maybe", "true or false"]),
        (["checkpoint_every=often"], ["checkpoint_every=often", "epochs", "steps"]),
        (["checkpoint_every=0"], ["checkpoint_every=0", "at least 1"]),
        (["label_smoothing=1"], ["label_smoothing=1", "below 1"]),
        (["name=../elsewhere"], ["name=../elsewhere", "output_dir"]),
        (["name=a\udcff"], ["name='a\\udcff'", "UTF-8"]),  # a byte 0xff on the command line
        (["output_dir=a\ud800"], ["output_dir='a\\ud800'", "UTF-8"]),
        (["name=${nothing}"], ["name", "nothing"]),
        (["epochs"], ["epochs", "key=value"]),
        (["--epochs", "5"], ["--epochs", "key=value"]),
        (["--config"], ["--config"]),
        (["--config", "missing.yaml"], ["missing.yaml", "No such file"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_the_value_and_the_remedy(
    overrides: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(overrides) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    for part in said:
        assert part in output.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: [1, 2]", "epochs=[1, 2]: must be an integer"),
        ("data: digits", "data=digits: a section"),
        ("epochs: {}", "epochs={}: must be an integer"),
        ("- epochs", "must hold `key: value` lines"),
        ("epochs: [1", "not valid YAML"),
        ("epochs: 1\nepochs: 2", "not valid YAML"),
        ("optimizer: false", "optimizer=False: a section"),
        ("schedule: 0", "schedule=0: a section"),
        ("data: []", "data=[]: a section"),
        ("", "is empty, must hold `key: value` lines"),
        (" \n\n", "is empty, must hold `key: value` lines"),
        ("base: 3", "base=3: must be a path"),
        ("base: 0", "base=0: must be a path"),
        ("base: false", "base=False: must be a path"),
        ("base: bad.yaml", "extends itself"),
        ("schedule: {patiance: 3}", "did you mean schedule.patience?"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(text: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ConfigError) as error:
        build_settings([file], [])
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_may_be_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("epochs: 4\n",))
    writer.start()
    assert build_settings([pipe], []).epochs == 4
    writer.join()


def test_an_empty_section_says_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "empty.yaml", "base:\noptimizer:\ndata: {}\n")
    assert build_settings([file], []) == Settings()
    assert build_settings([write(file, "base: []")], []) == Settings()
    assert build_settings([write(file, "# nothing yet")], []) == Settings()


def test_later_sources_win_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "a.yaml", "epochs: 1\nseed: 1\naccumulate: 2\nclip_grad_norm: 1")
    write(tmp_path / "parts" / "b.yaml", "seed: 2\naccumulate: 4\nclip_grad_norm: 2")
    child = write(
        tmp_path / "child.yaml",
        "base: [parts/a.yaml, parts/b.yaml]\naccumulate: 8\nclip_grad_norm: 3\ndata:\n",
    )
    other = write(tmp_path / "other.yaml", "clip_grad_norm: 4")
    settings = build_settings([child, other], ["precision=bf16"])
    expected = Settings(
        epochs=1, seed=2, accumulate=8, clip_grad_norm=4.0, precision="bf16"
    )  # a, b over a, child over b, other over child, and the argument
    assert settings == expected


def test_values_get_the_type_of_their_field() -> None:
    settings = build_settings(
        [], ["schedule.min_lr=1e-4", "schedule.test_interval=7", "name=007", "clip_grad_norm=null"]
    )
    schedule = settings.schedule
    assert isinstance(schedule, AutoWUSettings)
    assert (schedule.min_lr, schedule.test_interval) == (1e-4, 7)
    assert (settings.name, settings.clip_grad_norm) == ("007", None)


def test_a_value_may_refer_to_another() -> None:
    assert build_settings([], ["name=mine-${seed}", "seed=5"]).name == "mine-5"


def test_the_written_config_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    overrides = [*BASELINE, "schedule.scale_lr=sqrt", "epochs=3", "tracking.wandb=offline"]
    settings = build_settings([], overrides)
    file = write(tmp_path / "config.yaml", to_yaml(settings))
    assert build_settings([file], []) == settings
    assert isinstance(settings.schedule, WarmupCosineSettings)


def test_the_shipped_configs_are_valid() -> None:
    files = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))  # below: parts of them
    assert files
    for file in files:
        build_settings([file], [])


def test_digits_yaml_is_what_no_arguments_mean() -> None:
    file = Path(__file__).parents[2] / "configs" / "digits.yaml"
    assert build_settings([file], []) == build_settings([], [])


def test_every_setting_of_autowu_is_offered_with_its_default() -> None:
    from autowu import AutoWU
    from autowu.probe import NUM_SAMPLES

    parameters = inspect.signature(AutoWU.__init__).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for not_a_setting in ("kernel", "process_group", "last_epoch"):
        del keywords[not_a_setting]
    offered = dict(vars(AutoWUSettings()))
    del offered["name"]
    assert offered.pop("probe") == NUM_SAMPLES  # a method of AutoWU, no keyword
    assert offered == keywords


def test_reading_a_config_does_not_import_torch() -> None:
    code = (
        "import sys; from autowu.trainer.config import main; assert main(['epochs=3']) == 0;"
        "assert not {'torch', 'gpytorch', 'wandb', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
