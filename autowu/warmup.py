"""The warmup of a run: the losses so far, the tests made of them, and the sweep that follows.

Every rank has one. Between two tests it knows the losses of its own rank; for a test they are
averaged over the ranks, rank 0 decides, and all go on alike. The warmup of Algorithm 1 of
arXiv:2107.05855; the test is in `minimum_test.py`, what follows from it in `decision.py`, the sweep
in `sweep.py`, when to test in `intervals.py`.
"""

import math
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from autowu.decision import Decision, decide, from_message, lr_at_cap, no_message, to_message
from autowu.gpytorch_import import gpytorch
from autowu.intervals import is_tested_at_cap, next_test_point
from autowu.loss_curve import Interval, LossCurve
from autowu.loss_gp import LossGP
from autowu.minimum_test import MinimumTest
from autowu.ranks import from_first_rank, is_first_rank, object_from_first_rank
from autowu.settings import SchedulerSettings
from autowu.sweep import Sweep, first_fall_step


class WarmupEnd(NamedTuple):
    """How a warmup ended."""

    start_lr: float  # where decay starts
    diverged: bool  # the newest losses are not finite
    num_newest: int  # losses since the test before


class Warmup:
    """What is observed and decided while the LR sweeps up.

    Moves: `begin` before the first loss, if it is known where the loss falls; in each optimizer
    step `interval.add` and `interval.commit`, which AutoWU calls itself, for these are all that a
    step costs; after `next_test_step` steps `synchronize` and `test`, until that gives an end.

    Args:
        settings: of the scheduler.
        kernel: as for `AutoWU`.
        process_group: the ranks that train together; None: all of them.
        first_step: optimizer steps done before the first loss. Whether the loss has fallen by then
            nobody knows: the sweep is fixed.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        kernel: gpytorch.kernels.Kernel | None,
        process_group: dist.ProcessGroup | None,
        first_step: int,
    ) -> None:
        self.settings = settings
        self.kernel = kernel
        self.process_group = process_group
        self.first_step = first_step
        self.sweep = Sweep(settings, first_fall_step(settings) if first_step == 0 else 0)
        self.curve = LossCurve(settings.warmup_steps)
        self.interval = Interval()
        self.tests: list[MinimumTest] = []
        self.last_test_step = first_step
        self.next_test_step = first_step
        self.gp = LossGP(settings.fit, kernel, settings.grid_size)
        self.expect_next_test()

    def begin(self, sweep: Sweep) -> None:
        """Go along another sweep, before the first loss."""
        self.sweep = sweep
        self.expect_next_test()

    def synchronize(self, device: torch.device) -> None:
        """Average the losses since the last reduction over the ranks: one all-reduce.

        Args:
            device: where collectives run.
        """
        self.curve.extend(*self.interval.reduce(self.process_group, device))

    def share_fit(self, device: torch.device) -> None:
        """Know on all ranks what the next fit starts from, as rank 0 does, which makes the fits.

        Nothing with `fit="mle"`.
        """
        if self.settings.fit == "adam":
            state = object_from_first_rank(self.gp.state_dict(), device, self.process_group)
            self.gp.load_state_dict(state)

    def test(self, step: int, device: torch.device) -> WarmupEnd | None:
        """Let rank 0 decide by the losses, and go on as it says: one broadcast.

        Args:
            step: optimizer steps done; the losses of all of them are averaged over the ranks.
            device: where collectives run.

        Returns:
            None as long as the warmup goes on; its sweep may be another one then.
        """
        settings = self.settings
        num_newest = step - self.last_test_step
        # All ranks hold the same losses, so all see a divergence alike.
        diverged = settings.fit != "adam" and self.curve.is_dead(num_newest)
        cap = self.sweep.warmup_steps
        if step < cap or diverged or is_tested_at_cap(settings, cap):
            ended, start_lr, slow_lr, test = self._decide(step, diverged, device)
            self.tests.append(test)
        else:
            ended, start_lr, slow_lr = True, lr_at_cap(settings, self.sweep, math.nan), math.nan
        self.last_test_step = step
        assert ended or not diverged
        if ended:
            return WarmupEnd(start_lr, diverged, num_newest)
        if not math.isnan(slow_lr):
            self.sweep = Sweep(settings, step, slow_lr if math.isfinite(slow_lr) else None)
        self.expect_next_test()
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and CPU tensors; never communicates."""
        return {
            "kernel": self._fingerprint(),
            "first_step": self.first_step,
            "last_test_step": self.last_test_step,
            "fall_step": self.sweep.fall_step,
            "slow_lr": self.sweep.slow_lr,
            "probed_growth": self.sweep.probed_growth,
            "warmup_steps": self.sweep.warmup_steps,
            "tests": [_plain(test) for test in self.tests],
            "losses": self.curve.values.clone(),
            "unweighted": list(self.curve.unweighted),
            "interval": self.interval.state_dict(),
            "gp": self.gp.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, has_ended: bool) -> None:
        """Go on from a saved state, before anything was observed.

        Args:
            state: of a warmup with the same settings; checked by `saved_state.checked_settings`.
            has_ended: whether it had, so that no test is to come.

        Raises:
            ValueError: it was saved with another kernel.
        """
        self._check_kernel(state["kernel"])
        self.first_step = state["first_step"]
        self.last_test_step = state["last_test_step"]
        names = ("fall_step", "slow_lr", "probed_growth", "warmup_steps")
        self.sweep = Sweep(self.settings, *(state[name] for name in names))
        self.tests = [
            MinimumTest(**(test | {"probabilities": tuple(test["probabilities"])}))
            for test in state["tests"]
        ]
        has_weight = torch.ones(len(state["losses"]), dtype=torch.bool, device="cpu")
        has_weight[state["unweighted"]] = False
        self.curve.extend(state["losses"], has_weight)
        self.interval.load_state_dict(state["interval"])
        self.gp.load_state_dict(state["gp"])
        if not has_ended:
            self.expect_next_test()

    def expect_next_test(self) -> None:
        """Settle when the next test is, by the sweep as it is now, and make room until then."""
        sweep = self.sweep
        self.next_test_step = next_test_point(
            self.last_test_step,
            self.settings,
            cap=sweep.warmup_steps,
            is_fast=sweep.is_fast,
            growth=sweep.growth,
        )
        # One slot more: a micro-batch of the step after the test may come before it.
        self.interval.reserve(self.next_test_step - self.last_test_step + 1)

    def _decide(self, step: int, diverged: bool, device: torch.device) -> Decision:
        """What rank 0 makes of the losses, on every rank."""
        settings, sweep = self.settings, self.sweep
        message = no_message(settings)
        error: Exception | None = None
        if is_first_rank(self.process_group):
            try:
                message = to_message(
                    decide(
                        step,
                        settings=settings,
                        sweep=sweep,
                        curve=self.curve,
                        gp=self.gp,
                        tests=self.tests,
                        first_step=self.first_step,
                        diverged=diverged,
                    )
                )
            except Exception as caught:  # the other ranks wait, and must hear of it
                error = caught
        message = from_first_rank(message, device, self.process_group)
        if error is not None:
            raise error
        decision = from_message(message, step, settings, sweep)
        if decision is None:
            raise RuntimeError(f"the minimum test after step {step} failed on rank 0")
        return decision

    def _fingerprint(self) -> list[float] | None:
        """Of the kernel that was given; None: the default one."""
        return None if self.kernel is None else self.gp.features.fingerprint()

    def _check_kernel(self, saved: Any) -> None:
        own = self._fingerprint()
        same = own == saved if own is None or saved is None else np.allclose(own, saved, rtol=1e-9)
        if not same:
            raise ValueError(
                "the state was saved with another kernel: construct AutoWU with the kernel of the "
                f"saved run ({'the default one' if saved is None else 'not the default one'})"
            )


def _plain(test: MinimumTest) -> dict[str, Any]:
    return asdict(test) | {"probabilities": list(test.probabilities)}
