"""The ranks that train together: all of torch.distributed that the trainer needs, in one place.

Started by torchrun, every process is a rank of a process group (NCCL on GPUs, gloo on CPUs, on one
node or several); started plainly it is the only rank, and every operation here is the identity.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autowu.trainer.errors import ConfigError, Interrupted, PeerLost, RunError, shown

T = TypeVar("T")
# What gloo and NCCL say when the process at the other end of a connection has ended.
PEER_IS_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
)
# Seconds. A thread of gloo frees a collective's tensors shortly after the collective is done, for
# which it needs the interpreter; one that is shutting down by then is aborted.
GLOO_LETS_GO = 0.1


class Ranks:
    """This process among those that train together; use it as a context manager.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as the user wrote it.
        deterministic: keep to operations that give the same bits in every run.

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(self, device: str = "cpu", deterministic: bool = True) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size))
        self.is_main = self.rank == 0
        self.device = choose_device(device, self.local_rank, self.local_size)
        self.deterministic = deterministic

    def __enter__(self) -> "Ranks":
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            _choose_algorithms(self.deterministic)
        if "RANK" in os.environ and not dist.is_initialized():
            on_gpu = self.device.type == "cuda"
            try:
                dist.init_process_group(
                    "nccl" if on_gpu else "gloo", device_id=self.device if on_gpu else None
                )
            except ValueError as error:
                raise _alone(ConfigError(f"not torchrun's whole environment: {error}")) from None
            except dist.DistError as error:
                raise _alone(RunError(f"the ranks cannot meet: {error}")) from None
        elif self.world_size > 1 and not dist.is_initialized():
            raise ConfigError(f"WORLD_SIZE={self.world_size} without RANK (start by torchrun)")
        return self

    def __exit__(
        self, kind: type[BaseException] | None = None, error: object = None, trace: object = None
    ) -> None:
        if not dist.is_initialized():
            return
        if kind is None or issubclass(kind, Interrupted):  # else others may be gone, or wait
            if dist.get_backend() == "gloo":
                time.sleep(GLOO_LETS_GO)
            dist.destroy_process_group()
        elif issubclass(kind, RuntimeError) and any(words in str(error) for words in PEER_IS_GONE):
            raise PeerLost(
                f"rank {self.rank}: another rank has ended; what it said, if anything, tells why"
            ) from None

    def agree_on(self, settings: dict[str, Any]) -> None:
        """Raise ConfigError, on every rank, for the first setting that one of them has otherwise.

        Args:
            settings: by dotted key; those that may differ from rank to rank left out.
        """
        if self.world_size == 1:
            return
        of_ranks: list[dict[str, Any]] = [{}] * self.world_size
        dist.all_gather_object(of_ranks, settings)
        first = of_ranks[0]
        for rank, other in enumerate(of_ranks):
            for key in [*first, *other]:
                ours, theirs = (each.get(key, "(unset)") for each in (first, other))
                if ours != theirs:
                    raise ConfigError(
                        f"{key}={shown(theirs)} (rank {rank}): must be the same on all ranks, and"
                        f" rank 0 has {key}={shown(ours)}"
                    )

    def wrap(
        self,
        model: nn.Module,
        *,
        compile: bool = False,
        sync_batchnorm: bool = False,
    ) -> tuple[nn.Module, nn.Module]:
        """Move a network to the device and make it one of several replicas.

        Returns:
            The network, whose parameters and state are to be used, and the module to call: the
            same, compiled and wrapped in DistributedDataParallel as asked for.
        """
        if sync_batchnorm:
            if self.device.type != "cuda":
                raise ConfigError(f"sync_batchnorm=true: needs GPUs, the device is {self.device}")
            from timm.layers import convert_sync_batchnorm  # torch's drops timm's activations

            model = convert_sync_batchnorm(model)
        model = model.to(self.device)
        replica: nn.Module = model
        if self.world_size > 1:
            if any(p.ndim == 4 and p.shape[1] == 1 for p in model.parameters()):
                # Of a convolution over one channel the strides can be written in two ways.
                warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            replica = DistributedDataParallel(
                model, device_ids=[self.device] if self.device.type == "cuda" else None
            )
        if compile:
            replica = torch.compile(replica)  # type: ignore[assignment]
        return model, replica

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks; one all-reduce, none on a single rank."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; one all-reduce, none on a single rank."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers (running statistics) of the first, as DDP does in training.

        DDP does so before a forward pass; after the last step of an epoch they differ again, and
        an evaluation split over the ranks must not.
        """
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def gather(self, value: T) -> list[T]:
        """What each rank has, on the first rank; an empty list elsewhere."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def on_main(self, function: Callable[[], T]) -> T:
        """Call on the first rank alone; its result, or its RunError, is that of every rank."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome = [function(), None]
            except RunError as error:
                if self.world_size == 1:
                    raise
                outcome = [None, error]
            except OSError as error:
                outcome = [None, RunError(str(error))]
        if self.world_size > 1:
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            outcome[1].is_shared = True
            raise outcome[1]
        return outcome[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails on every rank when it fails on one: nobody waits for the dead.

        A mistake that all make is theirs; one that a single rank makes is that of all.
        """
        error: RunError | None = None
        try:
            yield
        except RunError as caught:
            error = caught
        errors: list[RunError | None] = [error]
        if self.world_size > 1:
            errors = [None] * self.world_size
            dist.all_gather_object(errors, error)
        for rank, each in enumerate(errors):
            if each is not None:
                each.is_shared = True
                if rank > 0:
                    each.args = (f"{each} (rank {rank})",)
                raise each


def _alone(error: RunError) -> RunError:
    """The same of this rank alone, which says so itself."""
    error.is_shared = False
    return error


def choose_device(name: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as the device of a rank; ConfigError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if device.index is not None and local_size > 1:
        raise ConfigError(f"device={name}: {local_size} ranks cannot share it (use device=cuda)")
    index = local_rank if device.index is None else device.index
    num_devices = torch.cuda.device_count()
    if index >= num_devices:
        ranks = f" and {local_size} ranks" if local_size > 1 else ""
        raise ConfigError(f"device={name}: this machine has {num_devices} CUDA devices{ranks}")
    return torch.device("cuda", index)


def _choose_algorithms(deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Would write to every new tensor, which no operation here reads before it is written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
