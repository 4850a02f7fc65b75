"""Cancelling on purpose: what a person does not want any more. What is late is cancelled in ``overtime``.

What the API has answered by then is paid, and collected. What was not sent yet is withdrawn. A file
whose reply was lost is looked for first, and is withdrawn when the API does not have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, RowMapping, func, select, update

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.outcome import ApiUnavailable, NoSuchBatch
from batch_pipeline.batches.whose import whose
from batch_pipeline.errors import HeldError
from batch_pipeline.store.scopes import is_in
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions
from batch_pipeline.store.variants import scope_name

WITHDRAWN = "Canceled by a person before it was sent."
CANCELLABLE = (
    FileState.READY,
    FileState.SENDING,
    FileState.UNKNOWN,
    FileState.IN_PROGRESS,
    FileState.ASKING,
)


@dataclass
class Canceled:
    """What became of a pipeline's open files.

    Attributes:
        canceled: ids of the batches that the API was told to cancel.
        withdrawn: ids of the files that were not sent yet, and are not sent.
        waiting: ids of the files that may have been sent: no reply is there yet.
        failed: what the API would not do, one message a batch; the status sensor goes on trying.
    """

    canceled: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def cancellable(
    store: Store, pipeline: str, partition: str | None = None, variant: str | None = None
) -> Sequence[RowMapping]:
    """Return the request files of a pipeline, or of one partition or variant, that can still be cancelled."""
    return store.ledger.rows(
        select(request_files)
        .where(*_of(pipeline, partition, variant), request_files.c.state.in_(CANCELLABLE))
        .order_by(request_files.c.number, request_files.c.seq)
    )


def cancel(
    store: Store,
    api: BatchesApi,
    pipeline: str,
    partition: str | None = None,
    variant: str | None = None,
) -> Canceled:
    """Cancel what a pipeline has on its way.

    The records are asked again by the next submit run, as far as ``max_attempts`` allows, and not
    by the sensor.

    Args:
        store: where the ledger is.
        api: the endpoint; batches that were sent elsewhere are left to the key they belong to.
        pipeline: its name.
        partition: only this one; None: all.
        variant: only this one; None: all.

    Raises:
        HeldError, ApiUnavailable: the API refuses the key, or does not answer. Nothing is changed.
    """
    here, report = whose(store, api), Canceled()
    _request(store, pipeline, partition, variant, report)
    for file in cancellable(store, pipeline, partition, variant):
        if file["state"] != FileState.IN_PROGRESS:
            report.waiting.append(file["id"])
        elif file["endpoint_id"] != here.id:
            report.failed.append(f"{file['batch_id']} was not sent to {here}")
        elif file["cancel_sent_at"] is None:
            try:
                send_cancel(store, api, file["id"], file["batch_id"])
                report.canceled.append(file["batch_id"])
            except (ApiUnavailable, NoSuchBatch, HeldError) as error:
                report.failed.append(f"{file['batch_id']}: {error}")
    return report


def send_cancel(store: Store, api: BatchesApi, file_id: str, batch_id: str) -> None:
    """Tell the API to cancel a batch, and write down that it was told.

    Raises:
        HeldError, ApiUnavailable, NoSuchBatch: it was not told; the next look tries again.
    """
    api.cancel(batch_id)
    with store.ledger.write() as tx:
        row = tx.execute(
            update(request_files)
            .where(request_files.c.id == file_id, request_files.c.cancel_sent_at.is_(None))
            .values(cancel_sent_at=store.clock.now())
            .returning(request_files.c.pipeline, request_files.c.partition)
        ).first()
        if row is not None:
            store.ledger.record(
                tx, file_id, row.pipeline, row.partition, None, "canceling", f"told {batch_id}"
            )


def _request(
    store: Store, pipeline: str, partition: str | None, variant: str | None, report: Canceled
) -> None:
    """Write down that nothing of this is wanted any more, before the API is told."""
    now = store.clock.now()
    ledger = store.ledger
    with ledger.write() as tx:
        # A selection that nobody has built yet is not built.
        mine = [
            submissions.c.pipeline == pipeline,
            *_within(submissions.c.partition, partition, variant),
        ]
        tx.execute(
            update(submissions)
            .where(*mine, submissions.c.state == "selected")
            .values(state="abandoned")
        )
        files = (
            tx.execute(
                select(request_files).where(
                    *_of(pipeline, partition, variant), request_files.c.state.in_(CANCELLABLE)
                )
            )
            .mappings()
            .all()
        )
        for file in files:
            if file["state"] == FileState.READY and withdraw(ledger, tx, file["id"], now):
                report.withdrawn.append(file["id"])
        ids = [file["id"] for file in files]
        tx.execute(
            update(request_files)
            .where(request_files.c.id.in_(ids), request_files.c.cancel_requested_at.is_(None))
            .values(cancel_requested_at=now)
        )
        # To the sensor they are looked at already; a submit run looks at every record anyway.
        tx.execute(
            update(submissions)
            .where(submissions.c.id.in_([file["submission_id"] for file in files]))
            .values(retried_at=now)
        )


def withdraw(ledger, tx, file_id: str, now, come_from: FileState = FileState.READY) -> bool:
    """End a file that was not sent, without answers."""
    return ledger.move(
        tx,
        file_id,
        come_from,
        FileState.ENDED,
        WITHDRAWN,
        cancel_requested_at=now,
        ended_at=now,
        not_before=None,
        error=WITHDRAWN,
    )


def _of(pipeline: str, partition: str | None, variant: str | None):
    mine = [
        request_files.c.pipeline == pipeline,
        request_files.c.kind.in_([FileKind.BATCH, FileKind.LATE]),
    ]
    return [*mine, *_within(request_files.c.partition, partition, variant)]


def _within(
    column: ColumnElement[str], partition: str | None, variant: str | None
) -> list[ColumnElement[bool]]:
    if partition is not None:
        return [is_in(column, partition, variant)]
    if variant is None:
        return []
    # LIKE would take variants for others whose names differ in case.
    end = scope_name("", variant)
    return [func.substr(column, func.length(column) - len(end) + 1) == end]
