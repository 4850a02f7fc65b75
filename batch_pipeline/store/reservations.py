"""What attempts to send may cost: reserved before each one, settled once it is known what it did cost.

``Ledger.move`` calls ``follow`` in the transaction of each step, so that no step can forget it. A
reservation counts for the month (UTC) in which its attempt began. What nobody knows keeps counting: an
attempt without reply until its batch would have shown, an answer of unknown price for good.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from batch_pipeline.store.tables import FileKind, FileState, request_files, reservations

NANO = 10**9
UNSEEN = timedelta(hours=24)  # within which a batch shows that an attempt left behind
TURNED_AWAY = (FileState.HELD, FileState.SPLIT)  # from `sending`: the API took nothing of it


@dataclass(frozen=True)
class Counted:
    """What counts for a cap, in billionths of a dollar.

    Attributes:
        spent: by attempts whose cost is known.
        reserved: for attempts whose cost is not known yet, and for files that are to be sent.
        unknown: attempts without a known cost or price: nobody can say what they add.
    """

    spent: int
    reserved: int
    unknown: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.spent + self.reserved


def month_of(moment: datetime) -> datetime:
    """Return the first instant of a moment's calendar month, UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def counted_for(
    tx: Connection,
    now: datetime,
    price: Callable[[RowMapping], int | None],
    *whose: Any,
    since: datetime | None = None,
) -> Counted:
    """Return what counts for a cap.

    Args:
        tx: a transaction.
        now: the ledger's time.
        price: what a file may cost, by today's prices: for what had no known price when it was sent.
        *whose: conditions on ``reservations``.
        since: only what was sent from then on; what is set aside for sending always counts.
    """
    is_open = and_(
        reservations.c.settled_nanousd.is_(None),
        or_(reservations.c.until.is_(None), reservations.c.until > now),
    )
    conditions = [*whose]
    if since is not None:
        conditions.append(or_(reservations.c.sent_at.is_(None), reservations.c.sent_at >= since))
    spent, reserved = tx.execute(
        select(
            func.coalesce(func.sum(reservations.c.settled_nanousd), 0),
            func.coalesce(func.sum(case((is_open, reservations.c.nanousd), else_=0)), 0),
        ).where(*conditions)
    ).one()
    unpriced = (
        tx.execute(
            select(request_files)
            .join(reservations, reservations.c.file_id == request_files.c.id)
            .where(*conditions, is_open, reservations.c.nanousd.is_(None))
        )
        .mappings()
        .all()
    )
    prices = [price(file) for file in unpriced]
    return Counted(
        int(spent),
        int(reserved) + sum(found or 0 for found in prices),
        sum(1 for found in prices if found is None),
    )


def next_attempt(file_id: str, attempts: int):
    """The condition on what is set aside for a file's next attempt."""
    return and_(
        reservations.c.file_id == file_id,
        reservations.c.attempt == attempts + 1,
        reservations.c.sent_at.is_(None),
    )


def follow(tx: Connection, file: RowMapping, come_from: str, to: str, now: datetime) -> None:
    """Let the reservations of a file follow a step it has just taken.

    Args:
        tx: the transaction of the step.
        file: its row, after the step.
        come_from: where it came from.
        to: where it is now.
        now: the ledger's time.
    """
    mine = reservations.c.file_id == file["id"]
    latest = and_(
        mine,
        reservations.c.attempt == file["attempts"],
        reservations.c.settled_nanousd.is_(None),
    )
    ahead = next_attempt(file["id"], file["attempts"])
    match come_from, to:
        case FileState.READY, FileState.SENDING | FileState.ASKING:
            tx.execute(update(reservations).where(latest).values(sent_at=now))
        case (
            FileState.SENDING,
            FileState.READY,
        ):  # turned away; what was reserved is for the next try
            tx.execute(
                update(reservations)
                .where(latest)
                .values(attempt=file["attempts"] + 1, sent_at=None, until=None)
            )
        case FileState.SENDING, _ if to in TURNED_AWAY:
            tx.execute(update(reservations).where(latest).values(settled_nanousd=0, settled_at=now))
        case (
            _,
            FileState.READY,
        ):  # from unknown or held: this attempt may have been paid all the same
            until = file["watch_until"] or now + UNSEEN
            tx.execute(update(reservations).where(latest).values(until=until))
        case _, FileState.IN_PROGRESS:
            _is_at_the_api(tx, file, now)
        case _, FileState.COLLECTED:
            tx.execute(delete(reservations).where(ahead))
            _settle(tx, file, and_(latest, reservations.c.until.is_(None)), now)
        case FileState.READY, _:  # withdrawn, or held: it is not sent
            tx.execute(delete(reservations).where(ahead))
        case _:
            pass  # in doubt, or on its way: it counts as it stands


