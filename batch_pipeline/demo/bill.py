"""What the ledger says: how far a night is, and what was paid."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import func, select

from batch_pipeline.emulator.process import EmulatorProcess
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import OPEN, FileKind, FileState, request_files, submissions

NANO = Decimal(10) ** 9
SENT = (FileKind.BATCH, FileKind.LATE)
# The API charges for what it answered, whatever the answer is worth.
CHARGED = ("answered", "invalid", "truncated", "refused", "paused")


@dataclass(frozen=True)
class Tally:
    """How far a pipeline's sending and collecting is, since some submission."""

    batches: int
    batches_done: int
    requests: int
    requests_done: int
    open_files: int
    held: int


@dataclass(frozen=True)
class Bill:
    """What was sent and paid. Tokens and dollars are of the answers that are collected."""

    name: str
    batches: int
    requests: int
    charged: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    usd: Decimal
    unknown: int
    batch_ids: tuple[str, ...]


@dataclass(frozen=True)
class Quote:
    """What waits to be sent, and the most that it may cost; None when a price is not known."""

    requests: int
    usd: Decimal | None


def last_number(store: Store, pipeline: str) -> int:
    """Return the number of a pipeline's newest submission, 0 when there is none."""
    query = select(func.max(submissions.c.number)).where(submissions.c.pipeline == pipeline)
    return store.ledger.rows(query)[0]["max_1"] or 0


def tally(store: Store, pipeline: str, after: int) -> Tally:
    """Return how far a pipeline is with its submissions after a number, and what is open."""
    rows = store.ledger.rows(
        select(
            request_files.c.state,
            request_files.c.kind,
            request_files.c.requests,
            request_files.c.number,
            request_files.c.published_at,
        ).where(request_files.c.pipeline == pipeline)
    )
    files = [row for row in rows if row["number"] > after or row["state"] in OPEN]
    ours = [row for row in files if row["kind"] in SENT and row["state"] != FileState.SPLIT]
    done = [row for row in ours if row["state"] in (FileState.ENDED, FileState.COLLECTED)]
    return Tally(
        batches=len(ours),
        batches_done=len(done),
        requests=sum(row["requests"] for row in ours),
        requests_done=sum(row["requests"] for row in done),
        open_files=sum(row["state"] in OPEN and row["state"] != FileState.HELD for row in files),
        held=sum(row["state"] == FileState.HELD for row in files),
    )


def quote(store: Store, pipeline: str) -> Quote:
    """Return what waits to be sent, and its estimate."""
    ready = store.ledger.rows(
        select(request_files.c.submission_id, request_files.c.requests).where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.READY,
            request_files.c.kind == FileKind.BATCH,
        )
    )
    ids = {row["submission_id"] for row in ready}
    estimates = store.ledger.rows(
        select(submissions.c.estimate_nanousd).where(submissions.c.id.in_(ids))
    )
    known = [row["estimate_nanousd"] for row in estimates if row["estimate_nanousd"] is not None]
    usd = Decimal(sum(known)) / NANO if len(known) == len(estimates) else None
    return Quote(sum(row["requests"] for row in ready), usd)


def bill(store: Store, pipeline: str) -> Bill:
    """Return what a pipeline sent and paid so far."""
    rows = store.ledger.rows(
        select(request_files).where(
            request_files.c.pipeline == pipeline,
            request_files.c.kind.in_(SENT),
            request_files.c.batch_id.is_not(None),
        )
    )

    def tokens(name: str) -> int:
        return sum((row["tokens"] or {}).get(name, 0) for row in rows)

    return Bill(
        name=pipeline,
        batches=len(rows),
        requests=sum(row["requests"] for row in rows),
        charged=sum((row["statuses"] or {}).get(status, 0) for row in rows for status in CHARGED),
        input_tokens=tokens("input"),
        output_tokens=tokens("output"),
        cache_read_tokens=tokens("cache_read"),
        cache_write_tokens=tokens("cache_write"),
        usd=Decimal(sum(row["cost_nanousd"] or 0 for row in rows)) / NANO,
        unknown=sum(row["cost_unknown"] or 0 for row in rows),
        batch_ids=tuple(row["batch_id"] for row in rows),
    )


def total(bills: Sequence[Bill]) -> Bill:
    """Return several bills as one."""
    return Bill(
        name="total",
        batches=sum(one.batches for one in bills),
        requests=sum(one.requests for one in bills),
        charged=sum(one.charged for one in bills),
        input_tokens=sum(one.input_tokens for one in bills),
        output_tokens=sum(one.output_tokens for one in bills),
        cache_read_tokens=sum(one.cache_read_tokens for one in bills),
        cache_write_tokens=sum(one.cache_write_tokens for one in bills),
        usd=sum((one.usd for one in bills), Decimal(0)),
        unknown=sum(one.unknown for one in bills),
        batch_ids=tuple(batch for one in bills for batch in one.batch_ids),
    )


def emulators_bill(emulator: EmulatorProcess, batch_ids: Sequence[str]) -> tuple[int, Decimal]:
    """Return how many requests of these batches the emulator charged, and how much."""
    ours = set(batch_ids)
    charged = [
        Decimal(row["usd"])
        for row in emulator.billed_requests()
        if row["batch_id"] in ours and row["usd"] is not None and Decimal(row["usd"]) > 0
    ]
    return len(charged), sum(charged, Decimal(0))
