"""Batches that may be ours: of a file whose reply was lost, or a second one of a file sent again.

A candidate is a batch in the list that the ledger does not know, with the size and the age of a
doubtful file. Once it has ended, the custom_ids of its results settle it: only a batch whose
custom_ids carry this ledger's id and stand in the request file is ours. Then its file adopts it.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, and_, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.evidence import evidence_of, file_of
from batch_pipeline.batches.late import add_late
from batch_pipeline.batches.listing import Polled, end_file, files_at, window_start
from batch_pipeline.batches.outcome import ApiUnavailable, NoSuchBatch
from batch_pipeline.batches.wire import Batch
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import NOT_RESULTS, FileState, candidates, request_files

MAY_BE_IT = "may be it, but its results cannot be read"  # of a file that is held for a candidate
UNREADABLE_SECONDS = 3600.0  # how long a candidate's results may stay unreadable
READ_AGAIN_SECONDS = 600.0  # between two looks at one that stayed so
IDS_PER_QUERY = 500
FIRST_YEAR = 2024  # there were no batches before: an older date is none


def note_candidates(
    store: Store,
    endpoint: Endpoint,
    listed: dict[str, Batch],
    doubtful: Sequence[RowMapping],
    counts_lie: bool = False,
) -> None:
    """Write down the batches nobody knows that have the size and the age of a doubtful file.

    Args:
        store: where the ledger is.
        endpoint: whose list it is.
        listed: the batches of the list, by id.
        doubtful: the files.
        counts_lie: the list is wrong about the size of batches that are known, so any size may be
            any; such a candidate is written down with the size 0, which stands for all.
    """
    if not doubtful:
        return
    behind = _behind(store, listed)
    earliest: dict[int, datetime] = {}  # by size
    for file in doubtful:
        start = window_start(file, behind, store.clock.now())
        earliest[file["requests"]] = min(start, earliest.get(file["requests"], start))
    earliest[0] = min(earliest.values())  # a batch that does not say its size may have any
    fitting = [
        batch
        for batch in (
            replace(batch, requests=0) if counts_lie else batch for batch in listed.values()
        )
        if batch.requests in earliest
        and (batch.created_at >= earliest[batch.requests] or batch.created_at.year < FIRST_YEAR)
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


def settle_candidates(
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
        if batch is not None and not row["requests"]:
            batch = replace(batch, requests=0)
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
    elif (found := adopt(store, file, batch)) is not None:
        _judge(store, row, "ours", file["id"])
        if found:
            report.adopted.append(file["id"])
        report.notes.append(found or _second(file, batch))


def _free(store: Store, endpoint: Endpoint, row: RowMapping, report: Polled) -> None:
    """Let go of files that were held because of a batch that turned out to be another program's."""
    for file in files_at(
        store,
        endpoint,
        request_files.c.state == FileState.HELD,
        *([request_files.c.requests == row["requests"]] if row["requests"] else []),
        request_files.c.error.contains(row["batch_id"], autoescape=True),
        # A file may name a batch as its own, too: that this one is not proves nothing then.
        request_files.c.error.contains(MAY_BE_IT),
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


def adopt(store: Store, file: RowMapping, batch: Batch) -> str | None:
    """Give a file its batch; a file that was sent again meanwhile keeps the late one beside its own.

    Returns:
        What that means for the file; "" when it has another batch already; None when it is being
        sent at this moment: the batch may be the one its sender is about to store.
    """
    values = dict(
        batch_id=batch.id,
        batch_created_at=batch.created_at,
        expires_at=batch.expires_at,
        answered=batch.requests or file["requests"],  # the API has shown it
        error=None,
        not_before=None,
    )
    free = request_files.c.batch_id.is_(None)
    ledger = store.ledger
    try:
        with ledger.write() as tx:
            now = tx.execute(
                select(
                    request_files.c.state,
                    request_files.c.absent_since,
                    request_files.c.batch_id,
                    request_files.c.error,
                ).where(request_files.c.id == file["id"])
            ).one()
            if now.state == FileState.SENDING:
                return None
            note = f"found in the list as {batch.id}"
            absent = now.state == FileState.IN_PROGRESS and now.absent_since is not None
            if absent or (now.state == FileState.ENDED and NOT_RESULTS in (now.error or "")):
                return _instead(store, tx, file, batch, now, values)
            for state in (FileState.UNKNOWN, FileState.HELD, FileState.READY):
                if ledger.move(tx, file["id"], state, FileState.IN_PROGRESS, note, free, **values):
                    end_file(store, tx, file, batch)
                    return f"{batch.id} is {file['id']}, whose reply was lost: its answers are collected"
            add_late(store, tx, file, batch, f"{batch.id} is a second batch of {file['id']}")
    except IntegrityError:
        return f"{batch.id} is {file['id']}; another process found it, too"
    return ""


def _instead(
    store: Store, tx, file: RowMapping, batch: Batch, now: Any, values: dict[str, Any]
) -> str:
    """Give a file its batch in place of the one that its create call named, and that is not its own."""
    fresh = dict(
        absent_since=None, answers_path=None, damaged=False, downloads=0, first_download_at=None
    )
    tx.execute(
        update(request_files)
        .where(request_files.c.id == file["id"], request_files.c.batch_id == now.batch_id)
        .values(**values, **fresh)
    )
    note = f"{batch.id} has its requests, and not {now.batch_id}, which the reply had named"
    store.ledger.record(
        tx, file["id"], file["pipeline"], file["partition"], now.state, now.state, note
    )
    end_file(store, tx, file, batch)
    return f"{file['id']}: {note}"
