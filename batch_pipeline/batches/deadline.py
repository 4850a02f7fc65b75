"""By when a night's answers are wanted, and what is done about those that are late."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from batch_pipeline.batches.hours import check_timezone
from batch_pipeline.errors import InputError

TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
LATE = ("report", "live")


@dataclass(frozen=True)
class AnswerBy:
    """When the answers of a submission are wanted, and what becomes of those that are late.

    Attributes:
        time: such as ``07:00``, by the clock on the wall: the first such moment after the submission.
        timezone: the IANA name of the zone of that clock.
        late: ``report``: what is late is reported, and nothing is paid for that. ``live``: batches that
            are late are cancelled, and what they leave unanswered is asked through the Messages API, at
            full price, as far as the caps allow.

    Raises:
        InputError: it is no time, the zone is none, or ``late`` is another word.
    """

    time: str
    timezone: str = "UTC"
    late: Literal["report", "live"] = "report"

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        check_timezone(self.timezone, "AnswerBy: timezone")
        if not isinstance(self.time, str) or not TIME.fullmatch(self.time):
            raise InputError(
                f"AnswerBy: time is {self.time!r}; it must be an hour and minutes, such as 07:00."
            )
        if self.late not in LATE:
            raise InputError(
                f"AnswerBy: late is {self.late!r}; it must be report (what is late is said, the default) or live (it is "
                "cancelled and asked through the Messages API, at full price)."
            )

    def due(self, submitted_at: datetime) -> datetime:
        """Return when the answers of a submission are wanted, in UTC."""
        zone = ZoneInfo(self.timezone)
        hour, minute = map(int, self.time.split(":"))
        day = submitted_at.astimezone(zone).date()
        for days in (0, 1):
            moment = datetime.combine(day + timedelta(days), time(hour, minute), zone).astimezone(
                UTC
            )
            if moment > submitted_at:
                break
        return moment

    def __str__(self) -> str:
        """The time and its zone, as one says them."""
        return f"{self.time} {self.timezone}"
