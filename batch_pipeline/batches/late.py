"""A second batch of a request file: it is paid, so it is collected for what it answered."""

from sqlalchemy import Connection, RowMapping, select, update

from batch_pipeline.batches.wire import Batch
from batch_pipeline.store.reservations import adopt
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import NewFile, add_file, next_seq
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions


def add_late(store: Store, tx: Connection, file: RowMapping, batch: Batch, note: str) -> str:
    """Put a second batch of a file beside the first; an open one is to be cancelled.

    Args:
        store: where the ledger is.
        tx: a write transaction on it.
        file: the ledger's row of the request file that both were made from.
        batch: the second one.
        note: how it came about, for the history.

    Returns:
        The id of the batch's own row.

    Raises:
        IntegrityError: another process wrote the batch down before.
    """
    now = store.clock.now()
    seen = dict(
        batch_id=batch.id,
        batch_created_at=batch.created_at,
        expires_at=batch.expires_at,
        first_sent_at=file["first_sent_at"],
    )
    if batch.ended:
        state = FileState.ENDED
        seen |= dict(ended_at=batch.ended_at or now, answered=batch.requests)
    else:
        state = FileState.IN_PROGRESS
        seen |= dict(cancel_requested_at=now)
    submission = (
        tx.execute(select(submissions).where(submissions.c.id == file["submission_id"]))
        .mappings()
        .one()
    )
    # Of a file that was given up without knowing whether it was paid, now it is known.
    tx.execute(
        update(request_files)
        .where(request_files.c.id == file["id"], request_files.c.batch_id.is_(None))
        .values(cost_unknown=0)
    )
    late = NewFile(
        next_seq(tx, file["submission_id"]), file["path"], file["requests"], file["bytes"],
        file["first_row"], file["last_row"], FileKind.LATE,
    )  # fmt: skip
    late_id = add_file(store.ledger, tx, submission, late, state, note, **seen)
    adopt(tx, file, late_id, batch.created_at)
    return late_id
