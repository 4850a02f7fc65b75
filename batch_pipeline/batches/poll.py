"""Looking at the endpoint: one walk over its batch list serves every open file of every pipeline.

The walk tells which batches have ended, and which unknown ones could be a file whose outcome nobody
knows. The latter are settled by the custom_ids of their results once they end: only a batch whose
custom_ids carry this ledger's id and stand in the request file is ours.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, and_, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.batches.api import (
    ApiUnavailable,
    Batch,
    BatchesApi,
    NoSuchBatch,
    PipelineRefused,
)
from batch_pipeline.batches.cancel import send_cancel
from batch_pipeline.batches.claim import expire_leases
from batch_pipeline.batches.evidence import evidence_of, file_of
from batch_pipeline.batches.late import add_late
from batch_pipeline.batches.policy import CLOCK_MARGIN_SECONDS, SendPolicy
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import (
    FileKind,
    FileState,
    candidates,
    endpoints,
    looks,
    request_files,
)

UNREADABLE_SECONDS = 3600.0  # how long a candidate's results may stay unreadable
READ_AGAIN_SECONDS = 600.0  # between two looks at one that stayed so
SETTLE_SECONDS = 5.0  # of a look with a budget, for finding out whose candidates are
STEPS_PER_COMMIT = 100
IDS_PER_QUERY = 500
MOST_RETRIEVALS = 20  # single look-ups per poll, for batches that the list does not show


@dataclass
class Polled:
    """What a look at the endpoint found."""

    open: int = 0  # batches still in progress, over all pipelines of this ledger
    ended: list[str] = field(default_factory=list)  # ids of the files that turned out to have ended
    adopted: list[str] = field(default_factory=list)  # ids of the files whose batch was found
    list_calls: int = 0
    notes: list[str] = field(default_factory=list)
    until: float = math.inf  # by the machine's steady clock

    @property
    def out_of_time(self) -> bool:
        """Whether no further call should be begun."""
        return time.monotonic() > self.until


def poll(
    store: Store,
    api: BatchesApi,
    endpoint: Endpoint,
    policy: SendPolicy,
    pipeline: str | None = None,
    budget_seconds: float = math.inf,
) -> Polled:
    """Bring the ledger up to date with the endpoint. Safe at any time, by any number of processes.

    Args:
        store: where the ledger is.
        api: the endpoint.
        endpoint: who it is; a reply that names another organization or workspace is refused.
        policy: limits and waits.
        pipeline: whose sensor is looking, for ``share_poll``.
        budget_seconds: begin no further call to the API after this long; what is not looked at is
            left as it is. A sensor has a minute for everything.

    Raises:
        HeldError: the key is refused.
        ApiUnavailable: no answer; the ledger keeps what it knew.
    """
    expire_leases(store.ledger, endpoint)
    sent = _rows(store, endpoint, request_files.c.state == FileState.IN_PROGRESS)
    doubtful = _doubtful(store, endpoint)
    report = Polled()
    if not sent and not doubtful:
        return report
    started = store.clock.now()
    report.until = time.monotonic() + budget_seconds
    listed = _walk(api, endpoint, started, sent, doubtful, report)
    _see(store, api, sent, listed, policy, report)
    for file in sent:
        if file["cancel_requested_at"] is not None and file["cancel_sent_at"] is None:
            _cancel(store, api, file, report)
    _note_candidates(store, endpoint, listed, doubtful)
    if math.isfinite(budget_seconds):
        # It takes several calls for each, and can go on at the next look.
        report.until = min(report.until, time.monotonic() + SETTLE_SECONDS)
    _settle_candidates(store, api, endpoint, listed, report)
    # A run that looks does not take its turn from the sensor that looks for all.
    turn = {} if pipeline is None else {"polled_by": pipeline}
    with store.ledger.write() as tx:
        tx.execute(
            update(endpoints).where(endpoints.c.id == endpoint.id).values(polled_at=started, **turn)
        )
    return report


def share_poll(store: Store, endpoint: Endpoint, pipeline: str, interval_seconds: float) -> bool:
    """Return whether this pipeline should poll now, or another one just did it for all.

    The sensor that polled last goes on doing it. Any other leaves it at what was found within the
    interval, unless nobody has polled since its own last look: the sensors of fifty pipelines make
    one listing an interval, also when all of them start, or have just sent something.
    """
    now = store.clock.now()
    with store.ledger.write() as tx:
        found = tx.execute(
            select(endpoints.c.polled_at, endpoints.c.polled_by).where(
                endpoints.c.id == endpoint.id
            )
        ).first()
        polled, polled_by = found if found else (None, None)
        mine = and_(looks.c.endpoint_id == endpoint.id, looks.c.pipeline == pipeline)
        last = tx.execute(select(looks.c.at).where(mine)).scalar()
        if last is not None:
            tx.execute(update(looks).where(mine).values(at=now))
    if last is None:
        try:
            with store.ledger.write() as tx:
                tx.execute(insert(looks).values(endpoint_id=endpoint.id, pipeline=pipeline, at=now))
        except IntegrityError:
            pass  # this sensor ticks in another process, too
    if polled is None or polled_by in (None, pipeline):
        return True
    if (now - polled).total_seconds() >= interval_seconds:
        return True
    return last is not None and polled <= last


def window_start(file: RowMapping, server_ahead: timedelta) -> datetime:
    """Return the earliest creation time, by the server's clock, of a batch that could be this file."""
    # A server clock that is ahead only widens the window: harmless, since custom_ids decide.
    return (
        file["first_sent_at"]
        + min(timedelta(0), server_ahead)
        - timedelta(seconds=CLOCK_MARGIN_SECONDS)
    )


