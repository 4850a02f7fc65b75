"""A clock that tests move by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class HandClock:
    """The machine's time plus what the test added; sleeping only moves it on.

    It does for the module ``time`` too, where a stage waits or measures: ``monotonic`` and ``sleep``.

    Args:
        stopped_at: where the machine's time stands still, so that only the test moves the clock.
        moved: is told of each move, in seconds: another clock that goes along.
    """

    def __init__(
        self,
        stopped_at: datetime | None = None,
        moved: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.stopped_at, self.moved = stopped_at, moved
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return (self.stopped_at or datetime.now(UTC)) + self.ahead

    def monotonic(self) -> float:
        return self.now().timestamp()

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)
        self.moved(seconds)
