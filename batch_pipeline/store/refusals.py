"""Pipelines whose key or account the API refuses, as the last look at it found: what a person must put right.

A hold stands until something is accepted or a person says so. A refusal is over as soon as a look
succeeds, and no run is kept back by it: it is there to be shown.
"""

from contextlib import suppress
from datetime import datetime

from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import refusals


def note_refusal(ledger: Ledger, pipeline: str, base_url: str, reason: str) -> None:
    """Write down that the API refuses a pipeline; ``since`` stays what it was."""
    now = ledger.clock.now()
    mine = refusals.c.pipeline == pipeline
    said = {"base_url": base_url, "reason": reason, "seen_at": now}
    with suppress(IntegrityError), ledger.write() as tx:  # another process may say so, too
        if not tx.execute(update(refusals).where(mine).values(**said)).rowcount:
            tx.execute(insert(refusals).values(pipeline=pipeline, since=now, **said))


def forget_refusal(ledger: Ledger, pipeline: str, seen_at: datetime | None = None) -> None:
    """Write down that the API accepts a pipeline's key.

    Args:
        ledger: where that is known.
        pipeline: its name.
        seen_at: when that was seen; a refusal that came after it stays. None: now.
    """
    found = refusal_of(ledger, pipeline)
    if found is None or (seen_at is not None and found["seen_at"] > seen_at):
        return
    with ledger.write() as tx:
        tx.execute(
            delete(refusals).where(
                refusals.c.pipeline == pipeline, refusals.c.seen_at == found["seen_at"]
            )
        )


def refusal_of(ledger: Ledger, pipeline: str) -> RowMapping | None:
    """Return how the API refuses a pipeline; None when it does not, as far as is known."""
    rows = ledger.rows(select(refusals).where(refusals.c.pipeline == pipeline))
    return rows[0] if rows else None
