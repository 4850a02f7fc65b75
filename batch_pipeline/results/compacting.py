"""Compacting index files: those of nights that are over become one file, so that a long history is read fast.

A pipeline gets two index files a night, and one for each further batch. What counts for a compaction is a
submission of which every record is accounted for: what was only selected of it came to something, and is
left out. Compactions grow like the digits of a number: a new one takes along the last ones as long as
these are not much larger than itself, so that there are few, and each row is copied a few times at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select

from batch_pipeline.records.connections import (
    memory_connection,
    quote_files,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.index_rows import COLUMNS
from batch_pipeline.results.join import MEMORY
from batch_pipeline.store.compactions import (
    Compaction,
    Compactions,
    compactions_of,
    exchange,
    sweep,
)
from batch_pipeline.store.layout import compacted_name
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileState, request_files, submissions

LEAST_FILES = 16
"""So many index files are worth a compaction,"""
LEAST_ROWS = 200_000
"""or so many rows in them."""
TAKEN_ALONG = 2
"""A compaction that has at most so many times the rows of what comes after it is made anew with that."""


@dataclass(frozen=True)
class _File:
    """An index file that may be compacted.

    Attributes:
        name: its name.
        rows: how many rows of it say more than that a record was selected.
    """

    name: str
    rows: int


def compact(store: Store, pipeline: str) -> bool:
    """Compact the index files of a pipeline, if there are enough that are not; whether that was done.

    Readers may be at work meanwhile, and other processes that do the same: one of them is too late, and
    leaves nothing behind.
    """
    sweep(store.files, store.ledger, pipeline)
    before = compactions_of(store.ledger, pipeline)
    settled = _settled(store, pipeline)
    known = before.places()
    new = [file for file in settled if file.name not in known]
    rows = sum(file.rows for file in new)
    if len(new) < LEAST_FILES and rows < LEAST_ROWS:
        return False
    old: list[Compaction] = []
    for one in reversed(before.used):
        if one.rows > TAKEN_ALONG * rows:
            break
        old.insert(0, one)
        rows += one.rows
    counted = {file.name for file in settled}
    with store.files.scratch() as folder:
        path = f"{folder}/compacted.parquet"
        made = _write(store, old, new, counted, path)
        if made is None:
            return False  # a file is not what the ledger says: that is found out where it is read
        part = f"{store.clock.now():%Y%m%dT%H%M%S}-{store.files.new_part()}"
        name = store.files.put(path, compacted_name(pipeline, part))
    after = Compactions(
        (*before.used[: len(before.used) - len(old)], replace(made, name=name)), before.unused
    )
    if exchange(store.ledger, pipeline, before, after):
        return True
    store.files.remove(name)
    return False


def _settled(store: Store, pipeline: str) -> list[_File]:
    """Return the index files of all submissions of which every record is accounted for, oldest first."""
    mine = (
        submissions.c.pipeline == pipeline,
        submissions.c.state == "built",
        submissions.c.verified_at.is_not(None),
    )
    selected = select(submissions.c.number, submissions.c.index_path, submissions.c.counts).where(
        *mine, submissions.c.index_path.is_not(None)
    )
    collected = (
        select(request_files.c.number, request_files.c.index_path, request_files.c.statuses)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(
            *mine,
            request_files.c.state == FileState.COLLECTED,
            request_files.c.index_path.is_not(None),
            request_files.c.statuses.is_not(None),
        )
    )
    with store.ledger.read() as tx:
        found = [
            (number, _File(name, counts.get("deleted", 0)))
            for number, name, counts in tx.execute(selected)
        ]
        found += [
            (number, _File(name, sum(statuses.values())))
            for number, name, statuses in tx.execute(collected)
        ]
    return [file for _, file in sorted(found, key=lambda one: one[0])]


def _write(
    store: Store, old: Sequence[Compaction], new: Sequence[_File], counted: set[str], path: str
) -> Compaction | None:
    """Write the rows of compactions and of index files; None when these are not as many as the ledger says."""
    files: list[str] = []
    parts = []
    for one in old:
        stays = [str(place) for place, name in enumerate(one.files) if name in counted]
        only = "" if len(stays) == len(one.files) else f" WHERE file IN ({', '.join(stays) or -1})"
        url = quote_files([store.files.url(one.name)])
        parts.append(
            f"SELECT {COLUMNS}, CAST(file + {len(files)} AS INTEGER) AS file FROM read_parquet({url}){only}"
        )
        files += one.files
    urls = quote_files(store.files.url(file.name) for file in new)
    rows = (
        f"SELECT {COLUMNS}, CAST(file_index + {len(files)} AS INTEGER) AS file"
        f" FROM read_parquet({urls}, union_by_name = true) WHERE status <> 'pending'"
    )
    files += [file.name for file in new]
    with memory_connection(MEMORY) as con:
        store.files.register(con)
        copy = (
            f"COPY ({' UNION ALL '.join([*parts, rows])}) TO {quote_text(path)}"
            " (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        )
        with_enough_memory(con, lambda: con.execute(copy))
        made, fresh = con.execute(
            f"SELECT count(*), count(*) FILTER (file >= {len(files) - len(new)})"
            f" FROM read_parquet({quote_files([path])})"
        ).fetchall()[0]
    if fresh != sum(file.rows for file in new):
        return None
    return Compaction("", made, tuple(files))
