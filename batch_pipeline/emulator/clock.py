"""The emulator's own clock: real time plus an offset, or standing still."""

import re
import threading
import time
from datetime import UTC, datetime


class Clock:
    """Time as the emulator sees it, in seconds since 1970.

    Args:
        offset: Seconds by which it is ahead of the real time.
        frozen_at: The time at which it stands still, or None when it runs.
    """

    def __init__(self, offset: float = 0.0, frozen_at: float | None = None) -> None:
        self.offset = offset
        self.frozen_at = frozen_at
        self._lock = threading.Lock()

    def now(self) -> float:
        if self.frozen_at is not None:
            return self.frozen_at
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        with self._lock:
            if self.frozen_at is not None:
                self.frozen_at += seconds
            self.offset += seconds

    def set(self, moment: float) -> None:
        """Jump to a moment; a running clock runs on from there."""
        with self._lock:
            if self.frozen_at is not None:
                self.frozen_at = moment
            self.offset = moment - time.time()

    def freeze(self) -> None:
        with self._lock:
            self.frozen_at = time.time() + self.offset

    def resume(self) -> None:
        """Run on from where it stood still."""
        with self._lock:
            if self.frozen_at is not None:
                self.offset = self.frozen_at - time.time()
                self.frozen_at = None


def to_rfc3339(moment: float | None) -> str | None:
    """`2026-11-20T23:00:00.123456Z`, the form in which the API writes times."""
    if moment is None:
        return None
    written = datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")
    return written.replace("+00:00", "Z")


def from_rfc3339(text: str) -> float:
    """The moment that a text such as `2026-11-20T23:00:00Z` names; no zone means UTC."""
    moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
