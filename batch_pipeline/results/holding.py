"""Comparing a table with what it must hold: the latest row of every key ever selected.

What it must hold stands in the index files of the store, what it holds in a snapshot. Both are told
by custom_id, which no two keys share; DuckDB compares them, and no row passes through Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from batch_pipeline.records.connections import quote_files, quote_text, with_enough_memory
from batch_pipeline.results import sql
from batch_pipeline.results.merging import CUSTOM_ID, KEY, Snapshot
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import IndexRow

# Table there: each row of the table, by its custom_id and a hash of its key.
THERE = """
create or replace temp table there as select {custom_id} as custom_id, {key} as key from {rows}
"""

# Table doubled: the keys of which the table has more rows than one.
DOUBLED = """
create or replace temp table doubled as
select key, count(*) as n from there group by key having n > 1
"""

# Table due: per key that must have a row, where that row is, and what is wrong with the table's:
# absent (or an older one stands there), or twice.
DUE = """
create or replace temp table due as
select w.custom_id, w.position,
       w.position in (select position from fresh)
       or coalesce(w.failed_position in (select position from fresh), false) as fresh,
       w.custom_id not in (select custom_id from there where custom_id is not null) as absent,
       w.custom_id in (select t.custom_id from there t join doubled using (key)
                       where t.custom_id is not null) as twice
from winners w where w.status <> 'deleted'
"""

# Table back: the rows of keys that were dropped on purpose, and are in the table.
BACK = """
create or replace temp table back as
with dead as (select key_hash from winners where status = 'deleted')
select distinct custom_id from there
where custom_id in (select custom_id from read_parquet({index}) semi join dead using (key_hash))
"""

COUNTS = """
select (select count(*) from due),
       (select count(*) from due where absent),
       (select count(*) from due where absent and not fresh),
       (select coalesce(sum(n - 1), 0) from doubled),
       (select count(*) from there
        where custom_id is null or custom_id not in (select custom_id from winners)),
       (select count(*) from back)
"""


@dataclass(frozen=True)
class Holding:
    """What a table holds, compared with what it must hold.

    Attributes:
        records: keys that must have a row.
        missing: of them without their latest row.
        lost: of these, without those that are collected and were never in the table.
        doubled: rows that stand beside another one of their key.
        unexpected: rows that this store knows nothing of, or that a newer one should have replaced.
        back: rows of keys that were dropped on purpose.
    """

    records: int = 0
    missing: int = 0
    lost: int = 0
    doubled: int = 0
    unexpected: int = 0
    back: int = 0

    @property
    def is_hurt(self) -> bool:
        """Whether somebody changed the table, so that it must be put right."""
        return bool(self.lost or self.doubled or self.back)


def find_winners(store: Store, con: duckdb.DuckDBPyConnection, index: Sequence[IndexRow]) -> None:
    """Make the table ``winners``: for each key ever selected, in which index file its latest row is.

    Args:
        store: where the files are; registered with ``con``.
        con: a connection of our own.
        index: all index files of the pipeline, at least one.
    """
    # Files are told apart by their place in the list: DuckDB may spell a URL in a way of its own.
    files = pa.table(
        {
            "position": pa.array(range(len(index)), pa.int64()),
            "number": pa.array([row.number for row in index], pa.int64()),
        }
    )
    con.register("files", files)
    query = sql.WINNERS.format(index=_index(store, index))
    with_enough_memory(con, lambda: con.execute(f"create or replace temp table winners as {query}"))


def compare(
    store: Store,
    con: duckdb.DuckDBPyConnection,
    index: Sequence[IndexRow],
    there: Snapshot,
    fresh: Sequence[int],
) -> Holding:
    """Compare a snapshot with ``winners``; leave the tables ``there``, ``due`` and ``back``.

    Args:
        store: where the files are; registered with ``con``.
        con: the connection that has ``winners``.
        index: all index files of the pipeline, in the order of ``find_winners``.
        there: what the table holds.
        fresh: the places in ``index`` of what was collected and is not in the table yet.
    """
    rows = "(select null::varchar, null::ubigint where false) as none(_bp_custom_id, _bp_key)"
    if there.path is not None:
        rows = f"read_parquet({quote_text(there.path)})"
    con.register("fresh", pa.table({"position": pa.array(fresh, pa.int64())}))
    steps = (
        THERE.format(custom_id=CUSTOM_ID, key=KEY, rows=rows),
        DOUBLED,
        DUE,
        BACK.format(index=_index(store, index)),
    )
    for step in steps:
        with_enough_memory(con, lambda step=step: con.execute(step))
    (found,) = con.execute(COUNTS).fetchall()
    return Holding(*map(int, found))


def _index(store: Store, index: Sequence[IndexRow]) -> str:
    return quote_files(store.files.url(row.name) for row in index)
