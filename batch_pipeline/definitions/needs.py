"""What a pipeline needs next, read from the ledger alone: no memory of earlier ticks or runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, func, or_, select

from batch_pipeline.batches.claim import queue
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.errors import counted
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import (
    OPEN,
    FileState,
    candidates,
    endpoints,
    holds,
    request_files,
    submissions,
)

UNBUILT_SECONDS = 300.0  # a run takes seconds from its selection to its request files


@dataclass(frozen=True)
class Need:
    """A job that should run for a partition ("" when there are none), and why."""

    job: str  # send | collect | retry
    partition: str
    why: str


@dataclass(frozen=True)
class Progress:
    """How a pipeline's open work stands.

    Attributes:
        open: batches that are still in progress.
        ended: files whose rows can be collected; rejected and reused records are such files too.
        batches_ended: batches that ended, collected or not, of submissions that are still open.
        waiting: files to be sent.
        unknown: files that may have been sent: there was no reply, or it is on its way.
        held: files that wait for a person.
        watched: files of which a second batch may turn up in the API's list.
        oldest: when the oldest batch in progress was created.
    """

    open: int
    ended: int
    batches_ended: int
    waiting: int
    unknown: int
    held: int
    watched: int
    oldest: datetime | None

    def line(self, now: datetime) -> str:
        """Say it in a sentence."""
        batches = self.batches_ended + self.open
        parts = (
            [f"{self.batches_ended:,} of {counted(batches, 'batch', 'batches')} ended"]
            if batches
            else []
        )
        if self.open:
            age = f", oldest {_age(now - self.oldest)}" if self.oldest else ""
            parts.append(f"{self.open} open{age}")
        if self.waiting:
            parts.append(
                f"{counted(self.waiting, 'file')} to be sent (room in the queue, or a next try)"
            )
        if self.unknown:
            parts.append(f"{counted(self.unknown, 'file')} without a reply, to be reconciled")
        if self.held:
            parts.append(
                f"{counted(self.held, 'file')} held: that needs you (`batch-pipeline held`)"
            )
        if self.watched:
            parts.append(
                f"{counted(self.watched, 'file')} sent again or turned away within 24 h: the API's list is watched for an "
                "earlier batch of it"
            )
        return "; ".join(parts) or "no batch is open"


def endpoints_at_work(store: Store, pipeline: str) -> list[Endpoint]:
    """Return the endpoints at which a pipeline has work on its way, records to ask again, or a file
    of which a second batch may turn up."""
    on_its_way = select(request_files.c.endpoint_id).where(
        request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN)
    )
    rows = store.ledger.rows(
        select(endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace)
        .where(
            or_(
                endpoints.c.id.in_(on_its_way),
                endpoints.c.id.in_(
                    select(request_files.c.endpoint_id).where(
                        request_files.c.pipeline == pipeline,
                        request_files.c.watch_until > store.clock.now(),
                    )
                ),
                endpoints.c.id.in_(select(submissions.c.endpoint_id).where(*_retryable(pipeline))),
                endpoints.c.id.in_(
                    select(submissions.c.endpoint_id).where(
                        submissions.c.pipeline == pipeline, submissions.c.state == "selected"
                    )
                ),
            )
        )
        .order_by(endpoints.c.id)
    )
    return [Endpoint(**row) for row in rows]


def hold_of(store: Store, pipeline: str, endpoint: Endpoint) -> str | None:
    """Return why nothing of a pipeline is sent until a person has acted; None when it is not held."""
    rows = store.ledger.rows(
        select(holds.c.reason).where(
            holds.c.pipeline == pipeline, holds.c.endpoint_id == endpoint.id
        )
    )
    return rows[0]["reason"] if rows else None


def progress(store: Store, pipeline: str) -> Progress:
    """Return how a pipeline's open work stands."""
    rows = _open_files(store, pipeline)
    count = {state: sum(1 for row in rows if row["state"] == state) for state in OPEN}
    created = [row["batch_created_at"] for row in rows if row["state"] == FileState.IN_PROGRESS]
    return Progress(
        open=count[FileState.IN_PROGRESS],
        ended=count[FileState.ENDED],
        batches_ended=_batches_ended(store, pipeline),
        waiting=count[FileState.READY],
        unknown=count[FileState.UNKNOWN] + count[FileState.SENDING],
        held=count[FileState.HELD],
        watched=_watched(store, pipeline),
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
        held = hold_of(store, pipeline, endpoint) is not None
        queued, doubtful = queue(store.ledger, endpoint)
        candidates_of = _open_candidates(store, endpoint)
        for row in _open_files(store, pipeline, endpoint):
            due = row["not_before"] is None or row["not_before"] <= now
            if not due:
                continue
            match row["state"]:
                case FileState.ENDED:
                    need("collect", row["partition"], "batches have ended")
                case FileState.READY if (
                    not held
                    and row["requests"] not in doubtful
                    and not (row["resent_at"] and row["requests"] in candidates_of)
                    and (not queued or queued + row["requests"] <= policy.max_queued_requests)
                ):
                    need("send", row["partition"], "files are ready and the queue has room")
                # While a batch that may be the file is open, polling is all that helps.
                case FileState.UNKNOWN if row["requests"] not in candidates_of and row[
                    "attempt_ended_at"
                ] <= now - timedelta(seconds=policy.reconcile_after_seconds):
                    need("send", row["partition"], "a lost reply can be reconciled")
        for row in _unbuilt(store, pipeline, endpoint, now):
            need("retry", row["partition"], "selected records wait for their request files")
        for row in _to_retry(store, pipeline, endpoint):
            need(
                "retry",
                row["partition"],
                f"{counted(row['retryable'], 'record')} can be asked again",
            )
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
            request_files.c.resent_at,
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


def _batches_ended(store: Store, pipeline: str) -> int:
    still_open = select(request_files.c.submission_id).where(
        request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN)
    )
    with store.ledger.read() as tx:
        return int(
            tx.execute(
                select(func.count()).where(
                    request_files.c.pipeline == pipeline,
                    request_files.c.batch_id.is_not(None),
                    request_files.c.state.in_([FileState.ENDED, FileState.COLLECTED]),
                    request_files.c.submission_id.in_(still_open),
                )
            ).scalar_one()
        )


