"""What importing the package brings in, and what it does not."""

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autowu

ROOT = Path(__file__).parents[1]
# All that the project uses beyond torch, gpytorch and what these two need.
OPTIONAL = (
    "adamp", "accelerate", "bitsandbytes", "lightning", "matplotlib", "omegaconf", "pandas", "PIL",
    "pyarrow", "pytorch_optimizer", "rich", "timm", "torchvision", "transformers", "wandb", "yaml",
)  # fmt: skip


def python(code: str) -> str:
    """What the code prints in a fresh interpreter, which warns of nothing."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def blocked(*names: str) -> str:
    """Code after which importing these modules fails, as if they were not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({names!r}))\n"


def test_importing_the_package_does_not_import_torch() -> None:
    loaded = python("import autowu, sys; print(*sorted(sys.modules))").split()
    assert "autowu" in loaded
    assert not {"torch", "gpytorch", "numpy", "autowu.scheduler"} & set(loaded)


def test_the_public_names_need_torch_and_gpytorch_alone() -> None:
    code = blocked(*OPTIONAL) + (
        "from autowu import AutoWU, MinimumTest, Phase, replay\n"
        "scheduler = replay([abs(t - 20) / 20 + t % 3 / 100 for t in range(50)], 100)\n"
        "print(scheduler.phase is Phase.DECAY, len(scheduler.tests) > 0)"
    )
    assert python(code) == "True True"


def test_describing_the_command_line_does_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from autowu.__main__ import build_parser\n"
        "build_parser().parse_args(['replay', 'x', '--total-steps', '9'])\n"
        "print('torch' in sys.modules)"
    )
    assert python(code) == "False"


def test_importing_every_submodule_leaves_the_public_names_alone() -> None:
    """`autowu.replay` is a function: no submodule of that name may take its place."""
    code = (
        "import importlib, pkgutil, autowu\n"
        "for module in pkgutil.walk_packages(autowu.__path__, 'autowu.'):\n"
        "    if not module.name.startswith('autowu.integrations.'):  # need their frameworks\n"
        "        importlib.import_module(module.name)\n"
        "from autowu import AutoWU, replay\n"
        "print(callable(autowu.replay), isinstance(autowu.AutoWU, type), replay is autowu.replay)"
    )
    assert python(code) == "True True True"


def test_no_submodule_has_a_public_name() -> None:
    names = {module.name for module in pkgutil.iter_modules(autowu.__path__)}
    assert not names & set(autowu.__all__)


def test_gpytorch_is_imported_where_its_warning_is_silenced_alone() -> None:
    package = Path(autowu.__file__).parent
    direct = re.compile(r"^\s*(import|from) (gpytorch|linear_operator)\b", re.MULTILINE)
    found = [path.name for path in package.rglob("*.py") if direct.search(path.read_text("utf-8"))]
    assert found == ["gpytorch_import.py"]


def test_the_public_names_are_listed_and_others_refused() -> None:
    assert set(autowu.__all__) <= set(dir(autowu))
    for name in autowu.__all__:
        assert getattr(autowu, name).__name__ == name
    with pytest.raises(AttributeError, match="'autowu' has no attribute 'Scheduler'"):
        autowu.Scheduler  # noqa: B018
    with pytest.raises(ImportError):
        from autowu import Scheduler  # noqa: F401


def test_the_types_are_shipped() -> None:
    assert (Path(autowu.__file__).parent / "py.typed").is_file()
