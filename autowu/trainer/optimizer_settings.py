"""The settings of each optimizer of train.py, by name. Torch is not imported here.

Those that are used most are written down. For any other name the settings are made of what its
class takes, when it is asked for; its library is imported then.
"""

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from autowu.trainer.errors import ConfigError
from autowu.trainer.limits import setting, squash

if TYPE_CHECKING:
    from autowu.trainer.settings import Settings


# What settings of several optimizers mean.
_BETAS = "decay rates of the running means of the gradient and of its square"
_EPS = "added to the denominator"
_SCALE_INVARIANT = "threshold for taking weights as scale-invariant"
_THEIR_DECAY = "weight decay of scale-invariant weights, times weight_decay"
_DECOUPLED = "weight decay times the LR, as in adamw, not an L2 term of the gradient"
_TRUST = (
    "a layer's gradient, weight decay included, is scaled by this times |weights| / (|gradient| +"
    " weight_decay * |weights| + eps)"
)
_LARC = "LARC: the LR of a layer does not exceed lr"
_ALWAYS_ADAPT = "scale layers without weight decay, too"
_CAUTION = "leave out where the step and the gradient disagree in sign (arXiv:2411.16085)"
_NESTEROV = "Nesterov's momentum"


@dataclass(frozen=True)
class OptimizerSettings:
    """What every optimizer has; its own settings stand beside the name, flat."""

    has_weight_decay: ClassVar[bool] = True

    name: str = setting("", "optimizer")
    lr: float | None = setting(
        None, "peak LR; null with autowu and the range tests, which find it", above=0
    )
    weight_decay: float = setting(
        0.01,
        "weight decay: decoupled (times the LR) in some, as adamp, adamw, lion and muon, and sgdp"
        " (times LR / (1 - momentum)); an L2 term of the gradient in others, as sgd and adam",
        at_least=0,
    )
    decay_norms: bool = setting(
        True, "weight decay of norms, other scales, and what the network names in no_weight_decay()"
    )
    decay_biases: bool = setting(True, "weight decay of the biases of all layers but norms")
    head_lr_mult: float = setting(1.0, "LR of the classifier, times that of the trunk", at_least=0)
    head_weight_decay: float | None = setting(
        None, "weight decay of the classifier; null: as in the trunk", at_least=0
    )
    lr_mult: dict[str, float] = setting(
        {},
        "factors on the LR by the beginning of the parameters' names, as in"
        " optimizer.lr_mult.blocks.0=0.1",
        at_least=0,
    )
    layer_decay: float | None = setting(
        None,
        "factor on the LR from each layer to the one before it, for timm's networks; null: none",
        above=0,
        at_most=1,
    )
    lookahead: bool = setting(
        False, "a second, slow copy of the weights (Lookahead, arXiv:1907.08610)"
    )
    lookahead_alpha: float = setting(
        0.5, "part of the way to the fast weights that the slow ones go", above=0, at_most=1
    )
    lookahead_k: int = setting(6, "steps between two of the slow weights", at_least=1)
    lars: bool = setting(
        False, "scale each layer's gradient to its weights (LARS, arXiv:1708.03888)"
    )
    lars_trust_coef: float = setting(0.001, _TRUST, above=0)
    lars_eps: float = setting(1e-8, _EPS, at_least=0)
    lars_clip: bool = setting(False, _LARC)
    lars_always_adapt: bool = setting(False, _ALWAYS_ADAPT)

    def check(self, settings: "Settings") -> None:
        """Raise ConfigError for settings that are right one by one but not together."""
        for wrapper in ("lookahead", "lars"):
            if not getattr(self, wrapper):
                self._check_untouched(f"{wrapper}_", f"optimizer.{wrapper}=true")
        if not self.has_weight_decay:
            for key in ("weight_decay", "head_weight_decay"):
                value = getattr(self, key)
                if value:
                    raise ConfigError(f"optimizer.{key}={value}: {self.name} has no weight decay")
        decays = self.weight_decay or self.head_weight_decay
        if self.lars and not (decays or self.lars_always_adapt):
            raise ConfigError(
                "optimizer.lars=true: leaves parameters without weight decay as they are, and there"
                " is none (optimizer.lars_always_adapt=true adapts all)"
            )

    def _check_untouched(self, prefix: str, switch: str) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name.startswith(prefix) and value != entry.default:
                shown = str(value).lower() if isinstance(value, bool) else value
                raise ConfigError(f"optimizer.{entry.name}={shown}: acts with {switch} alone")


