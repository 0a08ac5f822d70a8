"""AutoWU: the peak learning rate and the warmup length, found during the training run.

Kim et al., "Automated Learning Rate Scheduler for Large-batch Training", arXiv:2107.05855.

The public names are loaded on first use (PEP 562), so that `import autowu.trainer.config`
(reading a config file) does not pay for importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autowu.combined_optimizer import CombinedOptimizer
    from autowu.curve_scheduler import CurveScheduler
    from autowu.lars import LARS
    from autowu.minimum_test import MinimumTest
    from autowu.offline import replay
    from autowu.scheduler import AutoWU, Phase

__version__ = "0.1.0"
__all__ = [
    "LARS",
    "AutoWU",
    "CombinedOptimizer",
    "CurveScheduler",
    "MinimumTest",
    "Phase",
    "replay",
]

_HOME = {
    "AutoWU": "autowu.scheduler",
    "CombinedOptimizer": "autowu.combined_optimizer",
    "CurveScheduler": "autowu.curve_scheduler",
    "LARS": "autowu.lars",
    "Phase": "autowu.scheduler",
    "MinimumTest": "autowu.minimum_test",
    "replay": "autowu.offline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autowu' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
