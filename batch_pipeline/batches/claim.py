"""Which request file may be sent now, and by whom: the ledger's side of sending."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.batches.cancel import withdraw
from batch_pipeline.batches.clocks import put_right
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.store.budget import (
    NO_CAPS,
    Caps,
    fits_now,
    hold,
    is_approved,
    reserve,
    use_approval,
    what_is_over,
)
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.queue import (
    candidate_sizes,
    doubtful_sizes,
    hold_of,
    queued_requests,
)
from batch_pipeline.store.seeds import behind_a_seed
from batch_pipeline.store.submissions import Endpoint, Scope
from batch_pipeline.store.tables import (
    FileKind,
    FileState,
    endpoints,
    holds,
    request_files,
)


@dataclass(frozen=True)
class Room:
    """Why nothing was claimed."""

    waiting: int  # files of this scope that are ready, now or later
    reason: str
    over_budget: tuple[str, ...] = ()  # what a cap holds back, a line for each submission


def claim(
    ledger: Ledger, scope: Scope, owner: str, policy: SendPolicy, caps: Caps = NO_CAPS
) -> RowMapping | Room:
    """Take the next file of a scope to send, in order, if the endpoint's queue has room for it.

    What it may cost is reserved in the same transaction; with a cap that holds, for all of its
    submission, so that none is held when half of it is sent. What does not fit is written down as held.

    Files whose outcome is being found out keep their request count to themselves: no other file of
    that size is sent meanwhile, so that a batch in the list points to one file.

    Returns:
        The claimed row, in state ``sending`` with this owner's lease; or why there is none.
    """
    now = ledger.clock.now()
    over: dict[str, str] = {}
    with ledger.write() as tx:
        # One claim at a time per endpoint: PostgreSQL locks this row, SQLite the whole ledger. A
        # pipeline's cap counts for all its endpoints, so there it is one claim at a time.
        mine = [] if caps.any else [endpoints.c.id == scope.endpoint.id]
        tx.execute(select(endpoints.c.id).where(*mine).order_by(endpoints.c.id).with_for_update())
        _expire_leases(ledger, tx, scope.endpoint)
        ready = [
            row
            for row in _ready(tx, scope)
            # It was turned away after a person had cancelled it.
            if row["cancel_requested_at"] is None or not withdraw(ledger, tx, row["id"], now)
        ]
        due = [row for row in ready if row["not_before"] is None or row["not_before"] <= now]
        queued = queued_requests(tx, scope.endpoint)
        doubtful = doubtful_sizes(tx, scope.endpoint)
        found = candidate_sizes(tx, scope.endpoint)
        seeded, _ = behind_a_seed(tx, scope.pipeline, scope.endpoint, now)
        for row in due:
            if row["id"] in seeded:
                continue
            if row["requests"] in doubtful or (row["resent_at"] and row["requests"] in found):
                continue
            if row["submission_id"] in over and caps.over == "hold":
                continue
            if queued and queued + row["requests"] > policy.max_queued_requests:
                return Room(
                    len(ready),
                    f"{queued:,} requests are queued at the API, room for "
                    f"{policy.max_queued_requests:,}",
                    tuple(over.values()),
                )
            together = [row] if caps.over == "trim" else _of_same_submission(row, ready)
            rest = len(_of_same_submission(row, ready)) - len(together)
            if (reason := _reserve(ledger, tx, together, rest, caps)) is not None:
                over[row["submission_id"]] = reason
                continue
            taken = ledger.move(
                tx,
                row["id"],
                FileState.READY,
                FileState.SENDING,
                f"attempt {row['attempts'] + 1}",
                owner=owner,
                lease_until=now + timedelta(seconds=policy.lease_seconds),
                attempts=row["attempts"] + 1,
                first_sent_at=row["first_sent_at"] or now,
                sent_at=now,
                attempt_ended_at=None,
                not_before=None,
                label=policy.label,
            )
            assert taken, "the row was read in this transaction"
            return (
                tx.execute(select(request_files).where(request_files.c.id == row["id"]))
                .mappings()
                .one()
            )
    if over:
        return Room(len(ready), "; ".join(over.values()), tuple(over.values()))
    if seeded and all(row["id"] in seeded for row in due):
        return Room(len(ready), "they wait until the request that fills the cache is answered")
    if due:
        return Room(len(ready), "files of the same size are being reconciled")
    return Room(len(ready), "waiting after the API turned them away" if ready else "all is sent")


def _of_same_submission(row: RowMapping, ready: Sequence[RowMapping]) -> list[RowMapping]:
    """Return the ready files of a file's submission."""
    return [one for one in ready if one["submission_id"] == row["submission_id"]]


