"""What holds for every destination."""

import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.results.destinations import Destination, DuckDBTable, ParquetDataset
from batch_pipeline.results.merging import Merged
from batch_pipeline_tests.support.extent import only_whole

Rows = Callable[[str], str]


@pytest.fixture(params=["duckdb", "parquet", "parquet in a store"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    if request.param == "duckdb":
        return DuckDBTable(database=str(tmp_path / "w.duckdb"), table='ai."""odd table"')
    if request.param == "parquet":
        return ParquetDataset(path=str(tmp_path / "out"), rows_per_bucket=4, grace_seconds=0)
    return ParquetDataset(path=f"memory://{uuid.uuid4()}/out", rows_per_bucket=4)


@pytest.fixture
def write(tmp_path: Path) -> Rows:
    def write_rows(query: str) -> str:
        path = str(tmp_path / f"{uuid.uuid4()}.parquet")
        with memory_connection() as con:
            con.execute("SET TimeZone = 'UTC'")
            con.execute(
                f"COPY (SELECT *, 'c' AS _custom_id, 'answered' AS _status FROM ({query}))"
                f" TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 10240)"
            )
        return path

    return write_rows


def values(destination: Destination, columns: str) -> list[tuple]:
    with memory_connection() as con:
        sql = f"SELECT {columns} FROM {destination.relation(con)} ORDER BY ALL"
        return con.execute(sql).fetchall()


def test_rows_are_inserted_replaced_and_removed(destination: Destination, write: Rows) -> None:
    assert not destination.exists()
    assert (destination.columns(), destination.row_count()) == ({}, 0)
    first = write("SELECT range AS id, 'old' AS t FROM range(10)")
    assert destination.merge(first, ["id"], None) == Merged(10, 0, 0, 10)
    second = write("SELECT range AS id, 'new' AS t FROM range(8, 12)")
    gone = write("SELECT unnest([0, 1, 77]) AS id")
    assert destination.merge(second, ["id"], gone) == Merged(2, 2, 2, 10)
    assert values(destination, "id, t") == [
        *[(i, "old") for i in range(2, 8)],
        *[(i, "new") for i in range(8, 12)],
    ]
    assert destination.exists()
    assert destination.row_count() == 10
    assert destination.sample(3).num_rows == 3
    assert list(destination.columns()) == ["id", "t", "_custom_id", "_status"]
    destination.check()


def test_a_merge_may_be_repeated(destination: Destination, write: Rows) -> None:
    rows, gone = write("SELECT range AS id FROM range(5)"), write("SELECT 9 AS id")
    destination.merge(rows, ["id"], gone)
    before = values(destination, "*")
    assert destination.merge(rows, ["id"], gone) == Merged(0, 5, 0, 5)
    assert values(destination, "*") == before


def test_nothing_to_merge_is_no_error(destination: Destination, write: Rows) -> None:
    assert destination.merge(None, ["id"], write("SELECT 1 AS id")) == Merged(0, 0, 0, 0)
    destination.merge(write("SELECT 1 AS id"), ["id"], None)
    assert destination.merge(None, ["id"], write("SELECT 1 AS id")) == Merged(0, 0, 1, 0)
    assert destination.merge(None, ["id"], None) == Merged(0, 0, 0, 0)
    assert values(destination, "id") == []
    assert destination.merge(write("SELECT 1 AS id"), ["id"], None).total == 1


def test_a_row_that_is_both_new_and_gone_stays(destination: Destination, write: Rows) -> None:
    rows = write("SELECT 1 AS id")
    destination.merge(rows, ["id"], rows)
    assert destination.merge(rows, ["id"], rows).total == 1


def test_columns_are_added_and_missing_ones_stay_null(
    destination: Destination, write: Rows
) -> None:
    destination.merge(write("SELECT 1 AS id, 'x' AS a"), ["id"], None)
    destination.merge(write("SELECT 2 AS id, 2.5 AS \"B b\", 'y' AS A"), ["ID"], None)
    destination.merge(write("SELECT 3 AS id"), ["id"], None)
    assert values(destination, 'id, a, "B b"::DOUBLE') == [
        (1, "x", None), (2, "y", 2.5), (3, None, None),
    ]  # fmt: skip
    assert list(destination.columns()) == ["id", "a", "_custom_id", "_status", "B b"]


@pytest.mark.parametrize(
    ("old", "new", "kind", "found"),
    [
        ("1::INTEGER", "3000000000", "BIGINT", [1, 3000000000]),
        ("1::BIGINT", "2.5::DOUBLE", "DOUBLE", [1.0, 2.5]),
        ("1", "'text'", "VARCHAR", ["1", "text"]),
        ("'text'", "1", "VARCHAR", ["1", "text"]),
        ("'[1]'::JSON", "'no json'", "VARCHAR", ["[1]", "no json"]),
        ("1::UBIGINT", "-1::BIGINT", "DECIMAL(38,0)", [-1, 1]),
        ("true", "DATE '2024-01-01'", "VARCHAR", ["2024-01-01", "true"]),
        ("[1, 2]", "'text'", "VARCHAR", ["[1, 2]", "text"]),
        ("NULL", "'text'", "VARCHAR", ["text", None]),
        ("7", "NULL", "INTEGER", [7, None]),
        ("'a'::ENUM ('a')", "'b'::ENUM ('b')", "VARCHAR", ["a", "b"]),
        ("{'a': 1}", "{'b': 2}", None, None),
        ("0.12::DECIMAL(38,2)", "0.1234::DECIMAL(38,10)", "VARCHAR", ["0.12", "0.1234000000"]),
        (
            "0.1234::DECIMAL(20,4)",
            "7.12::DECIMAL(30,2)",
            "DECIMAL(32,4)",
            [Decimal("0.1234"), Decimal("7.12")],
        ),
        ("1.5::DECIMAL(38,10)", "2::DECIMAL(38,0)", "VARCHAR", ["1.5000000000", "2"]),
        ("1.5::DECIMAL(38,37)", "9::BIGINT", "VARCHAR", [f"1.5{'0' * 36}", "9"]),
        (
            "[0.5::DECIMAL(38,2)]",
            "[0.123::DECIMAL(38,10)]",
            "VARCHAR[]",
            [["0.1230000000"], ["0.50"]],
        ),
        (
            "{'a': 0.5::DECIMAL(9,2)}",
            "{'a': 0.123::DECIMAL(9,3), 'b': 1}",
            "STRUCT(a DECIMAL(10,3), b INTEGER)",
            [{"a": Decimal("0.123"), "b": 1}, {"a": Decimal("0.500"), "b": None}],
        ),
        ("MAP {'k': 1.5::DECIMAL(30,2)}", "MAP {'k': 1.25::DECIMAL(30,3)}", None, None),
    ],
)
def test_a_changed_type_is_widened(
    destination: Destination, write: Rows, old: str, new: str, kind: str | None, found: list | None
) -> None:
    destination.merge(write(f"SELECT 1 AS id, {old} AS v"), ["id"], None)
    assert destination.merge(write(f"SELECT 2 AS id, {new} AS v"), ["id"], None).total == 2
    if kind is not None:
        assert destination.columns()["v"] == kind
        assert [row[0] for row in values(destination, "v")] == found
    else:
        assert len(values(destination, "v")) == 2


def test_a_key_whose_type_changed_still_finds_its_rows(
    destination: Destination, write: Rows
) -> None:
    destination.merge(
        write("SELECT DATE '2024-01-01' + range::INT AS id FROM range(9)"), ["id"], None
    )
    later = write("SELECT TIMESTAMP '2024-01-09' + INTERVAL 1 DAY * range AS id FROM range(2)")
    assert destination.merge(later, ["id"], None) == Merged(1, 1, 0, 10)
    texts = write("SELECT '2024-01-01 00:00:00' AS id")
    assert destination.merge(texts, ["id"], None) == Merged(0, 1, 0, 10)
    assert destination.merge(later, ["id"], texts) == Merged(0, 2, 1, 9)


def test_composite_and_odd_keys(destination: Destination, write: Rows) -> None:
    key = ['the "key"', "select"]
    rows = write(
        """SELECT 'a' || range // 2 AS "the ""key""\", '\\x01'::BLOB AS "select", range % 2 AS n
           FROM range(8) WHERE range % 2 = 0"""
    )
    assert destination.merge(rows, key, None).inserted == 4
    assert destination.merge(rows, key, None).updated == 4
    assert destination.merge(None, key, rows) == Merged(0, 0, 4, 0)


def test_another_key_than_before_is_an_input_error(destination: Destination, write: Rows) -> None:
    destination.merge(write("SELECT 1 AS id"), ["id"], None)
    with pytest.raises(InputError, match="no key column `nr`"):
        destination.merge(write("SELECT 1 AS id, 2 AS nr"), ["nr"], None)


WRITER = """
import sys, duckdb
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
kind, path, folder, writer = sys.argv[1:]
target = (DuckDBTable(database=path, table="t") if kind == "duckdb"
          else ParquetDataset(path=path, rows_per_bucket=5))
for i in range(8):
    rows = f"{folder}/{writer}-{i}.parquet"
    duckdb.connect().execute(f"COPY (SELECT {writer} * 1000 + {i} AS id, 'c' AS _custom_id, 's' AS _status)"
                   f" TO '{rows}' (FORMAT parquet)")
    target.merge(rows, ["id"], None)
"""


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_two_processes_do_not_lose_each_others_rows(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / ("w.duckdb" if kind == "duckdb" else "out"))
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, kind, path, str(tmp_path), str(writer)])
        for writer in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    target = (
        DuckDBTable(database=path, table="t") if kind == "duckdb" else ParquetDataset(path=path)
    )
    assert [row[0] for row in values(target, "id")] == [
        writer * 1000 + i for writer in range(3) for i in range(8)
    ]


MEASURED = """
import sys
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
kind, path, rows = sys.argv[1:]
target = DuckDBTable(database=path, table="t") if kind == "duckdb" else ParquetDataset(path=path)
for _ in range(2):
    merged = target.merge(rows, ["id"], None)
assert merged.updated == 100_000, merged
status = open("/proc/self/status").read()  # ru_maxrss would include the process that forked us
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


@only_whole
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_a_merge_of_100_thousand_rows_of_1_kb_needs_little_memory(
    kind: str, tmp_path: Path, write: Rows
) -> None:
    rows = write("SELECT range AS id, repeat(md5(range::VARCHAR), 32) AS text FROM range(100000)")
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, kind, str(tmp_path / "measured"), rows],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 350, f"{run.stdout} MB"
