"""Where the columns of records and results come from, and what else the UI shows of a table."""

from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from pydantic import BaseModel

from batch_pipeline import DuckDBSource, DuckDBTable, ParquetDataset, ParquetSource
from batch_pipeline.definitions.lineage import of_records
from batch_pipeline.definitions.metadata import ANSWERED, RESERVED
from batch_pipeline_tests.definitions.conftest import RECORDS
from batch_pipeline_tests.definitions.test_build import pipeline
from batch_pipeline_tests.definitions.test_metadata import values
from batch_pipeline_tests.support.dagster_nights import Nights

UPSTREAM = dg.AssetKey(["raw", "packages"])


class Verdict(BaseModel):
    """An answer."""

    topic: str
    useful: bool


def lineage(metadata: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The columns by name, each with the assets' columns that it comes from."""
    found = metadata.get("dagster/column_lineage")
    if found is None:
        return {}
    found = found.value if isinstance(found, dg.MetadataValue) else found
    return {
        name: [(dep.asset_key.to_user_string(), dep.column_name) for dep in deps]
        for name, deps in found.deps_by_column.items()
    }


def read_by(query: str, columns: list[str]) -> dict[str, list[str]]:
    """Which columns of the upstream asset a query's columns come from."""
    source = DuckDBSource(database="/nonexistent/w.duckdb", query=query, key="id")
    found = lineage(of_records(pipeline(source=source, upstream=[UPSTREAM]), columns))
    assert {key for deps in found.values() for key, _ in deps} <= {"raw/packages"}
    return {name: [column for _, column in deps] for name, deps in found.items()}


def test_columns_go_from_upstream_through_records_to_the_results(nights) -> None:
    run: Nights = nights({"output": Verdict}, upstream=[UPSTREAM], output_prefix="ai_")
    run.night(limit=3)
    records: Any = values(run, "records")
    results: Any = values(run, "results")
    source = [column.name for column in records["dagster/column_schema"].value.columns]
    assert lineage(records) == {name: [("raw/packages", name)] for name in source}
    found = lineage(results)
    assert {name: found[name] for name in source} == {
        name: [("packages/records", name)] for name in source
    }
    # What is answered depends on what the prompt reads, and on nothing else.
    read = [("packages/records", "description"), ("packages/records", "summary")]
    assert found["ai_topic"] == found["ai_useful"] == read
    assert set(found) == {*source, "ai_topic", "ai_useful"}
    said = {one.name: one.description for one in results["dagster/column_schema"].value.columns}
    assert said["ai_topic"] == said["ai_useful"] == ANSWERED and said["summary"] is None
    assert said["_status"] == RESERVED["_status"] and set(said) == {*found, *RESERVED}


def test_a_column_of_another_question_has_no_lineage_and_stops_nothing(
    nights, warehouse: Path
) -> None:
    run = nights()
    run.submit(limit=2)
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("alter table packages add column hint varchar")
    changed = nights({"prompt": "{{ hint }}"})
    changed.collect()
    assert changed.metadata("results")["rows_inserted"] == 2
    assert lineage(values(changed, "results")) == {}


@pytest.mark.parametrize("upstream", [[], ["one", "two"]])
def test_without_exactly_one_upstream_asset_records_have_no_lineage(upstream: list[str]) -> None:
    assert of_records(pipeline(upstream=upstream), ["id"]) == {}


def test_files_have_the_columns_of_the_asset_that_writes_them() -> None:
    files = pipeline(source=ParquetSource(path="in/*.parquet", key="id"), upstream=["raw"])
    assert lineage(of_records(files, ["id", "text"])) == {
        "id": [("raw", "id")],
        "text": [("raw", "text")],
    }


@pytest.mark.parametrize(
    ("query", "columns", "found"),
    [
        ("select * from invoices where id > 3", ["id", "a"], {"id": ["id"], "a": ["a"]}),
        (
            "select id, i.name as n, a || ' ' || b c, lower(\"D\") from main.invoices i order by 1",
            ["id", "n", "c", 'lower("D")'],
            {"id": ["id"], "n": ["name"], "c": ["a", "b"]},
        ),
        ("select *, a + b as total from t", ["id", "a", "b", "total"],
         {"id": ["id"], "a": ["a"], "b": ["b"], "total": ["a", "b"]}),
        ("select id, person.name from t", ["id", "name"], {"id": ["id"], "name": ["person"]}),
        ("select id, (select max(a) from u) as a from t", ["id", "a"], {"id": ["id"]}),
        ("select id, count(*) as n from t group by id", ["id", "n"], {"id": ["id"]}),
        # Of these it cannot be said.
        ("select * from t join u using (id)", ["id", "a"], {}),
        ("with t as (select 1 as id) select * from t", ["id"], {}),
        ("select * replace (a + 1 as a) from t", ["id", "a"], {}),
        ("select id from t union all select id from u", ["id"], {}),
        ("select * from t as u(id, b)", ["id", "b"], {}),
        ("selekt", ["id"], {}),
    ],
)  # fmt: skip
def test_a_query_is_read_as_far_as_it_is_certain(
    query: str, columns: list[str], found: dict[str, list[str]]
) -> None:
    assert read_by(query, columns) == found


def test_a_table_says_its_name_and_a_dataset_its_address(nights, warehouse: Path) -> None:
    run = nights(destination=DuckDBTable(database=str(warehouse), table="answers"))
    run.night(limit=1)
    assert run.metadata("results")["dagster/table_name"] == "warehouse.main.answers"
    folder = warehouse.parent / "my answers"
    run = nights(destination=ParquetDataset(path=str(folder)), name="files")
    run.night(limit=1)
    assert run.metadata("results")["dagster/uri"] == folder.as_uri()


def test_each_partition_says_how_many_rows_are_its_own(nights, warehouse: Path) -> None:
    query = "select * from packages qualify row_number() over (partition by section order by package) < 3"
    run = nights(
        source=DuckDBSource(database=str(warehouse), query=query, key="package"),
        partitions=dg.StaticPartitionsDefinition(["admin", "devel"]),
        partition_column="section",
    )
    run.night("admin")
    run.night("devel")
    for stage in ("records", "requests", "results"):
        assert run.metadata(stage)["dagster/partition_row_count"] == 2, stage
    assert run.metadata("results")["dagster/row_count"] == 4


def test_every_asset_says_what_it_is(nights) -> None:
    run = nights(source=ParquetSource(path=str(RECORDS), key="package"))
    graph = run.definitions.resolve_asset_graph()
    shown = {
        key.path[-1]: (graph.get(key).description, graph.get(key).kinds)
        for key in graph.get_all_asset_keys()
    }
    assert {stage: kinds for stage, (_, kinds) in shown.items()} == {
        "records": {"parquet"},
        "requests": {"anthropic"},
        "batches": {"anthropic"},
        "results": {"parquet"},
    }
    assert f"Parquet files at {RECORDS}" in shown["records"][0]
    assert "claude-haiku-4-5" in shown["requests"][0]
    assert "Parquet under the store" in shown["results"][0]
    assert all(text for text, _ in shown.values())
