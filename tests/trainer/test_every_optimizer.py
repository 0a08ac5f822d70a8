"""Every optimizer by name: it lowers the loss, resumes bit for bit, and works under AutoWU.

A name that is available and not in the tables below is tested as the rest are, with its own
default LR; a name of the tables that is not available fails, unless its package is not installed.
"""

import copy
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from autowu import AutoWU
from autowu.trainer import optimizers
from autowu.trainer.data import load_data
from autowu.trainer.distributed import Ranks

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries have to say

# What each optional package has; anything else that cannot be built fails.
OPTIONAL = {
    "apex": "fusedadam fusedadamw fusedlamb fusednovograd fusedsgd",
    "bitsandbytes": "bnb_adam bnb_adamw bnb_adagrad bnb_ademamix bnb_lamb bnb_lars bnb_lion "
    "bnb_momentum bnb_nesterov bnb_rmsprop bnb_sgd bnbadam8bit bnbadamw8bit bnbademamix8bit "
    "bnblion8bit bnbsgd8bit",
    "deepspeed": "deepspeed_cpuadam deepspeed_fusedadam deepspeed_fusedlamb deepspeed_onebitadam "
    "deepspeed_onebitlamb",
    "einops": "demo",
}
NOT_INSTALLED = {
    name: package
    for package, names in OPTIONAL.items()
    if find_spec(package) is None
    for name in names.split()
}
# LR where 20 steps with the default one lower the loss by less than a fifth, or raise it.
LRS = {
    1e-4: "kate",
    0.001: "ano bnb_lion bnblion8bit claprop clion clionc laprop lapropc lion lionc",
    0.01: "adalite adalomo adapnm adashift adopt adoptc adoptw aggmo amos cadafactor cadopt "
    "cadoptc cadoptw csgdc csgdp csgdw diffgrad dualadam fadam ftrl grokfastadamw kron kronc "
    "kronw lomo magma momentum nesterov nesterovw novograd novogradc novogradw racs radabelief "
    "ranger21 rose scalableshampoo sgd sgdc sgdp sgdw simplifiedademamix sparseadam tam "
    "bnb_sgd bnb_momentum bnb_nesterov bnbsgd8bit",
    0.1: "accsgd adai asgd clamb clambw gravity lamb lambc lambcd lambcw lambw msvag pid pnm qhm "
    "radam radamlegacy radamw ranger sara schedulefreeradam scion scionlight shampoo sophia "
    "sophiah spectralsphere srmm bnb_lamb",
    1.0: "adamod splus bnb_lars",
}
SETTINGS: dict[str, dict[str, Any]] = {
    # The library weighs the gradient by weight_decay, and leaves its perturbations in the weights.
    "bsam": {"num_data": 10_000, "weight_decay": 1.0, "rho": 1e-4},
    # They start so low that 20 steps are too few for their estimate to grow.
    "dadaptadagrad": {"d0": 0.01},
    "dadaptadam": {"d0": 0.03},
    "dadaptlion": {"d0": 0.01},
    "dadaptsgd": {"d0": 0.01},
}
# Those whose steps do not shrink as the LR does, and why.
STEPS_OF_THEIR_OWN = {
    "adago": "has a smallest step size (eps)",
    "ftrl": "computes the weights anew from all gradients, so they leave the start at once",
    "gravity": "starts at a velocity of random numbers over the LR",
    "lbfgs": "takes up to 20 steps in one",
    "nero": "puts the weights on a sphere before the first step",
    "spectralsphere": "puts the weights on a sphere in every step",
    "srmm": "averages the weights with 0 at the start",
}
NO_LR = {"a2grad": "computes its step size from a Lipschitz constant and the step alone"}
# Those that cannot train the network of the others, each with what it trains in its place.
OTHER_NETWORKS = {
    "adalomo": "its factored moments take vectors and matrices, no kernels of four dimensions",
    "lorarite": "takes the two factors of low-rank adapters alone",
    "sparseadam": "takes sparse gradients alone: a sparse embedding",
    "spectralsphere": "takes matrices alone",
}


class Embedded(nn.Module):
    """A vector for each pixel and grey value, summed: gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(64 * 17, 10, mode="sum", sparse=True)

    def forward(self, images: Tensor) -> Tensor:
        grey = (images.flatten(1) * 16).round().long().clamp(0, 16)
        return self.table(grey + 17 * torch.arange(64))


class LowRank(nn.Module):
    """A linear layer of rank 8 as its two factors."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_a = nn.Parameter(torch.randn(8, 64) / 8)
        self.lora_b = nn.Parameter(torch.randn(10, 8) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.lora_a.T @ self.lora_b.T


def make_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "sparseadam":
        return Embedded()
    if name == "lorarite":
        return LowRank()
    if name == "spectralsphere":
        layers = [nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False)]
        return nn.Sequential(nn.Flatten(), *layers)
    if name == "adalomo":
        layers = [nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10)]
        return nn.Sequential(nn.Flatten(), *layers)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    )


