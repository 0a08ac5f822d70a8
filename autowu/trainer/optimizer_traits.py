"""What a training loop must know of an optimizer: closures, graphs of gradients, modes."""

from torch.optim import Optimizer

from autowu.trainer.optimizer_registry import find

_CLOSURE = "it needs a closure that computes the loss again, and the trainer computes it once"
_FUSED = "it steps within the backward pass, where gradients are neither averaged nor clipped"
_ENGINE = "it needs a DeepSpeed engine, which does the communication of the gradients for it"
_REFUSALS = {  # by class
    "A2Grad": "it has no LR that a schedule could set",
    "LBFGS": _CLOSURE,
    "AliG": _CLOSURE,
    "BSAM": _CLOSURE,
    "LOMO": _FUSED,
    "AdaLOMO": _FUSED,
    "OnebitAdam": _ENGINE,
    "OnebitLamb": _ENGINE,
    "SparseAdam": "it takes sparse gradients alone, and those of image networks are dense",
    "DeMo": "it exchanges the gradients among the ranks itself, where the trainer averages them",
    "DistributedMuon": "it shares the work among the ranks itself; muon does the same without",
    "LoRARite": "it takes the two factors of low-rank adapters alone",
    "SpectralSphere": "it takes two-dimensional weights alone, no biases and no convolutions",
}
_NEEDS_CLOSURE = {kind for kind, reason in _REFUSALS.items() if reason is _CLOSURE}
_NEEDS_GRAPH = {"SophiaH", "AdaHessian", "Adahessian"}
_EQUAL_LRS = {"DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD", "Prodigy"}


def kind_of(optimizer: Optimizer | str) -> str:
    """The name of an optimizer's class, inside of LARS and Lookahead; of a name without import."""
    if isinstance(optimizer, str):
        return find(optimizer).path.rpartition(":")[2]
    base = getattr(optimizer, "base_optimizer", None)
    return kind_of(base) if isinstance(base, Optimizer) else type(optimizer).__name__


def needs_closure(optimizer: Optimizer | str) -> bool:
    """Whether `step()` must be given a closure that computes the loss again, as L-BFGS must."""
    return kind_of(optimizer) in _NEEDS_CLOSURE


def needs_create_graph(optimizer: Optimizer | str) -> bool:
    """Whether it looks at the curvature: `loss.backward(create_graph=True)`."""
    return kind_of(optimizer) in _NEEDS_GRAPH


def needs_equal_lrs(optimizer: Optimizer | str) -> bool:
    """Whether it estimates one LR for all groups, of which it looks at the first one's factor."""
    return kind_of(optimizer) in _EQUAL_LRS


def has_modes(optimizer: Optimizer) -> bool:
    """Whether it keeps other weights for evaluation: `optimizer.eval()` and `optimizer.train()`."""
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


def refusal(name: str) -> str | None:
    """Why train.py cannot train with it, in one line; None if it can."""
    reason = why_refused(name)
    return f"optimizer.name={find(name).name}: {reason}" if reason else None


def why_refused(name: str) -> str | None:
    """The same without the name: `it needs a closure that ...`."""
    return _REFUSALS.get(kind_of(name))
