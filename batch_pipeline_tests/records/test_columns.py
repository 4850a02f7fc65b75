"""Names that collide are an error before anything is sent."""

import duckdb
import pytest

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import check_names, stored_type
from batch_pipeline.records.connections import memory_connection


def test_different_names_are_fine() -> None:
    check_names({"id": "BIGINT", "text": "VARCHAR"}, ["answer"])


@pytest.mark.parametrize(
    ("source", "output", "says"),
    [
        (["id", "Answer"], ["answer"], "output_prefix"),
        (["id", "_Status"], ["answer"], "another name in the source's query"),
        (["id", "_row"], ["answer"], "`_row`"),
        (["id"], ["_cost_usd"], "_cost_usd"),
        (["id"], ["a", "A"], "differ in case"),
    ],
)
def test_a_collision_names_the_column_and_the_way_out(
    source: list[str], output: list[str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        check_names(source, output)


@pytest.mark.parametrize(
    "kind", ["HUGEINT", "UHUGEINT", "HUGEINT[]", "STRUCT(a HUGEINT)", "BIGINT"]
)
def test_the_stored_type_is_what_parquet_gives_back(kind: str, tmp_path) -> None:
    stored = stored_type(kind)
    path = tmp_path / "x.parquet"
    with memory_connection() as con:
        con.execute(f"COPY (SELECT CAST(NULL AS {stored}) AS a) TO '{path}' (FORMAT parquet)")
        described = con.execute(f"DESCRIBE SELECT a FROM '{path}'").fetchone()
    assert described is not None
    assert described[1] == stored


def test_source_columns_that_differ_in_the_case_of_an_umlaut_are_refused() -> None:
    with pytest.raises(InputError, match="`Ä` and `ä` differ in case only") as raised:
        check_names(["id", "Ä", "ä"], [])
    with duckdb.connect() as connection:
        relation = 'select 1 as id, 2 as "Ä", 3 as "ä"'
        renamed = str(raised.value).split("`")[-2].replace("...", f"({relation})")
        assert [row[0] for row in connection.execute(f"describe {renamed}").fetchall()] == [
            "id",
            "Ä",
            "ä_2",
        ]
