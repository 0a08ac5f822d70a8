"""The help of train.py: every setting with its default, meaning and choices, torch left alone."""

import dataclasses
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from autowu.settings import Decay
from autowu.trainer.config import build_settings, main
from autowu.trainer.limits import setting
from autowu.trainer.settings import VARIANTS
from autowu.trainer.settings_help import describe_settings
from autowu.trainer.validation import Field, field_of, settings_fields

TRAIN = Path(__file__).parents[2] / "train.py"
CHOSEN = [(section, name) for section, variants in VARIANTS.items() for name in variants]
HELP = describe_settings(100)
WORDS = " ".join(HELP.split())


def fields_of(section: str, name: str) -> dict[str, Field]:
    return settings_fields({section: VARIANTS[section][name]})


def block_of(section: str, name: str) -> str:
    """What the help says of a variant, on one line."""
    (block,) = re.findall(rf"^    with {section}\.name={name}: .*?(?=^$)", HELP + "\n", re.M | re.S)
    return " ".join(block.split())


@pytest.mark.parametrize(("section", "name"), CHOSEN)
def test_every_setting_has_a_meaning_that_the_help_shows(section: str, name: str) -> None:
    for key, field in fields_of(section, name).items():
        assert field.meaning, f"{key}: setting(default, meaning) says what it means"
        assert field.meaning[-1] != ".", f"{key}: choices may follow"
        assert field.default is not None or "null" in field.meaning, f"{key}: what null means"
        if not key.startswith(tuple(f"{other}." for other in VARIANTS if other != section)):
            assert field.meaning in WORDS


@pytest.mark.parametrize(("section", "name"), CHOSEN)
def test_every_variant_says_what_it_is(section: str, name: str) -> None:
    kind = VARIANTS[section][name]
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")  # the dataclass's own
    assert block_of(section, name).startswith(f"with {section}.name={name}: {kind.__doc__[:12]}")


@pytest.mark.parametrize(("section", "name"), CHOSEN)
def test_what_the_help_shows_can_be_given_and_is_the_default(section: str, name: str) -> None:
    chosen = [f"{section}.name={name}"]
    if section == "schedule" and "schedule.update" in fields_of(section, name):
        chosen.append("optimizer.lr=0.1")
    shown = re.findall(rf"(?<= ){section}\.(?!name)\w+=\S+", block_of(section, name))
    own = [each.rstrip(",") for each in shown]
    keys = {each.partition("=")[0] for each in own}
    every = {key for key in fields_of(section, name) if key.startswith(f"{section}.")}
    in_all = {key for key in every if re.search(rf"^    {key}=", HELP, re.M)}
    assert keys | in_all | {f"{section}.name"} == every
    if name == "composite":
        own.remove("schedule.curves=[]")  # must be given
        chosen.append("schedule.curves=[{name: cosine, length: 1}]")
    assert build_settings([], [*chosen, *own]) == build_settings([], chosen)


def test_a_setting_without_a_meaning_is_seen_and_another_default_keeps_that_of_the_base() -> None:
    @dataclass(frozen=True)
    class Base:
        pace: float = setting(1.0, "metres a second", above=0)
        parts: list[int] = setting([], "numbers of the parts")

    @dataclass(frozen=True)
    class Derived(Base):
        pace: float = 2.0
        silent: int = 3

    found = {entry.name: field_of(Derived, entry) for entry in dataclasses.fields(Derived)}
    assert found["pace"] == Field(float, 2.0, {}, "metres a second")
    assert found["silent"].meaning == ""
    base = dataclasses.fields(Base)[0]
    assert field_of(Base, base) == Field(float, 1.0, {"above": 0}, "metres a second")
    assert Derived().parts == [] and Derived().parts is not Derived().parts


@pytest.mark.parametrize(("section", "name"), CHOSEN)
def test_all_choices_are_shown(section: str, name: str) -> None:
    for key, field in fields_of(section, name).items():
        if get_origin(field.type) is not Literal or key.endswith(".name"):
            continue
        about = [
            text
            for text in re.split(r"(?m)^ *(?=[a-z_.]+=)", HELP)
            if text.startswith(f"{key}=") and field.meaning in " ".join(text.split())
        ]
        for choice in get_args(field.type):
            assert any(re.search(rf"\b{choice}\b", text.partition("=")[2]) for text in about)


def test_long_lists_of_choices_are_shown() -> None:
    assert f"; one of {', '.join(get_args(Decay))} schedule." in WORDS
    assert "; one of none, crop_flip, cifar, imagenet, deit " in WORDS
    for variants in VARIANTS.values():
        assert f"; one of {', '.join(variants)}" in WORDS
    assert "schedulefree, or another of `python -m autowu list optimizers` " in WORDS


def test_choices_that_the_meaning_goes_through_are_not_told_twice() -> None:
    assert "mle: maximum likelihood" in WORDS
    assert "one of mle" not in WORDS


def test_a_meaning_stands_beside_its_setting_or_where_that_is_too_long_below() -> None:
    assert f"\n{'  epochs=30':<36}passes over the training images\n" in HELP
    below = r"\n  log_every=20\n      steps between two looks [^\n]*\n      \S[^\n]*\n  layer_norms"
    assert re.search(below, HELP)
    lines = describe_settings(50).split("\n")
    assert lines[lines.index("  epochs=30") + 1] == "      passes over the training images"


def test_a_meaning_that_variants_share_is_told_once() -> None:
    assert HELP.count("shape of the warmup") == 1
    assert "as with those above: schedule.update=step, schedule.scale_lr=none" in block_of(
        "schedule", "wsd"
    )


@pytest.mark.parametrize(("columns", "widest"), [(60, 60), (80, 80), (100, 100), (300, 100)])
def test_no_line_is_wider_than_the_terminal_nor_than_100_columns(columns: int, widest: int) -> None:
    assert max(map(len, describe_settings(columns).split("\n"))) <= widest


@pytest.mark.parametrize("columns", [0, 1, 30, 79])
def test_a_narrow_terminal_loses_nothing(columns: int) -> None:
    assert describe_settings(columns).split() == HELP.split()


@pytest.mark.parametrize(("columns", "widest"), [("70", 70), ("100", 100)])
def test_the_help_is_as_wide_as_the_terminal(
    columns: str, widest: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert max(map(len, output.out.split("\n"))) in range(widest - 5, widest + 1)


def test_both_programs_show_it_and_exit_with_0_without_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n"
        "    {}\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        "assert not {{'torch', 'timm', 'gpytorch', 'pytorch_optimizer'}} & set(sys.modules)"
    )
    path = f"runpy.run_path({str(TRAIN)!r}, run_name='__main__')"
    module = "runpy.run_module('autowu.trainer.config', run_name='__main__')"
    for program in (path, module):
        shown = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code.format(program)],
            capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"},
            cwd=TRAIN.parent,
        )  # fmt: skip
        assert shown.stdout.endswith(HELP + "\n")
        assert shown.stderr == ""


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, TRAIN, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
