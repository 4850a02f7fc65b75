"""Batches whose answers are late: they are cancelled, so that what they leave unanswered can be asked live.

Only where asking live would help: the caps let all of it through at full price, and no record of it has had its
last attempt. Cancelling takes the API a while; what it answers until then is taken, and paid at half price.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
from sqlalchemy import Connection, RowMapping, select, update

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.cancel import send_cancel
from batch_pipeline.batches.live_claim import at_full_price, in_turn
from batch_pipeline.batches.outcome import ApiUnavailable, NoSuchBatch
from batch_pipeline.errors import counted
from batch_pipeline.store.budget import Caps, Over, what_is_over
from batch_pipeline.store.deadlines import LONGEST_ANSWER, is_too_long
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileState, request_files, submissions

_ATTEMPTS: dict[tuple[str, str, int, int], int] = {}
"""Store, records and rows of a file; the highest attempt among them."""


@dataclass
class Overtime:
    """What became of batches that are late: the ids that were cancelled, and why others were left, in words."""

    cancelled: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def cancel_late(
    store: Store, api: BatchesApi, late: Sequence[RowMapping], caps: Caps, max_attempts: int
) -> Overtime:
    """Cancel batches that are late. A batch that the API is not told of now is told of at the next look.

    Args:
        store: where the files and the ledger are.
        api: the endpoint.
        late: their rows.
        caps: what may be spent.
        max_attempts: how often a record is asked at most.
    """
    report = Overtime()
    for together in in_turn(late, caps):
        with store.ledger.read() as tx:
            over = _over(tx, store, together, caps)
        if over is not None:
            report.left.append(
                f"submission {together[0]['number']} is late and stays in its batch: at full price {over.figures}"
            )
            continue
        for file in together:
            if is_too_long(file):
                report.left.append(
                    f"{file['batch_id']} is late and stays: its answers may have more than {LONGEST_ANSWER:,} tokens, too "
                    "many for one call"
                )
            elif _last_attempts(store, file, max_attempts):
                report.left.append(
                    f"{file['batch_id']} is late and stays: records of it have their last attempt of {max_attempts} in it"
                )
            elif _request(store, file):
                report.cancelled.append(file["batch_id"])
                with suppress(ApiUnavailable, NoSuchBatch):
                    send_cancel(store, api, file["id"], file["batch_id"])
    return report


def _over(tx: Connection, store: Store, together: Sequence[RowMapping], caps: Caps) -> Over | None:
    """Return which cap batches would pass whose requests are all asked live; what they may cost now counts already."""

    full = at_full_price(caps)

    def more(file: Mapping[str, Any] | RowMapping) -> int | None:
        batch, live = caps.reserve(file), full.reserve(file)
        return None if batch is None or live is None else live - batch

    return what_is_over(tx, store.clock.now(), together, replace(caps, reserve=more), anew=True)


def _request(store: Store, file: RowMapping) -> bool:
    """Write down that a batch is to be cancelled, before the API is told."""
    now = store.clock.now()
    with store.ledger.write() as tx:
        done = tx.execute(
            update(request_files)
            .where(
                request_files.c.id == file["id"],
                request_files.c.state == FileState.IN_PROGRESS,
                request_files.c.cancel_requested_at.is_(None),
            )
            .values(cancel_requested_at=now)
        ).rowcount
        if done:
            store.ledger.record(
                tx, file["id"], file["pipeline"], file["partition"], None, "late",
                f"{counted(file['requests'], 'request')} late: what is not answered is asked live",
            )  # fmt: skip
    return bool(done)


def _last_attempts(store: Store, file: RowMapping, max_attempts: int) -> bool:
    """Whether a record of a file has its last attempt in it: cancelled, it would be asked no more."""
    row = store.ledger.rows(
        select(submissions.c.records_path, submissions.c.counts).where(
            submissions.c.id == file["submission_id"]
        )
    )[0]
    if not row["counts"].get("retried", 0):
        return False  # each is the first, and there are two at least
    attempt = _highest_attempt(store, row["records_path"], file["first_row"], file["last_row"])
    return attempt >= max_attempts


def _highest_attempt(store: Store, records: str, first_row: int, last_row: int) -> int:
    """Return the highest attempt of some records; what is selected never changes, so it is read once."""
    key = store.files.base, records, first_row, last_row
    if key not in _ATTEMPTS:
        with store.files.local(records) as path, duckdb.connect() as connection:
            found = connection.execute(
                "select max(_attempt) from read_parquet(?) where _row between ? and ?",
                [path, first_row, last_row],
            ).fetchone()
        _ATTEMPTS[key] = int(found[0] or 0) if found else 0
    return _ATTEMPTS[key]
