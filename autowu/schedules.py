"""Learning-rate curves as pure functions of the step.

Every curve takes the number of optimizer steps done since it began and returns the learning
rate of the next step. Nothing is accumulated and nothing is read back from an optimizer, so a
curve can be evaluated at any step, in any order, also between two steps (`step` is a real
number). Before its beginning a curve has its first value, after its end its last one.

Sources: equations (1) and (6) and section 2.2 of Kim et al. 2021, arXiv:2107.05855; the cosine
is that of Loshchilov and Hutter 2017, arXiv:1608.03983.
"""

import math


def _progress(step: float, num_steps: float) -> float:
    """The fraction of the curve that is done, in [0, 1]; a curve of no steps is at its end."""
    if step >= num_steps:
        return 1.0
    return step / num_steps if step > 0.0 else 0.0


def exponential(step: float, num_steps: float, start_lr: float, end_lr: float) -> float:
    """Grow (or fall) by the same factor every step: eq. (1), the sweep of AutoWU.

    `lr(t) = start_lr * (end_lr / start_lr) ** (t / num_steps)`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps from `start_lr` to `end_lr`; 0 gives `end_lr` at once.
        start_lr: learning rate at step 0, positive.
        end_lr: learning rate from step `num_steps` on, positive.

    >>> [round(exponential(t, 4, 1e-4, 1.0), 6) for t in range(6)]
    [0.0001, 0.001, 0.01, 0.1, 1.0, 1.0]
    """
    if step >= num_steps:
        return end_lr
    # Not through `_progress`: this is evaluated at every step of the sweep.
    return start_lr * (end_lr / start_lr) ** (step / num_steps) if step > 0 else start_lr


def linear(step: float, num_steps: float, start_lr: float, end_lr: float) -> float:
    """Move by the same amount every step: eq. (6), and the usual linear warmup.

    `lr(t) = start_lr + (end_lr - start_lr) * t / num_steps`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps from `start_lr` to `end_lr`; 0 gives `end_lr` at once.
        start_lr: learning rate at step 0.
        end_lr: learning rate from step `num_steps` on.

    >>> [linear(t, 4, 0.0, 1.0) for t in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    progress = _progress(step, num_steps)
    if progress == 1.0:
        return end_lr
    return start_lr + (end_lr - start_lr) * progress


def cosine(step: float, num_steps: float, start_lr: float, end_lr: float = 0.0) -> float:
    """Fall along half a cosine wave.

    `lr(t) = end_lr + (start_lr - end_lr) * (1 + cos(pi * t / num_steps)) / 2`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps from `start_lr` to `end_lr`; 0 gives `end_lr` at once.
        start_lr: learning rate at step 0.
        end_lr: learning rate from step `num_steps` on.

    >>> [round(cosine(t, 4, 1.0), 4) for t in range(6)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """
    progress = _progress(step, num_steps)
    if progress == 1.0:
        return end_lr
    return end_lr + (start_lr - end_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def constant_cosine(step: float, num_steps: float, lr: float, cooldown_steps: float) -> float:
    """Stay constant, then fall to 0 along half a cosine wave in the last `cooldown_steps`.

    `lr(t) = lr` up to `num_steps - cooldown_steps`, then `cosine` over `cooldown_steps`. A
    cooldown that is longer than the curve starts at once and takes what there is.

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: length of the whole curve in steps.
        lr: learning rate of the constant part.
        cooldown_steps: length of the cosine part in steps, real.

    >>> [round(constant_cosine(t, 10, 1.0, 2), 4) for t in (0, 5, 8, 9, 10, 11)]
    [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    >>> [round(constant_cosine(t, 4, 1.0, 20), 4) for t in range(5)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    cooldown_steps = min(cooldown_steps, num_steps)
    return cosine(step - (num_steps - cooldown_steps), cooldown_steps, lr)
