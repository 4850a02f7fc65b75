"""What it cost: the ledger's files added up by day, month, model, label, pipeline, submission or batch.

A file belongs to the day and month (UTC) in which it was sent, as for the caps. What is not known is not
guessed: such requests are counted beside the cost.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping, case, func, select

from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files
from batch_pipeline.store.variants import partition_of, variant_of

NANO = 10**9
NOT_KNOWN = "(not known)"
BY = ("day", "month", "model", "label", "pipeline", "variant", "submission", "batch")


@dataclass
class Cost:
    """What some files came to.

    Attributes:
        name: the day, the month, the model ...
        batches: batches of theirs that the API made.
        requests: requests in them.
        answered: of these, answered ones.
        open: of the requests, those that are not collected yet.
        input_tokens: that were not cached; and the other tokens.
        cache_write_5m_tokens: of those written to the cache, the ones for five minutes; for an hour; neither
            knows what earlier versions collected.
        web_searches: that the API ran for the answers.
        cost_usd: what is known of the cost.
        unknown: requests that may have been paid, and whose cost is not known.
    """

    name: str
    batches: int = 0
    requests: int = 0
    answered: int = 0
    open: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    web_searches: int = 0
    cost_usd: Decimal = Decimal(0)
    unknown: int = 0

    def add(self, file: RowMapping) -> None:
        """Count a file."""
        tokens, collected = file["tokens"] or {}, file["state"] == FileState.COLLECTED
        self.batches += file["batch_id"] is not None
        self.requests += file["requests"]
        self.answered += answered_requests(file)
        self.open += 0 if collected else file["requests"]
        self.input_tokens += tokens.get("input", 0)
        self.output_tokens += tokens.get("output", 0)
        self.cache_read_tokens += tokens.get("cache_read", 0)
        self.cache_write_tokens += tokens.get("cache_write", 0)
        self.cache_write_5m_tokens += tokens.get("cache_write_5m", 0)
        self.cache_write_1h_tokens += tokens.get("cache_write_1h", 0)
        self.web_searches += tokens.get("web_searches", 0)
        self.cost_usd += Decimal(file["cost_nanousd"] or 0) / NANO
        self.unknown += file["cost_unknown"] or 0


def costs(
    store: Store, pipeline: str | None = None, *, by: str = "month", since: datetime | None = None
) -> list[Cost]:
    """Return what was sent, and what it cost.

    Args:
        store: where the ledger is.
        pipeline: only of this one; None: of all.
        by: one of `BY`.
        since: only what was sent from then on.
    """
    found: dict[str, Cost] = {}
    for file in _sent(store, pipeline, since):
        name = _name(file, by)
        found.setdefault(name, Cost(name)).add(file)
    return [*found.values()] if by in ("day", "month", "batch") else _sorted(found)


def each(
    store: Store, endpoints: Collection[str] | None = None, since: datetime | None = None
) -> list[dict[str, Any]]:
    """Return what was sent and what it cost, a row for each request file, oldest first: `COLUMNS`.

    Args:
        store: where the ledger is.
        endpoints: only what was sent to these, by their ids; None: to all.
        since: only what was sent from then on.
    """
    rows: list[dict[str, Any]] = []
    for file in _sent(store, since=since):
        if endpoints is not None and file["endpoint_id"] not in endpoints:
            continue
        one = Cost("")
        one.add(file)
        counts = {name: value for name, value in vars(one).items() if name in COLUMNS}
        rows.append(
            {
                **{by: _name(file, by) for by in ("month", "pipeline", "model", "label")},
                "day": date.fromisoformat(_name(file, "day")),
                "partition": partition_of(file["partition"]) or None,
                "variant": variant_of(file["partition"]) or None,
                "submission": file["number"],
                "batch_id": file["batch_id"],
                "sent_at": file["day"],
                "collected_at": file["collected_at"],
                "state": file["state"],
                **counts,
                "cost_usd": float(one.cost_usd),
            }
        )
    return rows


COLUMNS = {
    "day": "date", "month": "varchar", "pipeline": "varchar", "partition": "varchar", "model": "varchar",
    "label": "varchar", "submission": "bigint", "batch_id": "varchar", "sent_at": "timestamptz",
    "collected_at": "timestamptz", "state": "varchar", "requests": "bigint", "answered": "bigint",
    "open": "bigint", "input_tokens": "bigint", "output_tokens": "bigint", "cache_read_tokens": "bigint",
    "cache_write_tokens": "bigint", "cache_write_5m_tokens": "bigint", "cache_write_1h_tokens": "bigint",
    "web_searches": "bigint", "cost_usd": "double", "unknown": "bigint", "variant": "varchar",
}  # fmt: skip
"""The columns of `each`, and their DuckDB types."""


def _sent(
    store: Store, pipeline: str | None = None, since: datetime | None = None
) -> Sequence[RowMapping]:
    """Return the request files that were sent, oldest first; ``day`` is the moment."""
    # A ledger that was made again knows of what became a batch only when that ended.
    later = func.coalesce(request_files.c.first_sent_at, request_files.c.ended_at)
    sent_at = func.coalesce(
        request_files.c.sent_at,
        request_files.c.batch_created_at,
        case((request_files.c.batch_id.is_not(None), later), else_=None),
    )
    return store.ledger.rows(
        select(request_files, sent_at.label("day"))
        .where(
            request_files.c.kind.in_([FileKind.BATCH, FileKind.LATE]),
            sent_at.is_not(None),
            request_files.c.state.not_in([FileState.READY, FileState.SPLIT]),
            *([request_files.c.pipeline == pipeline] if pipeline else []),
            *([sent_at >= since] if since else []),
        )
        .order_by(sent_at, request_files.c.id)
    )


def answered_requests(file: RowMapping) -> int:
    """Return how many requests of a file were answered; its rows may be more, by duplicates of records."""
    known = (file["tokens"] or {}).get("answered")
    rows = (file["statuses"] or {}).get("answered", 0)
    return min(rows, file["requests"]) if known is None else known


def _sorted(found: dict[str, Cost]) -> list[Cost]:
    return sorted(found.values(), key=lambda one: (-one.cost_usd, one.name))


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of some costs."""
    whole = Cost("total")
    for one in costs:
        for name in vars(whole):
            if name != "name":
                setattr(whole, name, getattr(whole, name) + getattr(one, name))
    return whole


def _name(file: RowMapping, by: str) -> str:
    day: datetime = file["day"]
    day = day.replace(tzinfo=UTC) if day.tzinfo is None else day.astimezone(UTC)
    match by:
        case "day":
            return f"{day:%Y-%m-%d}"
        case "month":
            return f"{day:%Y-%m}"
        case "model":
            weight: dict[str, Any] = file["weight"] or {"model": NOT_KNOWN}
            return " + ".join(one["model"] for one in (weight, *weight.get("others", ())))
        case "label":
            return file["label"] or "(none)"
        case "variant":
            return f"{file['pipeline']} {variant_of(file['partition'])}".strip()
        case "submission":
            return f"{file['pipeline']} {file['number']}"
        case "batch":
            return file["batch_id"] or file["id"]
        case _:
            return file["pipeline"]
