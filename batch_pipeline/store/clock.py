"""The time as this process sees it, injected so that leases, back-off and expiry are tested without waiting."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the stages ask of a clock."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Block for ``seconds``."""
        time.sleep(seconds)


_clock: Clock = SystemClock()


def process_clock() -> Clock:
    """Return the clock that this process goes by: the machine's, unless ``going_by`` says otherwise."""
    return _clock


@contextmanager
def going_by(clock: Clock) -> Iterator[Clock]:
    """Let this process go by another clock for the block.

    For tests. Dagster rebuilds its resources from their fields, so a clock cannot travel in one.
    """
    global _clock
    before, _clock = _clock, clock
    try:
        yield clock
    finally:
        _clock = before