@dataclass
class Run:
    """A network with an optimizer; `step` takes one as that optimizer wants it."""

    name: str
    lr: float | None = None
    network: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.network = make_network(self.name)
        settings = dict(SETTINGS.get(self.name, {}))
        lr = next((lr for lr, names in LRS.items() if self.name in names.split()), self.lr)
        if lr is not None:
            settings["lr"] = lr
        self.optimizer = optimizers.create(self.name, self.network.parameters(), **settings)

    def loss(self, create_graph: bool = False) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.network(IMAGES), LABELS)
        loss.backward(create_graph=create_graph)
        return loss.detach()

    def step(self) -> Tensor:
        if hasattr(self.optimizer, "fused_backward"):  # LOMO: steps in the backward pass
            loss = F.cross_entropy(self.network(IMAGES), LABELS)
            self.optimizer.fused_backward(loss, lr=self.optimizer.param_groups[0]["lr"])
            return loss.detach()
        loss = self.loss(optimizers.needs_create_graph(self.name))
        if optimizers.needs_closure(self.name):
            self.optimizer.step(self.loss)  # type: ignore[arg-type]
        else:
            self.optimizer.step()
        return loss


DIGITS = load_data("digits", 64, ranks=Ranks())
IMAGES, LABELS = next(batch for (batch,) in DIGITS.train_batches(0))


@pytest.fixture(autouse=True, scope="module")
def without_compilation() -> Iterator[None]:
    """timm's Kron compiles, which takes longer than all the rest."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture
def one_rank(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.getfixturevalue("name") != "distributedmuon":
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


AVAILABLE = optimizers.available()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("name", AVAILABLE)
def test_20_steps_lower_the_loss_and_10_resumed_ones_are_the_same_bit_for_bit(name: str) -> None:
    run = Run(name)
    torch.manual_seed(1)
    losses = [run.step() for _ in range(10)]
    file = io.BytesIO()
    torch.save({"network": run.network.state_dict(), "optimizer": run.optimizer.state_dict()}, file)
    random_state = torch.get_rng_state()
    losses += [run.step() for _ in range(10)]
    with torch.no_grad():
        last = F.cross_entropy(run.network(IMAGES), LABELS)
    assert last < 0.9 * losses[0]

    resumed = Run(name)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.network.load_state_dict(saved["network"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(random_state)
    assert [float(resumed.step()) for _ in range(10)] == [float(loss) for loss in losses[10:]]
    for a, b in zip(run.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("name", [name for name in AVAILABLE if name not in NO_LR])
def test_the_lr_of_its_groups_follows_autowu_and_acts(name: str) -> None:
    moved = []
    for factor in (1.0, 1e-4):
        run = Run(name)
        high = factor * max(group["lr"] for group in run.optimizer.param_groups)
        scheduler = AutoWU(run.optimizer, total_steps=40, min_lr=0.1 * high, max_lr=high)
        torch.manual_seed(1)
        before = copy.deepcopy(list(run.network.parameters()))
        lrs = []
        for _ in range(20):
            scheduler.step(run.step())
            lrs.append([group["lr"] for group in run.optimizer.param_groups])
            assert lrs[-1] == scheduler.get_last_lr()
        assert lrs[1] > lrs[0]
        pairs = zip(before, run.network.parameters(), strict=True)
        moved.append(math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs)))
    assert moved[0] > 0
    if name not in STEPS_OF_THEIR_OWN:
        assert 0 < moved[1] < 0.1 * moved[0]


@pytest.mark.parametrize("name", NO_LR)
def test_what_has_no_lr_is_refused_by_the_trainer(name: str) -> None:
    assert "lr" not in Run(name).optimizer.param_groups[0]
    assert "no LR" in str(optimizers.refusal(name))


def test_no_name_of_the_issue_is_missing() -> None:
    names = (
        "sgd momentum nesterov adam adamw adamp sgdp lamb lars larc lion radam nadam muon "
        "adafactor adagrad adadelta rmsprop adamax asgd rprop sparseadam sophia dadaptadam "
        "dadaptadagrad dadaptsgd prodigy schedulefree lbfgs"
    )
    assert set(names.split()) <= set(AVAILABLE)


def test_what_timm_and_pytorch_optimizer_register_is_available_or_not_installed() -> None:
    from pytorch_optimizer import get_supported_optimizers
    from timm.optim import list_optimizers

    registered = {
        optimizers.canonical(name) for name in [*list_optimizers(), *get_supported_optimizers()]
    }
    assert registered - set(AVAILABLE) <= NOT_INSTALLED.keys()
    assert not NOT_INSTALLED.keys() & set(AVAILABLE)


@pytest.mark.parametrize("name", NOT_INSTALLED)
def test_what_is_not_installed_says_what_installs_it(name: str) -> None:
    how = {
        "apex": "https://github.com/NVIDIA/apex",
        "bitsandbytes": "pip install '.[bitsandbytes]' in a clone",
        "deepspeed": "pip install '.[deepspeed]' in a clone",
        "einops": "pip install einops",
    }[NOT_INSTALLED[name]]
    parameters = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(ModuleNotFoundError) as refused:
        optimizers.create(name, parameters)
    assert how in str(refused.value)
    assert isinstance(refused.value, ValueError)


def test_the_tables_name_nothing_that_does_not_exist() -> None:
    named = {*SETTINGS, *OTHER_NETWORKS, *STEPS_OF_THEIR_OWN, *NO_LR}
    named |= {name for names in LRS.values() for name in names.split()}
    assert named <= {*AVAILABLE, *NOT_INSTALLED}