def _rows(store: Store, endpoint: Endpoint, *conditions) -> Sequence[RowMapping]:
    return store.ledger.rows(
        select(request_files)
        .where(request_files.c.endpoint_id == endpoint.id, *conditions)
        .order_by(request_files.c.number, request_files.c.seq)
    )


def _doubtful(store: Store, endpoint: Endpoint) -> Sequence[RowMapping]:
    """Files that may have a batch in the list which the ledger does not know."""
    return _rows(
        store,
        endpoint,
        request_files.c.kind == FileKind.BATCH,
        or_(
            request_files.c.state == FileState.UNKNOWN,
            and_(
                request_files.c.state == FileState.HELD, request_files.c.first_sent_at.is_not(None)
            ),
            request_files.c.watch_until > store.clock.now(),
        ),
    )


def _walk(
    api: BatchesApi,
    endpoint: Endpoint,
    started: datetime,
    sent: Sequence[RowMapping],
    doubtful: Sequence[RowMapping],
    report: Polled,
) -> dict[str, Batch]:
    """Read the list, newest first, as far back as any file needs it."""
    listed: dict[str, Batch] = {}
    missing = {file["batch_id"] for file in sent}
    after: str | None = None
    while True:
        page = api.page(after)
        report.list_calls += 1
        if page.endpoint != endpoint:
            raise PipelineRefused(
                f"Open batches were sent to {endpoint}, but the key now belongs to "
                f"{page.endpoint}. Set "
                "ClaudeBatches(api_key=..., base_url=...) back to collect them; nothing was "
                "changed."
            )
        ahead = (page.server_now - started) if page.server_now else timedelta(0)
        for batch in page.batches:
            listed[batch.id] = batch
            missing.discard(batch.id)
        if page.next_after is None or report.out_of_time:
            return listed
        oldest = page.batches[-1].created_at
        wanted = [window_start(file, ahead) for file in doubtful]
        wanted += [file["batch_created_at"] for file in sent if file["batch_id"] in missing]
        if not wanted or oldest < min(wanted):
            return listed
        after = page.next_after


def _see(
    store: Store,
    api: BatchesApi,
    sent: Sequence[RowMapping],
    listed: dict[str, Batch],
    policy: SendPolicy,
    report: Polled,
) -> None:
    """Take note of what became of the batches."""
    over: list[tuple[RowMapping, Batch]] = []
    for file in sent:
        batch = listed.get(file["batch_id"]) or _retrieve(store, api, file, policy, report)
        if batch is None:
            continue
        if batch.ended:
            over.append((file, batch))
        else:
            report.open += 1
    # A commit waits for the disk. And who goes by the same order waits for nobody crosswise.
    over.sort(key=lambda one: one[0]["id"])
    for start in range(0, len(over), STEPS_PER_COMMIT):
        some = over[start : start + STEPS_PER_COMMIT]
        with store.ledger.write() as tx:
            ended = [file["id"] for file, batch in some if _end(store, tx, file, batch)]
        report.ended += ended


def _cancel(store: Store, api: BatchesApi, file: RowMapping, report: Polled) -> None:
    """Tell the API what it was not told when a person cancelled; a batch that has ended stays so."""
    if file["id"] in report.ended or report.out_of_time:
        return
    report.list_calls += 1
    try:
        send_cancel(store, api, file["id"], file["batch_id"])
    except (ApiUnavailable, NoSuchBatch) as error:
        report.notes.append(f"{file['batch_id']} is to be cancelled: {error}")


def _end(store: Store, tx, file: RowMapping, batch: Batch) -> bool:
    return store.ledger.move(
        tx,
        file["id"],
        FileState.IN_PROGRESS,
        FileState.ENDED,
        f"{batch.id} ended",
        request_files.c.batch_id == batch.id,
        ended_at=batch.ended_at or store.clock.now(),
        answered=batch.requests,
        absent_since=None,
        not_before=None,
    )


