"""One yardstick for the whole book: when is a difference between two recipes clear?

A difference of means is *clear* where its 95 percent interval, by Student's t, leaves out 0. The
interval is about other seeds, and nothing else. Where a page makes many comparisons, Holm's
correction (:func:`holm`) says which of them still stand.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A difference of two means, and how far to trust it.

    Attributes:
        mean: mean of the second minus mean of the first.
        error: standard error of that difference; infinite where one seed tells nothing.
        freedom: degrees of freedom of Student's t; 0 where the error is infinite.
    """

    mean: float
    error: float
    freedom: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 percent interval."""
        if math.isinf(self.error):
            return -math.inf, math.inf
        from scipy.stats import t  # takes a second to import, and not every page needs it

        reach = float(t.ppf(0.975, self.freedom)) * self.error
        return self.mean - reach, self.mean + reach

    @property
    def p_value(self) -> float:
        """How often chance alone, with no difference, goes at least this far (two-sided)."""
        if math.isinf(self.error):
            return 1.0
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        from scipy.stats import t

        return 2 * float(t.sf(abs(self.mean) / self.error, self.freedom))

    @property
    def clear(self) -> bool:
        """Whether the 95 percent interval leaves out 0."""
        low, high = self.interval
        return low > 0 or high < 0

    @property
    def verdict(self) -> str:
        """``clear`` or ``not clear``."""
        return "clear" if self.clear else "not clear"

    def __str__(self) -> str:
        if math.isinf(self.error):
            return f"{self.mean:+.4f} (one seed: no standard error)"
        low, high = self.interval
        return f"{self.mean:+.4f}, standard error {self.error:.4f}, interval {low:+.4f} to {high:+.4f}"


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """``after - before``, seed by seed: for runs that share their seeds, one pair each.

    Args:
        before: one value for each seed.
        after: likewise, in the same order.

    Raises:
        ValueError: if there are none, or not equally many.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"pairs need equally many values, got {len(before)} and {len(after)}")
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return Difference(mean, math.inf, 0)
    return Difference(mean, statistics.stdev(differences) / math.sqrt(len(differences)), len(differences) - 1)


def unpaired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of ``second`` minus mean of ``first``, for runs with nothing in common but the recipe.

    Each has a spread of its own; the degrees of freedom are Welch's (1947,
    https://doi.org/10.1093/biomet/34.1-2.28).

    Args:
        first: one value for each seed.
        second: likewise; there may be more or fewer.

    Raises:
        ValueError: if either is empty.
    """
    if not first or not second:
        raise ValueError(f"a difference needs values on both sides, got {len(first)} and {len(second)}")
    mean = statistics.fmean(second) - statistics.fmean(first)
    if min(len(first), len(second)) == 1:
        return Difference(mean, math.inf, 0)
    part_1, part_2 = (statistics.variance(values) / len(values) for values in (first, second))
    error = math.sqrt(part_1 + part_2)
    if error == 0:
        return Difference(mean, 0.0, len(first) + len(second) - 2)
    freedom = (part_1 + part_2) ** 2 / (part_1**2 / (len(first) - 1) + part_2**2 / (len(second) - 1))
    return Difference(mean, error, freedom)


def prediction_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Where one further run of the same recipe should lie: mean ± t · s · sqrt(1 + 1/n).

    Student's t with n - 1 degrees of freedom, for values that spread like a normal distribution
    (NIST/SEMATECH e-Handbook of Statistical Methods, https://doi.org/10.18434/M32189). It is wider than the
    interval of the mean, which says where the *mean* of many runs lies.

    Args:
        values: one value for each seed.
        level: how often a further run should lie inside.

    Raises:
        ValueError: with fewer than two values, or a level that is not between 0 and 1.
    """
    if len(values) < 2:
        raise ValueError(f"a spread needs at least two values, got {len(values)}")
    if not 0 < level < 1:
        raise ValueError(f"the level must lie between 0 and 1, got {level}")
    from scipy.stats import t

    mean, spread = statistics.fmean(values), statistics.stdev(values)
    reach = float(t.ppf((1 + level) / 2, len(values) - 1)) * spread * math.sqrt(1 + 1 / len(values))
    return mean - reach, mean + reach


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several comparisons still stand when all of them together may err at ``level``.

    Holm 1979, https://www.jstor.org/stable/4615733: the smallest p-value of m is held to level / m,
    the next to level / (m - 1), and so on; the first that fails takes all larger ones with it.

    Returns:
        One answer for each p-value, in the order given.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    stands = [False] * len(p_values)
    for rank, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - rank):
            break
        stands[i] = True
    return stands
