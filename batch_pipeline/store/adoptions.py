"""Taking over a batch that was made elsewhere: one transaction, so that it is there whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, insert, select
from sqlalchemy.exc import IntegrityError

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.submissions import (
    NewFile,
    NewSelection,
    Scope,
    Situation,
    add_file,
    next_number,
    take_generation,
)
from batch_pipeline.store.tables import (
    FileState,
    candidates,
    request_files,
    reservations,
    submissions,
)

ADOPTED = "adopted"
"""What the stored question of such a submission says: the requests were not ours, only their answers are."""
NOTE = "adopted: the batch was made elsewhere"


@dataclass(frozen=True)
class NewAdoption:
    """A batch to take over.

    Attributes:
        selection: its records, as they are now.
        question: what an answer must look like.
        file: the requests, as far as they are known; ``requests`` counts all of the batch.
        batch_id: its id.
        created_at: when it was made; it was sent then.
        expires_at: when the API gives it up.
        ended_at: when it ended; None: it is in progress.
        answers_path: its answers in the store; None: it is in progress.
        nanousd: what it cost; None: not known yet.
    """

    selection: NewSelection
    question: Mapping[str, Any]
    file: NewFile
    batch_id: str
    created_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    answers_path: str | None
    nanousd: int | None


def file_of_batch(ledger: Ledger, batch_id: str) -> RowMapping | None:
    """Return the request file that a batch belongs to, of any pipeline; None when the ledger knows none."""
    rows = ledger.rows(select(request_files).where(request_files.c.batch_id == batch_id))
    return rows[0] if rows else None


def is_candidate(ledger: Ledger, batch_id: str) -> bool:
    """Whether a batch may be that of a request file whose reply was lost."""
    found = select(candidates.c.batch_id).where(
        candidates.c.batch_id == batch_id, candidates.c.verdict.in_(("open", "unreadable"))
    )
    return bool(ledger.rows(found))


def is_adopted(ledger: Ledger, submission_id: str) -> bool:
    """Whether a submission is a batch that was taken over."""
    rows = ledger.rows(select(submissions.c.question).where(submissions.c.id == submission_id))
    return bool(rows and (rows[0]["question"] or {}).get(ADOPTED))


def commit_adoption(ledger: Ledger, scope: Scope, read: Situation, new: NewAdoption) -> int | None:
    """Make an adoption count, unless a selection was committed since ``read``, or the batch was taken over.

    Returns:
        The submission's number; None: discard the files, and look again.
    """
    try:
        with ledger.write() as tx:
            if not take_generation(tx, scope, read):
                return None
            number = next_number(tx, scope.pipeline)
            submission = dict(
                id=new.selection.id,
                pipeline=scope.pipeline,
                partition=scope.partition,
                number=number,
                state="built",
                endpoint_id=scope.endpoint.id,
                version=new.selection.version,
                created_at=ledger.clock.now(),
                records_path=new.selection.records_path,
                index_path=new.selection.index_path,
                counts=new.selection.counts,
                question={**new.question, ADOPTED: True},
                requests=new.file.requests,
                bytes=new.file.bytes,
            )
            tx.execute(insert(submissions).values(**submission))
            ended = new.ended_at is not None
            file_id = add_file(
                ledger,
                tx,
                submission,
                new.file,
                FileState.ENDED if ended else FileState.IN_PROGRESS,
                NOTE,
                batch_id=new.batch_id,
                batch_created_at=new.created_at,
                expires_at=new.expires_at,
                ended_at=new.ended_at,
                answered=new.file.requests if ended else None,
                answers_path=new.answers_path,
                attempts=1,
                first_sent_at=new.created_at,
                sent_at=new.created_at,
                attempt_ended_at=new.created_at,
            )
            # What it cost counts for the month in which it was made; once collected, to the digit.
            tx.execute(
                insert(reservations).values(
                    file_id=file_id,
                    attempt=1,
                    submission_id=new.selection.id,
                    pipeline=scope.pipeline,
                    endpoint_id=scope.endpoint.id,
                    nanousd=new.nanousd,
                    sent_at=new.created_at,
                )
            )
            return number
    except IntegrityError:  # another process took it over meanwhile
        return None
