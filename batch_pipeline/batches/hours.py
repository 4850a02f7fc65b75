"""The hours in which batches are sent."""

import re
from dataclasses import dataclass
from datetime import datetime, time
from typing import cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from batch_pipeline.errors import InputError

HOURS = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")


def check_timezone(timezone: object, field: str) -> None:
    """Refuse what is the name of no time zone.

    Raises:
        InputError: it begins with ``field``.
    """
    try:
        if timezone != "UTC":  # to declare the usual one reads no file
            ZoneInfo(cast(str, timezone))
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError, AttributeError):
        raise InputError(
            f"{field} is {timezone!r}; it must be the IANA name of a zone, such as UTC or Europe/Berlin."
        ) from None


@dataclass(frozen=True)
class SendBetween:
    """The hours in which a pipeline's batches are sent; at others they wait.

    Attributes:
        hours: such as ``22:00-06:00``, by the clock on the wall: from the first on, and no more at the
            second. It may go over midnight.
        timezone: the IANA name of the zone of that clock. Where it is turned, the hour that is left out is
            no hour to send in, and the one that comes twice is two.

    Raises:
        InputError: the hours are none, or the zone is none.
    """

    hours: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        check_timezone(self.timezone, "SendBetween: timezone")
        try:
            start, end = self._ends
        except ValueError:
            start = end = None
        if start is None or start == end:
            raise InputError(
                f"SendBetween: hours is {self.hours!r}; it must be from when to when, such as 22:00-06:00, "
                "at two different times."
            )

    @property
    def _ends(self) -> tuple[time, time]:
        found = HOURS.fullmatch(self.hours) if isinstance(self.hours, str) else None
        if found is None:
            raise ValueError(self.hours)
        first, first_minute, last, last_minute = map(int, found.groups())
        midnight = (last, last_minute) == (24, 0)
        return time(first, first_minute), time(0 if midnight else last, last_minute)

    def is_open(self, now: datetime) -> bool:
        """Whether batches are sent at a moment."""
        start, end = self._ends
        local = now.astimezone(ZoneInfo(self.timezone)).time()
        if start < end:
            return start <= local < end
        return local >= start or local < end

    def __str__(self) -> str:
        """The hours and their zone, as one says them."""
        return f"{self.hours} {self.timezone}"