def _reserve(
    ledger: Ledger, tx: Connection, files: Sequence[RowMapping], rest: int, caps: Caps
) -> str | None:
    """Set aside what files of one submission may cost; return why they are held, if they do not fit.

    ``rest`` tells how many of its files are ready besides.
    """
    now, submission = ledger.clock.now(), files[0]["submission_id"]
    if (over := what_is_over(tx, now, files, caps)) is None:
        if not rest:
            fits_now(ledger, tx, submission)
    elif is_approved(tx, submission):
        files = _all_ready(tx, submission)
        use_approval(ledger, tx, submission)
    else:
        return hold(ledger, tx, files[0], over, caps)
    reserve(tx, files, caps)
    return None


def _all_ready(tx: Connection, submission: str) -> Sequence[RowMapping]:
    query = select(request_files).where(
        request_files.c.submission_id == submission,
        request_files.c.kind == FileKind.BATCH,
        request_files.c.state == FileState.READY,
    )
    return tx.execute(query).mappings().all()


def expire_leases(ledger: Ledger, endpoint: Endpoint) -> None:
    """Turn files whose sender is gone into files whose outcome is unknown."""
    put_right(ledger)
    with ledger.write() as tx:
        _expire_leases(ledger, tx, endpoint)


def hold_pipeline(ledger: Ledger, scope: Scope, reason: str) -> None:
    """Write down that the API refuses a pipeline's account, until something is accepted again."""
    with suppress(IntegrityError), ledger.write() as tx:  # another process may say so, too
        tx.execute(delete(holds).where(*_held(scope)))
        tx.execute(
            insert(holds).values(
                pipeline=scope.pipeline,
                endpoint_id=scope.endpoint.id,
                reason=reason,
                since=ledger.clock.now(),
            )
        )


def release_pipeline(ledger: Ledger, scope: Scope) -> None:
    """The API accepts again."""
    if hold_of(ledger, scope.pipeline, scope.endpoint):
        with ledger.write() as tx:
            tx.execute(delete(holds).where(*_held(scope)))


def _held(scope: Scope):
    return holds.c.pipeline == scope.pipeline, holds.c.endpoint_id == scope.endpoint.id


def _ready(tx: Connection, scope: Scope) -> Sequence[RowMapping]:
    query = (
        select(request_files)
        .where(
            request_files.c.pipeline == scope.pipeline,
            request_files.c.partition == scope.partition,
            request_files.c.endpoint_id == scope.endpoint.id,
            request_files.c.kind == FileKind.BATCH,
            request_files.c.state == FileState.READY,
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )
    return tx.execute(query).mappings().all()


def _expire_leases(ledger: Ledger, tx: Connection, endpoint: Endpoint) -> None:
    now = ledger.clock.now()
    expired = tx.execute(
        select(request_files.c.id, request_files.c.lease_until).where(
            request_files.c.endpoint_id == endpoint.id,
            request_files.c.state == FileState.SENDING,
            request_files.c.lease_until < now,
        )
    ).all()
    for row in expired:
        # The attempt may have gone on until the lease ran out, so that is when it ended.
        ledger.move(
            tx,
            row.id,
            FileState.SENDING,
            FileState.UNKNOWN,
            "its sender is gone: nobody knows whether the API took it",
            request_files.c.lease_until == row.lease_until,
            attempt_ended_at=row.lease_until,
            owner=None,
        )


def postpone(ledger: Ledger, file_id: str, seconds: float, error: str | None = None) -> None:
    """Look at a file again no earlier than in ``seconds``."""
    values: dict = {"not_before": ledger.clock.now() + timedelta(seconds=seconds)}
    if error is not None:
        values["error"] = error
    with ledger.write() as tx:
        tx.execute(update(request_files).where(request_files.c.id == file_id).values(**values))