def _is_at_the_api(tx: Connection, file: RowMapping, now: datetime) -> None:
    """Let what was reserved for an attempt count as sent, whatever was thought of it before."""
    sent = {"until": None, "endpoint_id": file["endpoint_id"]}
    attempt = (reservations.c.file_id == file["id"], reservations.c.attempt == file["attempts"])
    ahead = next_attempt(file["id"], file["attempts"])
    found = tx.execute(
        update(reservations).where(*attempt).values(settled_nanousd=None, settled_at=None, **sent)
    ).rowcount
    if found:
        tx.execute(delete(reservations).where(ahead))
        return
    # It had been turned away, by the API's word, and was about to be sent again.
    sent_at = file["sent_at"] or now
    found = tx.execute(
        update(reservations).where(ahead).values(attempt=file["attempts"], sent_at=sent_at, **sent)
    ).rowcount
    if not found:
        tx.execute(
            insert(reservations).values(
                file_id=file["id"],
                attempt=file["attempts"],
                submission_id=file["submission_id"],
                pipeline=file["pipeline"],
                sent_at=sent_at,
                **sent,
            )
        )


def _settle(tx: Connection, file: RowMapping, which: Any, now: datetime) -> None:
    """Put what an attempt cost in the place of what was reserved for it."""
    cost, unknown = file["cost_nanousd"] or 0, file["cost_unknown"] or 0
    for row in tx.execute(select(reservations).where(which)).mappings().all():
        settled: int | None = cost
        if unknown:
            # Of what has no known cost, its part of the reservation goes on counting.
            part = row["nanousd"] and -(-row["nanousd"] * unknown // max(file["requests"], 1))
            settled = None if part is None else cost + part
        tx.execute(
            update(reservations)
            .where(
                reservations.c.file_id == row["file_id"],
                reservations.c.attempt == row["attempt"],
            )
            .values(settled_nanousd=settled, settled_at=now if settled is not None else None)
        )


def adopt(tx: Connection, file: RowMapping, late_id: str, made_at: datetime | None) -> None:
    """Let a second batch of a file have what was reserved for the attempt that it came from.

    Args:
        tx: the transaction that writes the batch down.
        file: the file that both were made from.
        late_id: the batch's own row.
        made_at: when the batch was made.
    """
    mine = reservations.c.file_id == file["id"]
    rows = (
        tx.execute(select(reservations).where(mine).order_by(reservations.c.attempt))
        .mappings()
        .all()
    )
    doubtful = [row for row in rows if row["settled_nanousd"] is None and row["until"] is not None]
    if doubtful:
        tx.execute(
            update(reservations)
            .where(mine, reservations.c.attempt == doubtful[0]["attempt"])
            .values(file_id=late_id, attempt=0, until=None)
        )
        return
    tx.execute(
        insert(reservations).values(
            file_id=late_id,
            attempt=0,
            submission_id=file["submission_id"],
            pipeline=file["pipeline"],
            endpoint_id=file["endpoint_id"],
            nanousd=rows[-1]["nanousd"] if rows else None,
            sent_at=made_at or file["sent_at"],
        )
    )


def hand_on(tx: Connection, file: RowMapping, part_id: str, requests: int) -> None:
    """Let a part of a file that was cut keep its share of what was set aside for the whole.

    Args:
        tx: the transaction that cuts it.
        file: the whole, as it was when it was claimed.
        part_id: the part's own row.
        requests: of the part.
    """
    whole = reservations.c.file_id == file["id"], reservations.c.attempt == file["attempts"]
    row = tx.execute(select(reservations).where(*whole)).mappings().first()
    if row is None:
        return
    share = row["nanousd"] and -(-row["nanousd"] * requests // file["requests"])
    own = {"file_id": part_id, "attempt": 1, "nanousd": share, "caps": row["caps"]}
    same = {name: row[name] for name in ("submission_id", "pipeline", "endpoint_id")}
    tx.execute(insert(reservations).values(**own, **same))


def hand_on_live(
    tx: Connection, file: RowMapping, part_id: str, requests: int, now: datetime, *, lost: bool
) -> None:
    """Let a part of a file that was asked live have its share of what was reserved for the whole.

    Args:
        tx: the transaction that cuts it.
        file: the whole.
        part_id: the part's own row, of the same attempt.
        requests: of the part.
        now: the ledger's time.
        lost: nobody knows what was paid of it, and nobody ever will: all of it goes on counting.
    """
    whole = reservations.c.file_id == file["id"], reservations.c.attempt == file["attempts"]
    row = tx.execute(select(reservations).where(*whole)).mappings().first()
    if row is None:
        return
    share = row["nanousd"] and -(-row["nanousd"] * requests // file["requests"])
    settled = {"settled_nanousd": share, "settled_at": now} if lost and share is not None else {}
    tx.execute(
        insert(reservations).values(**{**row, "file_id": part_id, "nanousd": share, **settled})
    )


def reserve_for_what_was_sent(tx: Connection) -> None:
    """Write down what is known of files that were sent and have no reservation.

    They are of an earlier version, or of a ledger that was made again.
    """
    known = and_(
        request_files.c.state == FileState.COLLECTED,
        func.coalesce(request_files.c.cost_unknown, 0) == 0,
    )
    sent_at = func.coalesce(
        request_files.c.sent_at,
        request_files.c.batch_created_at,
        request_files.c.first_sent_at,
        request_files.c.ended_at,
        request_files.c.collected_at,
    )
    was_sent = or_(
        request_files.c.batch_id.is_not(None),
        request_files.c.state.in_([FileState.SENDING, FileState.UNKNOWN]),
    )
    reserved = select(reservations.c.file_id)
    tx.execute(
        insert(reservations).from_select(
            ["file_id", "attempt", "submission_id", "pipeline", "endpoint_id", "sent_at",
             "settled_nanousd", "settled_at"],
            select(
                request_files.c.id,
                request_files.c.attempts,
                request_files.c.submission_id,
                request_files.c.pipeline,
                request_files.c.endpoint_id,
                sent_at,
                case((known, func.coalesce(request_files.c.cost_nanousd, 0)), else_=None),
                case((known, request_files.c.collected_at), else_=None),
            ).where(
                request_files.c.kind.in_([FileKind.BATCH, FileKind.LATE]),
                was_sent,
                request_files.c.id.not_in(reserved),
            ),
        )
    )  # fmt: skip


def forget_reservations(tx: Connection, file_id: str) -> None:
    """Take away what was reserved for a file of which the store's files know more than the ledger did."""
    tx.execute(delete(reservations).where(reservations.c.file_id == file_id))


def usd(nanousd: int) -> str:
    """Return a sum in dollars, as a message says it: to the cent, small ones to four digits."""
    dollars = nanousd / NANO
    return f"${dollars:,.2f}" if dollars >= 10 or not nanousd else f"${dollars:,.4f}"
