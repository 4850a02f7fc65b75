"""What a tick of the status sensor tells Dagster of the ledger: observations, check evaluations.

The cursor says how far that was told. It is a hint: without it, the history so far counts as told.
"""

import json
from datetime import datetime
from typing import Any

import dagster as dg
from sqlalchemy import RowMapping, func, select

from batch_pipeline.definitions.assets.checks import in_time
from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.results.retention import Retention
from batch_pipeline.store.standing import Standing
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import transitions
from batch_pipeline.store.variants import partition_of

MOST_CHANGES = 50
CURSOR_VERSION = 1


def observations(
    store: Store, pipeline: BatchPipeline, cursor: str | None, now: Standing
) -> tuple[str, list[dg.AssetObservation]]:
    """Return an observation per partition whose batches changed state, and where to go on next time.

    The cursor is a hint: without it the history so far counts as seen.
    """
    with store.ledger.read() as tx:
        newest = tx.execute(
            select(func.max(transitions.c.id)).where(transitions.c.pipeline == pipeline.name)
        ).scalar()
    seen = _seen(cursor)
    if seen is None or seen > (newest or 0):
        seen = (
            0 if cursor is None and newest is not None and newest <= MOST_CHANGES else (newest or 0)
        )
    rows = store.ledger.rows(
        select(transitions)
        .where(transitions.c.pipeline == pipeline.name, transitions.c.id > seen)
        .order_by(transitions.c.id)
    )
    changes: dict[str, list[RowMapping]] = {}
    for row in rows:
        changes.setdefault(partition_of(row["partition"]), []).append(row)
    events = [
        dg.AssetObservation(
            asset_key=pipeline.asset_key("batches"),
            partition=partition or None,
            description=now.line(store.clock.now()),
            metadata={
                "batches_open": now.open,
                "batches_ended": now.batches_ended,
                "files_waiting": now.ready,
                "files_held": now.held,
                "changes": dg.MetadataValue.table(
                    [_change(row) for row in changed[-MOST_CHANGES:]]
                ),
            },
        )
        for partition, changed in changes.items()
    ]
    at = round(store.clock.now().timestamp(), 3)
    return json.dumps({"version": CURSOR_VERSION, "transition": newest or 0, "at": at}), events


def evaluations(
    pipeline: BatchPipeline, kept: Retention, now: datetime, before: str | None, cursor: str
) -> tuple[str, list[dg.AssetCheckEvaluation]]:
    """Return the check's evaluation, once a day while answers wait too long and when that is over.

    The collect runs evaluate it, too; but when answers wait it may be because no such run succeeds.
    """
    said = _read(before).get("retention")
    say = None if kept.level == "fine" else f"{kept.level} {kept.lost} {now:%Y-%m-%d}"
    state = _read(cursor) | ({"retention": say} if say else {})
    if say == said:
        return json.dumps(state), []
    evaluation = dg.AssetCheckEvaluation(asset_key=pipeline.asset_key("results"), **in_time(kept))
    return json.dumps(state), [evaluation]


def looked_at(cursor: str | None) -> float | None:
    """Return when the tick was that wrote a cursor, a Unix time; None when that is not known."""
    at = _read(cursor).get("at")
    return float(at) if isinstance(at, int | float) else None


def _change(row: RowMapping) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "at": row["at"].isoformat(timespec="seconds"),
            "file": row["file_id"],
            "from": row["from_state"] or "",
            "to": row["to_state"],
            "note": row["note"][:200],
        }
    )


def _seen(cursor: str | None) -> int | None:
    try:
        return int(_read(cursor)["transition"])
    except (ValueError, KeyError, TypeError):
        return None


def _read(cursor: str | None) -> dict[str, Any]:
    """Return what a cursor says; nothing when it is none of ours."""
    try:
        value = json.loads(cursor or "")
        return value if value["version"] == CURSOR_VERSION else {}
    except (ValueError, KeyError, TypeError):
        return {}
