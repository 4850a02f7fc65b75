"""Until when the answers of each submission are wanted, as far as something is done about what is late.

What is asked again soon after its answers came counts for the submission that asked it first, and what was
sent after it was wanted counts for the next such time. So nothing is late twice for one day.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import RowMapping, case, func, or_, select

from batch_pipeline.store.overdue import is_retry
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import LIVE, FileKind, FileState, request_files, submissions

SOON = timedelta(hours=1)
"""What is selected again so long after its answers were collected is asked again for their sake; what is
selected later is asked for the next day's."""
LOOKED_BACK = timedelta(days=7)
LONGEST_ANSWER = 21_333
"""Tokens that an answer may have to come within ten minutes, at the pace that the SDK goes by (60 minutes for 128,000
tokens): a longer one would have to be streamed, and is answered in its batch."""
NEVER = datetime.max.replace(tzinfo=UTC)

Due = Callable[[datetime], datetime]
"""From a moment to when the answers of what is submitted then are wanted."""


@dataclass(frozen=True)
class Deadlines:
    """When answers are wanted, by the ids of submissions; those of long ago are not among them."""

    of: dict[str, datetime]
    due: Due

    def of_file(self, file: RowMapping) -> datetime | None:
        """Return when the answers of a request file are wanted; None: nobody waits for them any more."""
        wanted = self.of.get(file["submission_id"])
        sent = file["sent_at"]
        return (
            self.due(sent) if wanted is not None and sent is not None and sent >= wanted else wanted
        )


def deadlines(store: Store, pipeline: str, due: Due) -> Deadlines:
    """Return when the answers of a pipeline's latest submissions are wanted.

    Args:
        store: where the ledger is.
        pipeline: its name.
        due: from a submission's time to when its answers are wanted.
    """
    # When the last batch was sent; of what was asked live, nothing was.
    no_batch = or_(
        request_files.c.batch_id.is_(None),
        request_files.c.batch_id.startswith(LIVE, autoescape=True),
    )
    files = (
        select(
            request_files.c.submission_id,
            func.max(case((no_batch, None), else_=request_files.c.sent_at)).label("sent_at"),
            func.max(request_files.c.collected_at).label("collected_at"),
        )
        .where(request_files.c.pipeline == pipeline, request_files.c.kind == FileKind.BATCH)
        .group_by(request_files.c.submission_id)
        .subquery()
    )
    names = ("id", "partition", "number", "created_at", "counts")
    known = store.ledger.rows(
        select(*(submissions.c[name] for name in names), files.c.sent_at, files.c.collected_at)
        .outerjoin(files, files.c.submission_id == submissions.c.id)
        .where(
            submissions.c.pipeline == pipeline,
            submissions.c.state != "abandoned",
            submissions.c.created_at > store.clock.now() - LOOKED_BACK,
        )
        .order_by(submissions.c.number)
    )
    found: dict[str, datetime] = {}
    before: dict[str, tuple[datetime, datetime | None]] = {}
    for row in known:
        wanted, collected = before.get(row["partition"], (None, None))
        is_soon = collected is not None and row["created_at"] - collected <= SOON
        if wanted is None or not is_soon or not is_retry(row["counts"]):
            wanted = due(row["created_at"])
        found[row["id"]] = wanted
        # Of what went in a batch after that, the next one counts, for what is asked again of it, too.
        if row["sent_at"] is not None and row["sent_at"] >= wanted:
            wanted = due(row["sent_at"])
        before[row["partition"]] = wanted, row["collected_at"]
    return Deadlines(found, due)


def is_too_long(file: RowMapping) -> bool:
    """Whether the answers to a file may be too long to be asked live, as far as that is known."""
    weights = [file["weight"], *((file["weight"] or {}).get("others") or ())]
    return any(
        one is not None and one["output_max"] > LONGEST_ANSWER * one["requests"] for one in weights
    )


def late_batches(
    store: Store, pipeline: str, endpoint_id: str, wanted: Deadlines
) -> list[RowMapping]:
    """Return the batches whose answers are late, and that nobody has cancelled, oldest first."""
    now = store.clock.now()
    rows = store.ledger.rows(
        _open(pipeline, endpoint_id).where(request_files.c.state == FileState.IN_PROGRESS)
    )
    return [row for row in rows if (moment := wanted.of_file(row)) is not None and now >= moment]


def late_files(
    store: Store, pipeline: str, endpoint_id: str, wanted: Deadlines
) -> list[RowMapping]:
    """Return the request files whose answers are late, and that were never sent, oldest first.

    One that was sent once is sent again as it was: the API may have a batch of it. So is one whose answers may
    be too long for a single call.
    """
    now = store.clock.now()
    rows = store.ledger.rows(
        _open(pipeline, endpoint_id).where(
            request_files.c.state == FileState.READY, request_files.c.first_sent_at.is_(None)
        )
    )
    late = [row for row in rows if now >= wanted.of.get(row["submission_id"], NEVER)]
    return [row for row in late if not is_too_long(row)]


def asking_files(store: Store, pipeline: str, endpoint_id: str) -> list[RowMapping]:
    """Return the request files that are asked live, whoever does so, oldest first."""
    return [
        *store.ledger.rows(
            select(request_files)
            .where(
                request_files.c.pipeline == pipeline,
                request_files.c.endpoint_id == endpoint_id,
                request_files.c.state == FileState.ASKING,
            )
            .order_by(request_files.c.number, request_files.c.seq)
        )
    ]


def _open(pipeline: str, endpoint_id: str):
    return (
        select(request_files)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.endpoint_id == endpoint_id,
            request_files.c.kind == FileKind.BATCH,
            request_files.c.cancel_requested_at.is_(None),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )
