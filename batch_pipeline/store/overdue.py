"""What is not answered by when it was wanted, and how long batches take."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping, func, select

from batch_pipeline.errors import counted
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import LIVE, OPEN, FileKind, request_files, submissions
from batch_pipeline.store.variants import shown

LOOKED_AT = 200
"""Batches whose length tells how long they take, the latest ones."""


@dataclass(frozen=True)
class Overdue:
    """A submission of which answers are late.

    Attributes:
        partition: the partition; "" without.
        submission: its number.
        records: that are not answered.
        due: when they were wanted.
    """

    partition: str
    submission: int
    records: int
    due: datetime


@dataclass(frozen=True)
class Lengths:
    """How long batches took from being sent to their end.

    Attributes:
        batches: how many tell it.
        p50: seconds that half of them took at most.
        p95: seconds that 95 of 100 took at most.
    """

    batches: int
    p50: float
    p95: float


def overdue(
    store: Store,
    pipeline: str,
    due: Callable[[datetime], datetime],
    partitions: Collection[str] | None = None,
) -> list[Overdue]:
    """Return the submissions of a pipeline of which answers are late, oldest first.

    What is asked again counts for the submission that asked it first.

    Args:
        store: where the ledger is.
        pipeline: its name.
        due: from a submission's time to when its answers are wanted.
        partitions: only these; None: all.
    """
    waiting = {
        row["submission_id"]: row["requests"]
        for row in store.ledger.rows(
            select(
                request_files.c.submission_id,
                func.sum(request_files.c.requests).label("requests"),
            )
            .where(
                request_files.c.pipeline == pipeline,
                request_files.c.kind == FileKind.BATCH,
                request_files.c.state.in_(OPEN),
            )
            .group_by(request_files.c.submission_id)
        )
    }
    names = ("id", "partition", "number", "state", "created_at", "counts", "retryable", "retried_at")  # fmt: skip
    known = store.ledger.rows(
        select(*(submissions.c[name] for name in names))
        .where(submissions.c.pipeline == pipeline, submissions.c.state != "abandoned")
        .order_by(submissions.c.number)
    )
    now = store.clock.now()
    wanted: dict[
        str, datetime
    ] = {}  # by partition: when the first ask of the latest submission was
    found = []
    for row in known:
        partition = row["partition"]
        if partition not in wanted or not is_retry(row["counts"]):
            wanted[partition] = due(row["created_at"])
        late = int(waiting.get(row["id"], 0)) + (row["retryable"] if row["retried_at"] is None else 0)  # fmt: skip
        if row["state"] == "selected":
            late += row["counts"].get("asked", 0)
        if late and now >= wanted[partition] and (partitions is None or partition in partitions):
            found.append(Overdue(partition, row["number"], late, wanted[partition]))
    return found


def came_late(store: Store, submission: RowMapping, due: datetime) -> int:
    """Return how many requests of a settled submission came back after a moment."""
    rows = store.ledger.rows(
        select(func.coalesce(func.sum(request_files.c.requests), 0).label("requests")).where(
            request_files.c.submission_id == submission["id"],
            request_files.c.kind == FileKind.BATCH,
            request_files.c.batch_id.is_not(None),
            request_files.c.collected_at > due,
        )
    )
    return int(rows[0]["requests"])


def overdue_said(found: Sequence[Overdue], by: object) -> str:
    """Return in words what is late; "" when nothing is."""
    records = sum(one.records for one in found)
    if not records:
        return ""
    named = dict.fromkeys(
        f"submission {one.submission} {shown(one.partition)}".strip() for one in found
    )
    return f"{counted(records, 'record')} not answered by {by} ({', '.join(named)})"


def batch_lengths(store: Store, pipeline: str) -> Lengths | None:
    """Return how long the latest batches of a pipeline took; None when none has ended."""
    rows = store.ledger.rows(
        select(request_files.c.sent_at, request_files.c.ended_at)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.kind == FileKind.BATCH,
            request_files.c.batch_id.is_not(None),
            ~request_files.c.batch_id.startswith(LIVE, autoescape=True),
            request_files.c.sent_at.is_not(None),
            request_files.c.ended_at.is_not(None),
        )
        .order_by(request_files.c.sent_at.desc())
        .limit(LOOKED_AT)
    )
    seconds = sorted(max(0.0, (row["ended_at"] - row["sent_at"]).total_seconds()) for row in rows)
    if not seconds:
        return None
    return Lengths(len(seconds), _of(seconds, 0.5), _of(seconds, 0.95))


def _of(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def is_retry(counts: Mapping[str, int]) -> bool:
    """Whether a submission asks nothing but what was asked before, by what its selection found."""
    return 0 < counts.get("asked", 0) == counts.get("retried", 0)
