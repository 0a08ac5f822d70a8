"""What importing the package does, and what it does not need."""

import subprocess
import sys

import pytest

import autowu


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_importing_every_submodule_leaves_replay_callable() -> None:
    code = """
import importlib, pkgutil, autowu
for module in pkgutil.walk_packages(autowu.__path__, "autowu."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert callable(autowu.replay) and autowu.replay([1.0, 2.0], 10).phase.name == "WARMUP"
from autowu import replay, AutoWU, Phase, MinimumTest
assert callable(replay)
"""
    run(code)


def test_the_library_needs_torch_and_gpytorch_alone() -> None:
    code = """
import sys
for name in ("matplotlib", "timm", "torchvision", "wandb", "omegaconf", "rich", "adamp", "yaml"):
    sys.modules[name] = None
from autowu import AutoWU, replay
assert replay([1.0] * 30, 60).switch_step == 30
"""
    assert run(code) == ""


def test_importing_the_package_alone_does_not_import_torch() -> None:
    run("import sys, autowu; assert 'torch' not in sys.modules; assert 'AutoWU' in dir(autowu)")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AutoWo'"):
        autowu.AutoWo  # noqa: B018
