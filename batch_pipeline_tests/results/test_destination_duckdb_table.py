"""Results in a DuckDB table."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records.reading import open_source
from batch_pipeline.records.sources import DuckDBSource
from batch_pipeline.results import duckdb_table
from batch_pipeline.results.destinations import DuckDBTable
from batch_pipeline.results.merging import Merged, Rows

FOREIGN = "SELECT 1 AS id, 'precious' AS note"


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = str(tmp_path / "w.duckdb")
    with duckdb.connect(path) as con:
        con.execute(f"CREATE TABLE precious AS {FOREIGN}")
        con.execute("CREATE VIEW seen AS SELECT * FROM precious")
    return path


def rows_file(tmp_path: Path, query: str) -> str:
    path = str(tmp_path / f"rows{len(list(tmp_path.iterdir()))}.parquet")
    with duckdb.connect() as con:
        con.execute(f"COPY (SELECT *, 'c' AS _custom_id, 'answered' AS _status FROM ({query}))"
                    f" TO '{path}' (FORMAT parquet)")  # fmt: skip
    return path


@pytest.mark.parametrize("table", ["precious", "PRECIOUS", "main.precious", "seen"])
def test_a_table_of_somebody_else_is_left_alone(database: str, table: str, tmp_path: Path) -> None:
    destination = DuckDBTable(database=database, table=table)
    with pytest.raises(InputError, match="not made by batch_pipeline"):
        destination.check()
    with pytest.raises(InputError, match="Name another table"):
        destination.merge(rows_file(tmp_path, FOREIGN), ["id"], None)
    with duckdb.connect(database) as con:
        assert con.execute("FROM precious").fetchall() == [(1, "precious")]


def test_source_and_destination_may_be_one_file(database: str, tmp_path: Path) -> None:
    destination = DuckDBTable(database=database, table="answers")
    with open_source(DuckDBSource(database=database, table="precious", key="id")):
        pass
    assert destination.merge(rows_file(tmp_path, FOREIGN), ["id"], None).inserted == 1
    with duckdb.connect(database) as con:
        joined = "SELECT note FROM precious JOIN answers USING (id, note)"
        assert con.execute(joined).fetchall() == [("precious",)]


def test_a_merge_works_beside_another_connection_of_this_process(
    database: str, tmp_path: Path
) -> None:
    destination = DuckDBTable(database=database, table="answers", lock_wait_seconds=0.3)
    rows = rows_file(tmp_path, FOREIGN)
    with duckdb.connect(database) as con:
        assert destination.merge(rows, ["id"], None).inserted == 1
        assert con.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    with duckdb.connect(database, read_only=True), pytest.raises(InputError, match="in use"):
        destination.merge(rows, ["id"], None)
    assert destination.merge(rows, ["id"], None).updated == 1


def test_a_failed_merge_leaves_the_old_rows(database: str, tmp_path: Path) -> None:
    destination = DuckDBTable(database=database, table="answers")
    destination.merge(rows_file(tmp_path, FOREIGN), ["id"], None)
    with duckdb.connect(database) as con:
        con.execute("ALTER TABLE answers ALTER COLUMN note SET NOT NULL")
    bad = rows_file(tmp_path, "SELECT 1 AS id, NULL::VARCHAR AS note, 5 AS extra")
    with pytest.raises(InputError, match=r"turns rows away.*NOT NULL.*answers\.note"):
        destination.merge(bad, ["id"], None)
    assert destination.sample(5).column("note").to_pylist() == ["precious"]
    assert "extra" not in destination.columns()


KILLED = """
import os, sys
from batch_pipeline.results import table_rows
from batch_pipeline.results import duckdb_table
from batch_pipeline.results.destinations import DuckDBTable
from batch_pipeline.results.merging import Merged, Rows
insert = table_rows.TableRows.insert
def insert_and_die(*args):
    insert(*args)
    os._exit(9)
