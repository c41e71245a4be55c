"""Ids of runs: they sort by the order of the runs, as far as the runs could know of one another."""

import logging
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

logger = logging.getLogger("clipmill.stores")

NOTED_SKEW = timedelta(minutes=1)
"""ours: clocks of one cluster that keep time by NTP are far closer."""

_FORMAT = "%Y%m%dT%H%M%S%f"


def next_run_id(seen: Iterable[str], now: datetime) -> str:
    """Returns an id that sorts after all of `seen` and is unique without coordination.

    Args:
        seen: ids of runs, or names that begin with one.
    """
    latest = max((run_time(name) for name in seen), default=now - timedelta(seconds=1))
    if latest - now > NOTED_SKEW:
        logger.warning(
            "the newest run of this store began %s after this machine's clock says it is now: one of the two clocks is "
            "wrong; runs keep their order all the same",
            latest - now,
        )
    return max(now, latest + timedelta(milliseconds=1)).strftime(_FORMAT)[:-3] + "-" + secrets.token_hex(2)


def run_time(name: str) -> datetime:
    """Returns when the run began whose id `name` is or begins with; the year 1 where it does not say."""
    try:
        return datetime.strptime(name.partition("-")[0], _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
