"""What publishing does to a table that others use, too: their columns, sleepers, kills, types."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import memory_connection, open_database
from batch_pipeline.records.identity import key_hash_sql
from batch_pipeline.results.destinations import Destination, DuckDBTable, ParquetDataset
from batch_pipeline.results.holding import Holding, compare, find_winners
from batch_pipeline.results.marks import read_mark
from batch_pipeline.results.merging import OvertakenError, Wanted, Writer
from batch_pipeline.store.store import open_store
from batch_pipeline.store.submissions import IndexRow

EXAMPLE = "SELECT range::INTEGER AS id, 'old' AS t FROM range(4)"


def rows_file(folder: Path, query: str) -> str:
    path = str(folder / f"rows{len(list(folder.iterdir()))}.parquet")
    with memory_connection() as con:
        con.execute(
            f"COPY (SELECT *, 'c' || id AS _custom_id, 'answered' AS _status FROM ({query}))"
            f" TO '{path}' (FORMAT parquet)"
        )
    return path


def sql(path: str, *statements: str) -> list[tuple]:
    rows: list[tuple] = []
    with duckdb.connect(path) as con:
        for statement in statements:
            rows = con.execute(statement).fetchall()
    return rows


@pytest.fixture(params=["duckdb", "parquet"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    if request.param == "duckdb":
        return DuckDBTable(database=str(tmp_path / "w.duckdb"), table='ai."""odd table"')
    return ParquetDataset(path=str(tmp_path / "out"), rows_per_bucket=4)


def ids(destination: Destination, columns: str = "id, t") -> list[tuple]:
    with memory_connection() as con:
        return con.execute(
            f"SELECT {columns} FROM {destination.relation(con)} ORDER BY ALL"
        ).fetchall()


def test_a_writer_that_slept_cannot_overwrite_what_another_wrote_meanwhile(
    destination: Destination, tmp_path: Path
) -> None:
    """Both looked at the same state; the one that wakes up later is turned away, and looks again."""
    there = destination.snapshot(["id"], str(tmp_path / "there.parquet"))
    first, late = Writer("p", (), there.generation), Writer("p", (), there.generation)
    destination.merge(rows_file(tmp_path, EXAMPLE), ["id"], None, first)
    old = rows_file(tmp_path, "SELECT 1::INTEGER AS id, 'older' AS t")
    for gone in (None, old):
        with pytest.raises(OvertakenError):
            destination.merge(old, ["id"], gone, late)
    assert ids(destination)[1] == (1, "old")
    again = destination.snapshot(["id"], str(tmp_path / "again.parquet"))
    newer = Writer("p", (), again.generation)
    assert destination.merge(old, ["id"], None, newer).updated == 1
    with pytest.raises(OvertakenError):
        destination.merge(old, ["id"], None, newer)


def test_a_table_that_is_dropped_meanwhile_still_tells_a_sleeper(tmp_path: Path) -> None:
    path = str(tmp_path / "w.duckdb")
    destination = DuckDBTable(database=path, table="t")
    rows = rows_file(tmp_path, EXAMPLE)
    destination.merge(rows, ["id"], None, Writer("p", (), 0))
    sql(path, "drop table t")
    with pytest.raises(OvertakenError):
        destination.merge(rows, ["id"], None, Writer("p", (), 0))
    assert destination.snapshot(["id"], str(tmp_path / "s.parquet")).generation == 1
    assert destination.merge(rows, ["id"], None, Writer("p", (), 1)).inserted == 4


def test_another_pipelines_rows_are_refused_and_a_renamed_one_goes_on(
    destination: Destination, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, EXAMPLE)
    destination.merge(rows, ["id"], None, Writer("invoices"))
    with pytest.raises(InputError, match="results of the pipeline invoices, so bills cannot"):
        destination.merge(rows, ["id"], None, Writer("bills"))

    def wanted(writer: Writer) -> Wanted:
        return Wanted(writer, ["id"], lambda: {"id": "INTEGER", "t": "VARCHAR"}, lambda: ["t"])

    with pytest.raises(InputError, match="two pipelines never share one"):
        destination.check(wanted(Writer("bills")))
    destination.check(wanted(Writer("bills", ("invoices",))))
    destination.merge(rows, ["id"], None, Writer("bills", ("invoices",)))
    with pytest.raises(InputError, match="results of the pipeline bills"):
        destination.check(wanted(Writer("invoices")))


