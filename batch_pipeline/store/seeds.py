"""Files that wait until the first request of their submission has filled the cache of the prompt they share."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, func, select

from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

SEED = "first"
"""What the ledger's question of a submission says under ``seed`` when its first file has one request for that."""
LONGEST_WAIT = timedelta(hours=1)
"""So long the others wait for it, from when it was first sent: then they are sent without."""
GONE_BY = (FileState.ENDED, FileState.COLLECTED)


def behind_a_seed(
    tx: Connection, pipeline: str, endpoint_id: str, now: datetime
) -> tuple[set[str], Sequence[RowMapping]]:
    """Return the ready files that wait for their seed, and the seeds that the others wait for no longer.

    Args:
        tx: a transaction of the ledger.
        pipeline: whose files.
        endpoint_id: of the endpoint that is asked.
        now: the time.

    Returns:
        The ids of the files that wait; and of the submissions whose files go on without, the rows of the
        seeds, which are held, were split, or are on their way for longer than ``LONGEST_WAIT``.
    """
    mine = (
        request_files.c.pipeline == pipeline,
        request_files.c.endpoint_id == endpoint_id,
        request_files.c.kind == FileKind.BATCH,
    )
    ready = tx.execute(
        select(request_files.c.id, request_files.c.submission_id, request_files.c.seq)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(
            *mine,
            request_files.c.state == FileState.READY,
            submissions.c.question["seed"].as_string() == SEED,
        )
    ).all()
    if not ready:
        return set(), []
    of = {row.submission_id for row in ready}
    first = (
        select(request_files.c.submission_id, func.min(request_files.c.seq).label("seq"))
        .where(*mine, request_files.c.submission_id.in_(of))
        .group_by(request_files.c.submission_id)
        .subquery()
    )
    seeds = (
        tx.execute(
            select(request_files).join(
                first,
                (first.c.submission_id == request_files.c.submission_id)
                & (first.c.seq == request_files.c.seq),
            )
        )
        .mappings()
        .all()
    )
    waiting, without = set(), []
    for seed in seeds:
        if seed["state"] in GONE_BY:
            continue
        sent = seed["first_sent_at"]
        is_late = sent is not None and now - sent >= LONGEST_WAIT
        others = {
            row.id
            for row in ready
            if row.submission_id == seed["submission_id"] and row.id != seed["id"]
        }
        if is_late or seed["state"] in (FileState.HELD, FileState.SPLIT):
            without += [seed] if others else []
        else:
            waiting |= others
    return waiting, without
