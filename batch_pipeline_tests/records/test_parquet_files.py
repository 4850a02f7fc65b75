"""Folders as people have them: unfinished files, table formats, values in folders, odd paths."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline import InputError, ParquetSource
from batch_pipeline.records.fingerprint import look
from batch_pipeline.records.reading import open_source, source_columns
from batch_pipeline.settings import project_path

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a query's rows to a file below the test's folder."""

    def to(name: str, query: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as con:
            con.execute(f"COPY ({query}) TO '{tmp_path}/x' (FORMAT parquet)")
        (tmp_path / "x").rename(path)
        return path

    return to


def read(path: Path | str, what: str = "id") -> list[tuple]:
    with open_source(ParquetSource(path=str(path), key="id")) as con:
        return con.execute(f"SELECT {what} FROM source ORDER BY ALL").fetchall()


@pytest.mark.parametrize("path", ["lake", "lake/", "lake/**/*.parquet"])
def test_what_spark_and_hive_pass_over_is_passed_over(
    path: str, write: Write, tmp_path: Path
) -> None:
    for number, name in enumerate(
        [
            "part-0.parquet",
            "day=1/part-1.parquet",
            "_day=1/part-2.parquet",
            "_temporary/0/part-3.parquet",
            ".part-4.parquet",
            "_part-5.parquet",
            "day=1/.staging/part-6.parquet",
            ".hive-staging_x/-ext-10000/part-7.parquet",
            "_spark_metadata/part-8.parquet",
        ]
    ):
        write(f"lake/{name}", f"SELECT {number} AS id")
    (tmp_path / "lake/_SUCCESS").write_text("")
    assert read(tmp_path / path) == [(0,), (1,), (2,)]
    before = look(ParquetSource(path=str(tmp_path / path), key="id"))
    write("lake/_temporary/0/part-9.parquet", "SELECT 9 AS id")
    assert look(ParquetSource(path=str(tmp_path / path), key="id")) == before
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "lake"), f"/{tmp_path.name}/lake", recursive=True)
    assert read(f"memory://{tmp_path.name}/{path}") == [(0,), (1,), (2,)]


def test_what_is_named_is_read_whatever_it_is_called(write: Write, tmp_path: Path) -> None:
    write("_in/.hidden/_x.parquet", "SELECT 1 AS id")
    for path in ("_in/.hidden/_x.parquet", "_in/.h*/_*.parquet", "_in/.hidden/_?.*"):
        assert read(tmp_path / path) == [(1,)], path
    for path in ("_in", "_in/.hidden", "_in/*/*.parquet", "_in/.hidden/*.parquet"):
        with pytest.raises(InputError, match="passed over"):
            read(tmp_path / path)


@pytest.mark.parametrize(
    ("log", "called", "way"),
    [
        ("_delta_log/00000000000000000000.json", "Delta", r"from delta_scan\('.*/t'\)"),
        ("metadata/00001-abc.metadata.json", "Iceberg", r"from iceberg_scan\('.*/t'\)"),
        ("metadata/version-hint.text", "Iceberg", r"from iceberg_scan\('.*/t'\)"),
        (".hoodie/hoodie.properties", "Hudi", "as plain Parquet"),
    ],
)
def test_a_table_format_is_refused_with_a_way_to_read_it(
    log: str, called: str, way: str, write: Write, tmp_path: Path
) -> None:
    write("lake/t/data/day=1/x.parquet", "SELECT 1 AS id")
    (tmp_path / "lake/t" / log).parent.mkdir()
    (tmp_path / "lake/t" / log).write_text("1")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "lake"), f"/tables/{called}/lake", recursive=True)
    for path in ("lake", "lake/t", "lake/t/**/*.parquet", "lake/t/data/day=1/*.parquet"):
        for place in (str(tmp_path), f"memory://tables/{called}"):
            with pytest.raises(InputError, match=f"is an? {called} table.*{way}"):
                read(f"{place}/{path}")


def test_a_folder_called_metadata_is_no_table_format(write: Write, tmp_path: Path) -> None:
    write("lake/x.parquet", "SELECT 1 AS id")
    (tmp_path / "lake/metadata").mkdir()
    (tmp_path / "lake/metadata/readme.json").write_text("{}")
    assert read(tmp_path / "lake") == [(1,)]


def test_folders_give_columns_where_the_files_have_none(write: Write, tmp_path: Path) -> None:
    for number, day in enumerate(("2026-03-01", "2026-03-02")):
        write(f"lake/day={day}/place=a%20b/x.parquet", f"SELECT {number} AS id")
    found = read(tmp_path / "lake", "id, CAST(day AS VARCHAR), place")
    assert found == [(0, "2026-03-01", "a b"), (1, "2026-03-02", "a b")]


