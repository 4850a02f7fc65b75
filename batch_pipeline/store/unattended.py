"""Work that nobody looks after: of pipelines whose code was removed or renamed while batches were open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, func, select

from batch_pipeline.errors import counted
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import (
    OPEN,
    FileState,
    looks,
    request_files,
    submissions,
    transitions,
)

UNATTENDED = timedelta(minutes=15)  # a status sensor looks every minute


@dataclass(frozen=True)
class Unattended:
    """Work of a pipeline that is on its way, or waits.

    Attributes:
        pipeline: its name.
        batches: batches that the API has and that were not collected.
        files: request files that are not settled in another way: to be sent, held.
        unpublished: files whose rows are in the store, and not in the table.
        since: when a sensor last looked, or anything last happened.
    """

    pipeline: str
    batches: int
    files: int
    unpublished: int
    since: datetime | None

    @property
    def what(self) -> str:
        """What there is, in a few words."""
        parts = []
        if self.batches:
            parts.append(f"{counted(self.batches, 'batch', 'batches')} to be collected")
        if self.files:
            parts.append(f"{counted(self.files, 'file')} not sent or held")
        if self.unpublished:
            parts.append(f"rows of {counted(self.unpublished, 'file')} to be published")
        return ", ".join(parts)


def unattended(
    store: Store, has_code: Callable[[str], bool], older_than: timedelta | None = UNATTENDED
) -> list[Unattended]:
    """Return the pipelines with work that no code is known for.

    Args:
        store: where the ledger is.
        has_code: whether the code that asks has a pipeline of a name.
        older_than: only those that no sensor has looked at for so long: other code that shares the
            store may have them. None: all.
    """
    open_ones = request_files.c.state.in_(OPEN)
    waiting = (request_files.c.state == FileState.COLLECTED) & request_files.c.published_at.is_(
        None
    )
    rows = store.ledger.rows(
        select(
            request_files.c.pipeline,
            request_files.c.state,
            request_files.c.batch_id.is_not(None).label("has_batch"),
            func.count().label("files"),
        )
        .where(open_ones | waiting)
        .group_by(request_files.c.pipeline, request_files.c.state, "has_batch")
    )
    names = sorted({row["pipeline"] for row in rows if not has_code(row["pipeline"])})
    found = []
    for name in names:
        mine = [row for row in rows if row["pipeline"] == name]
        since = _last(store, name)
        if older_than is not None and since is not None:
            if abs(store.clock.now() - since) < older_than:
                continue
        collected = [row for row in mine if row["state"] == FileState.COLLECTED]
        batches = [row for row in mine if row["has_batch"] and row not in collected]
        others = [row for row in mine if row not in collected and row not in batches]
        found.append(Unattended(name, _sum(batches), _sum(others), _sum(collected), since))
    return found


def partitions_at_work(store: Store, pipeline: str) -> list[str]:
    """Return the partitions of a pipeline that have something on its way, or waiting; "" for none."""
    files = select(request_files.c.partition).where(
        request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN)
    )
    selected = select(submissions.c.partition).where(
        submissions.c.pipeline == pipeline, submissions.c.state == "selected"
    )
    with store.ledger.read() as tx:
        return sorted({key for query in (files, selected) for (key,) in tx.execute(query)})


def _sum(rows: Sequence[RowMapping]) -> int:
    return sum(row["files"] for row in rows)


def _last(store: Store, pipeline: str) -> datetime | None:
    """Return when a pipeline's sensor last looked, or something last happened with it."""
    looked = select(func.max(looks.c.at)).where(looks.c.pipeline == pipeline)
    moved = select(func.max(transitions.c.at)).where(transitions.c.pipeline == pipeline)
    asked = select(func.max(submissions.c.created_at)).where(submissions.c.pipeline == pipeline)
    with store.ledger.read() as tx:
        moments = [tx.execute(query).scalar() for query in (looked, moved, asked)]
    return max((moment for moment in moments if moment), default=None)
