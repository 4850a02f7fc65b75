"""How far a pipeline's old files were pruned, so that the next look goes on from there."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
from sqlalchemy import delete, insert, select

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.tables import meta


@dataclass(frozen=True)
class PrunedTo:
    """How far a pipeline is pruned.

    Attributes:
        moment: of submissions made before it, all that may go is gone, but for those in ``left``.
        left: submissions from before that are not pruned yet.
    """

    moment: datetime = datetime(1, 1, 1, tzinfo=UTC)
    left: tuple[str, ...] = ()


def pruned_to(ledger: Ledger, pipeline: str) -> PrunedTo:
    """Return how far a pipeline is pruned; a ledger that was made anew does not know, and all is looked at."""
    rows = ledger.rows(select(meta.c.value).where(meta.c.key == _key(pipeline)))
    if not rows:
        return PrunedTo()
    noted = orjson.loads(rows[0]["value"])
    return PrunedTo(datetime.fromisoformat(noted["moment"]), tuple(noted["left"]))


def note_pruned(ledger: Ledger, pipeline: str, to: PrunedTo) -> None:
    """Write down how far a pipeline is pruned."""
    value = orjson.dumps({"moment": to.moment.isoformat(), "left": to.left}).decode()
    with ledger.write() as tx:
        tx.execute(delete(meta).where(meta.c.key == _key(pipeline)))
        tx.execute(insert(meta).values(key=_key(pipeline), value=value))


def _key(pipeline: str) -> str:
    return f"pruned/{hashlib.sha256(pipeline.encode()).hexdigest()[:24]}"