def _retrieve(
    store: Store, api: BatchesApi, file: RowMapping, policy: SendPolicy, report: Polled
) -> Batch | None:
    """Look up a batch that the list did not show; one that stays unknown to the API was deleted."""
    if report.out_of_time or report.list_calls > MOST_RETRIEVALS:
        report.open += 1
        return None
    report.list_calls += 1
    try:
        return api.retrieve(file["batch_id"])
    except NoSuchBatch as error:
        now = store.clock.now()
        since = file["absent_since"]
        with store.ledger.write() as tx:
            if since is None:
                tx.execute(
                    update(request_files)
                    .where(request_files.c.id == file["id"])
                    .values(absent_since=now)
                )
            elif (now - since).total_seconds() >= policy.reconcile_after_seconds:
                note = f"{file['batch_id']} is gone ({error}): somebody deleted it. Its answers are lost."
                if store.ledger.move(
                    tx,
                    file["id"],
                    FileState.IN_PROGRESS,
                    FileState.ENDED,
                    note,
                    ended_at=now,
                    error=note,
                ):
                    report.ended.append(file["id"])
                report.notes.append(note)
                return None
        report.open += 1
        return None
    except ApiUnavailable as error:
        report.notes.append(str(error))
        report.open += 1
        return None


def _note_candidates(
    store: Store, endpoint: Endpoint, listed: dict[str, Batch], doubtful: Sequence[RowMapping]
) -> None:
    """Write down the batches nobody knows that have the size and the age of a doubtful file."""
    if not doubtful:
        return
    behind = _behind(store, listed)
    earliest: dict[int, datetime] = {}  # by size
    for file in doubtful:
        start = window_start(file, behind)
        earliest[file["requests"]] = min(start, earliest.get(file["requests"], start))
    fitting = [
        batch
        for batch in listed.values()
        if batch.requests in earliest and batch.created_at >= earliest[batch.requests]
    ]
    known = _known_batches(store, endpoint, [batch.id for batch in fitting])
    for batch in fitting:
        if batch.id in known:
            continue
        try:
            with store.ledger.write() as tx:
                tx.execute(
                    insert(candidates).values(
                        endpoint_id=endpoint.id,
                        batch_id=batch.id,
                        requests=batch.requests,
                        created_at=batch.created_at,
                        verdict="open",
                        seen_at=store.clock.now(),
                    )
                )
        except IntegrityError:
            continue  # another process wrote it down


def _behind(store: Store, listed: dict[str, Batch]) -> timedelta:
    """How far the server's clock is behind ours at most, as its newest batch shows: never positive."""
    newest = max((batch.created_at for batch in listed.values()), default=store.clock.now())
    return min(timedelta(0), newest - store.clock.now())


def _known_batches(store: Store, endpoint: Endpoint, batch_ids: Sequence[str]) -> set[str]:
    """Return which of some batches are a file's, or candidates already."""
    known: set[str] = set()
    for start in range(0, len(batch_ids), IDS_PER_QUERY):
        some = batch_ids[start : start + IDS_PER_QUERY]
        of_files = select(request_files.c.batch_id).where(request_files.c.batch_id.in_(some))
        of_candidates = select(candidates.c.batch_id).where(
            candidates.c.endpoint_id == endpoint.id, candidates.c.batch_id.in_(some)
        )
        known |= {row["batch_id"] for row in store.ledger.rows(of_files)}
        known |= {row["batch_id"] for row in store.ledger.rows(of_candidates)}
    return known


def _settle_candidates(
    store: Store, api: BatchesApi, endpoint: Endpoint, listed: dict[str, Batch], report: Polled
) -> None:
    """Find out whose the candidates are that have ended."""
    for row in _unsettled(store, endpoint):
        if report.out_of_time:
            return
        owner = store.ledger.rows(
            select(request_files.c.id).where(request_files.c.batch_id == row["batch_id"])
        )
        if owner:  # its sender stored the id after the list was read
            _judge(store, row, "ours", owner[0]["id"])
            continue
        batch = listed.get(row["batch_id"])
        try:
            batch = batch or api.retrieve(row["batch_id"])
            if not batch.ended:
                report.notes.append(
                    f"{batch.id} may be a file whose reply was lost; known once that has ended"
                )
                continue
            found = evidence_of(api, batch, store.ledger.id)
        except (NoSuchBatch, ApiUnavailable) as error:
            report.notes.append(f"{row['batch_id']} may be ours: {error}")
            _give_up_later(store, row)
            continue
        if found.own:
            _settle_own(store, endpoint, row, batch, found.own, report)
        elif found.is_foreign:
            _judge(store, row, "foreign")
            _free(store, endpoint, row, report)
        else:
            report.notes.append(f"{batch.id} may be ours, but its results cannot be read")
            _give_up_later(store, row)


