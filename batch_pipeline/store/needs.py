"""What a pipeline needs next, read from the ledger alone: no memory of earlier ticks or runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import Connection, RowMapping, func, or_, select

from batch_pipeline.errors import counted
from batch_pipeline.store.budget import NO_CAPS, Caps, is_held, what_is_over
from batch_pipeline.store.escalation import waiting
from batch_pipeline.store.queue import (
    candidate_sizes,
    doubtful_sizes,
    hold_of,
    queued_requests,
)
from batch_pipeline.store.seeds import behind_a_seed
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import OPEN, FileState, endpoints, request_files, submissions

UNBUILT_SECONDS = 300.0  # a run takes seconds from its selection to its request files


@dataclass(frozen=True)
class Need:
    """A job that should run for a partition ("" when there are none), and why."""

    job: str  # send | collect | retry
    partition: str
    why: str


def endpoints_at_work(store: Store, pipeline: str, *, escalates: bool = False) -> list[Endpoint]:
    """Return the endpoints at which a pipeline has work on its way, records to ask again, or a file
    of which a second batch may turn up; where it escalates, also answers to look at for the better model."""
    to_look_at = waiting(store.ledger, pipeline) if escalates else []
    on_its_way = select(request_files.c.endpoint_id).where(
        request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN)
    )
    rows = store.ledger.rows(
        select(endpoints.c.base_url, endpoints.c.organization, endpoints.c.workspace)
        .where(
            or_(
                endpoints.c.id.in_(on_its_way),
                endpoints.c.id.in_([one.endpoint_id for one in to_look_at]),
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


def needs(
    store: Store,
    pipeline: str,
    endpoint: Endpoint | None,
    *,
    max_queued_requests: int,
    reconcile_after_seconds: float,
    caps: Caps = NO_CAPS,
    may_send: bool = True,
    is_asked: Callable[[str], bool] = lambda _: True,
    escalates: bool = False,
) -> list[Need]:
    """Return the jobs that a pipeline needs now, one per partition and kind, the most urgent first.

    Args:
        store: where the ledger is.
        pipeline: its name.
        endpoint: the one in force; what was sent elsewhere is left alone. None: it is not known.
        max_queued_requests: requests that may wait at the endpoint at once.
        reconcile_after_seconds: how long after an attempt ended its lost reply can be reconciled.
        caps: what may be spent; nothing is launched for what does not fit.
        may_send: these are hours in which batches are sent.
        is_asked: whether anything is still asked of a partition: nothing is of a variant that is not declared.
        escalates: a better model is asked about what the first one does not settle.
    """
    now = store.clock.now()
    found: dict[tuple[str, str], Need] = {}

    def need(job: str, partition: str, why: str) -> None:
        found.setdefault((job, partition), Need(job, partition, why))

    for row in _unpublished(store, pipeline):
        need("collect", row["partition"], "collected rows are not in the table yet")
    if endpoint is not None:
        held = hold_of(store.ledger, pipeline, endpoint) is not None
        with store.ledger.read() as tx:
            queued = queued_requests(tx, endpoint)
            doubtful = doubtful_sizes(tx, endpoint)
            found_sizes = candidate_sizes(tx, endpoint)
            over = _over_budget(tx, pipeline, endpoint, now, caps)
            over |= behind_a_seed(tx, pipeline, endpoint, now)[0]
        for row in _open_files(store, pipeline, endpoint):
            due = row["not_before"] is None or row["not_before"] <= now
            if not due:
                continue
            match row["state"]:
                case FileState.ENDED:
                    need("collect", row["partition"], "batches have ended")
                case FileState.READY if (
                    may_send
                    and is_asked(row["partition"])
                    and not held
                    and row["id"] not in over
                    and row["requests"] not in doubtful
                    and not (row["resent_at"] and row["requests"] in found_sizes)
                    and (not queued or queued + row["requests"] <= max_queued_requests)
                ):
                    need("send", row["partition"], "files are ready and the queue has room")
                # While a batch that may be the file is open, polling is all that helps.
                case FileState.UNKNOWN if row["requests"] not in found_sizes and row[
                    "attempt_ended_at"
                ] <= now - timedelta(seconds=reconcile_after_seconds):
                    need("send", row["partition"], "a lost reply can be reconciled")
        for row in filter(
            lambda row: is_asked(row["partition"]), _unbuilt(store, pipeline, endpoint, now)
        ):
            need("retry", row["partition"], "selected records wait for their request files")
        for row in filter(
            lambda row: is_asked(row["partition"]), _to_retry(store, pipeline, endpoint)
        ):
            need(
                "retry",
                row["partition"],
                f"{counted(row['retryable'], 'record')} can be asked again",
            )
        for one in waiting(store.ledger, pipeline) if escalates else []:
            if one.endpoint_id == endpoint.id:
                need("retry", one.partition, "answers are to be looked at for the better model")
    order = ("collect", "send", "retry")
    return sorted(found.values(), key=lambda one: (order.index(one.job), one.partition))


def _open_files(store: Store, pipeline: str, endpoint: Endpoint) -> Sequence[RowMapping]:
    return store.ledger.rows(
        select(
            request_files.c.id,
            request_files.c.state,
            request_files.c.partition,
            request_files.c.requests,
            request_files.c.not_before,
            request_files.c.resent_at,
            request_files.c.attempt_ended_at,
        )
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.endpoint_id == endpoint.id,
            request_files.c.state.in_(OPEN),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def _over_budget(
    tx: Connection, pipeline: str, endpoint: Endpoint, now: datetime, caps: Caps
) -> set[str]:
    """Return the ready files that a cap holds back, which is written down, and nobody has let through.

    What a cap was not compared with yet (outside of the hours to send in, or behind a seed) needs a run that
    does so: without it nobody would learn that it is held.
    """
    if not caps.any:
        return set()
    rows = tx.execute(
        select(request_files)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.endpoint_id == endpoint.id,
            request_files.c.state == FileState.READY,
        )
        .order_by(request_files.c.submission_id, request_files.c.seq)
    ).mappings()
    found: set[str] = set()
    for submission, group in groupby(rows, key=lambda row: row["submission_id"]):
        files = [*group]
        if not is_held(tx, submission):
            continue
        for together in [[file] for file in files] if caps.over == "trim" else [files]:
            if what_is_over(tx, now, together, caps) is not None:
                found |= {file["id"] for file in together}
    return found


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


def _to_retry(store: Store, pipeline: str, endpoint: Endpoint) -> Sequence[RowMapping]:
    """Partitions with settled submissions whose failed records nobody has selected again."""
    mine = select(request_files.c.submission_id).where(request_files.c.pipeline == pipeline)
    # One condition for both would be looked for in the whole history.
    still_open = mine.where(request_files.c.state.in_(OPEN)).union(
        mine.where(
            request_files.c.state == FileState.COLLECTED, request_files.c.published_at.is_(None)
        )
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
