"""What the tables of the experiments say of some runs."""

import statistics
from collections.abc import Sequence


def deviation(values: Sequence[float]) -> float:
    """The standard deviation; 0 of one value, which has no whisker."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def mean_text(values: Sequence[float], digits: int = 2) -> str:
    """`mean ± standard deviation`; the mean alone of one value, `not run` of none.

    >>> mean_text([1.0, 2.0]), mean_text([1.0]), mean_text([])
    ('1.50 ± 0.71', '1.00', 'not run')
    """
    if not values:
        return "not run"
    mean = f"{statistics.fmean(values):z.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
