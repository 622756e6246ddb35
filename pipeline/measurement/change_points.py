"""Steps in a series over nights: where its level changed, by how much, and by chance how often.

Two means by Student's t at every place where the series could be cut, corrected for how many places there are and for
nights that resemble the night before.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

# Nights on either side of a step: fewer are a spike.
SHORTEST = 3
MOST_ALIKE = 0.9


@dataclass(frozen=True)
class Scan:
    """For each series the likeliest step: the night `at` which the new level begins, its height `step`, and `p`, how
    often chance alone would show one so sure in that direction. `alike` is by how much what is left of neighbouring
    nights resembles each other (autocorrelation at lag 1). All (...,).
    """

    at: np.ndarray
    step: np.ndarray
    p: np.ndarray
    alike: np.ndarray


@dataclass(frozen=True)
class ChangePoint:
    """A step in a series: it begins `at` this index, `step` is the new mean less the one before."""

    at: int
    step: float
    p: float


def scan(series: np.ndarray) -> Scan:
    """The likeliest step up in each of `series` (..., n), with its p; of falling ones, scan the negative.

    At a cut k the nights before and after have the means a and b and the pooled variance s^2:

        t = (b - a) / (s sqrt(1 / k + 1 / (n - k)) sqrt((1 + r) / (1 - r)))

    r is the autocorrelation at lag 1 of what is left, corrected for its bias of about (1 + 3 r) / n. The degrees of
    freedom shrink alike. The greatest t over all K cuts has p at most K p(t) (Bonferroni). Raises `ValueError` for
    series too short to be cut.
    """
    from scipy.special import stdtr

    count = series.shape[-1]
    if count < 2 * SHORTEST:
        raise ValueError(f"expected {2 * SHORTEST} nights or more, received {count}")
    cuts = np.arange(SHORTEST, count - SHORTEST + 1)
    after = np.arange(count) >= cuts[:, None]
    values = (series - series.mean(axis=-1, keepdims=True))[..., None, :]
    early = (values * ~after).sum(axis=-1) / cuts
    late = (values * after).sum(axis=-1) / (count - cuts)
    left = values - np.where(after, late[..., None], early[..., None])
    squares = np.square(left).sum(axis=-1)
    products = (left[..., 1:] * left[..., :-1]).sum(axis=-1)
    raw = np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0)
    alike = np.clip((count * raw + 1) / (count - 3), 0, MOST_ALIKE)
    widening = (1 + alike) / (1 - alike)
    variance = squares / (count - 2) * (1 / cuts + 1 / (count - cuts)) * widening
    step = late - early
    # A series without any noise: whatever step there is, is one.
    flat = variance <= (1e-12 * np.abs(series).max(axis=-1, initial=1e-300)[..., None]) ** 2
    t = np.divide(step, np.sqrt(variance), out=np.where(step > 0, np.inf, -np.inf), where=~flat)
    t = np.where(flat & (np.abs(step) <= 1e-9 * np.abs(series).max(axis=-1)[..., None]), 0.0, t)
    best = t.argmax(axis=-1)[..., None]
    greatest, height, chosen, wide = (
        np.take_along_axis(array, best, axis=-1)[..., 0] for array in (t, step, alike, widening)
    )
    freedom = np.maximum(count / wide - 2, 1)
    p = np.minimum(1.0, len(cuts) * stdtr(freedom, -np.minimum(greatest, 1e6)))
    return Scan(cuts[best[..., 0]], height, p, chosen)


def change_points(series: np.ndarray, alpha: float) -> list[ChangePoint]:
    """All steps of one series (n,), up or down, in order, each of which chance shows less often than `alpha`.

    Read night after night as it came: at a step the series up to then ends and another begins, so that a step does
    not count as noise of those before and after it. Where the step lies is settled a few nights later.
    """
    series = np.asarray(series, float)
    found: list[tuple[int, float]] = []
    first, end = 0, 2 * SHORTEST
    while end <= len(series):
        at, p = _either_way(series[first : end + SHORTEST])
        if p < alpha and _either_way(series[first:end])[1] < alpha:
            found.append((first + at, p))
            first += at
            end = max(end, first + 2 * SHORTEST)
        else:
            end += 1
    edges = [0, *[at for at, _ in found], len(series)]
    means = [series[low:high].mean() for low, high in itertools.pairwise(edges)]
    return [ChangePoint(at, float(means[k + 1] - means[k]), p) for k, (at, p) in enumerate(found)]


def _either_way(series: np.ndarray) -> tuple[int, float]:
    both = scan(np.stack([series, -series]))
    way = int(both.p.argmin())
    return int(both.at[way]), min(1.0, 2 * float(both.p[way]))


def confirm_step(before: np.ndarray, again: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """How often chance alone would show the sessions `again` (..., k) so far above the nights `before` (..., n).

    (...,). The sessions were run anew because a step was suspected; `alike` is the scan's. Student's t with the
    variance of the nights before, which a step leaves alone; sessions of one night are taken for as alike as
    neighbouring nights.
    """
    from scipy.special import stdtr

    early, late = before.shape[-1], again.shape[-1]
    widening = (1 + alike) / (1 - alike)
    variance = before.var(axis=-1, ddof=1) * (widening / early + (1 + (late - 1) * alike) / late)
    difference = again.mean(axis=-1) - before.mean(axis=-1)
    t = np.divide(difference, np.sqrt(variance), out=np.full_like(difference, 1e6), where=variance > 0)
    p: np.ndarray = stdtr(np.maximum(early / widening - 1, 1), -t)
    return p