def test_a_file_outside_of_the_folders_takes_no_column_from_the_others(
    write: Write, tmp_path: Path
) -> None:
    def found() -> tuple[dict[str, str], list[tuple]]:
        with open_source(ParquetSource(path=str(tmp_path / "lake"), key="id")) as con:
            return source_columns(con), con.execute("FROM source ORDER BY id").fetchall()

    write("lake/day=2026-03-01/x.parquet", "SELECT 1 AS id, 'a' AS v")
    write("lake/day=2026-03-02/x.parquet", "SELECT 2 AS id, 'b' AS v")
    columns, rows = found()
    write("lake/x.parquet", "SELECT 3 AS id, 'c' AS v")
    assert columns == {"id": "INTEGER", "v": "VARCHAR", "day": "DATE"}
    assert found() == (columns, [*rows, (3, "c", None)])
    write("lake/DAY=2026-03-04/place=a%20b/x.parquet", "SELECT 4 AS id, 'd' AS v")
    (columns, rows), day = found(), date(2026, 3, 4)
    assert list(columns.values()) == ["INTEGER", "VARCHAR", "DATE", "VARCHAR"]
    assert rows[2:] == [(3, "c", None, None), (4, "d", day, "a b")]
    write("lake/day=early/x.parquet", "SELECT 5 AS id, 'e' AS v, 'own' AS place")
    _, rows = found()
    assert rows[2:] == [
        (3, "c", None, None),
        (4, "d", "a b", "2026-03-04"),
        (5, "e", "own", "early"),
    ]


@pytest.mark.parametrize(
    ("folder", "value", "column"),
    [
        ("day=2026-01-01", "TIMESTAMP '2026-01-01 07:04:58'", "day"),
        ("DAY=2026-01-01", "DATE '2026-01-01'", "day"),
        ("n=01", "1", "n"),
        ("n=1.50", "1.5::DECIMAL(4,1)", "n"),
        ("region=North%20East", "'North East'", "region"),
        ("region=__HIVE_DEFAULT_PARTITION__", "'any'", "region"),
    ],
)
def test_a_files_own_column_is_what_it_is_below_a_folder_of_its_name(
    folder: str, value: str, column: str, write: Write, tmp_path: Path
) -> None:
    write(f"lake/{folder}/env=prod/x.parquet", f"SELECT 1 AS id, {value} AS {column}")
    with duckdb.connect() as con:
        own = con.execute(f"SELECT CAST({value} AS VARCHAR)").fetchall()[0][0]
    for path in ("lake", f"lake/{folder}/*/x.parquet", f"lake/{folder}/env=prod/x.parquet"):
        assert read(tmp_path / path, f"CAST({column} AS VARCHAR), env") == [(own, "prod")]
        with open_source(ParquetSource(path=str(tmp_path / path), key="id")) as con:
            assert [name.lower() for name in source_columns(con)] == ["id", column, "env"]


def test_a_file_without_the_column_has_its_folders_value(write: Write, tmp_path: Path) -> None:
    write("lake/region=EU/x.parquet", "SELECT 1 AS id, 'EU' AS region")
    write("lake/region=US/x.parquet", "SELECT 2 AS id")
    assert read(tmp_path / "lake", "id, region") == [(1, "EU"), (2, "US")]


@pytest.mark.parametrize("value", ["DATE '2026-01-02'", "'2026-01-011'", "5"])
def test_a_folder_that_says_something_else_than_its_file_is_an_error(
    value: str, write: Write, tmp_path: Path
) -> None:
    write("lake/day=2026-01-01/x.parquet", f"SELECT 1 AS id, {value} AS day")
    with pytest.raises(InputError, match=r"`day` of .*x\.parquet holds .* day=2026-01-01"):
        read(tmp_path / "lake")


@pytest.mark.parametrize("folder", ["a[1]", "a b", "a#b", "a%20b", "a~b", "a'b", "ä{1}", "a$b"])
def test_a_path_may_hold_any_sign(folder: str, write: Write, tmp_path: Path) -> None:
    write(f"{folder}/x [2]#%.parquet", "SELECT 1 AS id")
    write("a1/x.parquet", "SELECT 2 AS id")
    for path in ("", "*.parquet", "x [2]#%.parquet", "**/*.parquet", "?*[%].parquet"):
        assert read(tmp_path / folder / path) == [(1,)], path


def test_a_pattern_of_signs_is_still_a_pattern(write: Write, tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1"):
        write(f"{name}/x.parquet", f"SELECT '{name}' AS id")
    assert read(tmp_path / "a[12]/*.parquet") == [("a1",), ("a2",)]


def test_the_home_folder_is_spelled_with_a_tilde(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    write("home/lake/x.parquet", "SELECT 1 AS id")
    project.mkdir()
    (project / "pyproject.toml").write_text("")
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(home))
    assert read("~/lake") == [(1,)]
    # A folder of that name in the project, such as an earlier version made, stays what it is.
    (project / "~/lake").mkdir(parents=True)
    assert project_path("~/lake") == str(project / "~/lake")


@pytest.mark.parametrize("nested", [False, True])
def test_decimals_of_more_digits_than_duckdb_has_are_refused(tmp_path: Path, nested: bool) -> None:
    kind, value = pa.decimal256(60, 2), Decimal("1" * 50 + ".12")
    column = pa.array([[value]], pa.list_(kind)) if nested else pa.array([value], kind)
    table = pa.table({"id": [1], "sum": column})
    pq.write_table(table, tmp_path / "a.parquet")
    name = "element" if nested else "sum"
    with pytest.raises(InputError, match=f"`{name}` of .*a.parquet.* decimals of 60 digits.*cast"):
        read(tmp_path / "a.parquet")
    if not nested:  # the way that the message names
        text = table.set_column(1, "sum", table["sum"].cast("string"))
        pq.write_table(text, tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet", "sum") == [(str(value),)]
    pq.write_table(table.set_column(1, "sum", pa.array([0.5])), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "sum") == [(0.5,)]