def _watched(store: Store, pipeline: str) -> int:
    with store.ledger.read() as tx:
        return int(
            tx.execute(
                select(func.count()).where(
                    request_files.c.pipeline == pipeline,
                    request_files.c.watch_until > store.clock.now(),
                )
            ).scalar_one()
        )


def _to_retry(store: Store, pipeline: str, endpoint: Endpoint) -> Sequence[RowMapping]:
    """Partitions with settled submissions whose failed records nobody has selected again."""
    still_open = select(request_files.c.submission_id).where(
        request_files.c.pipeline == pipeline,
        or_(
            request_files.c.state.in_(OPEN),
            (request_files.c.state == FileState.COLLECTED) & request_files.c.published_at.is_(None),
        ),
    )
    return store.ledger.rows(
        select(submissions.c.partition, func.sum(submissions.c.retryable).label("retryable"))
        .where(
            *_retryable(pipeline),
            submissions.c.endpoint_id == endpoint.id,
            submissions.c.id.not_in(still_open),
        )
        .group_by(submissions.c.partition)
    )


def _retryable(pipeline: str):
    """The submissions with failed records that nobody has selected again."""
    return (
        submissions.c.pipeline == pipeline,
        submissions.c.state == "built",
        submissions.c.retryable > 0,
        submissions.c.retried_at.is_(None),
    )


def _unbuilt(
    store: Store, pipeline: str, endpoint: Endpoint, now: datetime
) -> Sequence[RowMapping]:
    """Partitions whose selection nobody built: the run that made it ended in between."""
    return store.ledger.rows(
        select(submissions.c.partition)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.endpoint_id == endpoint.id,
            submissions.c.state == "selected",
            submissions.c.created_at < now - timedelta(seconds=UNBUILT_SECONDS),
        )
        .distinct()
    )


def _open_candidates(store: Store, endpoint: Endpoint) -> set[int]:
    """The sizes of batches that may be ours, as long as they have not ended."""
    rows = store.ledger.rows(
        select(candidates.c.requests).where(
            candidates.c.endpoint_id == endpoint.id, candidates.c.verdict == "open"
        )
    )
    return {row["requests"] for row in rows}


def _age(age: timedelta) -> str:
    minutes = max(0, int(age.total_seconds() // 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
