"""Curves that stay constant and fall at the end: the second half of warmup-stable-decay.

Sources: the constant with a cosine is that of section 2.2 of Kim et al. 2021, arXiv:2107.05855;
warmup-stable-decay is that of Hu et al. 2024, arXiv:2404.06395, its cooldowns are compared by
Haegele et al. 2024, arXiv:2405.18392.
"""

from autowu.curves.smooth import cosine, linear, one_minus_sqrt


def constant_cosine(
    step: float, num_steps: float, start_lr: float, cooldown_steps: float, end_lr: float = 0.0
) -> float:
    """Stay constant, then fall along half a cosine wave in the last `cooldown_steps`.

    `lr(t) = start_lr` up to `num_steps - cooldown_steps`, then `cosine` over `cooldown_steps`. A
    cooldown that is longer than the curve starts at once and takes what there is.

    Args:
        step: optimizer steps done, real, clamped to [0, num_steps].
        num_steps: length of the whole curve in steps.
        start_lr: learning rate of the constant part.
        cooldown_steps: length of the cosine part in steps, real.
        end_lr: learning rate from step `num_steps` on.

    >>> [round(constant_cosine(t, 10, 1.0, 2), 4) for t in (0, 5, 8, 9, 10, 11)]
    [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    >>> [round(constant_cosine(t, 4, 1.0, 20), 4) for t in range(5)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """
    cooldown_steps = min(cooldown_steps, num_steps)
    return cosine(step - (num_steps - cooldown_steps), cooldown_steps, start_lr, end_lr)


def wsd_linear(
    step: float, num_steps: float, start_lr: float, cooldown_steps: float, end_lr: float = 0.0
) -> float:
    """Stay constant, then fall linearly in the last `cooldown_steps`.

    `lr(t) = start_lr` up to `num_steps - cooldown_steps`, then `linear` over `cooldown_steps`. A
    cooldown that is longer than the curve starts at once and takes what there is.

    Args:
        as for `constant_cosine`.

    >>> [wsd_linear(t, 10, 1.0, 4) for t in (0, 6, 7, 8, 10, 11)]
    [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    """
    cooldown_steps = min(cooldown_steps, num_steps)
    return linear(step - (num_steps - cooldown_steps), cooldown_steps, start_lr, end_lr)


def wsd_one_minus_sqrt(
    step: float, num_steps: float, start_lr: float, cooldown_steps: float, end_lr: float = 0.0
) -> float:
    """Stay constant, then fall as `one_minus_sqrt` in the last `cooldown_steps`.

    `lr(t) = start_lr` up to `num_steps - cooldown_steps`, then `one_minus_sqrt` over
    `cooldown_steps`. A cooldown that is longer than the curve starts at once and takes what there
    is.

    Args:
        as for `constant_cosine`.

    >>> [wsd_one_minus_sqrt(t, 10, 1.0, 4) for t in (0, 6, 7, 10, 11)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    cooldown_steps = min(cooldown_steps, num_steps)
    return one_minus_sqrt(step - (num_steps - cooldown_steps), cooldown_steps, start_lr, end_lr)
