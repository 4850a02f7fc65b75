"""Which rows belong to a partition, whatever type the column has."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import duckdb
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.records.partitions import PartitionFilter, key_filter, time_window_filter
from batch_pipeline.records.reading import source_columns

BERLIN = ZoneInfo("Europe/Berlin")
DAY = (datetime(2024, 7, 2, tzinfo=BERLIN), datetime(2024, 7, 3, tzinfo=BERLIN))


def matching(con: duckdb.DuckDBPyConnection, partition: PartitionFilter) -> list[int]:
    rows = con.execute(f"SELECT i FROM source WHERE {partition.sql} ORDER BY i").fetchall()
    return [row[0] for row in rows]


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        ("DATE", ["2024-07-02"], ["2024-07-01", "2024-07-03"]),
        (
            "TIMESTAMP",
            ["2024-07-02 00:00:00", "2024-07-02 23:59:59.999999"],
            ["2024-07-01 23:59:59.999999", "2024-07-03 00:00:00"],
        ),
        (
            "TIMESTAMPTZ",
            ["2024-07-01 22:00:00+00", "2024-07-02 21:59:59+00"],
            ["2024-07-01 21:59:59+00", "2024-07-02 22:00:00+00"],
        ),
        (
            "VARCHAR",
            [
                "2024-07-02",
                "2024-07-02T12:00:00",
                "2024-07-01T22:00:00Z",
                "2024-07-02 01:00:00+03:00",
            ],
            ["2024-07-03", "2024-07-02T23:00:00Z", "2024-07-01 23:59:59"],
        ),
    ],
)
def test_a_day_in_berlin(kind: str, inside: list[str], outside: list[str]) -> None:
    values = [*inside, *outside]
    rows = ", ".join(f"({i}, '{value}'::{kind})" for i, value in enumerate(values))
    with memory_connection() as con:
        con.execute(
            f'CREATE TEMP VIEW source AS FROM (VALUES {rows}, (99, NULL)) AS v(i, "the day")'
        )
        found = matching(
            con, time_window_filter(source_columns(con), "The Day", *DAY, key="2024-07-02")
        )
    assert found == list(range(len(inside)))


def test_a_key_matches_the_columns_text() -> None:
    with memory_connection() as con:
        con.execute("CREATE TEMP VIEW source AS FROM (VALUES (1, 'de'), (2, 'o''x')) AS v(i, land)")
        columns = source_columns(con)
        assert matching(con, key_filter(columns, "land", "o'x")) == [2]
        assert matching(con, key_filter(columns, "i", "1")) == [1]


def test_an_absent_or_unfit_column_is_an_input_error() -> None:
    columns = {"created_at": "TIMESTAMP", "size": "INTEGER"}
    start, end = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    with pytest.raises(InputError, match="Did you mean `created_at`"):
        time_window_filter(columns, "creatd_at", start, end, key="2024-01-01")
    with pytest.raises(InputError, match="INTEGER"):
        time_window_filter(columns, "size", start, end, key="2024-01-01")
    with pytest.raises(InputError, match="not in the source"):
        key_filter(columns, "region", "eu")