@dataclass(frozen=True)
class AdamPSettings(OptimizerSettings):
    """Adam without the growth of scale-invariant weights (adamp; arXiv:2006.08217)."""

    name: Literal["adamp"] = "adamp"
    betas: tuple[float, float] = setting((0.9, 0.999), _BETAS, at_least=0, below=1)
    eps: float = setting(1e-8, _EPS, at_least=0)
    delta: float = setting(0.1, _SCALE_INVARIANT, at_least=0)
    wd_ratio: float = setting(0.1, _THEIR_DECAY, at_least=0)
    nesterov: bool = setting(False, _NESTEROV)


@dataclass(frozen=True)
class AdamSettings(OptimizerSettings):
    """torch's Adam; weight decay is an L2 term of the gradient (arXiv:1412.6980)."""

    name: Literal["adam"] = "adam"
    betas: tuple[float, float] = setting((0.9, 0.999), _BETAS, at_least=0, below=1)
    eps: float = setting(1e-8, _EPS, at_least=0)
    amsgrad: bool = setting(
        False, "divide by the largest running mean of the square so far (arXiv:1904.09237)"
    )
    fused: bool | None = setting(None, "one kernel for all; null: torch decides")


@dataclass(frozen=True)
class AdamWSettings(AdamSettings):
    """torch's Adam with decoupled weight decay (arXiv:1711.05101)."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]


@dataclass(frozen=True)
class NAdamSettings(OptimizerSettings):
    """torch's Adam with Nesterov's momentum."""

    name: Literal["nadam"] = "nadam"
    betas: tuple[float, float] = setting((0.9, 0.999), _BETAS, at_least=0, below=1)
    eps: float = setting(1e-8, _EPS, at_least=0)
    momentum_decay: float = setting(
        0.004, "how fast the momentum grows from half of the first beta to all of it", at_least=0
    )
    decoupled_weight_decay: bool = setting(False, _DECOUPLED)


@dataclass(frozen=True)
class RAdamSettings(OptimizerSettings):
    """torch's Adam with rectified first steps (arXiv:1908.03265)."""

    name: Literal["radam"] = "radam"
    betas: tuple[float, float] = setting((0.9, 0.999), _BETAS, at_least=0, below=1)
    eps: float = setting(1e-8, _EPS, at_least=0)
    decoupled_weight_decay: bool = setting(False, _DECOUPLED)


@dataclass(frozen=True)
class LambSettings(OptimizerSettings):
    """Adam whose steps are scaled to the weights of each layer (timm; arXiv:1904.00962)."""

    name: Literal["lamb"] = "lamb"
    betas: tuple[float, float] = setting((0.9, 0.999), _BETAS, at_least=0, below=1)
    eps: float = setting(1e-6, _EPS, at_least=0)
    max_grad_norm: float | None = setting(
        1.0,
        "LAMB's own limit of the gradient's L2 norm, before the running means; null: none",
        above=0,
    )
    trust_clip: bool = setting(False, "the ratio |weights| / |step| of a layer is at most 1")
    bias_correction: bool = setting(True, "correct the running means for their start at 0")
    grad_averaging: bool = setting(
        True, "the gradient times 1 - the first beta in its running mean"
    )
    always_adapt: bool = setting(False, _ALWAYS_ADAPT)
    decoupled_decay: bool = setting(False, "weight decay times the LR, beside the scaled step")
    caution: bool = setting(False, _CAUTION)


@dataclass(frozen=True)
class LionSettings(OptimizerSettings):
    """Steps of one size for all weights, by the sign of a mean (timm; arXiv:2302.06675)."""

    name: Literal["lion"] = "lion"
    betas: tuple[float, float] = setting(
        (0.9, 0.99),
        "weight of the gradient's running mean in the step, and decay rate of that mean",
        at_least=0,
        below=1,
    )
    caution: bool = setting(False, _CAUTION)


