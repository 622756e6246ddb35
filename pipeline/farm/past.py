"""The nights before, out of the history: those of the same segment, baseline and canary."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from pipeline.farm.case import VARIANTS, WINDOW, Past
from pipeline.history.read import medians_of
from pipeline.history.tables import measurements


@dataclass(frozen=True)
class Wanted:
    """Whose past: `segment` is the identity's digest (see `history.series`), `baseline` and `canary` are the files'.

    An accepted baseline begins anew, as another canary does: what the candidate gained or lost before was judged then.
    """

    plan: str
    target: str
    segment: str
    baseline: str
    canary: str


def past(connection: Connection, wanted: Wanted, before: str) -> Past:
    """The last WINDOW nights that began before the instant `before`, oldest first.

    Nights in which a variant is missing, invalid or without its raw samples tell nothing and are left out, as are those
    of another number of processes than the latest.
    """
    nights = []
    for night in _nights(connection, wanted, before):
        found = medians_of(connection, list(night.values()))
        logs = {variant: np.log(found[key]) for variant, key in night.items() if key in found}
        if len(logs) == len(VARIANTS) and len({len(each) for each in logs.values()}) == 1:
            nights.append(logs)
        if len(nights) == WINDOW:
            break
    kept = [logs for logs in reversed(nights) if len(logs["again"]) == len(nights[0]["again"])]
    if not kept:
        return Past()
    return Past(
        own=np.stack([logs["again"] - logs["baseline"] for logs in kept]),
        ratios=np.array([(logs["candidate"] - logs["canary"]).mean() for logs in kept]),
        levels=np.array([logs["canary"].mean() for logs in kept]),
    )


def _nights(connection: Connection, wanted: Wanted, before: str) -> list[dict[str, str]]:
    """The measurements of each run by variant, the latest first."""
    table = measurements.c
    query = (
        select(table.run, table.variant, table.id, table.digest)
        .where(table.plan == wanted.plan, table.target == wanted.target, table.segment == wanted.segment)
        .where(table.variant.in_(VARIANTS), table.started < before, table.validity != "invalid")
        .order_by(table.started.desc(), table.run)
    )
    runs: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in connection.execute(query):
        runs[row.run][row.variant] = row
    pinned = {"baseline": wanted.baseline, "again": wanted.baseline, "canary": wanted.canary}
    return [
        {variant: row.id for variant, row in run.items()}
        for run in runs.values()
        if set(run) == set(VARIANTS) and all(run[name].digest == digest for name, digest in pinned.items())
    ]
