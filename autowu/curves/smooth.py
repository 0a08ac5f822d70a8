"""Curves without corners: from a start to an end, or ever slower downwards.

Sources: equations (1) and (6) of Kim et al. 2021, arXiv:2107.05855; the cosine is that of
Loshchilov and Hutter 2017, arXiv:1608.03983; others are named where they stand.
"""

import math


def progress(step: float, num_steps: float) -> float:
    """The fraction of the curve that is done, in [0, 1]; a curve of no steps is at its end."""
    if step >= num_steps:
        return 1.0
    return step / num_steps if step > 0.0 else 0.0


def constant(step: float, num_steps: float, start_lr: float) -> float:
    """Stay where it is: `lr(t) = start_lr`.

    Args:
        step, num_steps: play no part; every curve takes them.
        start_lr: learning rate at every step.

    >>> [constant(t, 4, 0.1) for t in (0, 2, 9)]
    [0.1, 0.1, 0.1]
    """
    return start_lr


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
    # Not through `progress`: this is evaluated at every step of the sweep.
    return start_lr * (end_lr / start_lr) ** (step / num_steps) if step > 0 else start_lr


def exponential_decay(
    step: float, num_steps: float, start_lr: float, end_ratio: float = 1e-3
) -> float:
    """Fall by the same factor every step, to a fraction of the start.

    `lr(t) = start_lr * end_ratio ** (t / num_steps)`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps of the whole curve; 0 gives its end at once.
        start_lr: learning rate at step 0, positive.
        end_ratio: LR at the end over `start_lr`, positive; 1e-3 (ours, because an exponential
            never arrives at 0).

    >>> [round(exponential_decay(t, 3, 1.0), 6) for t in range(5)]
    [1.0, 0.1, 0.01, 0.001, 0.001]
    """
    return exponential(step, num_steps, start_lr, end_ratio * start_lr)


def gamma_decay(
    step: float, num_steps: float, start_lr: float, gamma: float, period: float = 1.0
) -> float:
    """Fall by the factor `gamma` every `period` steps, smoothly: PyTorch's ExponentialLR.

    `lr(t) = start_lr * gamma ** (t / period)`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: where the curve stops falling, in steps.
        start_lr: learning rate at step 0.
        gamma: factor of a period, positive.
        period: steps, positive; those of an epoch make `gamma` a factor an epoch.

    >>> [gamma_decay(t, 6, 1.0, gamma=0.25, period=2) for t in (0, 1, 2, 4, 6, 8)]
    [1.0, 0.5, 0.25, 0.0625, 0.015625, 0.015625]
    """
    return start_lr * gamma ** (min(max(step, 0.0), num_steps) / period)


def linear(step: float, num_steps: float, start_lr: float, end_lr: float = 0.0) -> float:
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
    done = progress(step, num_steps)
    if done == 1.0:
        return end_lr
    return start_lr + (end_lr - start_lr) * done


def polynomial(
    step: float, num_steps: float, start_lr: float, end_lr: float = 0.0, power: float = 2.0
) -> float:
    """Go to the end as a power of what is left.

    `lr(t) = end_lr + (start_lr - end_lr) * (1 - t / num_steps) ** power`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps from `start_lr` to `end_lr`; 0 gives `end_lr` at once.
        start_lr: learning rate at step 0.
        end_lr: learning rate from step `num_steps` on.
        power: positive; 1 is `linear`; 2 as in the large-batch recipe of LARS (You et al. 2017,
            arXiv:1708.03888).

    >>> [polynomial(t, 4, 1.0) for t in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    done = progress(step, num_steps)
    if done == 1.0:
        return end_lr
    return start_lr if done == 0.0 else end_lr + (start_lr - end_lr) * (1.0 - done) ** power


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
    done = progress(step, num_steps)
    if done == 1.0:
        return end_lr
    return end_lr + (start_lr - end_lr) * 0.5 * (1.0 + math.cos(math.pi * done))


def one_minus_sqrt(step: float, num_steps: float, start_lr: float, end_lr: float = 0.0) -> float:
    """Fall steeply at first: the cooldown that Haegele et al. 2024 found best, arXiv:2405.18392.

    `lr(t) = end_lr + (start_lr - end_lr) * (1 - sqrt(t / num_steps))`

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: steps from `start_lr` to `end_lr`; 0 gives `end_lr` at once.
        start_lr: learning rate at step 0.
        end_lr: learning rate from step `num_steps` on.

    >>> [one_minus_sqrt(t, 16, 1.0) for t in (0, 1, 4, 9, 16, 17)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    done = progress(step, num_steps)
    if done == 1.0:
        return end_lr
    return start_lr if done == 0.0 else end_lr + (start_lr - end_lr) * (1.0 - math.sqrt(done))


def inverse_sqrt(
    step: float, num_steps: float, start_lr: float, timescale: float | None = None
) -> float:
    """Fall with the square root of the time: Vaswani et al. 2017, arXiv:1706.03762.

    `lr(t) = start_lr * sqrt(timescale / (timescale + t))`

    With the length of the warmup before it as `timescale` this is the Transformer's
    `peak * sqrt(warmup / steps)`.

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: where the curve stops falling, in steps.
        start_lr: learning rate at step 0.
        timescale: steps, positive; after three times as many the LR has halved. None (ours): a
            hundredth of `num_steps`, so that the curve ends at about a tenth of its start.

    >>> [round(inverse_sqrt(t, 99, 1.0, timescale=1.0), 4) for t in (0, 3, 24, 99, 200)]
    [1.0, 0.5, 0.2, 0.1, 0.1]
    >>> round(inverse_sqrt(500, 500, 1.0), 4)
    0.0995
    """
    done = min(max(step, 0.0), num_steps)
    if timescale is None:
        timescale = num_steps / 100
    return start_lr * math.sqrt(timescale / (timescale + done)) if done else start_lr
