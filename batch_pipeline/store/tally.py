"""What a table of results held when it was last found to hold what it must, in a few numbers.

A table that has the same numbers again is not compared with the store's files row by row. They are
noted in the ledger together with what they were compared with, and are of no use to any other state
of either: without a note, or with another one, all is compared.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete

from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.seen import key_of, put, value_of
from batch_pipeline.store.tables import meta

BITS_64 = (1 << 64) - 1


@dataclass(frozen=True)
class Tally:
    """The rows of a table, in three numbers.

    Each row has 64 bits, by its custom_id, its status and its key. Two tables of the same numbers hold
    the same rows, but for one chance in 2 to the power of 64.

    Attributes:
        rows: how many there are.
        xor: the bits of all of them, one over the other: a row that is there twice leaves no trace.
        total: the sum of their bits: of these it does.
    """

    rows: int
    xor: int
    total: int

    def with_changed(self, before: "Tally", after: "Tally") -> "Tally":
        """Return the tally when some rows, whose tally was ``before``, have the one ``after``."""
        return Tally(
            self.rows - before.rows + after.rows,
            self.xor ^ before.xor ^ after.xor,
            self.total - before.total + after.total,
        )


NO_ROWS = Tally(0, 0, 0)


@dataclass(frozen=True)
class Noted:
    """A table that held what it must: each record's row once, under its key, and no other row.

    Attributes:
        state: of the table (see ``seen.py``).
        by: the key's columns, and what computed the tally.
        index: a hash of the names of the index files that it was compared with.
        tally: of the table.
    """

    state: str
    by: str
    index: str
    tally: Tally


def noted(ledger: Ledger, pipeline: str) -> Noted | None:
    """Return what is noted of a pipeline's table; None when nothing is."""
    value = value_of(ledger, key_of("tally", pipeline, ""))
    if value is None:
        return None
    found = json.loads(value)
    return Noted(**{**found, "tally": Tally(**found["tally"])})


def note(tx: Connection, pipeline: str, table: Noted | None) -> None:
    """Note how a pipeline's table is; None: nothing is known of it."""
    key = key_of("tally", pipeline, "")
    if table is None:
        tx.execute(delete(meta).where(meta.c.key == key))
    else:
        put(tx, key, json.dumps(asdict(table)))


def hash_of(names: Iterable[str]) -> str:
    """Return a hash of the names of files, in whatever order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
