"""What it cost: the ledger's files added up by day, month, model, label, pipeline, submission or batch.

A file belongs to the day and month (UTC) in which it was sent, as for the caps. What is not known is not
guessed: such requests are counted beside the cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import RowMapping, func, select

from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files

NANO = 10**9
NOT_KNOWN = "(not known)"
BY = ("day", "month", "model", "label", "pipeline", "submission", "batch")


@dataclass
class Cost:
    """What some files came to.

    Attributes:
        name: the day, the month, the model ...
        batches: batches of theirs that the API made.
        requests: requests in them.
        answered: of these, answered ones.
        open: of these, those that are not collected yet.
        input_tokens: that were not cached; and the other tokens.
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
    cost_usd: Decimal = Decimal(0)
    unknown: int = 0

    def add(self, file: RowMapping) -> None:
        """Count a file."""
        tokens, collected = file["tokens"] or {}, file["state"] == FileState.COLLECTED
        self.batches += file["batch_id"] is not None
        self.requests += file["requests"]
        self.answered += (file["statuses"] or {}).get("answered", 0)
        self.open += 0 if collected else file["requests"]
        self.input_tokens += tokens.get("input", 0)
        self.output_tokens += tokens.get("output", 0)
        self.cache_read_tokens += tokens.get("cache_read", 0)
        self.cache_write_tokens += tokens.get("cache_write", 0)
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
    sent_at = func.coalesce(request_files.c.sent_at, request_files.c.batch_created_at)
    files = store.ledger.rows(
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
    found: dict[str, Cost] = {}
    for file in files:
        name = _name(file, by)
        found.setdefault(name, Cost(name)).add(file)
    return [*found.values()] if by in ("day", "month", "batch") else _sorted(found)


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
            return (file["weight"] or {}).get("model", NOT_KNOWN)
        case "label":
            return file["label"] or "(none)"
        case "submission":
            return f"{file['pipeline']} {file['number']}"
        case "batch":
            return file["batch_id"] or file["id"]
        case _:
            return file["pipeline"]
