"""When a model has warmed up, and when its median is known well enough: two tests on lists of times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

WINDOW = 10
SHIFT = 0.02
NORMAL_95 = 1.96
# Of normal numbers: the standard deviation from the median absolute deviation, and a median's error beside a mean's.
FROM_MAD = 1.4826
OF_MEDIAN = math.sqrt(math.pi / 2)


def is_steady(times: Sequence[float]) -> bool | None:
    """Whether the last `WINDOW` times are like the `WINDOW` before them; None where there are not so many.

    Their medians may differ by `SHIFT` (2 %), or by what chance makes of as noisy times: twice the standard error of
    the difference of two medians, sqrt(pi / 2) s sqrt(2 / WINDOW), with s from the median absolute deviation.
    """
    if len(times) < 2 * WINDOW:
        return None
    earlier, later = times[-2 * WINDOW : -WINDOW], times[-WINDOW:]
    centres = median(earlier), median(later)
    spread = FROM_MAD * max(_deviation(earlier, centres[0]), _deviation(later, centres[1]))
    by_chance = 2 * OF_MEDIAN * spread * math.sqrt(2 / WINDOW)
    return abs(centres[1] - centres[0]) <= max(SHIFT * centres[0], by_chance)


def _deviation(times: Sequence[float], centre: float) -> float:
    return median(abs(each - centre) for each in times)


def median_is_known(times: Sequence[float], share: float) -> bool:
    """Whether the median's 95 % interval reaches no further than `share` of the median to either side.

    The interval is that of order statistics, without a word on the distribution: the ranks n / 2 -+ 0.98 sqrt(n)
    (Conover, Practical Nonparametric Statistics, 3.2).
    """
    count, ordered = len(times), sorted(times)
    reach = NORMAL_95 * math.sqrt(count) / 2
    low, high = math.floor(count / 2 - reach), math.ceil(count / 2 + reach)
    if low < 0 or high >= count:
        return False
    centre = median(ordered)
    return max(centre - ordered[low], ordered[high] - centre) <= share * centre