TEAM = """
create table t (id INTEGER PRIMARY KEY, seen TIMESTAMP DEFAULT '2024-01-01', t VARCHAR,
    "who's" VARCHAR[] NOT NULL DEFAULT ['nobody'], shout VARCHAR GENERATED ALWAYS AS (upper(t)),
    _status VARCHAR, _custom_id VARCHAR)
"""


def test_a_teams_columns_keep_their_values_and_get_their_defaults(tmp_path: Path) -> None:
    path = str(tmp_path / "w.duckdb")
    destination = DuckDBTable(database=path, table="t")
    sql(path, TEAM)
    destination.merge(rows_file(tmp_path, EXAMPLE), ["id"], None)
    sql(path, "update t set \"who's\" = ['ann'], seen = NULL where id = 3")
    new = rows_file(
        tmp_path, "SELECT range::INTEGER AS id, 'new' AS t, [range] AS l FROM range(3, 6)"
    )
    merged = destination.merge(new, ["id"], None)
    assert (merged.inserted, merged.updated, merged.total) == (2, 1, 6)
    found = sql(path, 'select id, t, "who\'s", year(seen), shout, l from t order by id')
    assert found[2:5] == [
        (2, "old", ["nobody"], 2024, "OLD", None),
        (3, "new", ["ann"], None, "NEW", [3]),
        (4, "new", ["nobody"], 2024, "NEW", [4]),
    ]
    wide = rows_file(tmp_path, "SELECT 3::BIGINT AS id, 5 AS t, 'text' AS l")
    destination.merge(wide, ["id"], None)
    assert sql(path, 'select id, t, "who\'s", shout, l, typeof(id) from t where id >= 3') == [
        (3, "5", ["ann"], "5", "text", "BIGINT"),
        (4, "new", ["nobody"], "NEW", "[4]", "BIGINT"),
        (5, "new", ["nobody"], "NEW", "[5]", "BIGINT"),
    ]
    with pytest.raises(duckdb.ConstraintException):
        sql(path, "insert into t (id) values (3)")


def test_rows_that_stand_twice_become_one_and_keep_the_first_ones_columns(
    destination: Destination, tmp_path: Path
) -> None:
    destination.merge(rows_file(tmp_path, EXAMPLE), ["id"], None)
    if isinstance(destination, ParquetDataset):
        file = destination.files()[0]
        sql(":memory:", f"create table x as from '{file}'", "insert into x from x",
            f"copy x to '{file}' (format parquet)")  # fmt: skip
    else:
        sql(
            destination.path,
            'alter table ai."""odd table" add column mine integer',
            'update ai."""odd table" set mine = 1',
            'insert into ai."""odd table" select * replace (2 as mine) from ai."""odd table"',
        )
    rows = rows_file(tmp_path, "SELECT unnest([1, 2])::INTEGER AS id, 'new' AS t")
    destination.merge(rows, ["id"], None)
    assert ids(destination) == [
        (0, "old"), (0, "old"), (1, "new"), (2, "new"), (3, "old"), (3, "old"),
    ]  # fmt: skip
    if isinstance(destination, DuckDBTable):
        assert ids(destination, "mine") == [(1,)] * 4 + [(2,)] * 2


KILLED = """
import os, sys
from batch_pipeline.results import duckdb_table, table_rows
from batch_pipeline.results.destinations import DuckDBTable
from batch_pipeline.results.merging import Writer
where, path, rows = sys.argv[1:]
if where == "rebuild":
    real = duckdb_table.rebuild
    duckdb_table.rebuild = lambda *args: (real(*args), os._exit(9))
else:
    real = getattr(table_rows.TableRows, where)
    setattr(table_rows.TableRows, where, lambda *args: (real(*args), os._exit(9)))
DuckDBTable(database=path, table="t").merge(rows, ["id"], None, Writer("p"))
"""


