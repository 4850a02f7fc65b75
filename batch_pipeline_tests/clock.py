"""A clock that tests move by hand."""

from datetime import UTC, datetime, timedelta


class HandClock:
    """The machine's time plus what the test added; sleeping only moves it on."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)
