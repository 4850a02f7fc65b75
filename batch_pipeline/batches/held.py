"""What waits for a person: held files and held pipelines, and the decisions that free them."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import RowMapping, and_, delete, or_, select, update

from batch_pipeline.batches.policy import watch_until
from batch_pipeline.errors import InputError, counted
from batch_pipeline.store.addresses import same_address
from batch_pipeline.store.budget import HeldSubmission, approve, over_budget
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import (
    WAITS,
    FileState,
    endpoints,
    holds,
    refusals,
    request_files,
    transitions,
)

ANSWERED = "The store does not know these answers"
"""Words in the error of a file that is held because the table holds answers to it."""


@dataclass(frozen=True)
class HeldFile:
    """A request file that is not sent: only a person can tell whether it should be."""

    id: str
    pipeline: str
    partition: str
    requests: int
    since: datetime | None
    error: str

    @property
    def todo(self) -> str:
        """What a person does about it."""
        return decision(self.id, self.error)


@dataclass(frozen=True)
class HeldPipeline:
    """A pipeline whose account the API refuses; nothing of it is sent.

    ``goes_on_by_itself``: it was a look at the API that was refused, and the next one that is accepted
    ends this. Else a person must say so, or a run must have sent something.
    """

    pipeline: str
    base_url: str
    since: datetime
    error: str
    goes_on_by_itself: bool = False

    @property
    def todo(self) -> str:
        """What a person does about it."""
        if self.goes_on_by_itself:
            return f"put it right; {self.pipeline}_status sees that and goes on, or launch the job again"
        return f"put it right, then: batch-pipeline held {self.pipeline} --release (or run {self.pipeline}_send)"


@dataclass(frozen=True)
class Held:
    """All that waits for a person."""

    files: list[HeldFile]
    pipelines: list[HeldPipeline]
    submissions: list[HeldSubmission] = field(default_factory=list)

    @property
    def waits_for_a_person(self) -> bool:
        """Whether anything of it stays as it is until somebody acts."""
        return bool(
            self.files or self.pipelines or any(one.waits_for_a_person for one in self.submissions)
        )


def decision(file_id: str, error: str) -> str:
    """Return how a person decides about a held file, from why it is held."""
    way = f"batch-pipeline held --resend {file_id}"
    return way if ANSWERED in error else f"{way}, or --drop {file_id}"


def list_held(store: Store, pipeline: str | None = None) -> Held:
    """Return what is held, oldest first.

    Args:
        store: where the ledger is.
        pipeline: only of this one; None: of all.
    """
    files = store.ledger.rows(
        select(request_files)
        .where(
            _waits(),
            *([request_files.c.pipeline == pipeline] if pipeline else []),
        )
        .order_by(request_files.c.pipeline, request_files.c.number, request_files.c.seq)
    )
    pipelines = store.ledger.rows(
        select(holds.c.pipeline, endpoints.c.base_url, holds.c.since, holds.c.reason)
        .join(endpoints, endpoints.c.id == holds.c.endpoint_id)
        .where(*([holds.c.pipeline == pipeline] if pipeline else []))
        .order_by(holds.c.since)
    )
    refused = store.ledger.rows(
        select(refusals)
        .where(*([refusals.c.pipeline == pipeline] if pipeline else []))
        .order_by(refusals.c.since)
    )
    return Held(
        [
            HeldFile(
                row["id"],
                row["pipeline"],
                row["partition"],
                row["requests"],
                _since(store, row["id"]),
                row["error"] or "",
            )
            for row in files
        ],
        [
            HeldPipeline(row["pipeline"], row["base_url"], row["since"], row["reason"])
            for row in pipelines
        ]
        + [
            HeldPipeline(row["pipeline"], row["base_url"], row["since"], row["reason"], True)
            for row in refused
            if not any(
                one["pipeline"] == row["pipeline"]
                and same_address(one["base_url"], [row["base_url"]])
                for one in pipelines
            )
        ],
        over_budget(store, pipeline),
    )


def _waits():
    """What waits for a person: a held file, or one whose results are something else than results."""
    return or_(
        request_files.c.state == FileState.HELD,
        and_(request_files.c.state == FileState.ENDED, request_files.c.error.contains(WAITS)),
    )


def hold_answered(store: Store, file: RowMapping, records: int, place: str) -> str | None:
    """Hold a file that is ready, and is answered in the table by answers that the store does not know.

    Its batch is looked for in the API's list from now on, and taken for its own if it is there.

    Args:
        store: where the ledger is.
        file: its row, with ``created_at`` of its submission.
        records: how many of its records are answered.
        place: where the table is.

    Returns:
        What is said of it; None when it is not ready any more.
    """
    error = (
        f"{records:,} of its {counted(file['requests'], 'record')} are answered in {place}. {ANSWERED}: the store at "
        f"{store.files.root} and its ledger were restored from before they came, or another store's results are "
        "there. They would be paid again; nothing of this file was sent. If the API's list still has its batch, the next "
        f"look takes the answers from there, at no cost. Else bring back the store's folder and its ledger as they were "
        f"after that. To send it, and pay again, on purpose: `batch-pipeline held --resend {file['id']}`, "
        f"or launch {file['pipeline']}_submit once with allow_reask: true"
    )
    with store.ledger.write() as tx:
        moved = store.ledger.move(
            tx,
            file["id"],
            FileState.READY,
            FileState.HELD,
            error,
            error=error,
            not_before=None,
            # It was sent, at some time after that: the API's list may have its batch, and its answers.
            first_sent_at=file["first_sent_at"] or file["created_at"],
            sent_at=file["sent_at"] or file["created_at"],
        )
    return f"{file['id']}: {error}." if moved else None


def decided(store: Store, file_id: str) -> bool:
    """Return whether a person said to send a file that was held because the table has answers to it."""
    rows = store.ledger.rows(
        select(transitions.c.from_state, transitions.c.to_state)
        .where(transitions.c.file_id == file_id)
        .order_by(transitions.c.id)
    )
    steps = [(row["from_state"], row["to_state"]) for row in rows]
    held = (FileState.READY, FileState.HELD)
    return held in steps and (FileState.HELD, FileState.READY) in steps[steps.index(held) :]


def resend_answered(store: Store, pipeline: str, partition: str) -> list[str]:
    """Let the files be sent that are held because the table has answers to them; return their ids."""
    rows = store.ledger.rows(
        select(request_files.c.id).where(
            request_files.c.pipeline == pipeline,
            request_files.c.partition == partition,
            request_files.c.state == FileState.HELD,
            request_files.c.error.contains(ANSWERED),
        )
    )
    for row in rows:
        resend(store, row["id"])
    return [row["id"] for row in rows]


def resend(store: Store, file_id: str) -> None:
    """Let a held file be sent again; the status sensor sees to it.

    Raises:
        InputError: the file is not held.
    """
    _decide(
        store,
        file_id,
        FileState.READY,
        "sent again: decided by a person",
        not_before=None,
        error=None,
        resent_at=store.clock.now(),
        watch_until=watch_until(store.clock.now()),
        cancel_requested_at=None,
    )


def drop(store: Store, file_id: str) -> None:
    """Give a held file up: it counts as ended, without answers.

    Collecting writes its records' rows, with status ``missing`` and the reason. The attempt counts,
    and what has attempts left is asked again in a new file.

    Raises:
        InputError: the file is not held.
    """
    row = next((one for one in list_held(store).files if one.id == file_id), None)
    if row is not None and _drop_ended(store, row):
        return
    if row is not None and ANSWERED in row.error:
        raise InputError(
            f"The file {file_id} is answered in the table: given up, its records would get rows without answers in "
            f"the place of those. Nothing was changed. {row.error}"
        )
    error = f"Dropped by a person while it was held: {row.error if row else ''}"
    maybe_paid = row is not None and _was_unknown(store, file_id)
    _decide(
        store,
        file_id,
        FileState.ENDED,
        "dropped: decided by a person",
        ended_at=store.clock.now(),
        not_before=None,
        error=error,
        cost_unknown=row.requests if row and maybe_paid else 0,
        # A late batch of it is still looked for, and collected for what it answered.
        watch_until=watch_until(store.clock.now()),
    )


def _drop_ended(store: Store, file: HeldFile) -> bool:
    """Give up the answers of an ended batch of which the API gives something else than results."""
    note = "dropped: decided by a person"
    with store.ledger.write() as tx:
        dropped = tx.execute(
            update(request_files)
            .where(
                request_files.c.id == file.id, request_files.c.state == FileState.ENDED, _waits()
            )
            .values(
                batch_id=None,
                answers_path=None,
                damaged=False,
                not_before=None,
                cost_unknown=file.requests,
                error=f"Dropped by a person: {file.error.replace(WAITS, 'It needed a person')}",
                watch_until=watch_until(store.clock.now()),
            )
        )
        if dropped.rowcount:
            state = FileState.ENDED
            store.ledger.record(tx, file.id, file.pipeline, file.partition, state, state, note)
    return bool(dropped.rowcount)


def release(store: Store, pipeline: str, by: str = "a person") -> list[HeldSubmission]:
    """Let a held pipeline send again, after what the API refused was put right; and what a budget holds, once.

    Args:
        store: where the ledger is.
        pipeline: its name.
        by: who says so.

    Returns:
        The submissions that a budget held.

    Raises:
        InputError: the pipeline is not held.
    """
    with store.ledger.write() as tx:
        released = sum(
            tx.execute(delete(table).where(table.c.pipeline == pipeline)).rowcount
            for table in (holds, refusals)
        )
    approved = approve(store, pipeline, by)
    if not released and not approved:
        raise InputError(f"The pipeline {pipeline} is not held.")
    return approved


def _decide(store: Store, file_id: str, to: FileState, note: str, **values) -> None:
    with store.ledger.write() as tx:
        moved = store.ledger.move(tx, file_id, FileState.HELD, to, note, **values)
    if not moved:
        if any(one.id == file_id for one in list_held(store).files):
            raise InputError(
                f"The file {file_id} was sent, and its batch has ended: it is not sent again as it is. "
                f"Give it up (`batch-pipeline held --drop {file_id}`), and its records are asked anew."
            )
        held = ", ".join(file.id for file in list_held(store).files) or "none is"
        raise InputError(f"The file {file_id} is not held. Held files: {held}.")


def _was_unknown(store: Store, file_id: str) -> bool:
    """Whether a file is held because nobody knows what became of it, and not because it was refused."""
    rows = store.ledger.rows(_last_hold(file_id, transitions.c.from_state))
    unsure = (FileState.UNKNOWN, FileState.IN_PROGRESS, FileState.ASKING)
    return bool(rows) and rows[0]["from_state"] in unsure


def _since(store: Store, file_id: str) -> datetime | None:
    rows = store.ledger.rows(_last_hold(file_id, transitions.c.at))
    return rows[0]["at"] if rows else None


def _last_hold(file_id: str, column):
    return (
        select(column)
        .where(transitions.c.file_id == file_id, transitions.c.to_state == FileState.HELD)
        .order_by(transitions.c.id.desc())
        .limit(1)
    )