table_rows.TableRows.insert = insert_and_die
DuckDBTable(database=sys.argv[1], table="answers").merge(sys.argv[2], ["id"], None)
"""


def test_a_merge_killed_before_its_commit_changes_nothing(database: str, tmp_path: Path) -> None:
    destination = DuckDBTable(database=database, table="answers")
    destination.merge(rows_file(tmp_path, FOREIGN), ["id"], None)
    new = rows_file(tmp_path, "SELECT range AS id, 'new' AS note, 1 AS added FROM range(50000)")
    assert subprocess.run([sys.executable, "-c", KILLED, database, new]).returncode == 9
    assert destination.sample(5).column("note").to_pylist() == ["precious"]
    assert destination.merge(new, ["id"], None).inserted == 49_999


def test_a_new_schema_file_and_folder_are_created(tmp_path: Path) -> None:
    destination = DuckDBTable(database=str(tmp_path / "new/deep/w.duckdb"), table="ai.answers")
    assert not destination.exists()
    destination.merge(rows_file(tmp_path, FOREIGN), ["id"], None)
    assert destination.exists()
    assert "ai.answers" in destination.describe()


def test_the_whole_table_is_read_through_a_given_connection(database: str, tmp_path: Path) -> None:
    destination = DuckDBTable(database=database, table="answers")
    destination.merge(rows_file(tmp_path, FOREIGN), ["id"], None)
    with duckdb.connect() as con:
        for _ in range(2):
            relation = destination.relation(con)
            assert con.execute(f"SELECT count(*) FROM {relation}").fetchone() == (1,)
    with open_source(DuckDBSource(database=database, table="precious", key="id")) as con:
        relation = destination.relation(con)
        assert con.execute(f"SELECT count(*) FROM {relation}").fetchone() == (1,)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("answers", ("main", "answers")),
        ("main.answers", ("main", "answers")),
        ('"my schema"."a.b"', ("my schema", "a.b")),
        ('"a.b"', ("main", "a.b")),
        ('ai."say ""hi"""', ("ai", 'say "hi"')),
        ("a b.c-d", ("a b", "c-d")),
    ],
)
def test_a_name_is_read_as_sql_writes_it(name: str, table: tuple[str, str], tmp_path: Path) -> None:
    destination = DuckDBTable(database=str(tmp_path / "w.duckdb"), table=name)
    assert destination.schema_and_table == table
    with duckdb.connect() as con:
        con.execute(
            "COPY (SELECT 1 AS id, 'c' AS _custom_id, 'answered' AS _status)"
            f" TO '{tmp_path}/rows.parquet' (FORMAT parquet)"
        )
    destination.merge(f"{tmp_path}/rows.parquet", ["id"], None)
    with duckdb.connect(destination.path) as con:
        found = con.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE table_name NOT LIKE '_bp%'"
        ).fetchall()
    assert found == [table] and destination.row_count() == 1
    source = DuckDBSource(database=destination.path, table=name, key="id")
    with open_source(source) as con:
        assert con.execute("SELECT id FROM source").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("name", "earlier"),
    [
        ("a.b.c", '"a.b"."c"'),
        ("a.", '"a"'),
        (".a", '"a"'),
        ("", ""),
        (" ", ""),
        ('ai."odd', '"ai"."""odd"'),
        ('"a"b', '"""a""b"'),
    ],
)
def test_a_name_that_is_none_is_refused_when_declared(name: str, earlier: str) -> None:
    with pytest.raises(InputError, match=r"names no table\. Write table or schema") as refused:
        DuckDBTable(database="w.duckdb", table=name)
    assert not earlier or f"earlier versions made of it is {earlier}." in str(refused.value)


def test_a_commit_that_lacks_memory_is_tried_again_with_more(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "TransactionContext Error: Failed to commit: failed to pin block of size 256.0 KiB (95.1 MiB/95.3 MiB used)"
    real, tries = duckdb_table.write_mark, []

    def short(*given: Any) -> None:
        real(*given)
        tries.append(1)
        if len(tries) == 1:
            raise duckdb.TransactionException(words)

    monkeypatch.setattr(duckdb_table, "write_mark", short)
    rows = rows_file(tmp_path, "SELECT 1 AS id")
    destination = DuckDBTable(database=database, table="results", lock_wait_seconds=0)
    assert destination.merge(rows, ("id",), None).total == 1
    assert len(tries) == 2


def test_a_new_table_of_many_rows_is_written_in_small_groups_and_goes_on_as_any_other(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "w.duckdb")
    destination = DuckDBTable(database=path, table="answers")
    made = "SELECT i AS id, 'said ' || i + {more} AS said, 'c' || i AS _custom_id, 'answered' AS _status FROM {rows}"

    def merge(start: int, end: int, more: int) -> Merged:
        query = made.format(more=more, rows=f"range({start}, {end}) AS r(i)")
        return destination.merge(Rows(query, end - start), ["id"], None)

    assert merge(0, 40_000, 0).inserted == 40_000
    with duckdb.connect(path) as con:
        groups = (
            "SELECT max(n) FROM (SELECT sum(count) AS n FROM pragma_storage_info('answers') WHERE"
            " column_id = 0 AND segment_type <> 'VALIDITY' GROUP BY row_group_id)"
        )
        ((most,),) = con.execute(groups).fetchall()
    if duckdb.__version__.startswith("2."):
        assert most == duckdb_table.ROW_GROUP_SIZE
    merged = merge(20_000, 60_000, 7)
    assert (merged.updated, merged.inserted) == (20_000, 20_000)
    with duckdb.connect(path) as con:
        (found,) = con.execute("SELECT count(*), count(DISTINCT id) FROM answers").fetchall()
        wrong = con.execute(
            "SELECT count(*) FROM answers WHERE said <> 'said ' || id + if(id < 20000, 0, 7)"
        ).fetchone()
    assert (found, wrong) == ((60_000, 60_000), (0,))
