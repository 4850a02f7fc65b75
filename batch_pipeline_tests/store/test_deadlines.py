"""Until when answers are wanted: of what is asked first, of what is asked again, and of what was sent late."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from batch_pipeline.batches.deadline import AnswerBy
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.deadlines import deadlines, late_batches, late_files
from batch_pipeline.store.store import Store, open_store
from batch_pipeline.store.submissions import NewFile, add_file
from batch_pipeline.store.tables import FileState, submissions
from batch_pipeline_tests.support.clock import HandClock

NIGHT = datetime(2026, 11, 27, 23, tzinfo=UTC)
FIRST = {"asked": 5}
AGAIN = {"asked": 5, "retried": 5}


def at(hours: float | None) -> datetime | None:
    """A moment, in hours after eleven at night."""
    return None if hours is None else NIGHT + timedelta(hours=hours)


def submitted(
    store: Store,
    number: int,
    hours: float,
    counts: dict[str, int],
    state: FileState = FileState.COLLECTED,
    **values: Any,
) -> str:
    """Write a submission of one file; return its id."""
    row = dict(
        id=f"s{number}", pipeline="p", partition="", number=number, state="built", endpoint_id="e",
        version="v", created_at=at(hours), counts=counts,
    )  # fmt: skip
    with store.ledger.write() as tx:
        tx.execute(insert(submissions).values(**row))
        found = tx.execute(select(submissions)).mappings().all()[-1]
        add_file(store.ledger, tx, found, NewFile(0, "f", 5, 1, 0, 4), state, "", **values)
    return str(row["id"])


@pytest.mark.parametrize(
    ("before", "hours", "counts", "wanted"),
    [
        # What is asked first is wanted at the first seven o'clock after it.
        (None, 0, FIRST, 8),
        (None, 8, FIRST, 32),
        # What is asked again soon after its answers came counts for the first ask.
        ((0, FIRST, 0, 8.1), 8.2, AGAIN, 8),
        # Much later, or with other records, it is the next night's.
        ((0, FIRST, 0, 8.1), 9.2, AGAIN, 32),
        ((0, FIRST, 0, 8.1), 8.2, {"asked": 5, "retried": 4}, 32),
        # What went in a batch after seven is wanted by the next day's, and so is what is asked again of it.
        ((0, FIRST, 8.1, 9), 9.1, AGAIN, 32),
    ],
)
def test_when_answers_are_wanted(
    tmp_path: Path, before: Any, hours: float, counts: dict[str, int], wanted: float
) -> None:
    with going_by(HandClock(stopped_at=NIGHT + timedelta(hours=10))):
        store = open_store(str(tmp_path))
        if before is not None:
            asked, what, sent, collected = before
            submitted(store, 1, asked, what, batch_id="b", sent_at=at(sent), collected_at=at(collected))  # fmt: skip
        mine = submitted(store, 2, hours, counts, FileState.READY)
        found = deadlines(store, "p", AnswerBy("07:00").due)
        assert found.of[mine] == at(wanted)
        late = late_files(store, "p", "e", found)
        assert [file["submission_id"] for file in late] == ([mine] if wanted == 8 else [])


def test_which_batches_are_late(tmp_path: Path) -> None:
    with going_by(HandClock(stopped_at=NIGHT + timedelta(hours=10))):
        store = open_store(str(tmp_path))
        late = submitted(store, 1, 0, FIRST, FileState.IN_PROGRESS, batch_id="b1", sent_at=at(0.1))
        submitted(store, 2, 0, FIRST, FileState.IN_PROGRESS, batch_id="b2", sent_at=at(8.1))
        submitted(
            store, 3, 0, FIRST, FileState.IN_PROGRESS, batch_id="b3", sent_at=at(0.1),
            cancel_requested_at=at(1),
        )  # fmt: skip
        submitted(store, 4, 0, FIRST, FileState.READY, first_sent_at=at(0.1))
        found = deadlines(store, "p", AnswerBy("07:00").due)
        rows = late_batches(store, "p", "e", found)
        assert [row["submission_id"] for row in rows] == [late]
        assert late_files(store, "p", "e", found) == []