@dataclass(frozen=True)
class SGDSettings(OptimizerSettings):
    """torch's SGD with Nesterov's momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: float = setting(
        0.9, "decay rate of the running sum of the gradients", at_least=0, below=1
    )
    dampening: float = setting(
        0.0, "part of each gradient that the running sum leaves out", at_least=0, below=1
    )
    nesterov: bool = setting(True, _NESTEROV)

    def check(self, settings: "Settings") -> None:
        super().check(settings)
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.momentum=0: must be above 0 with optimizer.nesterov=true")
        if self.nesterov and self.dampening:
            raise ConfigError(
                f"optimizer.dampening={self.dampening}: must be 0 with optimizer.nesterov=true"
            )


@dataclass(frozen=True)
class MomentumSettings(SGDSettings):
    """sgd with plain momentum."""

    name: Literal["momentum"] = "momentum"  # type: ignore[assignment]
    nesterov: bool = False


@dataclass(frozen=True)
class NesterovSettings(SGDSettings):
    """The same as sgd."""

    name: Literal["nesterov"] = "nesterov"  # type: ignore[assignment]


@dataclass(frozen=True)
class SGDPSettings(SGDSettings):
    """SGD without the growth of scale-invariant weights (adamp; arXiv:2006.08217)."""

    name: Literal["sgdp"] = "sgdp"  # type: ignore[assignment]
    eps: float = setting(1e-8, _EPS, at_least=0)
    delta: float = setting(0.1, _SCALE_INVARIANT, at_least=0)
    wd_ratio: float = setting(0.1, _THEIR_DECAY, at_least=0)


@dataclass(frozen=True)
class LarsSettings(SGDSettings):
    """SGD with LARS in one, from timm; `optimizer.lars=true` puts LARS around any optimizer."""

    name: Literal["lars"] = "lars"  # type: ignore[assignment]
    nesterov: bool = False
    trust_coeff: float = setting(0.001, _TRUST, above=0)
    eps: float = setting(1e-8, _EPS, at_least=0)
    trust_clip: bool = setting(False, _LARC)
    always_adapt: bool = setting(False, _ALWAYS_ADAPT)


@dataclass(frozen=True)
class LarcSettings(LarsSettings):
    """lars with trust_clip."""

    name: Literal["larc"] = "larc"  # type: ignore[assignment]
    trust_clip: bool = True


@dataclass(frozen=True)
class MuonSettings(OptimizerSettings):
    """Weights of two dimensions and more by Muon, flattened to two; by AdamW biases, norms,
    depthwise kernels, and matrices with a side under 4 or 128 times the other.

    timm decides by the shape, so the classifier and embeddings are Muon's too.
    """

    name: Literal["muon"] = "muon"
    momentum: float = setting(
        0.95, "decay rate of the running mean of the gradient", at_least=0, below=1
    )
    nesterov: bool = setting(False, "Nesterov's momentum, and NAdamW in the place of AdamW")
    ns_steps: int = setting(5, "steps of the Newton-Schulz iteration", at_least=1)
    eps: float = setting(
        1e-7,
        "least norm that a matrix is divided by before the iteration; of AdamW, added to the root"
        " of the mean square",
        above=0,
    )
    safety_factor: float = setting(1.0, "factor on the norm that a matrix is divided by", above=0)
    adjust_lr_fn: Literal["match_rms_adamw", "original", "rms_to_rms"] | None = setting(
        "match_rms_adamw",
        "how the LR depends on the shape: match_rms_adamw, such that steps are as large as"
        " AdamW's; original; rms_to_rms; null: not at all",
    )
    normalize_spatial: bool = setting(
        True, "with conv_mode=batched: divide steps by the root of the number of pixels of a kernel"
    )
    conv_mode: Literal["flatten", "batched"] = setting(
        "flatten", "flatten: a kernel is one matrix; batched: one a pixel"
    )
    betas: tuple[float, float] = setting((0.9, 0.95), f"of AdamW: {_BETAS}", at_least=0, below=1)
    fallback_lr_scale: float = setting(1.0, "LR of AdamW, times lr", at_least=0)


@dataclass(frozen=True)
class ScheduleFreeSettings(OptimizerSettings):
    """AdamW that averages the weights it is tested with (Defazio et al. 2024, arXiv:2405.15682)."""

    name: Literal["schedulefree"] = "schedulefree"
    betas: tuple[float, float] = setting(
        (0.9, 0.999),
        "part of the average in the weights that it trains at, and decay rate of the running mean"
        " of the gradient's square",
        at_least=0,
        below=1,
    )
    eps: float = setting(1e-8, _EPS, at_least=0)
    warmup_steps: int = setting(0, "steps of a linear warmup of its own", at_least=0)
    r: float = setting(0.0, "power of the step in the weights of the average")
    weight_lr_power: float = setting(
        2.0, "power of the largest LR so far in the weights of the average", at_least=0
    )


_WRITTEN: tuple[type[OptimizerSettings], ...] = (
    AdamPSettings,
    AdamWSettings,
    LambSettings,
    SGDSettings,
    MomentumSettings,
    NesterovSettings,
    SGDPSettings,
    AdamSettings,
    NAdamSettings,
    RAdamSettings,
    LarsSettings,
    LarcSettings,
    LionSettings,
    MuonSettings,
    ScheduleFreeSettings,
)


class OptimizersByName(Mapping[str, type[OptimizerSettings]]):
    """The settings of an optimizer by its name, in any spelling.

    Iterating gives the names whose settings are written down here; any other name is looked up
    in the registry, which imports the libraries, and its settings are made once.
    """

    def __init__(self, written: tuple[type[OptimizerSettings], ...]) -> None:
        self._written = {kind().name: kind for kind in written}
        self._made: dict[str, type[OptimizerSettings]] = {}

    def __getitem__(self, name: str) -> type[OptimizerSettings]:
        if squash(name) in self._written:
            return self._written[squash(name)]
        if squash(name) not in self._made:
            self._made[squash(name)] = make_settings(name)
        return self._made[squash(name)]

    def __contains__(self, name: object) -> bool:
        """Whether there is such an optimizer, installed or not."""
        if not isinstance(name, str):
            return False
        if squash(name) in self._written or squash(name) in self._made:
            return True
        from autowu.trainer.optimizer_registry import canonical

        try:
            canonical(name)
        except ValueError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)


def make_settings(name: str) -> type[OptimizerSettings]:
    """The settings of an optimizer, made of the keywords of its class.

    What cannot be written in a config, such as functions and data types, is left out.

    Raises:
        KeyError: no optimizer has that name.
        ConfigError: the trainer cannot use it, or it is not installed; the message says more.
    """
    from autowu.trainer.optimizer_registry import MissingPackage, canonical, parameters
    from autowu.trainer.optimizer_traits import refusal

    try:
        name = canonical(name)
    except ValueError:
        raise KeyError(name) from None
    reason = refusal(name)  # before what would have to be installed for nothing
    if reason:
        raise ConfigError(reason)
    try:
        taken = parameters(name)
    except MissingPackage as error:
        raise ConfigError(str(error)) from None
    entries: list[tuple[str, Any, Any]] = [("name", str, name)]
    if "weight_decay" not in taken:
        entries.append(("weight_decay", float, setting(0.0, at_least=0)))
    for key, each in taken.items():
        kind = config_type(each.annotation, each.default)
        # The LR of Muon's other half would not follow a schedule: it is that of the first.
        if key in ("lr", "weight_decay", "adamw_lr") or kind is None:
            continue
        default = None if _is_infinite(each.default) else _plain(each.default)
        if type(default) is int and kind in (float, float | None):
            default = float(default)  # as an argument is read, or it would not be the usual one
        entries.append((key, kind, default if not isinstance(default, dict) else dict))
    made = dataclasses.make_dataclass(
        "".join(word.capitalize() for word in name.split("_")) + "Settings",
        entries,
        bases=(OptimizerSettings,),
        namespace={"has_weight_decay": "weight_decay" in taken, "__module__": __name__},
        frozen=True,
    )
    return made


def config_type(annotation: Any, default: Any) -> Any:
    """The type of a setting, in the words of OmegaConf; None for what no config can hold.

    Literals stay; otherwise the default decides, and the annotation whether null is allowed. A
    number that is infinite by default may be null, which `optimizers.build` takes for infinite.
    """
    if get_origin(annotation) is Literal:
        return annotation
    options = get_args(annotation)
    if default is None:
        return _optional_type(options)
    if _is_infinite(default):
        return float | None
    if isinstance(default, tuple | list):
        kinds = {float if type(each) is int else type(each) for each in default}
        if kinds == {float}:
            return tuple[(float,) * len(default)]  # type: ignore[misc]
        return Any if kinds <= {float, str, bool, NoneType} else None
    for kind in (bool, int, float, str):
        if isinstance(default, kind):
            # An integer default of what is no integer: momentum=0, annotated or not.
            untyped = annotation is inspect.Parameter.empty and default == 0
            is_number = kind is int and (float in (*options, annotation) or untyped)
            chosen: Any = float if is_number and not isinstance(default, IntEnum) else kind
            return chosen | None if NoneType in options else chosen
    return None


def _optional_type(options: tuple[Any, ...]) -> Any:
    """The type of a setting that is null by default; not annotated: anything."""
    if not options:
        return Any
    others = [kind for kind in options if kind not in (bool, int, float, str, NoneType)]
    if any(get_origin(kind) not in (tuple, list) for kind in others):
        return None  # functions, data types, process groups
    plain = [kind for kind in (float, bool, int, str) if kind in options]
    return plain[0] | None if plain and not others else Any


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)


def _plain(value: Any) -> Any:
    """A default as a config can hold it; tuples of numbers have floats alone."""
    if isinstance(value, IntEnum):
        return int(value)
    if isinstance(value, tuple | list):
        return tuple(float(each) if type(each) is int else each for each in value)
    return value


OPTIMIZERS = OptimizersByName(_WRITTEN)
