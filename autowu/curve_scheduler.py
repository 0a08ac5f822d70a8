"""One thin scheduler that applies any curve of `autowu.schedules`, or of one's own."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowu.group_lrs import (
    check_added_groups,
    check_saved_lrs,
    copy_lr,
    lr_scale,
    lrs_of_others,
    put_back,
    reference_lr,
    separate_shared_lrs,
    set_lr,
    to_cpu,
    to_number,
    to_ratio,
    with_added_groups,
)
from autowu.saved_state import loaded_whole
from autowu.settings import check_integer, check_number


class CurveScheduler(LRScheduler):
    """Gives each group its base LR times a curve of the steps done.

    `lr(t) = initial_lr * curve(t) * lr_scale`, where a group without `lr_scale` (timm's key for
    layer-wise decay), or with None, has 1.

        curve = functools.partial(schedules.cosine, num_steps=10_000, start_lr=1.0)
        scheduler = CurveScheduler(optimizer, curve)
        optimizer.step()
        scheduler.step()

    Args:
        optimizer: any torch optimizer; its LRs are the base LRs.
        curve: the optimizer steps done -> what the base LRs are multiplied with. Pure: it is asked
            for any step, and is not part of the state, so a resumed run passes the same one.
        absolute: the curve gives learning rates instead, those of the reference group; the others
            keep their ratio to it (see `reference_lr`), and `lr_scale` comes on top. AutoWU differs
            where a group has both an LR and an `lr_scale` of its own: it takes `lr_scale` alone.
        last_epoch: optimizer steps done before, minus 1; for going on without a saved state.

    Raises:
        TypeError: `optimizer` is no Optimizer, `curve` no function, or the LR or the `lr_scale` of
            a group no number.
        ValueError: one of these is negative or not finite.
    """

    # Accelerate would step a scheduler once per process, and wraps it to do so unless this is set.
    _is_accelerate_prepared = True

    def __init__(
        self,
        optimizer: Optimizer,
        curve: Callable[[int], float],
        *,
        absolute: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch Optimizer, got {type(optimizer).__name__}")
        if not callable(curve):
            raise TypeError(f"curve must be a function of the steps done, got {curve!r}")
        separate_shared_lrs(optimizer)
        self.curve = curve
        self.absolute = absolute
        self._shares: list[float] = []  # what each group multiplies the curve with
        self._reference_lr = 0.0
        super().__init__(optimizer, last_epoch)

    @property
    def reference_lr(self) -> float:
        """The base LR of the reference group: the optimizer's default, or the largest.

        The default counts when some group has it as its `initial_lr`, as with AutoWU.
        """
        self._adopt_groups()
        return self._reference_lr

    def step(self, epoch: int | None = None) -> None:
        """Go one optimizer step further; call it after `optimizer.step()`.

        Raises:
            TypeError: for a loss, which a curve does not look at.
        """
        if isinstance(epoch, Tensor) or (
            isinstance(epoch, Real) and not isinstance(epoch, Integral)
        ):
            raise TypeError(
                f"{type(self).__name__}.step() takes no loss, and would take it for an epoch, got "
                f"{type(epoch).__name__}: call step() alone"
            )
        super().step(epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each group at `last_epoch`; called by the base class."""
        self._adopt_groups()
        value = self.curve(self.last_epoch)
        groups = zip(self.optimizer.param_groups, self._shares, strict=True)
        return [share * value * lr_scale(group) for group, share in groups]

    def state_dict(self) -> dict[str, Any]:
        """The steps done and the base LRs: plain numbers, tuples and CPU tensors."""
        if self.last_epoch >= 0:  # before its turn in a SequentialLR the LRs are another's
            self._adopt_groups()
        return {
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "reference_lr": self._reference_lr,
            "base_lrs": tuple(map(to_cpu, self.base_lrs)),
            "other_lrs": lrs_of_others(self.optimizer, self._last_lr),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, and write the LR into the groups.

        Raises:
            ValueError: it is no such state, or that of an optimizer with more groups.
        """
        with loaded_whole(self):
            self._load(state_dict)
        self._write_lrs()
        if self.last_epoch >= 0:
            put_back(self.optimizer, state_dict.get("other_lrs", []))

    def _load(self, state_dict: dict[str, Any]) -> None:
        self._check_state(state_dict)
        self.last_epoch = check_integer("last_epoch", state_dict["last_epoch"], -1)
        self._step_count = check_integer("step_count", state_dict["step_count"], 0)
        self.base_lrs = [copy_lr(lr) for lr in state_dict["base_lrs"]]
        self._reference_lr = check_number("reference_lr", state_dict["reference_lr"])
        self._shares = []

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        if not isinstance(state_dict, dict):
            raise ValueError(
                f"not a state_dict of {type(self).__name__}: {type(state_dict).__name__}"
            )
        # Earlier versions did not note the LRs of others.
        missing = self.state_dict().keys() - {"other_lrs"} - state_dict.keys()
        if missing:
            raise ValueError(
                f"not a state_dict of {type(self).__name__}: {', '.join(sorted(missing))} missing"
            )
        check_saved_lrs({"other_lrs": []} | state_dict, len(self.optimizer.param_groups))

    def _write_lrs(self) -> None:
        """Put the LR of `last_epoch` into every group; a tensor LR is filled, never replaced."""
        if self.last_epoch < 0:  # before its turn in a SequentialLR: the LRs are another's
            return
        lrs = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            set_lr(group, lr)
        self._last_lr = [copy_lr(group["lr"]) for group in self.optimizer.param_groups]

    def _adopt_groups(self) -> None:
        """Know each group's base LR as a float, also those of groups that were added since."""
        if len(self.optimizer.param_groups) == len(self._shares):
            return
        check_added_groups(self.optimizer.param_groups, len(self._shares))
        self.base_lrs = with_added_groups(self.optimizer, self.base_lrs)
        base_lrs = [to_number(lr) for lr in self.base_lrs]
        if not self._reference_lr:
            self._reference_lr = reference_lr(base_lrs, self.optimizer.defaults.get("lr"))
        self._shares = base_lrs
        if self.absolute:  # a group, or an optimizer, without an LR has ratio 1
            self._shares = [to_ratio(lr, self._reference_lr) for lr in base_lrs]
