"""How careful sending is: the limits and waits of an endpoint."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

# Beyond the time-out of the call: storing the id, a slow disk, a paused virtual machine.
LEASE_MARGIN_SECONDS = 60.0
# How far the server's clock may be from ours before a batch of ours looks older than its request.
CLOCK_MARGIN_SECONDS = 15 * 60.0
# A batch lives 24 hours (API reference: expires_at = created_at + 24 h); a late one shows by then.
WATCH_SECONDS = 24 * 3600.0
# How far back a batch is looked for whose attempt a wrong clock has dated.
UNDATED = timedelta(days=7)
BACK_OFF_SECONDS = 30.0
BACK_OFF_MOST_SECONDS = 3600.0


@dataclass(frozen=True)
class SendPolicy:
    """What ``ClaudeBatches`` says about sending.

    Attributes:
        max_queued_requests: requests that may wait at the endpoint at once, over all its batches.
        timeout_seconds: how long one call may take.
        reconcile_after_seconds: how long the batch list may lag behind: nothing is concluded from
            it earlier than this after an attempt ended.
        on_unknown: what to do when an attempt without reply left no batch in the list.
        label: stands beside each file that is sent, for the costs.
    """

    max_queued_requests: int = 100_000
    timeout_seconds: float = 600.0
    reconcile_after_seconds: float = 120.0
    on_unknown: Literal["resend", "hold"] = "resend"
    label: str | None = None

    @property
    def lease_seconds(self) -> float:
        """How long one owner may take over one attempt."""
        return self.timeout_seconds + LEASE_MARGIN_SECONDS


def watch_until(now: datetime) -> datetime:
    """Return how long a batch is looked for that an attempt may have left behind unseen."""
    return now + timedelta(seconds=WATCH_SECONDS)


def back_off(attempts: int, asked: float | None = None) -> float:
    """Return the seconds to wait after an attempt was turned away: what the API asked, or doubling."""
    wait = asked if asked is not None else BACK_OFF_SECONDS * 2 ** min(attempts - 1, 10)
    return min(max(wait, 1.0), BACK_OFF_MOST_SECONDS)
