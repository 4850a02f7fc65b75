"""Files that wait until the first request of their submission has filled the cache of the prompt they share."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, func, select

from batch_pipeline.store.queue import candidate_sizes, doubtful_sizes
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

SEED = "first"
"""What the ledger's question of a submission says under ``seed`` when its first file has one request for that."""
LONGEST_WAIT = timedelta(hours=1)
"""So long the others wait for it, from when it was first sent: then they are sent without.

From when its submission was made, where it cannot be sent because a batch of one request is in doubt."""
GONE_BY = (FileState.ENDED, FileState.COLLECTED)


def behind_a_seed(
    tx: Connection, pipeline: str, endpoint: Endpoint, now: datetime
) -> tuple[set[str], Sequence[RowMapping]]:
    """Return the ready files that wait for their seed, and the seeds that the others wait for no longer.

    Args:
        tx: a transaction of the ledger.
        pipeline: whose files.
        endpoint: the endpoint that is asked.
        now: the time.

    Returns:
        The ids of the files that wait; and of the submissions whose files go on without, the rows of the
        seeds, which are held, were split, or are on their way, or in the way of another batch of one request,
        for longer than ``LONGEST_WAIT``.
    """
    mine = (
        request_files.c.pipeline == pipeline,
        request_files.c.endpoint_id == endpoint.id,
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
            select(request_files, submissions.c.created_at)
            .join(
                first,
                (first.c.submission_id == request_files.c.submission_id)
                & (first.c.seq == request_files.c.seq),
            )
            .join(submissions, submissions.c.id == request_files.c.submission_id)
        )
        .mappings()
        .all()
    )
    doubtful, found = doubtful_sizes(tx, endpoint), candidate_sizes(tx, endpoint)
    waiting, without = set(), []
    for seed in seeds:
        if seed["state"] in GONE_BY:
            continue
        since = seed["first_sent_at"]
        in_doubt = seed["requests"] in (doubtful | found if seed["resent_at"] else doubtful)
        if since is None and in_doubt and seed["state"] == FileState.READY:
            since = seed["created_at"]
        is_late = since is not None and now - since >= LONGEST_WAIT
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
