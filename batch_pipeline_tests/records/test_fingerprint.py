"""Whether a source may hold something new, without reading it."""

from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import fsspec
import pytest

from batch_pipeline import DuckDBSource, ParquetSource
from batch_pipeline.errors import InputError
from batch_pipeline.records.fingerprint import (
    Group,
    Keyed,
    TooLongError,
    Windowed,
    count_changes,
    look,
    read,
)

BERLIN = ZoneInfo("Europe/Berlin")


def put(path: str | Path, rows: int = 3) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"copy (select range as id from range({rows})) to '{path}'")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "w.duckdb"
    change(path, "create table t as select range as id, 'x' || range as text from range(10)")
    return path


def change(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def source(database: Path, **fields: str) -> DuckDBSource:
    return DuckDBSource(
        **{"database": str(database), "table": "t", "key": "id", **fields}  # pyright: ignore[reportArgumentType]
    )


def groups(of: DuckDBSource | ParquetSource, *content: str, grouping=()) -> dict[str, Group]:
    return read(of, lambda _columns: content, grouping, 10)[0]


def test_files_are_told_by_name_size_and_time(tmp_path: Path) -> None:
    files = ParquetSource(path=f"{tmp_path}/*.parquet", key="id")
    assert look(files) is None
    put(tmp_path / "a.parquet")
    seen = [look(files)]
    assert look(files) == seen[0]
    put(tmp_path / "b.parquet")
    seen.append(look(files))
    (tmp_path / "b.parquet").rename(tmp_path / "c.parquet")
    seen.append(look(files))
    put(tmp_path / "c.parquet", 400)
    seen.append(look(files))
    (tmp_path / "c.parquet").unlink()
    assert look(files) == seen[0]
    (tmp_path / "a.parquet").touch()
    seen.append(look(files))
    assert None not in seen and len(set(seen)) == len(seen)


def test_objects_are_told_by_what_their_store_tells_of_them() -> None:
    store = fsspec.filesystem("memory")
    files = ParquetSource(path="memory://fingerprints/", key="id")
    store.pipe("/fingerprints/a.parquet", b"one")
    seen = look(files)
    assert seen is not None and look(files) == seen
    store.pipe("/fingerprints/a.parquet", b"two")  # of the same size
    assert look(files) != seen
    store.rm("/fingerprints", recursive=True)


def test_a_database_is_told_by_its_file_and_its_log(database: Path) -> None:
    seen = look(source(database))
    groups(source(database), "text")
    assert look(source(database)) == seen  # reading is no change
    with duckdb.connect(str(database)) as connection:
        connection.execute("insert into t values (99, 'new')")
        in_log = look(source(database))
        assert in_log != seen
    assert look(source(database)) not in (seen, in_log)
    assert look(source(database.with_name("none.duckdb"))) is None


def test_rows_are_told_by_their_keys_and_contents(database: Path) -> None:
    of = source(database)
    first = groups(of, "text")
    assert first[""].rows == 10
    change(database, "create or replace table t as select * from t order by id desc")
    assert groups(of, "Text") == first
    change(database, "alter table t add column other int default 1")
    assert groups(of, "text") == first
    change(database, "update t set text = 'another' where id = 3")
    changed = groups(of, "text")
    assert changed[""].keys == first[""].keys and changed[""].content != first[""].content
    assert groups(of)[""].content == groups(of)[""].keys
    change(database, "update t set id = 1000 where id = 3")
    assert groups(of, "text")[""].keys != first[""].keys


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("HUGEINT", "0", "-1"),
        ("DECIMAL(38,0)", "0", "-1"),
        ("INTEGER[]", "[]", "[NULL]"),
        ("VARCHAR", "'9bf31c7ff062936a96d3c8bd'", "'9bf31c7Ff062936a96d3c8bD'"),
    ],
)
def test_values_that_duckdb_hashes_alike_are_a_change(
    database: Path, kind: str, old: str, new: str
) -> None:
    change(database, f"alter table t add column v {kind} default {old}")
    before = groups(source(database), "v")[""]
    change(database, f"update t set v = {new} where id = 3")
    assert groups(source(database), "v")[""].content != before.content


