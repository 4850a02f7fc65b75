"""When the better model of an escalation is to be asked: once more of the first one's answers are in the table.

How many files of the first model were in the table when the better one's records were selected last stands with
what that selection found in the source. So no tick and no run has to tell the next one anything.
"""

from dataclasses import dataclass

from sqlalchemy import func, or_, select

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.scopes import is_of
from batch_pipeline.store.tables import OPEN, FileState, request_files, sources
from batch_pipeline.store.variants import ESCALATED, partition_of, scope_name

SEEN = "files_of_the_first"
"""The name of that number among the counts of a selection."""


@dataclass(frozen=True)
class Waiting:
    """Answers of the first model that nobody has looked at for the better one."""

    partition: str  # the better model's scope, as the ledger calls it
    endpoint_id: str


def files_settled(ledger: Ledger, pipeline: str, partition: str) -> int:
    """Return how many files of a scope of the first model are in the table."""
    with ledger.read() as tx:
        found = tx.execute(
            select(func.count()).where(
                request_files.c.pipeline == pipeline,
                request_files.c.partition == partition,
                request_files.c.published_at.is_not(None),
            )
        ).scalar()
    return found or 0


def waiting(ledger: Ledger, pipeline: str) -> list[Waiting]:
    """Return the partitions in which the better model is to be asked, as far as the ledger tells.

    Only those that a run has looked at already: what was answered before the pipeline escalated is not asked before
    its next submit run. Nothing while the first model still has something on its way there.
    """
    looked = {
        partition_of(row["partition"]): (row["counts"] or {}).get(SEEN, 0)
        for row in ledger.rows(
            select(sources.c.partition, sources.c.counts).where(
                sources.c.pipeline == pipeline, is_of(sources.c.partition, ESCALATED)
            )
        )
    }
    if not looked:
        return []
    first = (request_files.c.pipeline == pipeline, is_of(request_files.c.partition, ""))
    busy = {
        row["partition"]
        for row in ledger.rows(
            select(request_files.c.partition)
            .where(
                *first,
                or_(
                    request_files.c.state.in_(OPEN),
                    (request_files.c.state == FileState.COLLECTED)
                    & request_files.c.published_at.is_(None),
                ),
            )
            .distinct()
        )
    }
    rows = ledger.rows(
        select(
            request_files.c.partition,
            func.count().label("files"),
            func.max(request_files.c.endpoint_id).label("endpoint_id"),
        )
        .where(*first, request_files.c.published_at.is_not(None))
        .group_by(request_files.c.partition)
    )
    return [
        Waiting(scope_name(row["partition"], ESCALATED), row["endpoint_id"])
        for row in rows
        if row["partition"] not in busy
        and row["files"] > looked.get(row["partition"], row["files"])
    ]
