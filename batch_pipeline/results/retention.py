"""How long answers may still be fetched: what nears, or has passed, the API's 29 days."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import RowMapping, and_, func, or_, select

from batch_pipeline.errors import counted
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files

KEPT = timedelta(days=29)  # after creation (batch guide, 2026-09-26)
WARN = timedelta(days=20)
ALARM = timedelta(days=27)
REMEMBERED = timedelta(days=7)  # how long a loss is reported
MOST_NAMED = 5


@dataclass(frozen=True)
class Retention:
    """Whether all answers are fetched in time.

    Attributes:
        level: fine, warn (20 days and more), or fail (27 days and more, or answers are lost).
        description: what it is about, and what to do.
        waiting: batches of 20 days and more whose answers are not fetched.
        lost: batches whose answers the API did not have any more, within the last week.
        oldest_days: age of the oldest one that waits.
    """

    level: Literal["fine", "warn", "fail"]
    description: str
    waiting: int = 0
    lost: int = 0
    oldest_days: float = 0.0


def retention(store: Store, pipeline: str) -> Retention:
    """Return how a pipeline stands with the API's 29 days."""
    now = store.clock.now()
    waiting, lost = _waiting(store, pipeline, now), _lost(store, pipeline, now)
    if not waiting and not lost:
        return Retention("fine", "No answers that wait at the API are older than 20 days.")
    oldest = max((now - _created(row) for row in waiting), default=timedelta(0))
    parts = []
    if waiting:
        passed = sum(now - _created(row) >= KEPT for row in waiting)
        first = min(_created(row) for row in waiting) + KEPT
        parts.append(
            f"The answers of {counted(len(waiting), 'batch', 'batches')} were paid for, and not fetched for 20 days or "
            f"more ({_named(waiting)}). The API drops them 29 days after creation: "
            + (
                f"{counted(passed, 'batch has', 'batches have')} passed that"
                if passed
                else f"the first on {first:%Y-%m-%d %H:%M} UTC"
            )
            + f". Run {pipeline}_collect with the key they were sent with, and see what it says "
            "(`batch-pipeline reconcile`)"
        )
    if lost:
        parts.append(
            f"The answers of {counted(len(lost), 'batch', 'batches')} are lost: the API does not have them any more "
            f"({_named(lost)}). Their records are `missing`, and are asked again as far as "
            "max_attempts allows"
        )
    return Retention(
        "fail" if lost or oldest >= ALARM else "warn",
        ". ".join(parts) + ".",
        len(waiting),
        len(lost),
        round(oldest.total_seconds() / 86400, 1),
    )


def _waiting(store: Store, pipeline: str, now: datetime) -> Sequence[RowMapping]:
    created = func.coalesce(request_files.c.batch_created_at, request_files.c.first_sent_at)
    return store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.kind.in_([FileKind.BATCH, FileKind.LATE]),
            or_(
                request_files.c.state == FileState.UNKNOWN,
                request_files.c.state == FileState.HELD,
                and_(
                    request_files.c.batch_id.is_not(None),
                    request_files.c.state.in_([FileState.IN_PROGRESS, FileState.ENDED]),
                ),
            ),
            created <= now - WARN,
        )
        .order_by(created)
    )


def _lost(store: Store, pipeline: str, now: datetime) -> Sequence[RowMapping]:
    return store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.COLLECTED,
            request_files.c.batch_id.is_not(None),
            request_files.c.damaged,
            request_files.c.answers_path.is_(None),
            request_files.c.collected_at > now - REMEMBERED,
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def _created(row: RowMapping) -> datetime:
    return row["batch_created_at"] or row["first_sent_at"]


def _named(rows: Sequence[RowMapping]) -> str:
    names = [row["batch_id"] or row["id"] for row in rows[:MOST_NAMED]]
    more = len(rows) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")