@pytest.mark.parametrize("where", ["drop_doubles", "rebuild", "update", "insert"])
def test_a_merge_that_is_killed_on_the_way_changes_nothing(where: str, tmp_path: Path) -> None:
    path = str(tmp_path / "w.duckdb")
    destination = DuckDBTable(database=path, table="t")
    destination.merge(rows_file(tmp_path, EXAMPLE), ["id"], None, Writer("p"))
    sql(path, "create index by_t on t (t)", "create unique index by_id on t (id)",
        "alter table t add column mine integer default 7")  # fmt: skip
    before = sql(path, "from t order by id")
    new = rows_file(tmp_path, "SELECT range AS id, 'new' AS t, 1 AS more FROM range(30000)")
    ran = subprocess.run([sys.executable, "-c", KILLED, where, path, new])
    assert ran.returncode == 9
    assert sql(path, "from t order by id") == before
    assert sql(path, "select index_name from duckdb_indexes() order by all") == [
        ("by_id",), ("by_t",),
    ]  # fmt: skip
    with open_database(path, read_only=True) as database:
        mark = read_mark(database, "main", "t")
    assert mark is not None and mark.generation == 1
    assert destination.merge(new, ["id"], None, Writer("p", (), 1)).inserted == 29_996
    assert sql(path, "select count(*), count(mine), typeof(any_value(id)) from t") == [
        (30_000, 30_000, "BIGINT")
    ]


INDEXES: list[Any] = [
    ["create index i on t (v)"],
    ["create index i on t (id, v)", "create index j on t (lower(t))"],
    ["create unique index i on t (id)"],
    ["alter table t alter v set default 3"],
    ["alter table t add primary key (id)"],
    ["create view reader as select v from t", "create index i on t (v)"],
    ["create view reader as select * from t", "create view again as select * from reader"],
]


@pytest.mark.parametrize("kind", ["'text'", "{'a': [1]}", "2.5", "[1]", "TIMESTAMP '2024-01-01'"])
@pytest.mark.parametrize("built", INDEXES, ids=lambda built: built[0])
def test_no_index_and_no_view_stops_a_type_from_growing(
    built: list[str], kind: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "w.duckdb")
    destination = DuckDBTable(database=path, table="t")
    first = "SELECT range::INTEGER AS id, 't' AS t, 1::INTEGER AS v FROM range(4)"
    destination.merge(rows_file(tmp_path, first), ["id"], None)
    sql(path, *built)
    names = sql(path, "select index_name from duckdb_indexes() order by all")
    new = rows_file(tmp_path, f"SELECT 3::BIGINT AS id, 't' AS t, {kind} AS v")
    assert destination.merge(new, ["id"], None).updated == 1
    assert sql(path, "select count(*), count(v) from t") == [(4, 4)]
    assert sql(path, "select index_name from duckdb_indexes() order by all") == names
    if "view" in built[0]:
        view = "again" if len(built) == 2 and "again" in built[1] else "reader"
        assert sql(path, f"select count(v) from {view}") == [(4,)]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("DECIMAL(38,0)", ["0", "-1"]),
        ("INTEGER[]", ["[]", "[NULL]"]),
        ("STRUCT(a INTEGER[], b VARCHAR)", ["{'a': [], 'b': ''}", "{'a': [NULL], 'b': ''}"]),
    ],
)
def test_keys_that_duckdb_hashes_alike_are_no_doubled_rows(
    destination: Destination, tmp_path: Path, kind: str, keys: list[str]
) -> None:
    store = open_store(str(tmp_path / "store"))
    rows = " UNION ALL ".join(f"SELECT CAST({key} AS {kind}) AS id" for key in keys)
    path = str(tmp_path / "rows.parquet")
    with memory_connection() as con:
        con.execute(
            f"COPY (SELECT *, 'c' || row_number() OVER () AS _custom_id, 'answered' AS _status"
            f" FROM ({rows})) TO '{path}' (FORMAT parquet)"
        )
        con.execute(
            f"COPY (SELECT {key_hash_sql(['id'], {'id': kind}, 'r')} AS key_hash,"
            " 'x' AS content_hash, 'v' AS version, _custom_id AS custom_id, 1 AS attempt,"
            f" _status AS status FROM '{path}' AS r)"
            f" TO '{store.files.url('index.parquet')}' (FORMAT parquet)"
        )
        destination.merge(path, ["id"], None)
        index = [IndexRow("index.parquet", 1, "")]
        find_winners(store, con, index)
        there = destination.snapshot(["id"], str(tmp_path / "there.parquet"))
        found = compare(store, con, index, there, [], ["id"], {"index.parquet": "rows.parquet"})
    assert found == Holding(records=2)
