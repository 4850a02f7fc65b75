"""Putting right what a clock wrote that was ahead: nothing holds longer than its own length.

A clock that is a year ahead for one night writes leases, waits and moments of the next year. Once it is
back, each of them counts from the moment that this is seen. It is never earlier than it would have been,
so nothing is concluded too early: a lost reply waits its time again.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, and_, or_, select, update

from batch_pipeline.batches.policy import BACK_OFF_MOST_SECONDS, UNDATED, WATCH_SECONDS
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.reservations import UNSEEN
from batch_pipeline.store.tables import (
    OPEN,
    FileState,
    candidates,
    request_files,
    reservations,
    submissions,
)

TOLERATED = timedelta(seconds=5)  # between the clocks of two machines
BY_LEASE = (FileState.SENDING, FileState.ASKING)
WRITTEN = ("sent_at", "attempt_ended_at", "first_download_at", "absent_since", "resent_at")


def put_right(ledger: Ledger) -> None:
    """Let every moment of the ledger that is ahead of our clock count from now."""
    now = ledger.clock.now()
    files = ledger.rows(_ahead(now))
    late = now + TOLERATED
    undated = select(candidates.c.batch_id).where(
        or_(candidates.c.read_at > late, candidates.c.unreadable_since > late)
    )
    unbuilt = select(submissions.c.id).where(
        submissions.c.state == "selected", submissions.c.created_at > late
    )
    paid = select(reservations.c.file_id).where(
        or_(reservations.c.sent_at > late, reservations.c.until > late + UNSEEN)
    )
    if not files and not any(ledger.rows(one.limit(1)) for one in (undated, unbuilt, paid)):
        return
    with ledger.write() as tx:
        for row in files:
            # What another process wrote meanwhile is its own.
            same = [request_files.c[name].is_not_distinct_from(row[name]) for name in row]
            tx.execute(update(request_files).where(*same).values(**_from_now(row, now)))
        sent, until = reservations.c.sent_at, reservations.c.until
        tx.execute(update(reservations).where(sent > late).values(sent_at=now))
        tx.execute(update(reservations).where(until > late + UNSEEN).values(until=now + UNSEEN))
        for column in (candidates.c.read_at, candidates.c.unreadable_since):
            tx.execute(update(candidates).where(column > late).values({column: now}))
        tx.execute(
            update(submissions)
            .where(submissions.c.state == "selected", submissions.c.created_at > late)
            .values(created_at=now)
        )


def _ahead(now: datetime):
    late = now + TOLERATED
    columns = ("id", "state", "first_sent_at", "lease_until", "not_before", "watch_until", *WRITTEN)
    return (
        select(*(request_files.c[name] for name in columns))
        .where(
            or_(
                *(request_files.c[name] > late for name in (*WRITTEN, "first_sent_at")),
                request_files.c.watch_until > late + timedelta(seconds=WATCH_SECONDS),
                and_(
                    request_files.c.state.in_(OPEN),
                    request_files.c.not_before > late + timedelta(seconds=BACK_OFF_MOST_SECONDS),
                ),
            )
        )
        .order_by(request_files.c.id)
    )


def _from_now(row: RowMapping, now: datetime) -> dict[str, Any]:
    """Return what a file's moments become."""
    late = now + TOLERATED
    new: dict[str, Any] = {name: now for name in WRITTEN if row[name] and row[name] > late}
    if new:
        ahead = max(row[name] for name in new) - now
        if row["not_before"] and row["not_before"] > now:
            new["not_before"] = row["not_before"] - ahead
        if "sent_at" in new and row["state"] in BY_LEASE and row["lease_until"]:
            new["lease_until"] = row["lease_until"] - (row["sent_at"] - now)
    if row["first_sent_at"] and row["first_sent_at"] > late:
        new["first_sent_at"] = (
            now - UNDATED
        )  # nobody knows when it was: look far back for its batch
    if row["watch_until"] and row["watch_until"] > late + timedelta(seconds=WATCH_SECONDS):
        new["watch_until"] = now + timedelta(seconds=WATCH_SECONDS)
    wait = new.get("not_before", row["not_before"])
    if wait and wait > late + timedelta(seconds=BACK_OFF_MOST_SECONDS):
        new["not_before"] = now
    return new
