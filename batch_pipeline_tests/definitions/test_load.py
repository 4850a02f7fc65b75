"""What an asset downstream of the results gets, by its annotation."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from threading import Timer
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    ParquetDataset,
    build_definitions,
)
from batch_pipeline_tests.definitions.conftest import TEMPLATE
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole

KEY = ["packages", "results"]
RESULTS = {"results": dg.AssetIn(key=KEY)}
HOLD = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
WRITE = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute('create table mine as select 1')"


class NobodysManager(dg.IOManager):
    """A project's own io_manager, which knows nothing of our results."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None: ...

    def load_input(self, context: dg.InputContext) -> object:
        raise AssertionError("asked for what is not its own")


def load(
    run: Nights,
    take: Callable[[Any], Any],
    annotation: Any,
    partition: str | None = None,
    resources: dict[str, Any] | None = None,
    partitions: dg.PartitionsDefinition | None = None,
    **asset_in: Any,
) -> Any:
    """Run a user's asset downstream of the results, and return what it makes of its input."""
    found: list[Any] = []

    def report(results) -> None:
        found.append(take(results))

    report.__annotations__["results"] = annotation
    ins = {"results": dg.AssetIn(key=KEY, **asset_in)}
    asset = dg.asset(ins=ins, partitions_def=partitions)(report)
    definitions = dg.Definitions.merge(
        run.definitions, dg.Definitions(assets=[asset], resources=resources or {})
    )
    definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey("report")], partition_key=partition, instance=run.instance
    )
    return found[0]


def by_key(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["package"]: row for row in rows}


def destinations(warehouse: Path) -> list[DuckDBTable | ParquetDataset | None]:
    return [
        DuckDBTable(database=str(warehouse), table="out.answers"),
        ParquetDataset(path=str(warehouse.parent / "answers")),
        None,
    ]


@pytest.mark.parametrize("number", range(3), ids=["duckdb", "parquet", "store"])
def test_results_come_as_what_the_input_is_annotated_with(
    nights, warehouse: Path, number: int
) -> None:
    run = nights(destination=destinations(warehouse)[number])
    run.night(limit=5)
    rows = run.rows()
    assert by_key(load(run, lambda table: table.to_pylist(), pa.Table)) == rows
    own = {"io_manager": NobodysManager()}
    frame = load(run, lambda frame: frame, pd.DataFrame, resources=own)
    assert isinstance(frame, pd.DataFrame) and set(frame["package"]) == set(rows)
    assert list(frame.columns) == list(next(iter(rows.values())))

    def counted(relation: duckdb.DuckDBPyRelation) -> Any:
        assert relation.columns == list(frame.columns)
        # The database is free for another program while the asset works with the relation.
        subprocess.run([sys.executable, "-c", WRITE, str(warehouse)], check=True)
        return by_key(relation.filter("_status = 'answered'").to_arrow_table().to_pylist())

    assert load(run, counted, duckdb.DuckDBPyRelation, resources=own) == rows


def test_another_annotation_is_refused_with_the_three_that_work(nights) -> None:
    run = nights()
    run.night(limit=2)
    for annotation, given in ((Any, "no annotation"), (dict, "builtins.dict")):
        with pytest.raises(dg.Failure) as failure:
            load(run, len, annotation)
        message = str(failure.value.description)
        assert (
            f"The input `results` is loaded from packages/results and has {given}" in message
            or (f"the annotation {given}" in message)
        )
        for way in ("pandas.DataFrame", "pyarrow.Table", "duckdb.DuckDBPyRelation", "deps=[...]"):
            assert way in message


@only_whole
def test_columns_are_chosen_by_the_inputs_metadata(nights) -> None:
    run = nights()
    run.night(limit=2)
    chosen: dict[str, Any] = {"metadata": {"columns": ["Answer", "package"]}}
    for annotation in (duckdb.DuckDBPyRelation, pd.DataFrame):
        names = load(run, lambda rows: list(rows.columns), annotation, **chosen)
        assert names == ["answer", "package"]
    assert load(run, lambda table: table.column_names, pa.Table, **chosen) == names
    with pytest.raises(dg.Failure, match=r"do not have: answers\. Their columns are: package, "):
        load(run, len, pa.Table, metadata={"columns": ["answers"]})
    with pytest.raises(dg.Failure, match="columns='answer'; it must be a list of names"):
        load(run, len, pa.Table, metadata={"columns": "answer"})


def test_results_that_do_not_exist_yet_are_told_from_empty_ones(nights) -> None:
    with pytest.raises(dg.Failure, match=r"There are no results yet: Parquet dataset .* not exist"):
        load(nights(), len, pa.Table)


def test_a_partition_gets_its_rows_and_an_asset_without_partitions_gets_all(
    nights, warehouse: Path
) -> None:
    query = "select * from packages qualify row_number() over (partition by section order by package) < 4"
    sections = dg.StaticPartitionsDefinition(["admin", "devel", "python"])
    run = nights(
        source=DuckDBSource(database=str(warehouse), query=query, key="package"),
        partitions=sections,
        partition_column="section",
    )
    for section in ("admin", "devel"):
        run.night(section)

    def found(partition: str | None = None, **more: Any) -> list[str]:
        return sorted(
            load(run, lambda table: table["section"].to_pylist(), pa.Table, partition, **more)
        )

    assert found("devel", partitions=sections) == ["devel"] * 3
    assert found("python", partitions=sections) == []
    assert found() == ["admin"] * 3 + ["devel"] * 3
    two = dg.SpecificPartitionsPartitionMapping(["admin", "python"])
    assert found(partition_mapping=two) == ["admin"] * 3
    # A partition that the pipeline does not have any more is still in the whole table.
    source = run.pipeline.source
    run = nights(
        source=source,
        partitions=dg.StaticPartitionsDefinition(["admin"]),
        partition_column="section",
    )
    assert found() == ["admin"] * 3 + ["devel"] * 3


