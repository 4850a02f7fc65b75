"""Comparing a table with what it must hold: the latest row of every key ever selected.

What it must hold stands in the index files of the store, what it holds in a snapshot. A row is told
by its custom_id, which no two keys share, and by its key; DuckDB compares them, and no row passes
through Python. Keys themselves are read from the store's rows only where a hash does not tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from batch_pipeline.records.columns import file_columns
from batch_pipeline.records.connections import quote_files, quote_text, with_enough_memory
from batch_pipeline.records.identity import key_hash_sql
from batch_pipeline.records.index_rows import IndexRows, index_rows, located
from batch_pipeline.results import sql
from batch_pipeline.results.merging import CUSTOM_ID, STATUS, Snapshot, cast_columns
from batch_pipeline.results.widening import Schema, read_widened, schemas_of, widened
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import IndexRow
from batch_pipeline.store.variants import ESCALATED, variant_of

# Table files: the files of the index. Not as Arrow's table: to make one of lists, pyarrow loads pandas, 55 MB.
FILES = """
create or replace temp table files as
select unnest($file::bigint[]) as file, unnest($position::bigint[]) as position,
       unnest($number::bigint[]) as number, unnest($escalated::boolean[]) as escalated
"""
FRESH = "create or replace temp table fresh as select unnest($position::bigint[]) as position"

# Table among: the keys of some index files, but for what is only selected in them.
AMONG = """
create or replace temp table among as
select distinct key_hash from ({index}) where status <> 'pending'
"""

# File: every custom_id that a row of these keys ever had.
CUSTOM_IDS = """
copy (select distinct custom_id from ({index}) semi join among using (key_hash))
to {path} (format parquet)
"""

# Table there: each row of the table, by its custom_id, the hash that a record with its key has, and
# its status.
THERE = """
create or replace temp table there as
select {custom_id} as custom_id, {key_hash} as key_hash, {status} as status from {rows}
"""

# Table doubled: the keys of which the table has more rows than one. By our hash: DuckDB's own takes
# some keys for others, such as 0 and -1 of 128 bits, or [] and [NULL].
DOUBLED = """
create or replace temp table doubled as
select key_hash, count(*) as n from there group by key_hash having n > 1
"""

# Table due: per key that must have a row, where that row is, and what is wrong with the table's:
# absent (or an older one stands there), or twice. Doubtful is one that only its key can tell.
DUE = """
create or replace temp table due as
with held as (
       select custom_id, min(key_hash) as least, max(key_hash) as most
       from there where custom_id is not null group by custom_id)
select w.custom_id, w.key_hash, w.position, w.rank,
       w.position in (select position from fresh)
       or coalesce(w.failed_position in (select position from fresh), false) as fresh,
       not coalesce(w.key_hash in (held.least, held.most), false) as absent,
       not coalesce(w.key_hash = held.least and w.key_hash = held.most, false) as doubtful,
       w.custom_id in (select t.custom_id from there t join doubled using (key_hash)
                       where t.custom_id is not null) as twice
from winners w left join held using (custom_id) where w.status <> 'deleted'
"""

# Table stays: the records that came back without an answer, and have one in the table, to the same
# question about the same content (their custom_ids name both): the store lost it. A row of a failure
# never takes its place.
STAYS = """
create or replace temp table stays as
with failed as (
       select d.custom_id, d.key_hash, d.fresh from due d semi join (
         select custom_id from winners where status <> 'answered') using (custom_id))
select f.custom_id, any_value(t.custom_id) as held_id, any_value(f.fresh) as fresh
from failed f join there t
     on t.key_hash = f.key_hash and substr(t.custom_id, 10, 16) = substr(f.custom_id, 10, 16)
where t.status = 'answered'
group by f.custom_id
"""
STAY = "delete from due where custom_id in (select custom_id from stays)"

# Table keys: of the rows that the table does not have under the hash of their record, the key's hash
# as the table has it, and whether the key's types are still those of then.
KEYS = """
create or replace temp table keys as
select custom_id, any_value(key_hash) as key_hash, bool_and(same) as same
from ({rows}) semi join (select custom_id from due where doubtful) using (custom_id)
group by custom_id
"""

# Table elsewhere: of these rows, those whose key may stand in the table under another hash, because its type
# is another one there: any row of the table could be theirs.
ELSEWHERE = """
create or replace temp table elsewhere as
select custom_id from due d join keys k using (custom_id)
where d.doubtful and ({grows} or k.key_hash <> d.key_hash)
"""

# Table standing: the table's rows that are those of a record. With a key of other types than then,
# the custom_id alone tells.
STANDING = """
create or replace temp table standing as
select distinct t.custom_id, t.key_hash
from there_now t join due d using (custom_id) left join keys k using (custom_id)
where t.is_hash_of = d.key_hash or t.key_hash = k.key_hash or not k.same
"""

# Table astray: the table's rows that have a record's custom_id and another one's key.
ASTRAY = """
create or replace temp table astray as
select t.custom_id from there_now t semi join due d using (custom_id)
anti join standing s on s.custom_id = t.custom_id and s.key_hash is not distinct from t.key_hash
"""

# A key that was retyped counts once: of its records the newest has the row.
ONCE = (
    "update due set absent = false where custom_id in (select custom_id from standing)",
    """