def test_a_column_that_tells_of_changes_tells_how_many(database: Path) -> None:
    change(database, "alter table t add column moment timestamp")
    of = source(database, changes="MOMENT")
    before = groups(of)[""]
    assert before == Group(10, None)
    change(database, "update t set moment = '2026-03-01 12:00' where id < 4")
    assert groups(of)[""] == Group(10, "2026-03-01 12:00:00")
    assert count_changes(of, before, lambda _columns: None, 10) == 10  # it was never set
    before = groups(of)[""]
    change(
        database,
        "update t set moment = '2026-03-01 12:00:00.000001' where id < 2",
        "insert into t values (100, 'old', '2020-01-01'), (101, 'old', null), (102, 'old', null)",
    )
    assert count_changes(of, before, lambda _columns: None, 10) == 3
    with pytest.raises(InputError, match=r"`updated` \(changes\) is not in the source"):
        groups(source(database, changes="updated"))


def test_rows_are_grouped_by_the_text_of_a_column(database: Path) -> None:
    change(database, "alter table t add column region int", "update t set region = id % 2")
    change(database, "insert into t values (50, 'no region', null)")
    found = groups(source(database), "text", grouping=[Keyed("Region")])
    assert {key: one.rows for key, one in found.items()} == {"0": 5, "1": 5}
    change(database, "update t set text = 'another' where id = 3")
    again = groups(source(database), "text", grouping=[Keyed("Region")])
    assert again["0"] == found["0"] and again["1"] != found["1"]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("date", ["2026-03-28", "2026-03-29", "2026-03-30", "2030-01-01"], [1, 1, 1]),
        (
            "timestamp",
            ["2026-03-28 23:59:59.999", "2026-03-29 00:00", "2026-03-29 23:59", "2026-03-31 00:00"],
            [1, 2, 0],
        ),
        # In Berlin the 29th begins at 23:00 UTC the day before, and ends at 22:00.
        (
            "timestamptz",
            ["2026-03-28 22:59:59+00", "2026-03-28 23:00:00+00", "2026-03-29 22:00:00+00"],
            [1, 1, 1],
        ),
        (
            "varchar",
            [
                "2026-03-28",
                "2026-03-29T00:00:00",
                "2026-03-29T22:00:00Z",
                "2026-03-29 23:00:00+00:00",
            ],
            [1, 1, 2],
        ),
    ],
)
def test_rows_are_grouped_by_windows_of_their_zone(
    tmp_path: Path, kind: str, values: list[str], expected: list[int]
) -> None:
    days = [date(2026, 3, 28) + timedelta(days=number) for number in range(4)]
    starts = [datetime(day.year, day.month, day.day, tzinfo=BERLIN) for day in days]
    windows = [
        (str(day), start, stop) for day, start, stop in zip(days, starts, starts[1:], strict=False)
    ]
    path = tmp_path / "days.parquet"
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("create table t (id int, moment varchar)")
        connection.executemany("insert into t values (?, ?)", [*enumerate(values), (99, None)])
        connection.execute(f"copy (select id, moment::{kind} as moment from t) to '{path}'")
    found = groups(
        ParquetSource(path=str(path), key="id"),
        grouping=[Windowed("moment", "Europe/Berlin", windows)],
    )
    assert [found[key].rows if key in found else 0 for key, *_ in windows] == expected


def test_a_read_ends_when_its_time_is_up(database: Path) -> None:
    slow = DuckDBSource(
        database=str(database),
        query="select range as id from range(1000000000000)",
        key="id",
    )
    with pytest.raises(TooLongError, match="could not be read within 0 seconds"):
        read(slow, lambda _columns: (), (), 0.2)
