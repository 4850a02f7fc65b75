"""Caps: whether what is to be sent fits, what is held because it does not, and who let it through.

The same question is answered where a file is claimed for sending, inside the transaction that reserves
for it, and at each tick of a sensor, which only reads: so a submission goes on by itself as soon as the
month has turned or the cap was raised, and no run is launched for it before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from batch_pipeline.errors import counted
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.reservations import Counted, counted_for, month_of, next_attempt, usd
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileState, approvals, request_files, reservations

NIGHT = timedelta(hours=20)
"""With `trim`, what a submission's cap lets through counts for so long: the rest is for the next night."""
CAPS = ("per_submission_usd", "per_month_usd", "ClaudeBatches(per_month_usd)")


@dataclass(frozen=True)
class Caps:
    """What may be spent, in billionths of a dollar; None: no such cap.

    Attributes:
        per_submission: for one submission of the pipeline.
        per_month: for the pipeline, in a calendar month (UTC).
        endpoint_per_month: for all pipelines at the endpoint, in a calendar month (UTC).
        over: what becomes of what does not fit: it is held for a person, or it waits for the next night.
        reserve: what a request file may cost, from its ledger row; None: no price is known.
        unpriced: what to do when no price is known, in words.
    """

    per_submission: int | None = None
    per_month: int | None = None
    endpoint_per_month: int | None = None
    over: Literal["hold", "trim"] = "hold"
    reserve: Callable[[Mapping[str, Any] | RowMapping], int | None] = lambda _: None
    unpriced: str = "set a price"

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """The caps, in the order of `CAPS`."""
        return self.per_submission, self.per_month, self.endpoint_per_month

    @property
    def any(self) -> bool:
        """Whether there is a cap at all."""
        return any(limit is not None for limit in self.limits)

    def to_store(self) -> dict[str, int | None]:
        """Return the caps for the ledger."""
        return dict(zip(CAPS, self.limits, strict=True))

    def are_lower_than(self, stored: dict[str, int | None] | None) -> bool:
        """Whether a cap is lower, or new, since it was written into the ledger."""
        before = stored or {}
        for name, limit in zip(CAPS, self.limits, strict=True):
            earlier = before.get(name)
            if limit is not None and (earlier is None or limit < earlier):
                return True
        return False


NO_CAPS = Caps()


@dataclass(frozen=True)
class Over:
    """Why something is not sent: the figures, in billionths of a dollar.

    Attributes:
        cap: which cap, as it is declared.
        cap_nanousd: how much that is.
        spent: what counts for it and is paid.
        reserved: what counts for it and is not settled.
        asked: what would come to it; None: no price is known.
        why: in words, if it is for another reason than the sum.
    """

    cap: str
    cap_nanousd: int
    spent: int
    reserved: int
    asked: int | None
    why: str = ""

    @property
    def figures(self) -> str:
        """The figures in words."""
        asked = "of unknown price" if self.asked is None else usd(self.asked)
        text = (
            f"cap {self.cap} {usd(self.cap_nanousd)}, spent {usd(self.spent)}, reserved {usd(self.reserved)}, "
            f"this submission {asked}"
        )
        return f"{text}: {self.why}" if self.why else text


@dataclass(frozen=True)
class HeldSubmission:
    """A submission that a cap holds back."""

    submission: str
    pipeline: str
    partition: str
    number: int
    since: datetime
    over: str
    cap: str
    cap_usd: float
    spent_usd: float
    reserved_usd: float
    asked_usd: float | None
    files: int
    requests: int
    reason: str

    @property
    def waits_for_a_person(self) -> bool:
        """Whether a person decides; else it waits for the next night, or the next month."""
        return self.over == "hold"

    @property
    def todo(self) -> str:
        """What a person does about it."""
        return (
            f"to let this submission through once: batch-pipeline held {self.pipeline} --release (or run "
            f"{self.pipeline}_send with approve: true); or raise the cap; a cap on the month has room again next month"
        )


