"""Old raw samples leave by a rule that is written down; the figures taken from them stay."""

from __future__ import annotations

import time

from sqlalchemy import Connection, delete, func, insert, select

from pipeline.history.tables import measurements, prunings, raw_samples

DAY_S = 86_400


def prune(connection: Connection, older_than_days: float, keep: int, now: float, *, dry_run: bool) -> int:
    """Remove raw samples older than so many days, but never those of a series' last `keep` measurements.

    `now` is seconds since 1970. Returns of how many measurements they are, or with `dry_run` would be.
    """
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - older_than_days * DAY_S))
    series = (measurements.c.plan, measurements.c.target, measurements.c.variant)
    place = func.row_number().over(partition_by=series, order_by=measurements.c.started.desc())
    ranked = select(measurements.c.id, measurements.c.started, place.label("place")).subquery()
    old = select(ranked.c.id).where(ranked.c.started < before, ranked.c.place > keep)
    doomed = raw_samples.c.measurement.in_(old)
    count = connection.execute(select(func.count()).select_from(raw_samples).where(doomed)).scalar_one()
    if count and not dry_run:
        connection.execute(delete(raw_samples).where(doomed))
        rule = f"raw samples from before {before}, but for the last {keep} of each series"
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        connection.execute(insert(prunings).values(at=at, rule=rule, measurements=count))
    return int(count)