create or replace temp table outdone as
with keyed as (
       select d.custom_id, d.rank, s.key_hash from due d join standing s using (custom_id)
       union all
       select d.custom_id, d.rank, k.key_hash from due d join keys k using (custom_id) where d.absent)
select custom_id from keyed
qualify rank < max(rank) over (partition by key_hash)
""",
    "delete from due where custom_id in (select custom_id from outdone)",
)

# Table back: the rows of keys that were dropped on purpose, and are in the table.
BACK = """
create or replace temp table back as
with dead as (select key_hash from winners where status = 'deleted')
select distinct custom_id from there
where custom_id in (select custom_id from ({index}) semi join dead using (key_hash))
"""

COUNTS = """
select due.n + stays.n, due.absent, due.lost, doubled.n, unknown.n + astray.n, back.n, stays.fresh
from (select count(*) as n, count(*) filter (absent) as absent,
             count(*) filter (absent and not fresh) as lost from due) as due,
     (select count(*) as n, count(*) filter (fresh) as fresh from stays) as stays,
     (select coalesce(sum(n - 1), 0) as n from doubled) as doubled,
     (select count(*) as n from there
      anti join (select custom_id from winners union all select held_id from stays) as known
      on there.custom_id = known.custom_id) as unknown,
     (select count(*) as n from astray) as astray,
     (select count(*) as n from back) as back
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
        staying: answers that the store lost, of records that have just come back without one: they stay.
    """

    records: int = 0
    missing: int = 0
    lost: int = 0
    doubled: int = 0
    unexpected: int = 0
    back: int = 0
    staying: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether the table has each record's latest row once, and nothing else."""
        return self == Holding(records=self.records)

    def beside(self, others: int) -> "Holding":
        """Return the same of a table that has the rows of so many other records as well."""
        return replace(self, records=self.records + others)

    @property
    def is_hurt(self) -> bool:
        """Whether somebody changed the table, so that it must be put right."""
        return bool(self.lost or self.doubled or self.back)


def find_winners(
    store: Store,
    con: duckdb.DuckDBPyConnection,
    index: Sequence[IndexRow],
    among: Sequence[IndexRow] | None = None,
) -> None:
    """Make the table ``winners``: for each key ever selected, in which index file its latest row is.

    Args:
        store: where the files are; registered with ``con``.
        con: a connection of our own.
        index: all index files of the pipeline.
        among: those of which the keys alone are wanted; None: all keys are.
    """
    # Files are told apart by numbers: DuckDB may spell a URL in a way of its own.
    rows = _index(store, index)
    con.execute(
        FILES,
        {
            "file": rows.numbers,
            "position": list(range(len(index))),
            "number": [row.number for row in index],
            "escalated": [variant_of(row.partition) == ESCALATED for row in index],
        },
    )
    only = ""
    if among is not None:
        keys = AMONG.format(index=_index(store, among).sql)
        with_enough_memory(con, lambda: con.execute(keys))
        only = " and i.key_hash in (select key_hash from among)"
    query = sql.WINNERS.format(index=rows.sql, among=only)
    with_enough_memory(con, lambda: con.execute(f"create or replace temp table winners as {query}"))


def write_custom_ids(
    store: Store, con: duckdb.DuckDBPyConnection, index: Sequence[IndexRow], path: str
) -> None:
    """Write the custom_ids of all rows of the keys that ``find_winners`` was about, to a local file."""
    query = CUSTOM_IDS.format(index=_index(store, index).sql, path=quote_text(path))
    with_enough_memory(con, lambda: con.execute(query))