def what_is_over(
    tx: Connection, now: datetime, files: Sequence[RowMapping], caps: Caps, *, anew: bool = False
) -> Over | None:
    """Return which cap some ready files would pass; None when they fit.

    Args:
        tx: a transaction.
        now: the ledger's time.
        files: ready files of one submission; with ``hold`` all of them, with ``trim`` one.
        caps: what may be spent.
        anew: compare also what was set aside before, because it has another price by now.
    """
    if not caps.any or not files:
        return None
    fresh: list[RowMapping] = []
    for file in files:
        kept = _kept(tx, file)
        if anew or kept is None or caps.are_lower_than(kept["caps"]):
            fresh.append(file)
    if not fresh:
        return None
    costs = [caps.reserve(file) for file in fresh]
    asked = sum(cost or 0 for cost in costs)
    one, month = files[0], month_of(now)
    of_submission = reservations.c.submission_id == one["submission_id"]
    of_pipeline = reservations.c.pipeline == one["pipeline"]
    of_endpoint = reservations.c.endpoint_id == one["endpoint_id"]
    night = now - NIGHT if caps.over == "trim" else None
    known = {
        CAPS[0]: lambda: counted_for(tx, now, caps.reserve, of_submission, since=night),
        CAPS[1]: lambda: counted_for(tx, now, caps.reserve, of_pipeline, since=month),
        CAPS[2]: lambda: counted_for(tx, now, caps.reserve, of_endpoint, since=month),
    }
    set_aside = sum(_set_aside(tx, file, caps) for file in fresh)
    for name, limit in zip(CAPS, caps.limits, strict=True):
        if limit is None:
            continue
        found = known[name]()
        # What is set aside for these files is what is asked about, and no other's.
        found = Counted(found.spent, found.reserved - set_aside, found.unknown)
        if None in costs:
            return Over(name, limit, found.spent, found.reserved, None, caps.unpriced)
        if found.unknown:
            why = (
                f"what {counted(found.unknown, 'file')} sent before costs is not known (yet), so nobody can tell what is "
                "left"
            )
            return Over(name, limit, found.spent, found.reserved, asked, why)
        if found.total + asked > limit:
            return Over(name, limit, found.spent, found.reserved, asked)
    return None


def _kept(tx: Connection, file: RowMapping) -> RowMapping | None:
    """Return what is set aside for a file's next attempt."""
    query = select(reservations).where(next_attempt(file["id"], file["attempts"]))
    return tx.execute(query).mappings().first()


def _set_aside(tx: Connection, file: RowMapping, caps: Caps) -> int:
    """Return what counts already for a file's next attempt: by today's price, if there was none."""
    kept = _kept(tx, file)
    if kept is None:
        return 0
    return (caps.reserve(file) if kept["nanousd"] is None else kept["nanousd"]) or 0


def reserve(tx: Connection, files: Sequence[RowMapping], caps: Caps, *, anew: bool = False) -> None:
    """Set aside what some ready files of one submission may cost, as far as that was not done; ``anew``: in any case."""
    for file in files:
        nanousd, kept = caps.reserve(file), _kept(tx, file)
        values: dict[str, Any] = {"nanousd": nanousd, "caps": caps.to_store()}
        if kept is not None:
            if anew or caps.are_lower_than(kept["caps"]):
                tx.execute(
                    update(reservations)
                    .where(next_attempt(file["id"], file["attempts"]))
                    .values(**values)
                )
            continue
        tx.execute(
            insert(reservations).values(
                file_id=file["id"],
                attempt=file["attempts"] + 1,
                submission_id=file["submission_id"],
                pipeline=file["pipeline"],
                endpoint_id=file["endpoint_id"],
                **values,
            )
        )


def is_approved(tx: Connection, submission_id: str) -> bool:
    """Whether a person lets a submission through, and that was not used yet."""
    row = _approval(tx, submission_id)
    return bool(row and row["approved_at"] and not row["used_at"])


def is_held(tx: Connection, submission_id: str) -> bool:
    """Whether it is written down that a cap holds a submission back, and nobody has let it through."""
    row = _approval(tx, submission_id)
    return bool(row and not row["approved_at"])


def use_approval(ledger: Ledger, tx: Connection, submission_id: str) -> None:
    """Write down that an approval has let its submission through: it does so once."""
    row = _approval(tx, submission_id)
    assert row is not None
    tx.execute(
        update(approvals)
        .where(approvals.c.submission_id == submission_id)
        .values(used_at=ledger.clock.now())
    )
    _note(ledger, tx, row, "approved", "let through", f"as {row['approved_by']} had approved")


