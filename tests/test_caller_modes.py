"""Whatever the caller has switched on: a test finds the same, and leaves everything as it was."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import gpytorch
import numpy as np
import pytest
import torch

from autowu import loss_gp
from autowu.loss_curve import LossCurve
from autowu.loss_gp import LossGP, default_kernel
from autowu.minimum_test import Evidence, weigh_evidence
from autowu.settings import Fit

N = 700  # more than are conditioned on: subsets are drawn


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "another device": lambda: torch.device("meta"),
}


def losses() -> torch.Tensor:
    rng = np.random.default_rng(3)
    x = np.arange(N) / N
    return torch.from_numpy(np.abs(x - 0.6) + 0.3 * rng.standard_normal(N)).float()


LOSSES = losses()


def two_tests(fit: Fit, kernel: gpytorch.kernels.Kernel | None = None) -> list[Evidence]:
    """Two tests in a row of one run, from the first line on."""
    loss_gp._default_features.cache_clear()  # as in a process that starts in this mode
    curve, gp = LossCurve(N), LossGP(fit, kernel)
    evidence = []
    for start, stop in ((0, 500), (500, N)):
        curve.extend(LOSSES[start:stop])
        evidence.append(
            weigh_evidence(
                curve, gp, num_losses=stop, num_tests=3, num_fit_samples=100,
                num_posterior_samples=300, rng=np.random.default_rng((0, stop)),
            )
        )  # fmt: skip
    return evidence


@lru_cache
def two_tests_alone(fit: Fit) -> list[Evidence]:
    return two_tests(fit)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fit", ["mle", "adam"])
def test_a_test_finds_the_same_in_every_mode(fit: Fit, mode: str) -> None:
    expected = two_tests_alone(fit)
    with MODES[mode]():
        found = two_tests(fit)
    for one, other in zip(expected, found, strict=True):
        assert other.probabilities == pytest.approx(one.probabilities, rel=1e-6, abs=1e-9)
        assert other.positions == one.positions


@pytest.mark.parametrize("mode", MODES)
def test_a_kernel_solved_densely_finds_the_same_in_every_mode(mode: str) -> None:
    kernel = gpytorch.kernels.MaternKernel(nu=0.5)
    expected = two_tests("mle", kernel)
    with MODES[mode]():
        assert two_tests("mle", kernel) == expected


@pytest.mark.parametrize("mode", ["float16", "bfloat16", "float64"])
def test_the_length_scale_is_a_fifth_in_every_default_dtype(mode: str) -> None:
    with MODES[mode]():
        assert default_kernel().lengthscale.item() == pytest.approx(0.2, rel=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fit", ["mle", "adam"])
def test_a_gp_used_in_a_mode_goes_on_outside_of_it(fit: Fit, mode: str) -> None:
    """Nothing that is kept may have become an inference tensor, a half, or part of a graph."""
    x = torch.arange(60, dtype=torch.float64) / 60
    y = LOSSES[:60].double()
    gp, plain = LossGP(fit), LossGP(fit)
    for context in (MODES[mode](), nullcontext()):
        results = []
        for each, around in ((gp, context), (plain, nullcontext())):
            with around, loss_gp.fenced():
                values = each.fit(x, y)
                results.append((values, each.posterior(x, y, values)))
        assert list(results[0][0]) == pytest.approx(list(results[1][0]), rel=1e-6)
        for one, other in zip(results[0][1][:3], results[1][1][:3], strict=True):
            assert not one.is_inference() and not one.requires_grad
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("fit", ["mle", "adam"])
def test_the_callers_modes_and_random_states_are_as_before(fit: Fit) -> None:
    def look() -> tuple[Any, ...]:
        return (
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
            torch.get_default_device(),
            gpytorch.settings.debug.on(),
        )

    for mode in MODES if fit == "mle" else ("inference_mode", "bfloat16"):
        with MODES[mode]():
            before = look()
            two_tests(fit)
            assert look() == before


@pytest.mark.parametrize("fit", ["mle", "adam"])
def test_tests_in_threads_leave_the_settings_of_gpytorch_as_they_were(fit: Fit) -> None:
    before = gpytorch.settings.debug.on(), gpytorch.settings.max_cholesky_size.value()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(two_tests, [fit] * 8))
    after = gpytorch.settings.debug.on(), gpytorch.settings.max_cholesky_size.value()
    assert after == before
