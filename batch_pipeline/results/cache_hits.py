"""How much of the shared prompt the last submission read from the cache, beside what was expected of it."""

from dataclasses import dataclass

from sqlalchemy import select

from batch_pipeline.requests.weight import Weight
from batch_pipeline.results.quality import night_of
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope
from batch_pipeline.store.tables import FileKind, FileState, request_files


@dataclass(frozen=True)
class CacheHits:
    """What a settled submission had cached.

    Attributes:
        number: the submission's.
        read: input tokens that were read from the cache.
        written: input tokens that were written to it.
        expected: the share that was to be read, by the pipeline's earlier answers; None: there were too few.
        least: the share that is hardly ever missed, when chance is allowed for; None as well.
    """

    number: int
    read: int
    written: int
    expected: float | None
    least: float | None

    @property
    def rate(self) -> float:
        """The share of what was cached that was read; 0 when nothing was cached."""
        return self.read / (self.read + self.written) if self.read + self.written else 0.0


def cache_hits_of(store: Store, scope: Scope) -> CacheHits | None:
    """Return what the last settled submission of a scope had cached; None when none was to cache anything.

    A submission that only asks again what failed says nothing: it is small, and comes later.
    """
    night = night_of(store, scope)
    if not night:
        return None
    files = store.ledger.rows(
        select(request_files).where(
            request_files.c.submission_id == night[0]["id"],
            request_files.c.state == FileState.COLLECTED,
            request_files.c.kind == FileKind.BATCH,
            request_files.c.batch_id.is_not(None),
        )
    )
    read = written = 0
    cached = hits = least = 0.0
    for file in files:
        weight = Weight.stored(file["weight"]) if file["weight"] else None
        if weight is None or not weight.cache:
            continue
        tokens = file["tokens"] or {}
        read += tokens.get("cache_read", 0)
        written += tokens.get("cache_write", 0)
        share = weight.cached * weight.requests
        cached += share
        hits += share * weight.hits
        least += share * weight.hits_p99
    if not cached:
        return None
    known = hits > 0
    return CacheHits(
        night[0]["number"],
        read,
        written,
        hits / cached if known else None,
        least / cached if known else None,
    )