def hold(ledger: Ledger, tx: Connection, file: RowMapping, over: Over, caps: Caps) -> str:
    """Write down that a submission does not fit; return what is said of it."""
    row = _approval(tx, file["submission_id"])
    # To wait helps nothing that has no price, or that no empty cap would let through.
    decides = caps.over == "hold" or over.asked is None or over.asked > over.cap_nanousd
    waits = "it is held for approval" if decides else "the rest waits for the next night"
    reason = f"submission {file['number']} of {file['pipeline']}: {over.figures}; {waits}"
    values: dict[str, Any] = {
        "over": "hold" if decides else "trim",
        "cap": over.cap,
        "cap_nanousd": over.cap_nanousd,
        "spent_nanousd": over.spent,
        "reserved_nanousd": over.reserved,
        "asked_nanousd": over.asked,
        "reason": reason,
    }
    mine = approvals.c.submission_id == file["submission_id"]
    if row is not None and row["used_at"] is None:
        tx.execute(update(approvals).where(mine).values(**values))
        return reason
    tx.execute(delete(approvals).where(mine))
    tx.execute(
        insert(approvals).values(
            submission_id=file["submission_id"],
            pipeline=file["pipeline"],
            partition=file["partition"],
            endpoint_id=file["endpoint_id"],
            number=file["number"],
            since=ledger.clock.now(),
            **values,
        )
    )
    _note(ledger, tx, file, None, "over budget", reason)
    return reason


def fits_now(ledger: Ledger, tx: Connection, submission_id: str) -> None:
    """Write down that a submission which was held goes on by itself."""
    row = _approval(tx, submission_id)
    if row is not None and row["used_at"] is None:
        tx.execute(delete(approvals).where(approvals.c.submission_id == submission_id))
        _note(ledger, tx, row, "over budget", "goes on", "it fits into the caps now")


def approve(
    store: Store, pipeline: str, by: str, partition: str | None = None
) -> list[HeldSubmission]:
    """Let every submission of a pipeline that a cap holds back through, once.

    Args:
        store: where the ledger is.
        pipeline: its name.
        by: who says so.
        partition: only of this one; None: of all.

    Returns:
        What was approved.
    """
    approved: list[HeldSubmission] = []
    for one in over_budget(store, pipeline):
        if partition is not None and one.partition != partition:
            continue
        mine = (
            approvals.c.submission_id == one.submission,
            approvals.c.approved_at.is_(None),
            approvals.c.used_at.is_(None),
        )
        with store.ledger.write() as tx:
            row = tx.execute(select(approvals).where(*mine)).mappings().first()
            if row is None:
                continue
            tx.execute(
                update(approvals).where(*mine).values(approved_at=store.clock.now(), approved_by=by)
            )
            _note(store.ledger, tx, row, "over budget", "approved", f"by {by}: {one.reason}")
        approved.append(one)
    return approved


def over_budget(store: Store, pipeline: str | None = None) -> list[HeldSubmission]:
    """Return the submissions that a cap holds back and nobody has let through, oldest first."""
    rows = store.ledger.rows(
        select(approvals)
        .where(
            approvals.c.approved_at.is_(None),
            *([approvals.c.pipeline == pipeline] if pipeline else []),
        )
        .order_by(approvals.c.since, approvals.c.number)
    )
    found: list[HeldSubmission] = []
    for row in rows:
        files = store.ledger.rows(
            select(request_files.c.requests).where(
                request_files.c.submission_id == row["submission_id"],
                request_files.c.state == FileState.READY,
            )
        )
        if not files:
            continue  # cancelled meanwhile
        asked = row["asked_nanousd"]
        found.append(
            HeldSubmission(
                row["submission_id"],
                row["pipeline"],
                row["partition"],
                row["number"],
                row["since"],
                row["over"],
                row["cap"],
                row["cap_nanousd"] / 1e9,
                row["spent_nanousd"] / 1e9,
                row["reserved_nanousd"] / 1e9,
                None if asked is None else asked / 1e9,
                len(files),
                sum(file["requests"] for file in files),
                row["reason"],
            )
        )
    return found


def _approval(tx: Connection, submission_id: str) -> RowMapping | None:
    query = select(approvals).where(approvals.c.submission_id == submission_id)
    return tx.execute(query).mappings().first()


def _note(
    ledger: Ledger, tx: Connection, row: RowMapping, before: str | None, after: str, note: str
) -> None:
    submission = row["submission_id"]
    ledger.record(tx, submission, row["pipeline"], row["partition"], before, after, note)
