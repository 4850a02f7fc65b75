"""What time does to a batch: it ends, expires, loses its results; and what it looks like then."""

from dataclasses import dataclass
from typing import Any, Literal

from batch_pipeline.emulator.clock import to_rfc3339
from batch_pipeline.emulator.database import Batch
from batch_pipeline.emulator.options import Options

EXPIRY_SECONDS = 24 * 3600
RETENTION_SECONDS = 29 * 24 * 3600


@dataclass(frozen=True)
class Ending:
    """How a batch ends.

    Attributes:
        ended_at: When.
        finished_share: Share of the requests that were processed until then, 0 to 1.
        rest: What becomes of the others.
    """

    ended_at: float
    finished_share: float = 1.0
    rest: Literal["expired", "canceled"] = "expired"


def expires_at(batch: Batch) -> float:
    """When what is not processed by then expires."""
    return batch.created_at + EXPIRY_SECONDS


def archived_at(batch: Batch, now: float) -> float | None:
    """When its results went away, or None while they are there."""
    if batch.archived_at is not None:
        return batch.archived_at
    moment = batch.created_at + RETENTION_SECONDS
    return moment if now >= moment else None


def ending_of(batch: Batch, options: Options, now: float) -> Ending | None:
    """How an open batch has ended by this moment, or None if it has not."""
    if batch.status == "canceling":
        if options.manual and now < expires_at(batch):
            return None
        return Ending(min(now, expires_at(batch)), batch.finished_share, "canceled")
    done_at = batch.created_at + options.batch_seconds
    if not options.manual and done_at <= min(now, expires_at(batch)):
        return Ending(done_at)
    if now >= expires_at(batch):
        return Ending(expires_at(batch), share_done(batch, options, expires_at(batch)))
    return None


def share_done(batch: Batch, options: Options, moment: float) -> float:
    """Share of the requests of an open batch that were processed by a moment."""
    if options.manual or not options.batch_seconds:
        return 0.0
    return min(1.0, max(0.0, (moment - batch.created_at) / options.batch_seconds))


def document_of(batch: Batch, now: float, address: str) -> dict[str, Any]:
    """The batch as the API shows it.

    Args:
        batch: Its row.
        now: Moment at which it is shown.
        address: The URL by which callers reach the emulator, for `results_url`.
    """
    ended = batch.status == "ended"
    archived = archived_at(batch, now)
    url = f"{address}/v1/messages/batches/{batch.id}/results"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": batch.status,
        # As with the real API, nothing but `processing` moves before the whole batch ends.
        "request_counts": {
            "processing": 0 if ended else batch.requests,
            "succeeded": batch.succeeded,
            "errored": batch.errored,
            "canceled": batch.canceled,
            "expired": batch.expired,
        },
        "created_at": to_rfc3339(batch.created_at),
        "expires_at": to_rfc3339(expires_at(batch)),
        "ended_at": to_rfc3339(batch.ended_at),
        "archived_at": to_rfc3339(archived),
        "cancel_initiated_at": to_rfc3339(batch.cancel_initiated_at),
        "results_url": url if ended and archived is None else None,
    }
