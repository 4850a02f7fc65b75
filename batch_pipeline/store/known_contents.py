"""What the records of a source said the last time, so that only what changed is hashed anew.

The hash that a record's content is known by is the dearest part of a night in which little has changed.
A file of the store keeps it beside the key's hash and 64 cheap bits of the same content
(``records/identity.py``: ``bits_sql``): a record whose key has those bits again says what it said. That
a change is missed has a chance of 1 in 2 to the power of 64. Nothing else depends on such a file:
without one, or with one of another question, all is hashed.
"""

import json
from dataclasses import asdict, dataclass
from datetime import timedelta

from sqlalchemy import select

from batch_pipeline.store.files import Files
from batch_pipeline.store.layout import contents_name
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.seen import key_of, put, value_of
from batch_pipeline.store.tables import meta

LEAST_ROWS = 100_000
"""So many records are worth such a file,"""
MOST_ROWS = 1_500_000
"""and of more it would not fit into the memory of a selection."""
KEPT_FOR = timedelta(days=1)  # once there is a newer one: somebody may be reading it


@dataclass(frozen=True)
class KnownContents:
    """A file of hashes of contents.

    Attributes:
        name: of the file.
        by: what the bits and the hashes were computed by.
        rows: how many records it has.
    """

    name: str
    by: str
    rows: int


def known_contents(files: Files, ledger: Ledger, pipeline: str, scope: str) -> KnownContents | None:
    """Return the file of a scope of a pipeline; None when there is none, or it is gone or cut short."""
    value = value_of(ledger, key_of("contents", pipeline, scope))
    if value is None:
        return None
    found = KnownContents(**json.loads(value))
    is_there = files.exists(found.name) and not files.damaged([found.name])
    return found if is_there else None


def keep_contents(
    files: Files, ledger: Ledger, pipeline: str, scope: str, path: str, by: str, rows: int
) -> None:
    """Let a local file be what is known of a scope from now on."""
    part = f"{ledger.clock.now():%Y%m%dT%H%M%S}-{files.new_part()}"
    name = files.put(path, contents_name(pipeline, part))
    with ledger.write() as tx:
        put(
            tx,
            key_of("contents", pipeline, scope),
            json.dumps(asdict(KnownContents(name, by, rows))),
        )
    _sweep(files, ledger, pipeline)


def _sweep(files: Files, ledger: Ledger, pipeline: str) -> None:
    """Remove files that no scope of a pipeline names any more, and that are older than a day."""
    every = key_of("contents", pipeline, "").rpartition("/")[0] + "/"
    rows = ledger.rows(select(meta.c.value).where(meta.c.key.startswith(every, autoescape=True)))
    named = {json.loads(row["value"])["name"] for row in rows}
    oldest = f"{ledger.clock.now() - KEPT_FOR:%Y%m%dT%H%M%S}"
    folder = contents_name(pipeline)
    for file in files.file_names(folder):
        if f"{folder}/{file}" not in named and file < oldest:
            files.remove(f"{folder}/{file}")