def _unsettled(store: Store, endpoint: Endpoint) -> Sequence[RowMapping]:
    """The batches nobody knows the owner of; those that could not be read are tried now and then."""
    again = store.clock.now() - timedelta(seconds=READ_AGAIN_SECONDS)
    return store.ledger.rows(
        select(candidates)
        .where(
            candidates.c.endpoint_id == endpoint.id,
            or_(
                candidates.c.verdict == "open",
                and_(candidates.c.verdict == "unreadable", candidates.c.read_at < again),
            ),
        )
        # What was tried and could not be read comes after the others.
        .order_by(
            candidates.c.read_at.is_not(None),
            candidates.c.read_at,
            candidates.c.created_at,
            candidates.c.batch_id,
        )
    )


def _settle_own(
    store: Store,
    endpoint: Endpoint,
    row: RowMapping,
    batch: Batch,
    own: list[str],
    report: Polled,
) -> None:
    """Give a batch of this ledger to the file it was made from."""
    file = file_of(store, endpoint, batch, own)
    if file is None:
        # Nobody waits for it: the file was cut in two, say. It stands in nobody's way.
        _judge(store, row, "ours")
        report.notes.append(f"{batch.id} is of this ledger, but no request file has its requests")
    elif (found := _adopt(store, file, batch)) is not None:
        _judge(store, row, "ours", file["id"])
        if found:
            report.adopted.append(file["id"])
        report.notes.append(found or _second(file, batch))


def _free(store: Store, endpoint: Endpoint, row: RowMapping, report: Polled) -> None:
    """Let go of files that were held because of a batch that turned out to be another program's."""
    for file in _rows(
        store,
        endpoint,
        request_files.c.state == FileState.HELD,
        request_files.c.requests == row["requests"],
        request_files.c.error.contains(row["batch_id"], autoescape=True),
    ):
        note = f"{row['batch_id']} is not ours after all"
        with store.ledger.write() as tx:
            if store.ledger.move(
                tx, file["id"], FileState.HELD, FileState.UNKNOWN, note, not_before=None, error=note
            ):
                report.notes.append(f"{file['id']}: {note}; it is reconciled again")


def _second(file: RowMapping, batch: Batch) -> str:
    """Say what a second batch of a file means."""
    return (
        f"{batch.id} is a second batch of {file['id']}: the API made it at "
        f"{batch.created_at:%H:%M} UTC and did not show it in its list in time, so the file was "
        f"sent again. Of its {batch.requests:,} requests, what both answered was paid twice; both "
        "costs are in the ledger. Raise ClaudeBatches(reconcile_after_seconds=...) above that lag."
    )


def _give_up_later(store: Store, row: RowMapping) -> None:
    """Leave a candidate open whose results cannot be read; after an hour only a person can tell."""
    now = store.clock.now()
    since = row["unreadable_since"] or now
    late = (now - since).total_seconds() > UNREADABLE_SECONDS
    with store.ledger.write() as tx:
        tx.execute(
            update(candidates)
            .where(*_this(row), candidates.c.verdict.in_(["open", "unreadable"]))
            .values(
                unreadable_since=since,
                read_at=now,
                verdict="unreadable" if late else row["verdict"],
            )
        )


def _this(row: RowMapping):
    return (
        candidates.c.endpoint_id == row["endpoint_id"],
        candidates.c.batch_id == row["batch_id"],
    )


def _judge(store: Store, row: RowMapping, verdict: str, file_id: str | None = None) -> None:
    with store.ledger.write() as tx:
        tx.execute(update(candidates).where(*_this(row)).values(verdict=verdict, file_id=file_id))


def _adopt(store: Store, file: RowMapping, batch: Batch) -> str | None:
    """Give a file its batch; a file that was sent again meanwhile keeps the late one beside its own.

    Returns:
        What that means for the file; "" when it has another batch already; None when it is being
        sent at this moment: the batch may be the one its sender is about to store.
    """
    values = dict(
        batch_id=batch.id,
        batch_created_at=batch.created_at,
        expires_at=batch.expires_at,
        error=None,
        not_before=None,
    )
    free = request_files.c.batch_id.is_(None)
    ledger = store.ledger
    try:
        with ledger.write() as tx:
            state = tx.execute(
                select(request_files.c.state).where(request_files.c.id == file["id"])
            ).scalar()
            if state == FileState.SENDING:
                return None
            note = f"found in the list as {batch.id}"
            for state in (FileState.UNKNOWN, FileState.HELD, FileState.READY):
                if ledger.move(tx, file["id"], state, FileState.IN_PROGRESS, note, free, **values):
                    _end(store, tx, file, batch)
                    return f"{batch.id} is {file['id']}, whose reply was lost: its answers are collected"
            add_late(store, tx, file, batch, f"{batch.id} is a second batch of {file['id']}")
    except IntegrityError:
        return f"{batch.id} is {file['id']}; another process found it, too"
    return ""
