"""The settings of each optimizer of train.py, by name. Torch is not imported here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import limited

if TYPE_CHECKING:
    from autowu.trainer.settings import Settings


@dataclass(frozen=True)
class OptimizerSettings:
    """What every optimizer has; its own settings stand beside the name, flat."""

    name: str = ""
    # Peak LR of every schedule but autowu, which finds it.
    lr: float | None = limited(None, above=0)
    weight_decay: float = limited(0.01, at_least=0)  # decoupled (times the LR) in all but sgd
    no_decay_norms: bool = False  # leave biases and the weights of norms out of the decay

    def check(self, settings: "Settings") -> None:
        """Raise ConfigError for settings that are right one by one but not together."""


@dataclass(frozen=True)
class AdamPSettings(OptimizerSettings):
    name: Literal["adamp"] = "adamp"
    delta: float = limited(0.1, at_least=0)  # threshold for taking weights as scale-invariant
    wd_ratio: float = limited(0.1, at_least=0)  # weight decay of those, times weight_decay


@dataclass(frozen=True)
class AdamWSettings(OptimizerSettings):
    name: Literal["adamw"] = "adamw"


@dataclass(frozen=True)
class LambSettings(OptimizerSettings):
    name: Literal["lamb"] = "lamb"
    # LAMB's own limit of the gradient's L2 norm, before its moments; null: none.
    max_grad_norm: float | None = limited(1.0, above=0)


@dataclass(frozen=True)
class SGDSettings(OptimizerSettings):
    name: Literal["sgd"] = "sgd"
    momentum: float = limited(0.9, at_least=0, below=1)
    nesterov: bool = True

    def check(self, settings: "Settings") -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.momentum=0: must be above 0 with optimizer.nesterov=true")


OPTIMIZERS: dict[str, type[OptimizerSettings]] = {
    "adamp": AdamPSettings,
    "adamw": AdamWSettings,
    "lamb": LambSettings,
    "sgd": SGDSettings,
}
