"""`python -m autowu list`: names, their packages, and what is said where packages are missing."""

import json
import sys
from typing import Any

import pytest

from autowu.__main__ import main
from autowu.trainer.config import build_settings
from autowu.trainer.errors import ConfigError
from autowu.trainer.settings import DATA_SETS

KINDS = ["optimizers", "schedules", "models", "data"]
SCHEDULES = (
    "autowu warmup_cosine cosine constant multistep step exponential linear polynomial"
    " inverse_sqrt onecycle cosine_restarts plateau composite wsd lr_range_test range_test_onecycle"
)


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What `list --json` prints."""
    assert main(["list", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_document_has_every_kind_and_a_source_for_every_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = listed(capsys)
    assert list(found) == [*KINDS, "sources", "refused"]
    for kind in KINDS:
        assert found[kind] and len(set(found[kind])) == len(found[kind])
    assert set(found["sources"]) == {name for kind in KINDS for name in found[kind]}
    assert all(isinstance(package, str) and package for package in found["sources"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_comes_alone_and_alike(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    everything, alone = listed(capsys), listed(capsys, kind)
    assert list(alone) == [kind, "sources"] + ["refused"] * (kind == "optimizers")
    assert alone[kind] == everything[kind]
    assert set(alone["sources"]) == set(alone[kind])


def test_no_name_means_things_of_two_packages(capsys: pytest.CaptureFixture[str]) -> None:
    # `sources` has one entry a name: should kinds ever share a name, it would have both packages.
    assert not [p for p in listed(capsys)["sources"].values() if "," in p]


def test_the_schedules_are_those_of_the_issue_and_ours(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "schedules")
    assert set(SCHEDULES.split()) <= set(found["schedules"])
    assert set(found["sources"].values()) == {"autowu"}


def test_the_optimizers_are_those_of_their_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    sources = listed(capsys, "optimizers")["sources"]
    for name, package in (("sgd", "torch"), ("adamw", "torch"), ("adamp", "adamp")):
        assert sources[name] == package
    for name in ("lamb", "lion", "adafactor", "rprop", "radam"):
        assert name in sources
    classics = "sgd adam adamw adagrad adadelta rmsprop adamax asgd rprop sparseadam nadam radam"
    assert {sources[name] for name in classics.split()} == {"torch"}


def test_the_models_are_ours_and_all_of_timm(capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    found = listed(capsys, "models")
    assert found["models"][:3] == ["small_cnn", "cifar_resnet18", "wide_resnet28_10"]
    assert found["models"][3:] == timm.list_models()
    sources = found["sources"]
    assert sources["small_cnn"] == sources["wide_resnet28_10"] == "autowu"
    assert sources["cifar_resnet18"] == "torchvision"
    assert sources["resnet50"] == "timm"


def test_the_data_sets_name_who_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "data")
    assert found["data"] == list(DATA_SETS)
    assert found["sources"] == {
        "digits": "scikit-learn",
        "cifar10": "autowu",
        "cifar100": "autowu",
        "imagenet": "torchvision",
        "folder": "torchvision",
        "parquet": "pyarrow",
        "synthetic": "autowu",
    }


def test_the_text_of_a_kind_has_a_name_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        names = listed(capsys, kind)[kind]
        assert main(["list", kind]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names
    assert main(["list", "data"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["digits", "scikit-learn"]


def test_without_a_kind_the_text_counts_and_says_how_to_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = listed(capsys)
    assert main(["list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [kind, str(len(document[kind])), "python", "-m", "autowu", "list", kind] for kind in KINDS
    ]


def test_what_train_py_refuses_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    refused = listed(capsys, "optimizers")["refused"]
    assert {"lbfgs", "alig", "bsam", "lomo", "adalomo", "sparseadam", "a2grad"} <= set(refused)
    assert main(["list", "optimizers"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert {name for name, line in lines.items() if "refused" in line} == set(refused)
    assert lines["lomo"].endswith("(refused: it steps within the backward pass)")
    for name in ("sgd", "lbfgs", "lomo"):
        said = check_settings([f"optimizer.name={name}"])
        assert said == (f"optimizer.name={name}: {refused[name]}" if name in refused else None)


def check_settings(overrides: list[str]) -> str | None:
    """What train.py says against the settings."""
    try:
        build_settings([], overrides)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("module", "kind", "gone", "kept", "said"),
    [
        ("timm", "models", "resnet50", "small_cnn", "timm: pip install '.[timm]'"),
        ("torchvision", "models", "cifar_resnet18", "small_cnn", "pip install '.[train]'"),
        ("torchvision", "data", "imagenet", "digits", "pip install '.[train]'"),
        ("sklearn", "data", "digits", "synthetic", "scikit-learn: pip install '.[train]'"),
        ("pyarrow", "data", "parquet", "digits", "pyarrow: pip install '.[parquet]'"),
    ],
)
def test_without_a_package_the_rest_is_listed_and_a_line_says_what_adds_more(
    module: str,
    kind: str,
    gone: str,
    kept: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # from here on importing it fails
    assert main(["list", kind]) == 0
    output = capsys.readouterr()
    names = [line.split()[0] for line in output.out.splitlines()]
    assert gone not in names and kept in names
    assert output.err.count("\n") == 1
    assert said in output.err


def test_several_missing_packages_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("sklearn", "torchvision", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    assert listed_with_errors(capsys) == (
        ["cifar10", "cifar100", "synthetic"],
        "python -m autowu list: there is more with torchvision, scikit-learn, pyarrow:"
        " pip install '.[train,parquet]' in a clone\n",
    )


def listed_with_errors(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    assert main(["list", "data", "--json"]) == 0
    output = capsys.readouterr()
    return json.loads(output.out)["data"], output.err


def test_nothing_is_said_where_nothing_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "schedules"]) == 0
    assert capsys.readouterr().err == ""


def test_an_unknown_kind_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["list", "optimisers"])
    output = capsys.readouterr()
    assert exit.value.code == 2
    assert output.err.count("\n") == 1
    assert "invalid choice: 'optimisers'" in output.err
