"""A column that held values of one type and gets values of another: each comes back, whatever it is."""

from itertools import product
from pathlib import Path

import duckdb
import pytest

from batch_pipeline.records.columns import stored_type
from batch_pipeline.records.connections import memory_connection, quote_name, quote_text
from batch_pipeline.results.destinations import Destination, DuckDBTable, ParquetDataset
from batch_pipeline.results.widening import read_widened, schemas_of
from batch_pipeline_tests.support.every_type import EVERY_TYPE
from batch_pipeline_tests.support.extent import extent

FURTHER = {
    # From 2^53 on a DOUBLE has gaps; a FLOAT from 2^24 on.
    "BIGINT": ["9007199254740993", "0"],
    "INTEGER": ["2147483647", "16777217"],
    "UINTEGER": ["4294967295"],
    "SMALLINT": ["-32768"],
    "DECIMAL(18,2)": ["'-1234567890123456.78'"],
    "DATE": ["'2026-01-01'"],
    "JSON": ["'5'", "'\"2026-01-01\"'"],
    "STRUCT(d DATE, n BIGINT)": ["{'d': '9999-12-31', 'n': 9007199254740993}"],
    "STRUCT(D TIMESTAMP_NS, n DOUBLE, m INTEGER)": ["{'D': '2026-01-01', 'n': 1.5, 'm': 1}"],
    "BIGINT[]": ["[9007199254740993, NULL]"],
    "DOUBLE[]": ["[0.1, NULL]"],
    "DATE[]": ["['5000000-01-01']"],
    "TIMESTAMP_NS[]": ["['2262-04-11 23:47:16.854775806']"],
    "MAP(VARCHAR, BIGINT)": ["MAP {'a': 9007199254740993}"],
    "MAP(VARCHAR, DOUBLE)": ["MAP {'a': 0.1}"],
}
VALUES: dict[str, list[str]] = {}
for given, values in [
    *((kind, [value.sql for value in found]) for kind, found in EVERY_TYPE.items()),
    *FURTHER.items(),
]:
    stored = stored_type(str(duckdb.sqltype(given)), True)  # what results files hold
    VALUES.setdefault(stored, []).extend(f"CAST(CAST({v} AS {given}) AS {stored})" for v in values)
PAIRS = [(old, new) for old, new in product(VALUES, VALUES) if old != new]
PARTS = 37  # DuckDB plans a hundred columns fast, and thousands never
MOST = max(map(len, VALUES.values()))


@pytest.fixture(params=["duckdb", "parquet"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    if request.param == "duckdb":
        return DuckDBTable(database=str(tmp_path / "w.duckdb"), table="t")
    return ParquetDataset(path=str(tmp_path / "out"))


def write(path: Path, pairs: list[tuple[str, str]], side: int) -> str:
    """Write rows with a column per pair, which has the values of one of its types."""
    with memory_connection() as con:
        rows = " UNION ALL ".join(
            f"SELECT {row * 2 + side} AS id, 'c' AS _custom_id, 'answered' AS _status, "
            + ", ".join(
                f"{VALUES[pair[side]][row % len(VALUES[pair[side]])]} AS v{place}"
                for place, pair in enumerate(pairs)
            )
            for row in range(MOST)
        )
        con.execute(f"COPY ({rows}) TO {quote_text(str(path))} (FORMAT parquet)")
    return str(path)


def check(con: duckdb.DuckDBPyConnection, relation: str, pairs: list[tuple[str, str]]) -> list[str]:
    """Return what does not come back, of the rows of both files."""
    columns = con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    kinds = {row[0]: row[1] for row in columns}
    wrong = []
    for side in (0, 1):
        cells = []
        for place, pair in enumerate(pairs):
            name = quote_name(f"v{place}")
            # In a text column a value stands as it prints; in any other it still is that value.
            if kinds[f"v{place}"] != "VARCHAR":
                name = f"CAST({name} AS {pair[side]})"
            cells.append(f"CAST({name} AS VARCHAR) AS v{place}")
        came = con.execute(
            f"SELECT {', '.join(cells)} FROM {relation} AS r WHERE id % 2 = {side} ORDER BY id"
        ).fetchall()
        for place, pair in enumerate(pairs):
            values = VALUES[pair[side]]
            wanted = ", ".join(f"CAST({value} AS VARCHAR)" for value in values)
            (said,) = con.execute(f"SELECT [{wanted}]").fetchall()[0]
            for row, cells in enumerate(came):
                if cells[place] != said[row % len(values)]:
                    found = kinds[f"v{place}"]
                    wrong.append(f"{pair} {found}: {said[row % len(values)]}, {cells[place]}")
    return wrong


@pytest.mark.parametrize("part", range(extent(1, PARTS)))
def test_a_value_of_every_type_stays_when_another_type_comes(
    destination: Destination, tmp_path: Path, part: int
) -> None:
    pairs = PAIRS[part::PARTS]
    files = [write(tmp_path / f"{side}.parquet", pairs, side) for side in (0, 1)]
    for file in files:
        destination.merge(file, ["id"], None)
    with memory_connection() as con:
        assert check(con, destination.relation(con), pairs) == []
        # The files are read together as well, where both nights are published at once.
        assert check(con, f"({read_widened(con, schemas_of(con, files))})", pairs) == []
