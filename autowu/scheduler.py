"""AutoWU as a PyTorch learning-rate scheduler: Algorithm 1 of arXiv:2107.05855.

Here are the phases, the LRs of the groups and the state. What is observed and decided in the warmup
is in `warmup.py`, the probe before it in `probe.py`; the curves of the decay are in `schedules.py`;
`saved_state.py` checks a state.
"""

import math
import warnings
from enum import Enum
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autowu import schedules
from autowu.gpytorch_import import gpytorch
from autowu.group_lrs import (
    check_added_groups,
    copy_lr,
    lrs_of_others,
    put_back,
    reference_lr,
    scaled_ratio,
    separate_shared_lrs,
    to_cpu,
    to_number,
    to_ratio,
    with_added_groups,
)
from autowu.minimum_test import MinimumTest, num_consecutive_positive
from autowu.probe import MOST_SKIPPED, TakeStep, find_fall, losses_taken_back, probe_lrs
from autowu.ranks import check_process_group, num_ranks
from autowu.saved_state import (
    STATE_VERSION,
    boxed,
    checked_settings,
    loaded_whole,
    of_this_version,
)
from autowu.settings import (
    COOLDOWN_DECAYS,
    DEFAULT_COOLDOWN_FRACTION,
    DEFAULT_PROBED_WARMUP_FRACTION,
    PAPER,
    AtCap,
    Decay,
    Fit,
    Growth,
    SchedulerSettings,
    SweepKind,
    check_integer,
)
from autowu.sweep import Sweep, first_fall_step, first_lr, sweep_begun_at
from autowu.warmup import Warmup

_NOTHING_OBSERVED = (
    "step() or skip() got no loss in the warmup, and nothing was observed: AutoWU decides by the "
    "training loss. In a loop of your own call scheduler.step(loss), or scheduler.observe(loss) "
    "before scheduler.step(); in the take_step of a probe call neither. In a trainer that calls "
    "step() itself, use its adapter: "
    "autowu.integrations.lightning.AutoWUCallback, "
    "autowu.integrations.transformers.AutoWUTrainer, autowu.integrations.accelerate.step, or "
    "autowu.integrations.timm.AutoWUScheduler"
)


class Phase(Enum):
    """The two phases of a run; the only move is from WARMUP to DECAY."""

    WARMUP = "warmup"  # the LR sweeps up, losses are observed, tests are made
    DECAY = "decay"  # the LR falls from `start_lr`, losses are ignored


