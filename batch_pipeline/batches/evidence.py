"""Whose a batch is: what the custom_ids in its results prove, and what they do not.

Results may come cut, garbled, or with lines of others between ours. One custom_id of this ledger
proves that a batch is ours. That it is not takes more: a whole download without any, twice.
"""

from contextlib import closing
from dataclasses import dataclass, field

import orjson
from sqlalchemy import RowMapping, select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.lines import is_overfull, lines_of
from batch_pipeline.batches.wire import Batch
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint
from batch_pipeline.store.tables import OPEN, FileKind, request_files

ENOUGH_LINES = 100  # nobody puts so many of another batch's lines before ours
MOST_LINES_EACH, SPARE_LINES = 4, 1_000  # of the results of a batch, however damaged they are


@dataclass
class Evidence:
    """What the results of a batch tell.

    Attributes:
        own: custom_ids of this ledger, some of them.
        is_foreign: nothing of it is this ledger's, for sure.
    """

    own: list[str] = field(default_factory=list)
    is_foreign: bool = False


def evidence_of(api: BatchesApi, batch: Batch, ledger_id: str) -> Evidence:
    """Read the results of an ended batch until they tell whose it is.

    Raises:
        NoSuchBatch, ApiUnavailable, HeldError: they cannot be read.
    """
    first = _read(api, batch, ledger_id)
    if first.own or not first.is_foreign:
        return first
    # A single line in place of ours would be believed otherwise, and our batch paid again.
    return _read(api, batch, ledger_id)


def file_of(store: Store, endpoint: Endpoint, batch: Batch, own: list[str]) -> RowMapping | None:
    """Return the request file that a batch of this ledger was made from, whatever state it is in."""
    files = store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.endpoint_id == endpoint.id,
            request_files.c.kind == FileKind.BATCH,
            # A list that does not say how many requests a batch has says nothing about the file.
            *([request_files.c.requests == batch.requests] if batch.requests else []),
            request_files.c.sent_at.is_not(None),
        )
        .order_by(request_files.c.sent_at.desc())
    )
    wanted = set(own)
    best: tuple[int, RowMapping | None] = (0, None)
    for file in files:
        try:
            with store.files.open(file["path"]) as lines:
                found = sum(custom_id_in(line) in wanted for line in lines)
        except FileNotFoundError:
            if file["state"] in OPEN:
                raise
            continue  # it was collected long ago, and its requests are not kept any more
        # A line of another batch of ours may have come between: most of them decide.
        if found > best[0]:
            best = found, file
        if found > len(wanted) / 2:
            break
    return best[1]


def _read(api: BatchesApi, batch: Batch, ledger_id: str) -> Evidence:
    found = Evidence()
    lines = readable = 0
    stream = api.results(batch.id)
    with closing(stream):
        for line in lines_of(stream):
            lines += 1
            if lines > MOST_LINES_EACH * batch.requests + SPARE_LINES:
                return found  # no results have so many
            custom_id = custom_id_in(line)
            if custom_id is None:
                continue
            readable += 1
            if custom_id.startswith(f"{ledger_id}-"):
                found.own.append(custom_id)
            if readable == ENOUGH_LINES:
                found.is_foreign = not found.own
                return found
    found.is_foreign = not found.own and readable == lines >= max(batch.requests, 1)
    return found


def custom_id_in(line: bytes) -> str | None:
    """Return the custom_id of a line of requests or results; None when it has none."""
    if is_overfull(line):
        return None
    try:
        return str(orjson.loads(line)["custom_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
