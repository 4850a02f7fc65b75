"""What the ledger says of requests that are asked live: each written down before its call, and its reply after it.

The Messages API has no list in which a lost reply could be looked for. So what is here without a reply, and
whose asker is gone, may have been paid, and is never asked again but by a person's word.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import LIVE, FileState, live_requests, request_files

AT_ONCE = 200  # replies that are read into memory together


def live_id(submission: str, seq: int) -> str:
    """Return what stands in the place of a batch's id for a file that is asked live."""
    return f"{LIVE}{submission}_{seq:05d}"


def note_asking(ledger: Ledger, file: RowMapping, custom_id: str, lease_seconds: float) -> bool:
    """Write down that a request is asked now, before it is, and renew the lease on its file.

    Returns:
        False, and nothing is written: the file is not this owner's any more, a person cancelled it, or the
        request was asked already. It must not be asked.
    """
    now = ledger.clock.now()
    try:
        with ledger.write() as tx:
            held = tx.execute(
                update(request_files)
                .where(
                    *mine(file),
                    request_files.c.lease_until >= now,
                    request_files.c.cancel_requested_at.is_(None),
                )
                .values(lease_until=now + timedelta(seconds=lease_seconds))
            ).rowcount
            if held:
                tx.execute(
                    insert(live_requests).values(
                        file_id=file["id"], custom_id=custom_id, owner=file["owner"], asked_at=now
                    )
                )
            return bool(held)
    except IntegrityError:
        return False


def note_not_taken(ledger: Ledger, file: RowMapping, custom_id: str) -> None:
    """Write down that a request was turned away, and is not billed: it may be asked again."""
    with ledger.write() as tx:
        tx.execute(
            delete(live_requests).where(
                live_requests.c.file_id == file["id"],
                live_requests.c.custom_id == custom_id,
                live_requests.c.owner == file["owner"],
                live_requests.c.line.is_(None),
            )
        )


def note_reply(ledger: Ledger, file: RowMapping, custom_id: str, line: bytes) -> None:
    """Write down the reply to a request; also when another process took the file over meanwhile.

    The part of the file that holds it may be another file by then, which waits for a person.
    """
    of_submission = select(request_files.c.id).where(
        request_files.c.submission_id == file["submission_id"]
    )
    with ledger.write() as tx:
        tx.execute(
            update(live_requests)
            .where(
                live_requests.c.file_id.in_(of_submission),
                live_requests.c.custom_id == custom_id,
                live_requests.c.owner == file["owner"],
                live_requests.c.line.is_(None),
            )
            .values(line=line, replied_at=ledger.clock.now(), error=None)
        )


def note_lost(ledger: Ledger, file: RowMapping, custom_id: str, error: str) -> None:
    """Write down why there is no reply to a request that may have been paid."""
    with suppress(IntegrityError), ledger.write() as tx:
        tx.execute(
            update(live_requests)
            .where(
                live_requests.c.file_id == file["id"],
                live_requests.c.custom_id == custom_id,
                live_requests.c.line.is_(None),
            )
            .values(error=error)
        )


def asked(ledger: Ledger, file_id: str) -> dict[str, bool]:
    """Return the requests of a file that were asked, by custom_id, each with whether its reply is here."""
    rows = ledger.rows(
        select(live_requests.c.custom_id, live_requests.c.line.is_not(None).label("replied")).where(
            live_requests.c.file_id == file_id
        )
    )
    return {row["custom_id"]: bool(row["replied"]) for row in rows}


def why_lost(ledger: Ledger, file_id: str) -> str | None:
    """Return why one of the requests of a file has no reply; None when nobody wrote that down."""
    rows = ledger.rows(
        select(live_requests.c.error)
        .where(live_requests.c.file_id == file_id, live_requests.c.error.is_not(None))
        .limit(1)
    )
    return rows[0]["error"] if rows else None


def replies(ledger: Ledger, file_id: str, custom_ids: list[str]) -> Iterator[bytes]:
    """Yield the replies to some requests, as lines of a batch's results, in their order."""
    for start in range(0, len(custom_ids), AT_ONCE):
        some = custom_ids[start : start + AT_ONCE]
        rows = ledger.rows(
            select(live_requests.c.custom_id, live_requests.c.line).where(
                live_requests.c.file_id == file_id, live_requests.c.custom_id.in_(some)
            )
        )
        found = {row["custom_id"]: row["line"] for row in rows}
        yield from (found[one] for one in some)


def forget(tx: Connection, file_id: str) -> None:
    """Take away the requests of a file whose replies are in the store."""
    tx.execute(delete(live_requests).where(live_requests.c.file_id == file_id))


def hand_over(tx: Connection, file_id: str, part_id: str, custom_ids: list[str]) -> None:
    """Let a part of a file that was cut have its requests."""
    for start in range(0, len(custom_ids), AT_ONCE):
        tx.execute(
            update(live_requests)
            .where(
                live_requests.c.file_id == file_id,
                live_requests.c.custom_id.in_(custom_ids[start : start + AT_ONCE]),
            )
            .values(file_id=part_id)
        )


def mine(file: RowMapping):
    """The conditions under which a file that is asked live is still its owner's."""
    return (
        request_files.c.id == file["id"],
        request_files.c.state == FileState.ASKING,
        request_files.c.owner == file["owner"],
    )
