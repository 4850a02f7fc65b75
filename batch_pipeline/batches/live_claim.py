"""Which late request files are asked live now, and by whom: the ledger's side of asking live."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, or_, select, update

from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.store.budget import Caps, Over, reserve, what_is_over
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.live import live_id
from batch_pipeline.store.tables import FileState, endpoints, request_files

FULL_PRICE = 2
"""What the Messages API costs, in prices of a batch; nothing that a request pays costs more than that (docs Pricing)."""


@dataclass
class Claimed:
    """What was claimed: the ids of the files, and what a cap does not let through, a line for each submission."""

    files: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)


def at_full_price(caps: Caps) -> Caps:
    """Return the same caps with what files may cost when they are asked live."""

    def full(file: Mapping[str, Any] | RowMapping) -> int | None:
        # Calls that begin together find nothing in the cache: none is taken to read what another wrote.
        found = caps.reserve({**file, "weight": _without_hits(file["weight"])})
        return None if found is None else FULL_PRICE * found

    return replace(caps, reserve=full)


def _without_hits(weight: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a weight of which no text is read from the cache."""
    if weight is None:
        return None
    others = [_without_hits(one) for one in weight.get("others") or ()]
    return {**weight, "hits_p99": 0.0, **({"others": others} if others else {})}


def claim_late(
    ledger: Ledger, files: Sequence[RowMapping], owner: str, policy: SendPolicy, caps: Caps
) -> Claimed:
    """Take the late files that the caps let through at full price; what they may cost is reserved.

    Args:
        ledger: the ledger.
        files: late files of one scope, as they were seen.
        owner: who takes them.
        policy: how long one owner may take over one call.
        caps: what may be spent.
    """
    claimed = Claimed()
    now = ledger.clock.now()
    with ledger.write() as tx:
        # One claim at a time, as in `claim`.
        tx.execute(select(endpoints.c.id).order_by(endpoints.c.id).with_for_update())
        for together in in_turn(_still_ready(tx, files), caps):
            one = together[0]
            if (over := over_at_full_price(tx, ledger, together, caps)) is not None:
                claimed.over.append(said_over(one, over))
                continue
            reserve(tx, together, at_full_price(caps), anew=True)
            for file in together:
                ledger.move(
                    tx,
                    file["id"],
                    FileState.READY,
                    FileState.ASKING,
                    "late: its requests are asked live",
                    owner=owner,
                    lease_until=now + timedelta(seconds=policy.lease_seconds),
                    attempts=file["attempts"] + 1,
                    batch_id=live_id(file["submission_id"], file["seq"]),
                    batch_created_at=now,
                    first_sent_at=now,
                    sent_at=now,
                    attempt_ended_at=None,
                    not_before=None,
                    error=None,
                    label=policy.label,
                )
                claimed.files.append(file["id"])
    return claimed


def over_at_full_price(
    tx: Connection, ledger: Ledger, together: Sequence[RowMapping], caps: Caps
) -> Over | None:
    """Return which cap some files would pass if they were asked live now; None when they fit."""
    return what_is_over(tx, ledger.clock.now(), together, at_full_price(caps), anew=True)


def said_over(file: RowMapping, over: Over) -> str:
    """Return in words that files of a submission do not fit at full price."""
    return (
        f"submission {file['number']} of {file['pipeline']} at full price: {over.figures}; it is not asked live, and "
        "is answered in a batch"
    )


def in_turn(files: Sequence[RowMapping], caps: Caps) -> list[list[RowMapping]]:
    """Return files as the caps go over them: with ``trim`` each by itself, else by submission."""
    if caps.over == "trim":
        return [[file] for file in files]
    found: dict[str, list[RowMapping]] = {}
    for file in files:
        found.setdefault(file["submission_id"], []).append(file)
    return list(found.values())


def take(ledger: Ledger, file: RowMapping, owner: str, policy: SendPolicy) -> RowMapping | None:
    """Take a file that is asked live, if nobody does so now; whose asker is gone is taken over.

    Returns:
        Its row, with this owner's lease; None when it is somebody else's, or not due.
    """
    now = ledger.clock.now()
    free = or_(
        request_files.c.owner.is_(None),
        request_files.c.owner == owner,
        request_files.c.lease_until < now,
    )
    due = or_(request_files.c.not_before.is_(None), request_files.c.not_before <= now)
    with ledger.write() as tx:
        return (
            tx.execute(
                update(request_files)
                .where(
                    request_files.c.id == file["id"],
                    request_files.c.state == FileState.ASKING,
                    free,
                    due,
                )
                .values(
                    owner=owner,
                    lease_until=now + timedelta(seconds=policy.lease_seconds),
                    not_before=None,
                )
                .returning(request_files)
            )
            .mappings()
            .first()
        )


def let_go(ledger: Ledger, file: RowMapping, wait_seconds: float, error: str | None) -> None:
    """Leave a file to whoever asks what is left of it, no earlier than in some seconds."""
    with ledger.write() as tx:
        tx.execute(
            update(request_files)
            .where(
                request_files.c.id == file["id"],
                request_files.c.state == FileState.ASKING,
                request_files.c.owner == file["owner"],
            )
            .values(
                owner=None,
                lease_until=None,
                not_before=ledger.clock.now() + timedelta(seconds=wait_seconds),
                error=error,
            )
        )


def _still_ready(tx: Connection, files: Sequence[RowMapping]) -> list[RowMapping]:
    query = (
        select(request_files)
        .where(
            request_files.c.id.in_([file["id"] for file in files]),
            request_files.c.state == FileState.READY,
            request_files.c.first_sent_at.is_(None),
            request_files.c.cancel_requested_at.is_(None),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )
    return [*tx.execute(query).mappings().all()]
