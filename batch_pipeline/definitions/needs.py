"""What a pipeline needs next, read from the ledger alone: no memory of earlier ticks or runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, func, or_, select

from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import (
    IN_QUEUE,
    OPEN,
    FileState,
    endpoints,
    holds,
    request_files,
    submissions,
)


@dataclass(frozen=True)
class Need:
    """A job that should run for a partition ("" when there are none), and why."""

    job: str  # send | collect | retry
    partition: str
    why: str


@dataclass(frozen=True)
class Progress:
    """How a pipeline's open work stands."""

    open: int
    ended: int
    collected: int
    waiting: int
    unknown: int
    held: int
    oldest: datetime | None

    def line(self, now: datetime) -> str:
        """Say it in a sentence."""
        total = self.open + self.ended
        parts = [f"{self.ended} of {total} batches ended"] if total else []
        if self.open:
            age = f", oldest {_age(now - self.oldest)}" if self.oldest else ""
            parts.append(f"{self.open} open{age}")
        if self.waiting:
            parts.append(f"{self.waiting} files wait for room in the queue or for their next try")
        if self.unknown:
            parts.append(f"{self.unknown} files whose reply was lost are being reconciled")
        if self.held:
            parts.append(f"{self.held} files are held and need you (`batch-pipeline held`)")
        return "; ".join(parts) or "no batch is open"


def open_endpoints(store: Store, pipeline: str) -> list[Endpoint]:
    """Return the endpoints at which a pipeline has work on its way."""
    rows = store.ledger.rows(
        select(endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace)
        .where(
            endpoints.c.id.in_(
                select(request_files.c.endpoint_id).where(
                    request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN)
                )
            )
        )
        .order_by(endpoints.c.id)
    )
    return [Endpoint(**row) for row in rows]


def progress(store: Store, pipeline: str) -> Progress:
    """Return how a pipeline's open work stands."""
    rows = _open_files(store, pipeline)
    count = {state: sum(1 for row in rows if row["state"] == state) for state in OPEN}
    created = [row["batch_created_at"] for row in rows if row["state"] == FileState.IN_PROGRESS]
    return Progress(
        open=count[FileState.IN_PROGRESS],
        ended=count[FileState.ENDED],
        collected=0,
        waiting=count[FileState.READY],
        unknown=count[FileState.UNKNOWN] + count[FileState.SENDING],
        held=count[FileState.HELD],
        oldest=min((moment for moment in created if moment), default=None),
    )


def needs(store: Store, pipeline: str, endpoint: Endpoint | None, policy: SendPolicy) -> list[Need]:
    """Return the jobs that a pipeline needs now, one per partition and kind, the most urgent first.

    Args:
        store: where the ledger is.
        pipeline: its name.
        endpoint: the one in force; what was sent elsewhere is left alone. None: it is not known.
        policy: limits and waits.
    """
    now = store.clock.now()
    found: dict[tuple[str, str], Need] = {}

    def need(job: str, partition: str, why: str) -> None:
        found.setdefault((job, partition), Need(job, partition, why))

    for row in _unpublished(store, pipeline):
        need("collect", row["partition"], "collected rows are not in the table yet")
    if endpoint is not None:
        held = bool(
            store.ledger.rows(
                select(holds).where(
                    holds.c.pipeline == pipeline, holds.c.endpoint_id == endpoint.id
                )
            )
        )
        queued = _queued(store, endpoint)
        for row in _open_files(store, pipeline, endpoint):
            due = row["not_before"] is None or row["not_before"] <= now
            if not due:
                continue
            match row["state"]:
                case FileState.ENDED:
                    need("collect", row["partition"], "batches have ended")
                case FileState.READY if not held and (
                    not queued or queued + row["requests"] <= policy.max_queued_requests
                ):
                    need("send", row["partition"], "files are ready and the queue has room")
                case FileState.UNKNOWN if row["attempt_ended_at"] <= now - timedelta(
                    seconds=policy.reconcile_after_seconds
                ):
                    need("send", row["partition"], "a lost reply can be reconciled")
    for row in _to_retry(store, pipeline):
        need("retry", row["partition"], f"{row['retryable']} records can be asked again")
    order = ("collect", "send", "retry")
    return sorted(found.values(), key=lambda one: (order.index(one.job), one.partition))


def _open_files(
    store: Store, pipeline: str, endpoint: Endpoint | None = None
) -> Sequence[RowMapping]:
    here = [request_files.c.endpoint_id == endpoint.id] if endpoint else []
    return store.ledger.rows(
        select(
            request_files.c.state,
            request_files.c.partition,
            request_files.c.requests,
            request_files.c.not_before,
            request_files.c.attempt_ended_at,
            request_files.c.batch_created_at,
        )
        .where(request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN), *here)
        .order_by(request_files.c.number, request_files.c.seq)
    )


def _unpublished(store: Store, pipeline: str) -> Sequence[RowMapping]:
    return store.ledger.rows(
        select(request_files.c.partition)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.COLLECTED,
            request_files.c.published_at.is_(None),
        )
        .distinct()
    )


def _to_retry(store: Store, pipeline: str) -> Sequence[RowMapping]:
    """Partitions with settled submissions whose failed records nobody has selected again."""
    still_open = select(request_files.c.submission_id).where(
        or_(
            request_files.c.state.in_(OPEN),
            (request_files.c.state == FileState.COLLECTED) & request_files.c.published_at.is_(None),
        )
    )
    return store.ledger.rows(
        select(submissions.c.partition, func.sum(submissions.c.retryable).label("retryable"))
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.state == "built",
            submissions.c.retryable > 0,
            submissions.c.retried_at.is_(None),
            submissions.c.id.not_in(still_open),
        )
        .group_by(submissions.c.partition)
    )


def _queued(store: Store, endpoint: Endpoint) -> int:
    with store.ledger.read() as tx:
        return int(
            tx.execute(
                select(func.coalesce(func.sum(request_files.c.requests), 0)).where(
                    request_files.c.endpoint_id == endpoint.id, request_files.c.state.in_(IN_QUEUE)
                )
            ).scalar_one()
        )


def _age(age: timedelta) -> str:
    minutes = max(0, int(age.total_seconds() // 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
