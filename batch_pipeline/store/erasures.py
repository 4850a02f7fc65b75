"""Erasures in the ledger: whose records a person had erased, and up to which submission.

An erasure is a submission of its own, which asks nothing and removes keys: so a selection that runs at the
same time selects again, no later one asks about these keys, the table loses their rows, and a ledger that is
made anew from the store's files knows of it. Its question names the keys by their hashes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert, select, update

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import NewFile, add_file, next_number
from batch_pipeline.store.tables import FileKind, FileState, generations, submissions

ERASED = "erased"
"""The version of an erasure's submission; and what its name in ``question`` is."""


@dataclass(frozen=True)
class ErasedKey:
    """A key of an erasure, as its index file has it.

    Attributes:
        key_hash: which key.
        content_hash: of its latest row before.
        custom_id: of that row.
        attempt: of that row.
    """

    key_hash: str
    content_hash: str
    custom_id: str
    attempt: int


@dataclass(frozen=True)
class NewErasure:
    """An erasure to commit: of keys that were asked in one partition (or variant) at one endpoint."""

    id: str
    endpoint_id: str
    partition: str
    index_path: str
    keys: Sequence[ErasedKey]


def erased_since(ledger: Ledger, pipeline: str, number: int = 0) -> set[str]:
    """Return the hashes of the keys that were erased after a submission was made.

    What stands in the files of that submission about them is to be erased. What was asked about such a key
    after its erasure, by force, is not.
    """
    rows = ledger.rows(
        select(submissions.c.question).where(
            submissions.c.pipeline == pipeline,
            submissions.c.version == ERASED,
            submissions.c.number > number,
        )
    )
    return {key["key_hash"] for row in rows for key in keys_in(row["question"])}


def keys_in(question: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the keys that a submission erases, by its question; none of any other submission."""
    return list((question or {}).get(ERASED) or ())


def generations_of(ledger: Ledger, pipeline: str) -> dict[str, int]:
    """Return how often each partition of a pipeline was selected; committing an erasure compares them."""
    rows = ledger.rows(select(generations).where(generations.c.pipeline == pipeline))
    return {row["partition"]: row["generation"] for row in rows}


def commit_erasures(
    store: Store, pipeline: str, read: Mapping[str, int], new: Iterable[NewErasure]
) -> bool:
    """Make erasures count; False, and nothing is changed, when a selection was committed since ``read``."""
    try:
        _commit(store, pipeline, read, new)
    except _Overtaken:
        return False
    return True


class _Overtaken(Exception):
    """A selection was committed meanwhile."""


def _commit(
    store: Store, pipeline: str, read: Mapping[str, int], new: Iterable[NewErasure]
) -> None:
    ledger, now = store.ledger, store.clock.now()
    with ledger.write() as tx:
        there = tx.execute(
            select(generations.c.partition).where(generations.c.pipeline == pipeline)
        ).scalars()
        if set(there) != set(read):
            raise _Overtaken
        for partition, generation in read.items():
            moved = tx.execute(
                update(generations)
                .where(
                    generations.c.pipeline == pipeline,
                    generations.c.partition == partition,
                    generations.c.generation == generation,
                )
                .values(generation=generation + 1)
            )
            if not moved.rowcount:
                raise _Overtaken
        for one in new:
            row = {
                "id": one.id,
                "pipeline": pipeline,
                "partition": one.partition,
                "number": next_number(tx, pipeline),
                "state": "built",
                "endpoint_id": one.endpoint_id,
                "version": ERASED,
                "created_at": now,
                "index_path": one.index_path,
                "counts": {"deleted": len(one.keys)},
                "question": {
                    "output": None,
                    "prefix": "",
                    ERASED: [asdict(key) for key in one.keys],
                },
                "retried_at": now,
                "verified_at": now,
            }
            tx.execute(insert(submissions).values(**row))
            add_file(
                ledger, tx, row, NewFile(0, None, 0, 0, 0, -1, FileKind.REUSED), FileState.COLLECTED,
                "records were erased", statuses={}, tokens={}, cost_nanousd=0, cost_unknown=0,
                retryable=0, collected_at=now,
            )  # fmt: skip
