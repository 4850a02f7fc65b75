"""Requests that may have been paid, and whose cost nobody can tell: the ledger's cost without a gap."""

from dataclasses import dataclass

from sqlalchemy import select

from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import candidates, request_files


@dataclass(frozen=True)
class CostUnknown:
    """A batch of which not every request's cost is in the ledger.

    Attributes:
        pipeline: whose it is; "" when that is not known.
        batch_id: the batch; None when the API never gave one.
        file: the request file; "" when that is not known.
        requests: how many of its requests that is.
        why: the reason, a sentence.
    """

    pipeline: str
    batch_id: str | None
    file: str
    requests: int
    why: str


def costs_unknown(store: Store, pipeline: str | None = None) -> list[CostUnknown]:
    """Return what the ledger's costs leave open, oldest first.

    Every other request that the API charged for is in ``cost_nanousd`` of its file.

    Args:
        store: where the ledger is.
        pipeline: only of this one (and of batches that may be anybody's); None: of all.
    """
    files = store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.cost_unknown > 0,
            *([request_files.c.pipeline == pipeline] if pipeline else []),
        )
        .order_by(request_files.c.pipeline, request_files.c.number, request_files.c.seq)
    )
    odd = store.ledger.rows(
        select(candidates)
        .where(
            (candidates.c.verdict == "unreadable")
            | ((candidates.c.verdict == "ours") & candidates.c.file_id.is_(None))
        )
        .order_by(candidates.c.created_at)
    )
    return [
        CostUnknown(
            row["pipeline"], row["batch_id"], row["id"], row["cost_unknown"], _why_of_file(row)
        )
        for row in files
    ] + [
        CostUnknown("", row["batch_id"], "", row["requests"], _why_of_candidate(row["verdict"]))
        for row in odd
    ]


def _why_of_file(row) -> str:
    if row["batch_id"] is None:
        return f"it was given up before anybody knew whether the API took it. {row['error'] or ''}".strip()
    if row["damaged"]:
        return f"their results are lost: {row['error'] or 'they could not be read'}"
    return "the price of the model, or of what it did, is not known"


def _why_of_candidate(verdict: str) -> str:
    if verdict == "ours":
        return "it is of this ledger, and no request file has its requests"
    return "it may be ours, and its results cannot be read"