def compare(
    store: Store,
    con: duckdb.DuckDBPyConnection,
    index: Sequence[IndexRow],
    there: Snapshot,
    fresh: Sequence[int],
    key: Sequence[str],
    results: Mapping[str, str],
) -> Holding:
    """Compare a snapshot with ``winners``; leave the tables ``there``, ``due``, ``stays``, ``back`` and ``elsewhere``.

    Args:
        store: where the files are; registered with ``con``.
        con: the connection that has ``winners``.
        index: all index files of the pipeline, in the order of ``find_winners``.
        there: what the table holds.
        fresh: the places in ``index`` of what was collected and is not in the table yet.
        key: the key columns.
        results: index file to the file of its rows.

    Raises:
        duckdb.Error, FileNotFoundError: a file of the store cannot be read.
    """
    rows = (
        "(select null::varchar, null::uuid, null::varchar where false)"
        f" as none({CUSTOM_ID}, _bp_key_hash, {STATUS})"
    )
    key_hash, types = "_bp_key_hash", {}
    if there.path is not None:
        rows = f"read_parquet({quote_files([there.path])}) as rows"
        types = _types(key, file_columns(con, there.path))
        key_hash = key_hash_sql(key, types, "rows")
    con.execute(FRESH, {"position": list(fresh)})
    steps = (
        THERE.format(custom_id=CUSTOM_ID, key_hash=key_hash, status=STATUS, rows=rows),
        DOUBLED,
        DUE,
        STAYS,
        STAY,
        "create or replace temp table astray as select null::varchar as custom_id where false",
        "create or replace temp table elsewhere as select null::varchar as custom_id where false",
        BACK.format(index=_index(store, index).sql),
    )
    for step in steps:
        with_enough_memory(con, lambda step=step: con.execute(step))
    _tell_by_keys(store, con, index, there, tuple(key), types, results)
    (found,) = con.execute(COUNTS).fetchall()
    return Holding(*map(int, found))


def _tell_by_keys(
    store: Store,
    con: duckdb.DuckDBPyConnection,
    index: Sequence[IndexRow],
    there: Snapshot,
    key: tuple[str, ...],
    types: Mapping[str, str],
    results: Mapping[str, str],
) -> None:
    """Look at the keys of doubtful rows: one of another type has another hash, one changed by hand, too.

    Leaves the tables ``astray``, the table's rows with a record's custom_id and another one's key, and
    ``elsewhere``.
    """
    positions = con.execute(
        "select distinct position from due where doubtful order by all"
    ).fetchall()
    submissions = {(index[place].partition, index[place].number) for (place,) in positions}
    if not submissions or (there.path is None and len(submissions) == 1):
        # The keys of one submission are all different, and there is no row that could be one of theirs.
        return
    urls = [store.files.url(results[index[place].name]) for (place,) in positions]
    wanted = {name.lower() for name in (*key, "_custom_id")}
    schemas = {
        url: tuple((name, kind) for name, kind in schema if name.lower() in wanted)
        for url, schema in schemas_of(con, urls).items()
    }
    table = {} if there.path is None else {there.path: tuple(types.items())}
    now = _types(key, widened(con, table | schemas))
    columns = {"_custom_id": "VARCHAR", **now}
    alike: dict[Schema, dict[str, Schema]] = {}
    for url, schema in schemas.items():
        alike.setdefault(schema, {})[url] = schema
    parts = [
        f"select _custom_id as custom_id, {key_hash_sql(key, now, 'rows')} as key_hash,"
        f" {_types(key, dict(schema)) == types} as same"
        f" from ({read_widened(con, some, columns)}) as rows"
        for schema, some in alike.items()
    ]
    rows = "select custom_id, key_hash, key_hash as is_hash_of from there"
    if there.path is not None and now != types:
        rows = (
            f"select {CUSTOM_ID} as custom_id, {key_hash_sql(key, now, 'rows')} as key_hash, was as"
            f" is_hash_of from (select {CUSTOM_ID}, {key_hash_sql(key, types, 'rows')} as was,"
            f" {cast_columns(types, now, 'rows')} from read_parquet({quote_files([there.path])}) as rows)"
            " as rows"
        )
    steps = (
        KEYS.format(rows=" union all ".join(parts)),
        ELSEWHERE.format(grows=there.path is not None and now != types),
        f"create or replace temp table there_now as {rows}",
        STANDING,
        ASTRAY,
        *ONCE,
    )
    for step in steps:
        with_enough_memory(con, lambda step=step: con.execute(step))


def _types(key: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the types of the key's columns; text for one that is not there."""
    lower = {name.lower(): kind for name, kind in columns.items()}
    return {name: lower.get(name.lower(), "VARCHAR") for name in key}


def _index(store: Store, index: Sequence[IndexRow]) -> IndexRows:
    return index_rows(located(index, store.files.url))
