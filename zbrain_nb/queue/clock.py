"""The queue's two clocks in one object, so that tests can turn the hands."""

from __future__ import annotations

import datetime as dt
import time


class Clock:
    """The clocks of this machine."""

    def time(self) -> float:
        """Return seconds since the epoch, to the microsecond, as they are stored."""
        return round(time.time(), 6)

    def monotonic(self) -> float:
        """Return seconds of a clock that nobody sets and that counts while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def as_datetime(seconds: float) -> dt.datetime:
    """Return seconds since the epoch as an aware datetime in UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