@only_whole
def test_a_week_downstream_gets_the_days_of_the_week(nights, warehouse: Path) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "create table days as select package, summary,"
            " date '2026-01-04' + (row_number() over (order by package))::int as day"
            " from packages order by package limit 9"
        )
    run = nights(
        {"prompt": "{{ summary }}"},
        source=DuckDBSource(database=str(warehouse), table="days", key="package"),
        partitions=dg.DailyPartitionsDefinition("2026-01-01"),
        partition_column="day",
    )
    for day in (5, 11, 12):
        run.night(f"2026-01-{day:02}")
    weeks = dg.WeeklyPartitionsDefinition("2026-01-05", day_offset=1)
    week = load(run, lambda table: table, pa.Table, "2026-01-05", partitions=weeks)
    assert sorted(week["day"].to_pylist()) == [date(2026, 1, 5), date(2026, 1, 11)]
    assert len(load(run, lambda table: table, pa.Table)) == 3


def test_a_database_that_another_program_holds_is_waited_for(nights, warehouse: Path) -> None:
    run = nights(
        destination=DuckDBTable(database=str(warehouse), table="answers", lock_wait_seconds=0.3)
    )
    run.night(limit=2)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(warehouse)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(dg.Failure, match=rf"stayed in use.*PID {holder.pid}"):
            load(run, len, pa.Table)
        patient = nights(destination=DuckDBTable(database=str(warehouse), table="answers"))
        assert holder.stdin is not None
        Timer(0.5, holder.stdin.close).start()
        assert load(patient, lambda table: len(table), pa.Table) == 2


def test_results_load_in_a_notebook_and_beside_the_results_in_one_run(nights) -> None:
    run = nights()
    run.night(limit=2)
    assert len(run.definitions.load_asset_value(KEY, python_type=pd.DataFrame)) == 2
    run.submit(limit=4)
    seen: list[int] = []

    @dg.asset(ins=RESULTS)
    def report(results: pa.Table) -> None:
        seen.append(len(results))

    both = dg.define_asset_job("both", selection=["packages/results", "report"])
    definitions = dg.Definitions.merge(
        run.definitions, dg.Definitions(assets=[report], jobs=[both])
    )
    assert definitions.resolve_job_def("both").execute_in_process(instance=run.instance).success
    assert seen == [6]


GIVEN = "BP_TEST_GIVEN"


def elsewhere() -> dg.JobDefinition:
    """Return a job as a process of its own sees it."""
    given = json.loads(os.environ[GIVEN])

    @dg.asset(ins=RESULTS)
    def frame(results: pd.DataFrame) -> list[str]:
        return sorted(results["package"])

    @dg.asset(ins=RESULTS)
    def relation(
        context: dg.AssetExecutionContext, frame: list[str], results: duckdb.DuckDBPyRelation
    ) -> None:
        assert sorted(row[0] for row in results.select("package").fetchall()) == frame
        context.add_output_metadata({"rows": len(frame), "process": os.getpid()})

    ours = build_definitions(
        BatchPipeline(
            name="packages",
            source=DuckDBSource(database=given["warehouse"], table="packages", key="package"),
            request=MessageTemplate(**TEMPLATE),
            destination=DuckDBTable(database=given["warehouse"], table="answers"),
            executor=dg.multiprocess_executor,
        ),
        claude=ClaudeBatches(api_key="test-key", base_url=given["url"]),
        store=BatchStore(root=given["store"]),
    )
    job = dg.define_asset_job(
        "reports", selection=["frame", "relation"], executor_def=dg.multiprocess_executor
    )
    theirs = dg.Definitions(assets=[frame, relation], jobs=[job])
    return dg.Definitions.merge(ours, theirs).resolve_job_def(given["job"])


@only_whole
def test_every_step_may_be_a_process_of_its_own(
    nights, warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = nights(destination=DuckDBTable(database=str(warehouse), table="answers"))
    run.submit(limit=3)
    given = {
        "warehouse": str(warehouse), "url": run.claude.url, "store": str(tmp_path / "store"),
    }  # fmt: skip
    with dg.instance_for_test() as instance:

        def in_processes(job: str) -> dg.JobExecutionResult:
            monkeypatch.setenv(GIVEN, json.dumps({**given, "job": job}))
            # The pipeline's own jobs run in the executor that it names.
            return dg.execute_job(dg.reconstructable(elsewhere), instance, raise_on_error=True)

        collected = in_processes("packages_collect")
        assert "Multiprocess executor" in " ".join(
            str(event.message) for event in collected.all_events
        )
        reported = in_processes("reports")
        (made,) = reported.asset_materializations_for_node("relation")
        assert made.metadata["rows"].value == 3 == len(run.rows())
        assert made.metadata["process"].value != os.getpid()