class AutoWU(LRScheduler):
    """Finds the peak learning rate and the warmup length while the model trains.

    WARMUP: the LR grows from `min_lr`, fast until the loss begins to fall and then by the same
    factor every step; at the test points a Gaussian process smooths the losses so far and the
    minimum test asks whether the loss has stopped falling. After `patience` positive tests in a
    row, or after `W` steps at the latest, DECAY: the LR falls (to 0, unless `decay` says
    otherwise) over what is left of `total_steps`, from the LR at the minimum of the smoothed loss.

        scheduler = AutoWU(optimizer, total_steps=epochs * len(loader), steps_per_epoch=len(loader))
        for inputs, targets in loader:
            loss = criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step(loss)

    In short runs, and with large batches all are short, call `probe` before the loop: it finds at
    next to no cost where the sweep can begin.

    A group's LR is the schedule's LR times a ratio: the group's `lr_scale` if it has one, else
    its `initial_lr` over that of the reference group (whose `initial_lr` is the optimizer's
    default LR, or the largest). With one group the optimizer's own LR plays no part. A group whose
    LR is 0 has ratio 1, too, with a warning; to freeze one, give it `lr_scale=0.0`. One that is
    added in mid-run takes its first step at the LR that it comes with, as with any scheduler:
    `optimizer.add_param_group({"params": ..., "lr": scheduler.get_last_lr()[0], "lr_scale": 1.0})`.

    With several ranks every rank calls `step` with its own loss. A test costs one all-reduce and
    one broadcast; a step without a test communicates nothing and never waits for the device.

    Args:
        optimizer: any torch optimizer; of several a `CombinedOptimizer`.
        total_steps: optimizer steps of the whole run, at least 2. After them the LR stays at the
            end of the decay, 0 for most, with a warning.
        steps_per_epoch: optimizer steps of an epoch; None: epochs play no part.
        min_lr: LR of the first step, but after a probe the least it can be; 1e-5 (paper).
        max_lr: highest LR; 1.0 (paper). A fixed sweep reaches it after `W` steps, an adaptive one
            may end below it.
        max_warmup_fraction: `W = max(1, floor(max_warmup_fraction * total_steps))`; 0.5 (paper).
        probed_warmup_fraction: after a `probe` that knows where the loss falls (whose fall is not
            spread) the warmup takes at most this part of `total_steps`, or 90 steps, and at most
            `W`; 1 (ours), which is `W`. Longer, up to `W`, where `max_lr` is near and the sweep
            grows by less than 2 % a step. 0.3 leaves more to the decay and begins the sweep higher:
            it gained in one budget of ten (`experiments/fresh_seeds`), and goes too high in
            fine-tuning.
        growth: "exponential", eq. (1) of the paper, or "linear", its eq. (6).
        sweep: "adaptive" (ours, because a short run has no steps for LRs that do not move the
            loss): 4 times as fast, but at most 2x a step, until a test sees the loss fall; then
            evenly to `max_lr` at `W`, but at most 1.03x a step (where it has passed the minimum
            before: back to the LR there, and evenly to `max_lr` at `W`). A test is then positive,
            too, when the loss rests: falls by less than 3 % while the LR grows threefold. "fixed"
            (paper): evenly from the beginning. Linear growth is always fixed.
        decay: a curve of `autowu.schedules.DECAYS`. To 0: "cosine", "constant_cosine" (constant,
            then a cosine at the end; both paper), "linear", "polynomial" (power 2),
            "one_minus_sqrt", "wsd_linear" and "wsd_one_minus_sqrt" (constant, then that curve at
            the end), "cosine_restarts" (3 equal half waves). Not to 0: "exponential" (to 1e-3 of
            its start), "inverse_sqrt" (to a tenth), "step" (times 0.1 after each third),
            "multistep" (times 0.1 after 1/2 and 3/4), "constant".
        cooldown_fraction: length of the fall in `total_steps`, of "constant_cosine" and the two
            "wsd"; 0.2 (paper). Anything else with a decay that has no cooldown is an error.
        patience: positive tests in a row that end the warmup; 3 (paper).
        confidence: what the probability that the loss has stopped falling must exceed; 0.95
            (paper). In a long run after a probe whose fall is spread no test counts below that
            probe's LR (`begin_at`).
        num_tests: random subsets of the losses that vote in one test; 5 (paper). All are the same,
            and vote alike, up to `num_posterior_samples` losses.
        test_interval: "auto" (ours, because budgets of few epochs need it): so often that the LR
            grows by at most 1.2x between tests, if possible at epoch ends; "epoch" (paper); or
            steps. Until an adaptive sweep sees the loss fall it is tested as often as by "auto",
            at least.
        fit: "mle" (ours, because it is exact, and the same for losses of any scale): maximum
            likelihood; "adam" (published): 100 steps of Adam on the raw losses.
        at_cap: where decay starts when nothing was found in `W` steps: "minimum" (ours, because
            a large LR may have ruined the weights): at the minimum seen; "current" (published).
        kernel: a GPyTorch kernel in place of the squared-exponential one of length-scale 0.2
            (paper); its hyperparameters are not fitted.
        num_fit_samples: losses, at most, that the GP is fitted to; 100 (paper).
        num_posterior_samples: losses, at most, that each posterior sees; 500 (paper).
        grid_size: points of [0, 1] at which the smoothed loss is looked at; 500 (paper).
        seed: of the random subsets.
        process_group: the ranks that train together; None: all of them. With one the scheduler
            cannot be copied or pickled; its `state_dict()` can.
        last_epoch: optimizer steps done before, minus 1; for going on without a saved state,
            with the losses so far forgotten, below `W` only. The sweep is fixed then.

    Raises:
        TypeError: `optimizer` is no Optimizer, or a setting, or the LR or the `lr_scale` of a
            group, has the wrong type.
        ValueError: one of them is out of range; the message names it.

    Source:
        Kim et al. 2021, arXiv:2107.05855: eq. (1)-(6), Algorithm 1.
    """

    # Accelerate would step a scheduler once per process, and wraps it to do so unless this is set.
    _is_accelerate_prepared = True

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        steps_per_epoch: int | None = None,
        *,
        min_lr: float = 1e-5,
        max_lr: float = 1.0,
        max_warmup_fraction: float = 0.5,
        probed_warmup_fraction: float = DEFAULT_PROBED_WARMUP_FRACTION,
        growth: Growth = "exponential",
        sweep: SweepKind = "adaptive",
        decay: Decay = "cosine",
        cooldown_fraction: float = DEFAULT_COOLDOWN_FRACTION,
        patience: int = 3,
        confidence: float = 0.95,
        num_tests: int = 5,
        test_interval: int | str = "auto",
        fit: Fit = "mle",
        at_cap: AtCap = "minimum",
        kernel: gpytorch.kernels.Kernel | None = None,
        num_fit_samples: int = 100,
        num_posterior_samples: int = 500,
        grid_size: int = 500,
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            several = ": of several make one, autowu.CombinedOptimizer(*optimizers)"
            raise TypeError(
                f"optimizer must be a torch Optimizer, got {type(optimizer).__name__}"
                + several * isinstance(optimizer, list | tuple)
            )
        settings = SchedulerSettings(
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            min_lr=min_lr,
            max_lr=max_lr,
            max_warmup_fraction=max_warmup_fraction,
            probed_warmup_fraction=probed_warmup_fraction,
            growth=growth,
            sweep=sweep,
            decay=decay,
            cooldown_fraction=cooldown_fraction,
            patience=patience,
            confidence=confidence,
            num_tests=num_tests,
            test_interval=test_interval,
            fit=fit,
            at_cap=at_cap,
            num_fit_samples=num_fit_samples,
            num_posterior_samples=num_posterior_samples,
            grid_size=grid_size,
            seed=seed,
        )
        last_epoch = check_integer("last_epoch", last_epoch, -1)
        first_step = last_epoch + 1
        if not 0 <= first_step < settings.warmup_steps:
            raise ValueError(
                f"last_epoch must be -1 or lie in the longest warmup, below "
                f"{settings.warmup_steps - 1}, got {last_epoch}: a later phase needs its saved "
                "state (load_state_dict)"
            )
        check_process_group(process_group)
        if _look_swapped(settings):
            warnings.warn(
                f"a run of total_steps={settings.total_steps} ends within its first epoch, of "
                f"steps_per_epoch={settings.steps_per_epoch}: are the two swapped? The order is "
                "AutoWU(optimizer, total_steps, steps_per_epoch)",
                stacklevel=2,
            )
        self._process_group = process_group
        self._kernel = kernel
        self._configure(settings, first_step)
        self._switch_step: int | None = None
        self._start_lr: float | None = None
        self._diverged = False
        self._num_skipped = 0  # calls of `skip` since the last `step`

        separate_shared_lrs(optimizer)
        self._ratios: list[float] = []  # of each group, unless it has an lr_scale
        self._reference_lr = 0.0  # initial_lr of a group whose ratio is 1; 0: not known yet
        self._is_constructed = False
        super().__init__(optimizer, last_epoch)
        self._is_constructed = True

    @classmethod
    def paper(
        cls, optimizer: Optimizer, total_steps: int, steps_per_epoch: int, **overrides: Any
    ) -> "AutoWU":
        """The published behaviour: `sweep="fixed"`, `fit="adam"`, and tests at epoch ends.

        Where nothing was found in `W` steps the decay starts from the LR reached
        (`at_cap="current"`). Groups, ranks and the state are as in `AutoWU`.

        Args:
            optimizer, total_steps, steps_per_epoch: as for `AutoWU`.
            **overrides: any other keyword of `AutoWU`.
        """
        return cls(optimizer, total_steps, steps_per_epoch, **(PAPER | overrides))

    @property
    def phase(self) -> Phase:
        """WARMUP until `switch_step` is known, then DECAY."""
        return Phase.WARMUP if self._switch_step is None else Phase.DECAY

    @property
    def switch_step(self) -> int | None:
        """Optimizer steps done when the warmup ended; None before."""
        return self._switch_step

    @property
    def fall_step(self) -> int | None:
        """Optimizer steps done when an adaptive sweep saw the loss move; None before."""
        return self._warmup.sweep.fall_step or None

    @property
    def start_lr(self) -> float | None:
        """The LR that the decay started from; None before."""
        return self._start_lr

    @property
    def found_minimum(self) -> bool:
        """Whether `patience` tests in a row found that the loss has stopped falling.

        False as long as they have not, and for good after a warmup that ended without it at `W`,
        its cap, or by a divergence: its losses do not tell whether a larger LR would have been
        better.
        """
        if self._diverged:
            return False
        return num_consecutive_positive(self._warmup.tests) >= self._settings.patience

    @property
    def diverged(self) -> bool:
        """Whether the warmup ended because the newest losses were not finite."""
        return self._diverged

    @property
    def tests(self) -> list[MinimumTest]:
        """Every test so far, the same on all ranks."""
        return list(self._warmup.tests)

    @property
    def losses(self) -> Tensor:
        """Warmup losses averaged over ranks: float32 CPU (n,), non-finite ones included.

        NaN stands for a step in which nothing had a weight, too.

        With several ranks those up to the last test or `synchronize()`; with one, all of them.
        """
        if num_ranks(self._process_group) == 1:
            self.synchronize()
        return self._warmup.curve.values.clone()

    @property
    def num_nonfinite(self) -> int:
        """How many losses were not finite, and so left out of the tests."""
        curve = self._warmup.curve
        return len(curve) - curve.num_finite - len(curve.unweighted)

    @property
    def t_in_epochs(self) -> NoReturn:
        """What timm's train script asks a scheduler for; AutoWU needs its adapter there."""
        raise AttributeError(
            "timm's loop does not hand AutoWU the loss of a step: use "
            "autowu.integrations.timm.AutoWUScheduler(optimizer, num_epochs, updates_per_epoch)"
        )

    step_update = t_in_epochs  # the other name that timm asks for

    @property
    def settings(self) -> SchedulerSettings:
        """All keywords as checked; after `load_state_dict` those of the saved run."""
        return self._settings

    @property
    def kernel(self) -> gpytorch.kernels.Kernel | None:
        """That which was given; None: the default one."""
        return self._kernel

    @property
    def first_step(self) -> int:
        """The step of the first observed loss; 0 unless `last_epoch` was given."""
        return self._warmup.first_step

    @property
    def warmup_steps(self) -> int:
        """The longest possible warmup in optimizer steps: `W`, or less after a probe."""
        return self._warmup.sweep.warmup_steps

    def lr_at(self, step: float) -> float:
        """The LR after `step` optimizer steps, as far as it is known, for a group of ratio 1.

        Up to the end of the warmup the sweep, afterwards the decay. While the warmup goes on the
        sweep alone is known, as if no test changed its pace; it ends at `max_lr`.
        """
        if self._switch_step is None or step < self._switch_step:
            return self._warmup.sweep.lr(step)
        assert self._start_lr is not None
        done, length = step - self._switch_step, self._total_steps - self._switch_step
        return self._decay(done, length, self._start_lr)

    def sweep_step(self, lr: float) -> float:
        """The step of the sweep, a real number, at which it has the learning rate `lr`.

        Below 0 for an LR below its first.

        Raises:
            ValueError: an LR that is not positive.
        """
        if not lr > 0:
            raise ValueError(f"sweep_step takes an LR above 0, got {lr}")
        return self._warmup.sweep.step_of(lr)

    def probe(self, model: nn.Module, take_step: TakeStep) -> float | None:
        """Find where the loss begins to fall by steps that are taken back; begin the sweep by it.

        The LR goes from `min_lr` to `max_lr` in factors of at most 2 (18 steps at the defaults);
        `take_step` takes a step at each. The weights and buffers, the optimizer and the random
        states are as before afterwards, bit for bit. Call it before the first `step()`.

            few = inputs[:32], targets[:32]  # the same in every step, or the loss is too noisy

            def take_step():
                loss = criterion(model(few[0]), few[1])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return loss

            model.train()
            scheduler.probe(model, take_step)

        With several ranks call it on all of them, with the same samples or with others; the losses
        are averaged. A GradScaler keeps the scale that it finds; return None where it skips a step.
        What torch.compile returned has its kernels made for the size of its first batch: let
        `take_step` call the module itself. Hooks of the optimizer run: register that of a moving
        average of the weights after the probe.

        Args:
            model: what `take_step` trains.
            take_step: takes one optimizer step and returns the loss before it, 0-d or a float.

        Returns:
            The LR near which the loss begins to fall; the sweep begins there, or in a long run
            up to 10 times below. None where it fell nowhere, and the sweep begins at `min_lr`.

        Raises:
            ValueError: the run has begun, or the sweep is fixed.
            TypeError: other arguments, or `take_step` returns no loss.
            RuntimeError: it returns None for ever, or calls the scheduler's `step` or `observe`.

        Source:
            ours, `autowu/probe.py`.
        """
        if not isinstance(model, nn.Module) or not callable(take_step):
            raise TypeError(
                "probe takes the model, an nn.Module, and then a function, got "
                f"{type(model).__name__} and {type(take_step).__name__}"
            )
        self._check_unbegun("probe")
        lrs = probe_lrs(self._settings.min_lr, self._settings.max_lr)

        def step() -> Tensor | float | None:
            loss = take_step()
            if self.last_epoch > 0 or self._warmup.interval.is_open:
                raise RuntimeError(
                    "take_step called step() or observe() of the scheduler: in a probe it must take"
                    " an optimizer step and no more. This scheduler has begun its run by that;"
                    " construct another"
                )
            return loss

        last_lr = self._last_lr
        try:
            losses = losses_taken_back(
                model,
                self.optimizer,
                lrs,
                self._write_lr,
                step,
                device=self._device(),
                group=self._process_group,
            )
        finally:
            self._last_lr = last_lr
            self._write_own_lrs()
        fall = find_fall(lrs, losses)
        if fall is None:
            self._begin(Sweep(self._settings, first_fall_step(self._settings)))
            return None
        spread_lr = fall.lr if fall.is_spread else None
        self.begin_at(first_lr(self._settings, fall), spread_lr=spread_lr)
        return fall.lr

    def begin_at(self, lr: float, *, spread_lr: float | None = None) -> None:
        """Begin the sweep at an LR near which the loss is known to fall, before the first `step()`.

        From there the LR grows evenly to `max_lr` at `W`, but at most 1.02x a step, or as much as
        makes a factor of 3 in `W` steps. The warmup takes at most `W` steps, without `spread_lr`
        less if `probed_warmup_fraction` says so.

        Args:
            lr: from `min_lr` to below `max_lr`.
            spread_lr: where it is only known that the loss falls somewhere from far below this LR
                to 12 times as much, as after a probe whose fall is spread; from `lr` to below
                `max_lr`. Where 1.02x a step would go beyond those 12 times in `W` steps, and they
                lie below `max_lr`, the LR grows evenly to them, and no test counts below
                `spread_lr`.

        Raises:
            TypeError: no number.
            ValueError: another LR; the run has begun, or the sweep is fixed.
        """
        self._check_unbegun("begin_at")
        self._begin(sweep_begun_at(self._settings, lr, spread_lr))

    def _begin(self, sweep: Sweep) -> None:
        self._warmup.begin(sweep)
        self._write_own_lrs()

    def observe(self, loss: Tensor | float, weight: Tensor | float = 1) -> None:
        """Take a loss of the coming `step()`; several are averaged by their weights.

        Never waits for the device; the loss is copied. After the warmup nothing happens, nor
        before its turn in a SequentialLR.

        Args:
            loss: training loss of this rank: a float or a 0-d floating-point tensor, on any
                device, with or without a graph. NaN and infinity are left out of the tests. Kept
                in float32, times its weight: subtract an offset of more than a hundred thousand
                times the noise.
            weight: of this loss, for example its number of samples; 0 is legal, and a step in
                which nothing had a weight is left out of the tests.

        Raises:
            TypeError, ValueError: not a scalar, an integer, a DTensor, or a negative weight.
        """
        if self._switch_step is None and self.last_epoch >= 0:
            self._warmup.interval.add(loss, weight)

    def step(self, loss: Tensor | float | None = None) -> None:
        """Go one optimizer step further; call it after `optimizer.step()`.

        Args:
            loss: as for `observe`, which it is passed to; None if `observe` was called before,
                or after the warmup.

        Raises:
            TypeError: an integer, as `step(epoch)` of older PyTorch.
            ValueError: no loss was observed in the warmup; or one that is no scalar; or it waits
                for its turn in a SequentialLR.
        """
        # The base class takes a step to set the first LR, and a SequentialLR another one.
        if not self._is_constructed or self.last_epoch < 0:
            if loss is not None:
                raise ValueError(
                    "in a SequentialLR AutoWU gets its losses by observe(loss), and the steps from "
                    "the SequentialLR"
                )
            super().step()
            return
        if torch.compiler.is_compiling():  # nothing here is worth a kernel, and each test differs
            torch.compiler.disable(AutoWU.step)(self, loss)
            return
        self._num_skipped = 0
        if isinstance(loss, int):
            raise TypeError(
                f"step() takes the training loss, a float or a 0-d tensor, got the integer {loss}: "
                "it does not take an epoch; use observe(loss) where step() must have no argument"
            )
        if self._switch_step is None and self.last_epoch >= self._warmup.next_test_step:
            self._test(self.last_epoch)  # that of the last step was interrupted
        if self._switch_step is None:
            interval = self._warmup.interval
            if loss is not None:
                interval.add(loss)
            if not interval.is_open:
                raise ValueError(_NOTHING_OBSERVED)
        last_epoch = self.last_epoch
        try:
            if self._step_count < 2:
                super().step()  # while it can still warn about the order of the calls
            else:
                self._step_count += 1
                self.last_epoch += 1
                self._write_lrs()
        finally:  # a step and its loss count together, whatever is raised in between
            if self._switch_step is None and self.last_epoch > last_epoch:
                self._warmup.interval.commit()
        if self.last_epoch == self._total_steps + 1:
            warnings.warn(
                f"step {self.last_epoch} of a run of total_steps={self._total_steps}: the decay is"
                f" over, and the LR stays at {self.lr_at(self.last_epoch):.4g}",
                stacklevel=2,
            )
        # Last, so that a test that is interrupted leaves a whole step behind; the next call tests.
        if self._switch_step is None and self.last_epoch >= self._warmup.next_test_step:
            self._test(self.last_epoch)

    def skip(self) -> None:
        """Call it in place of `step()` when a GradScaler left the optimizer's step out.

        What was observed for it is averaged into the next step. After 24 in a row the scaler is no
        longer looking for its scale: the network is lost, and each is a step, so that a test can
        see it.

        Raises:
            ValueError: no loss was observed in the warmup.
        """
        if self.last_epoch < 0:  # before its turn in a SequentialLR
            return
        num_skipped = self._num_skipped + 1
        if num_skipped <= MOST_SKIPPED:
            if self._switch_step is None and not self._warmup.interval.is_open:
                raise ValueError(_NOTHING_OBSERVED)
            self._num_skipped = num_skipped
            return
        try:
            self.step()
        finally:  # a test that is interrupted is made up for by the next step
            self._num_skipped = num_skipped

    def get_lr(self) -> list[float | Tensor]:
        """The LR of each group at `last_epoch`; called by the base class."""
        lr = self.lr_at(self.last_epoch)
        self._adopt_groups()
        return [
            lr * float(scaled_ratio(group, ratio))
            for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True)
        ]

    def synchronize(self) -> None:
        """Average the losses since the last reduction over the ranks; call it on all of them.

        One all-reduce in the warmup, none after it; `fit="adam"` broadcasts what its next fit
        starts from. Call it before a checkpoint that one rank writes for all, or
        torch.distributed.checkpoint, which takes what is the same on all ranks from any of them.
        """
        if self._switch_step is None:
            self._warmup.synchronize(self._device())
            self._warmup.share_fit(self._device())

    def state_dict(self) -> dict[str, Any]:
        """All that an equal run needs to go on: plain numbers, lists, tuples, dicts, CPU tensors.

        Never communicates: losses since the last reduction are this rank's own. LRs that another
        has written into the groups since, as the next scheduler in a SequentialLR does, are in it.
        torch.save takes it, also with `weights_only=True`, and torch.distributed.checkpoint does.
        """
        if self.last_epoch >= 0:  # before its turn in a SequentialLR the LRs are another's
            self._adopt_groups()
        return boxed(self._state())

    def _state(self) -> dict[str, Any]:
        """The state out of its boxes."""
        return {
            "version": STATE_VERSION,
            "settings": self._settings.as_dict(),
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "base_lrs": tuple(map(to_cpu, self.base_lrs)),
            "other_lrs": lrs_of_others(self.optimizer, self._last_lr),
            "reference_lr": self._reference_lr,
            "switch_step": self._switch_step,
            "start_lr": self._start_lr,
            "diverged": self._diverged,
            "num_skipped": self._num_skipped,
            **self._warmup.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; restores the settings too and writes the LR into the groups.

        Where another had written LRs before the save, as the next scheduler of a SequentialLR does,
        these are written. A warning names the settings, and the ratios of groups without an
        `lr_scale`, that this scheduler was constructed with in vain.

        Args:
            state_dict: of `AutoWU.state_dict()`.

        Raises:
            ValueError: it is no such state, or does not fit this optimizer or kernel.
        """
        own, own_ratios = self._settings.as_dict(), self._ratios
        with loaded_whole(self):
            state = of_this_version(state_dict)
            self._load(state)
        self._write_own_lrs()
        if self.last_epoch >= 0:
            put_back(self.optimizer, state["other_lrs"])
        saved = [
            f"{name}={value!r} (given: {own[name]!r})"
            for name, value in self._settings.as_dict().items()
            if value != own[name]
        ]
        groups = zip(self.optimizer.param_groups, self._ratios, own_ratios, strict=False)
        saved += [
            f"ratio of group {index}: {ratio:.6g} (given: {own_ratio:.6g})"
            for index, (group, ratio, own_ratio) in enumerate(groups)
            if group.get("lr_scale") is None and not math.isclose(ratio, own_ratio, rel_tol=1e-6)
        ]
        if saved:
            warnings.warn(
                f"the saved run goes on with its own settings: {', '.join(saved)}", stacklevel=2
            )

    def _load(self, state: Any) -> None:
        num_groups = len(self.optimizer.param_groups)
        settings = checked_settings(state, self._state().keys(), num_groups)
        self._configure(settings)
        self._warmup.load_state_dict(state, has_ended=state["switch_step"] is not None)
        self.last_epoch = state["last_epoch"]
        self._step_count = state["step_count"]
        self._num_skipped = state["num_skipped"]
        self._switch_step = state["switch_step"]
        self._start_lr = state["start_lr"]
        self._diverged = state["diverged"]
        self.base_lrs = [copy_lr(lr) for lr in state["base_lrs"]]
        self._reference_lr = float(state["reference_lr"])
        self._ratios = [to_ratio(lr, self._reference_lr) for lr in self.base_lrs]
        self.lr_at(self.last_epoch)  # a start_lr that is no number is to fail in here

    def _configure(self, settings: SchedulerSettings, first_step: int = 0) -> None:
        """Begin a run with these settings, at a step before which nothing was observed."""
        self._settings = settings
        self._total_steps = settings.total_steps
        self._decay = schedules.DECAYS[settings.decay]
        if settings.decay in COOLDOWN_DECAYS:
            cooldown_steps = settings.cooldown_fraction * settings.total_steps
            self._decay = partial(self._decay, cooldown_steps=cooldown_steps)
        self._warmup = Warmup(settings, self._kernel, self._process_group, first_step)

    def _check_unbegun(self, method: str) -> None:
        if first_fall_step(self._settings) is not None:
            own = self._settings
            raise ValueError(
                f'{method} is for sweep="adaptive" with growth="exponential", got '
                f"sweep={own.sweep!r}, growth={own.growth!r}: a fixed sweep begins at min_lr"
            )
        is_open = self._warmup.interval.is_open
        if self.last_epoch > 0 or self._warmup.first_step > 0 or is_open:
            raise ValueError(
                f"{method} comes before the first step, and the run stands at step "
                f"{self.last_epoch}" + " with a loss observed" * is_open
            )

    def _test(self, step: int) -> None:
        """Test the losses, and begin the decay if that ends the warmup."""
        self._warmup.synchronize(self._device())
        sweep = self._warmup.sweep
        end = self._warmup.test(step, self._device())
        if end is None:
            if self._warmup.sweep is not sweep:
                self._write_lrs()
            return
        self._switch_step, self._start_lr, self._diverged = step, end.start_lr, end.diverged
        self._write_lrs()
        if end.diverged:
            warnings.warn(
                f"the last {max(end.num_newest, 2)} training losses before step {step} are not "
                f"finite: the run has diverged. AutoWU ends the warmup there and decays from LR "
                f"{end.start_lr:.4g}; the weights may need restoring",
                stacklevel=3,
            )

    def _device(self) -> torch.device:
        """Where collectives run: the device of the first parameter.

        Of a DTensor that of its mesh: the parameter may lie on the host meanwhile.
        """
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                mesh = getattr(parameter, "device_mesh", None)
                return parameter.device if mesh is None else torch.device(mesh.device_type)
        return torch.device("cpu")

    def _write_lrs(self) -> None:
        """Put the LR of `last_epoch` into every group."""
        self._write_lr(self.lr_at(self.last_epoch))

    def _write_own_lrs(self) -> None:
        """`_write_lrs`, but not before its turn in a SequentialLR: the LRs are another's."""
        if self.last_epoch >= 0:
            self._write_lrs()

    def _write_lr(self, lr: float) -> None:
        """Put an LR into every group; a tensor LR is filled, never replaced."""
        groups = self.optimizer.param_groups
        if len(groups) != len(self._ratios):
            self._adopt_groups()
        last_lrs: list[float | Tensor] = []
        for group, ratio in zip(groups, self._ratios, strict=True):
            value = lr * (ratio if group.get("lr_scale") is None else scaled_ratio(group, ratio))
            # Asking a float whether it is a Tensor takes longer than all the rest.
            if group["lr"].__class__ is not float and isinstance(group["lr"], Tensor):
                last_lrs.append(group["lr"].fill_(value).clone())
            else:
                if value.__class__ is not float:
                    value = float(value)  # an optimizer may take no tensor that it did not have
                group["lr"] = value
                last_lrs.append(value)
        self._last_lr = last_lrs

    def _adopt_groups(self) -> None:
        """Give the groups that were added since an `initial_lr`, a base LR and a ratio."""
        groups = self.optimizer.param_groups
        if len(groups) == len(self._ratios):
            return
        num_known = len(self._ratios)
        check_added_groups(groups, num_known)
        self.base_lrs = with_added_groups(self.optimizer, self.base_lrs[:num_known])
        if not self._reference_lr:
            default = self.optimizer.defaults.get("lr")
            self._reference_lr = reference_lr(self.base_lrs, default)
        self._ratios = [to_ratio(lr, self._reference_lr) for lr in self.base_lrs]
        if self._reference_lr and any(map(_looks_frozen, groups[num_known:])):
            warnings.warn(
                "a parameter group with LR 0 is not frozen by it: 0 is no ratio, and AutoWU trains "
                "the group at the LR of the others. To freeze it, give it lr_scale=0.0",
                stacklevel=2,
            )


def _look_swapped(settings: SchedulerSettings) -> bool:
    """Whether the run would be a whole fraction of an epoch, as epochs are of a run."""
    epoch_steps, total_steps = settings.steps_per_epoch or 0, settings.total_steps
    return epoch_steps > total_steps and epoch_steps % total_steps == 0


def _looks_frozen(group: dict[str, Any]) -> bool:
    return group.get("lr_scale") is None and not to_number(group["initial_lr"])
