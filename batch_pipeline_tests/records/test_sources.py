"""Sources: what can be read, and what is said when it cannot."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records.reading import open_source, source_columns
from batch_pipeline.records.sources import DuckDBSource, ParquetSource

HOLD = """
import duckdb, sys, time
con = duckdb.connect(sys.argv[1])
print("open", flush=True)
time.sleep(float(sys.argv[2]))
con.close()
"""


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = str(tmp_path / "ware house.duckdb")
    with duckdb.connect(path) as con:
        con.execute("CREATE TABLE invoices AS SELECT range AS id, 'text' AS body FROM range(3)")
        con.execute("CREATE VIEW paid AS SELECT * FROM invoices WHERE id > 0")
        con.execute("CREATE SCHEMA raw; CREATE TABLE raw.invoices AS SELECT 7 AS id")
        con.execute("CREATE TABLE source AS SELECT 1 AS id, 'mine' AS body")
    return path


def rows(source: DuckDBSource | ParquetSource) -> list[tuple]:
    with open_source(source) as con:
        return con.execute("SELECT * FROM source ORDER BY ALL").fetchall()


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ({"table": "invoices"}, 3),
        ({"table": "INVOICES"}, 3),
        ({"table": "paid"}, 2),
        ({"table": "raw.invoices"}, 1),
        ({"table": "source"}, 1),
        ({"query": "select * from invoices"}, 3),
        ({"query": "from paid; -- all; of them\n"}, 2),
        ({"query": "select * from invoices where body <> ';' -- no semicolon"}, 3),
        ({"query": "with a as (select 1 as id) select * from a"}, 1),
        ({"query": "select * from source"}, 1),
        ({"query": "select 1 as id union all select 2 order by id limit 5"}, 2),
        ({"query": "values (1), (2)", "key": "col0"}, 2),
        ({"query": "with source as (select * from invoices) select * from source"}, 3),
        ({"query": "select i.*, s.body as b2 from invoices i join source s using (id)"}, 1),
    ],
)
def test_tables_views_and_queries_are_read(database: str, what: dict[str, Any], count: int) -> None:
    declared: dict[str, Any] = {"database": database, "key": "id"} | what
    assert len(rows(DuckDBSource(**declared))) == count


@pytest.mark.parametrize(
    ("made", "lost", "says"),
    [
        (
            "SELECT * FROM main.invoices",
            "DROP TABLE main.invoices",
            "Table with name invoices does not exist",
        ),
        (
            "SELECT id, body FROM main.invoices",
            "ALTER TABLE main.invoices DROP body",
            '"body" not found',
        ),
        (
            "SELECT * FROM other.x",
            "DETACH other",
            '(schema "other"|Table with name \\w+) does not exist',
        ),
        ("SELECT * FROM '{csv}'", "", "No files found .*gone.csv"),
    ],
)
def test_a_view_that_has_lost_what_it_reads_is_an_error_that_names_it(
    made: str, lost: str, says: str, database: str, tmp_path: Path
) -> None:
    csv = tmp_path / "gone.csv"
    csv.write_text("id,body\n1,a\n")
    with duckdb.connect(database) as con:
        con.execute("ATTACH ':memory:' AS other; CREATE TABLE other.x AS SELECT 1 AS id")
        con.execute(f"CREATE VIEW raw.stale AS {made.format(csv=csv)}; {lost}")
    csv.unlink()
    with pytest.raises(InputError, match=rf"`raw\.stale` in .*ware house.* DuckDB says: .*{says}"):
        rows(DuckDBSource(database=database, table="Raw.Stale", key="id"))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet.gz"])
def test_a_file_that_is_no_parquet_is_an_error_with_a_way_to_read_it(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"id,v\n1,a\n" * (1 if name == "a.csv" else 100))
    says = r"only Parquet is read.*read_csv.*Unpack.*DuckDB says: .*a\.(csv|parquet\.gz)"
    with pytest.raises(InputError, match=says):
        rows(ParquetSource(path=str(tmp_path / name), key="id"))


def test_exactly_one_of_query_and_table() -> None:
    with pytest.raises(InputError, match="exactly one"):
        DuckDBSource(database="x", key="id")
    with pytest.raises(InputError, match="exactly one"):
        DuckDBSource(database="x", key="id", table="a", query="select 1")
    with pytest.raises(InputError, match="key"):
        DuckDBSource(database="x", key=[], table="a")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"table": "invoice"}, "Did you mean `invoices`.*paid"),
        ({"query": "select nope from invoices"}, "nope"),
        ({"query": "select * fro invoices"}, "syntax"),
        ({"query": "delete from invoices"}, "single SELECT"),
        ({"query": "select 1 as id; select 2 as id"}, "single SELECT"),
        (
            {"query": "with a as (select 9 as id, 'x' as body) insert into invoices from a"},
            "single SELECT",
        ),
        ({"query": ""}, "single SELECT"),
        ({"query": "select a.id, b.id from invoices a, invoices b"}, "`id` more than once"),
        ({"query": "select body as Id2 from invoices"}, "key column `id`.*Did you mean `Id2`"),
        ({"table": "invoices", "key": ["id", "line"]}, "key column `line`.*id, body"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(
    database: str, what: dict[str, Any], says: str
) -> None:
    declared: dict[str, Any] = {"database": database, "key": "id"} | what
    with pytest.raises(InputError, match=says), open_source(DuckDBSource(**declared)):
        pass


def test_a_missing_or_foreign_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DuckDB database at"):
        rows(DuckDBSource(database=str(tmp_path / "none.duckdb"), key="id", table="a"))
    (tmp_path / "text.duckdb").write_text("hello" * 10_000)
    with pytest.raises(InputError, match="cannot be opened"):
        rows(DuckDBSource(database=str(tmp_path / "text.duckdb"), key="id", table="a"))


def test_a_source_cannot_be_written_to(database: str) -> None:
    with open_source(DuckDBSource(database=database, table="invoices", key="id")) as con:
        with pytest.raises(duckdb.Error, match="read-only"):
            con.execute("DELETE FROM invoices")


def test_a_source_is_read_while_this_process_writes_to_the_file(database: str) -> None:
    source = DuckDBSource(database=database, table="invoices", key="id", lock_wait_seconds=0.2)
    with duckdb.connect(database) as writer:
        assert len(rows(source)) == 3
        writer.execute("SELECT 1 FROM invoices")
    with duckdb.connect(database, read_only=True):
        assert len(rows(source)) == 3
    with open_source(source), open_source(source) as con:
        assert source_columns(con) == {"id": "BIGINT", "body": "VARCHAR"}


def test_the_zone_of_a_shared_instance_is_left_alone(database: str) -> None:
    with duckdb.connect(database) as writer:
        writer.execute("SET TimeZone = 'Asia/Tokyo'")
        with open_source(DuckDBSource(database=database, table="invoices", key="id")) as con:
            assert con.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)
        assert writer.execute("SELECT current_setting('TimeZone')").fetchone() == ("Asia/Tokyo",)


def hold(path: str, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path, str(seconds)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_locked_file_is_waited_for(database: str) -> None:
    with hold(database, 1.0) as process:
        assert len(rows(DuckDBSource(database=database, table="invoices", key="id"))) == 3
        process.wait()


def test_a_file_that_stays_locked_is_an_input_error_that_names_the_holder(database: str) -> None:
    with hold(database, 60) as process:
        started = time.monotonic()
        with pytest.raises(InputError, match=rf"ware house.duckdb.*PID {process.pid}"):
            rows(DuckDBSource(database=database, table="invoices", key="id", lock_wait_seconds=0.5))
        assert time.monotonic() - started < 5
        process.kill()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    with duckdb.connect() as con:
        (tmp_path / "in/deep").mkdir(parents=True)
        con.execute(f"COPY (SELECT 1 AS id, 'a' AS t) TO '{tmp_path}/in/1.parquet'")
        con.execute(f"COPY (SELECT 2 AS id, 2.5 AS n) TO '{tmp_path}/in/deep/2.parquet'")
    return tmp_path / "in"


def test_files_globs_and_folders_are_read(files: Path) -> None:
    assert len(rows(ParquetSource(path=f"{files}/1.parquet", key="id"))) == 1
    assert len(rows(ParquetSource(path=f"{files}/*.parquet", key="id"))) == 1
    assert len(rows(ParquetSource(path=f"{files}/**/*.parquet", key="id"))) == 2
    assert len(rows(ParquetSource(path=str(files), key="id"))) == 2
    with open_source(ParquetSource(path=str(files), key="id")) as con:
        assert list(source_columns(con)) == ["id", "t", "n"]


def test_object_store_urls_are_read(files: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(files), "/lake/in", recursive=True)
    assert len(rows(ParquetSource(path="memory://lake/in/*.parquet", key="id"))) == 1
    assert len(rows(ParquetSource(path="memory://lake/in", key="id"))) == 2


def test_files_that_cannot_be_read_are_an_input_error(files: Path) -> None:
    with pytest.raises(InputError, match="No Parquet file matches"):
        rows(ParquetSource(path=f"{files}/*.pq", key="id"))
    with pytest.raises(InputError, match="No Parquet file matches"):
        rows(ParquetSource(path="memory://nothing/here.parquet", key="id"))
    with pytest.raises(InputError, match="nosuch"):
        rows(ParquetSource(path="nosuch://a/b.parquet", key="id"))
    with pytest.raises(InputError, match="key column `nr`"):
        rows(ParquetSource(path=str(files), key="nr"))
    (files / "broken.parquet").write_text("this is no parquet file")
    with pytest.raises(InputError, match=r"broken\.parquet"):
        rows(ParquetSource(path=str(files), key="id"))


def test_a_source_describes_itself(database: str) -> None:
    assert (
        "table invoices in"
        in DuckDBSource(database=database, table="invoices", key="id").describe()
    )
    assert DuckDBSource(database=database, query="select 1", key=["a", "b"]).keys == ("a", "b")
    assert ParquetSource(path="/x/*.parquet", key="a").keys == ("a",)
