"""A learning rate that was meant for another batch size, and what becomes of each kind of curve.

A curve whose values are multiples of the peak is scaled as a whole: start and end keep their
ratio, a multi-step keeps its factors. Only a rising ramp differs: it scales its end, and begins
where it began (Goyal et al. 2017, arXiv:1706.02677, warm up from the LR of the base batch).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from autowu.trainer.composite import CurvePiece

ScaleLR = Literal["none", "linear", "sqrt"]


def scale_factor(scale_lr: ScaleLR, batch_size: int, base_batch_size: int) -> float:
    """What a learning rate is multiplied with: 1, the ratio of the batch sizes, or its root.

    Args:
        scale_lr: "none", "linear" (Goyal et al. 2017) or "sqrt" (Krizhevsky 2014, arXiv:1404.5997).
        batch_size: images per optimizer step, over all ranks.
        base_batch_size: images per optimizer step that the learning rate is meant for.

    >>> [scale_factor(rule, 1024, 256) for rule in ("none", "linear", "sqrt")]
    [1.0, 4.0, 2.0]
    """
    ratio = batch_size / base_batch_size
    return {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[scale_lr]


def scale_pieces(
    pieces: Sequence[CurvePiece], scale_lr: ScaleLR, batch_size: int, base_batch_size: int
) -> tuple[CurvePiece, ...]:
    """The pieces of a composite for another batch size; those of "none" as they are.

    Every piece is scaled as its kind requires. A leading warmup is left out when the batch is not
    above the base, because nothing has to be warmed up to; the other lengths are made to sum to 1.
    Where the factor would bring the end of a ramp below its start, the ramp is level.

    >>> ramp = CurvePiece("linear", 0.2, start=0.1, end=1.0)
    >>> wave = CurvePiece("cosine", 0.8, start=1.0, end=0.01)
    >>> for piece in scale_pieces([ramp, wave], "linear", 512, 256):
    ...     print(piece.name, piece.length, piece.start, piece.end)
    linear 0.2 0.1 2.0
    cosine 0.8 2.0 0.02
    >>> for piece in scale_pieces([ramp, wave], "linear", 128, 256):
    ...     print(piece.name, piece.length, piece.start, piece.end)
    cosine 1.0 0.5 0.005
    """
    if scale_lr == "none":
        return tuple(pieces)
    if batch_size <= base_batch_size and len(pieces) > 1 and pieces[0].is_ramp:
        pieces = pieces[1:]
        total = math.fsum(piece.length for piece in pieces)
        pieces = [replace(piece, length=piece.length / total) for piece in pieces]
    factor = scale_factor(scale_lr, batch_size, base_batch_size)
    return tuple(_scale(piece, factor) for piece in pieces)


def _scale(piece: CurvePiece, factor: float) -> CurvePiece:
    end = piece.end * factor
    if piece.is_ramp:
        return replace(piece, start=min(piece.start, end), end=end)
    return replace(piece, start=piece.start * factor, end=end)
