"""What stands in the way of sending at an endpoint: its queue, doubtful sizes, candidates, holds."""

from sqlalchemy import Connection, func, or_, select

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import IN_QUEUE, OPEN, FileState, candidates, holds, request_files


def queued_requests(tx: Connection, endpoint: Endpoint) -> int:
    """Return how many requests wait at an endpoint, those that may be there included."""
    return int(
        tx.execute(
            select(func.coalesce(func.sum(request_files.c.requests), 0)).where(
                request_files.c.endpoint_id == endpoint.id, request_files.c.state.in_(IN_QUEUE)
            )
        ).scalar_one()
    )


def doubtful_sizes(tx: Connection, endpoint: Endpoint) -> set[int]:
    """Return the sizes, in requests, of the files that may have been sent and nobody knows."""
    return set(
        tx.execute(
            select(request_files.c.requests).where(
                request_files.c.endpoint_id == endpoint.id,
                or_(
                    request_files.c.state == FileState.SENDING,
                    request_files.c.state == FileState.UNKNOWN,
                ),
            )
        ).scalars()
    )


def candidate_sizes(tx: Connection, endpoint: Endpoint) -> set[int]:
    """Return the sizes of open batches in the list that may be a file which would be sent again.

    A batch that does not say its size may be of any of the sizes that are on their way.
    """
    found = set(
        tx.execute(
            select(candidates.c.requests).where(
                candidates.c.endpoint_id == endpoint.id, candidates.c.verdict == "open"
            )
        ).scalars()
    )
    if 0 not in found:
        return found
    waiting = select(request_files.c.requests).where(
        request_files.c.endpoint_id == endpoint.id, request_files.c.state.in_(OPEN)
    )
    return found | set(tx.execute(waiting).scalars())


def hold_of(ledger: Ledger, pipeline: str, endpoint: Endpoint) -> str | None:
    """Return why nothing of a pipeline is sent until a person has acted; None when it is not held."""
    rows = ledger.rows(
        select(holds.c.reason).where(
            holds.c.pipeline == pipeline, holds.c.endpoint_id == endpoint.id
        )
    )
    return rows[0]["reason"] if rows else None
