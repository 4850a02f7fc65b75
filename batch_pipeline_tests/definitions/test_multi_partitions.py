"""Partitions of several dimensions, and partitions that no column could match."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    InputError,
    MessageTemplate,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.records.fingerprint import Keyed, Windowed, read
from batch_pipeline_tests.support.dagster_nights import Nights

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-04")
REGIONS = dg.StaticPartitionsDefinition(["EU", "US"])
BOTH = dg.MultiPartitionsDefinition({"date": DAYS, "region": REGIONS})
COLUMNS = {"date": "day", "region": "Region"}


def pipeline(tmp_path: Path, **fields: Any) -> BatchPipeline:
    database = str(tmp_path / "warehouse.duckdb")
    declared: dict[str, Any] = {
        "name": "places",
        "source": DuckDBSource(database=database, table="t", key="id"),
        "request": MessageTemplate(model="claude-haiku-4-5", max_tokens=50, prompt="V {{ v }}"),
        "destination": DuckDBTable(database=database, table="answers"),
    }
    return BatchPipeline(**declared | fields)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Three records a day and region, and some of no partition."""
    path = str(tmp_path / "warehouse.duckdb")
    with duckdb.connect(path) as con:
        con.execute(
            "CREATE TABLE t AS SELECT d * 100 + r * 10 + n AS id, 'v' || id AS v,"
            " DATE '2026-01-01' + d::INTEGER AS day, ['EU', 'US'][r + 1] AS region"
            " FROM range(3) days(d), range(2) regions(r), range(3) numbers(n)"
        )
        con.execute("INSERT INTO t VALUES (901, 'x', NULL, 'EU'), (902, 'x', '2026-01-01', 'XX')")
        con.execute(
            "INSERT INTO t VALUES (903, 'x', 'infinity', 'EU'), (904, 'x', '5000000-01-01', 'US')"
        )
    return path


def test_each_pair_is_selected_asked_and_collected_by_itself(
    table: str, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    run = Nights(
        pipeline(tmp_path, partitions=BOTH, partition_column=COLUMNS, on_deleted="drop"),
        ClaudeBatches(api_key="any", base_url=claude_emulator.base_url),
        BatchStore(root=str(tmp_path / "store")),
    )
    first = dg.MultiPartitionKey({"date": "2026-01-01", "region": "EU"})
    run.submit(first)
    run.until_quiet()
    assert sorted(run.rows()) == [0, 1, 2]
    assert run.metadata("results")["dagster/partition_row_count"] == 3
    run.submit("2026-01-02|US")
    run.until_quiet()
    assert sorted(run.rows()) == [0, 1, 2, 110, 111, 112]
    with duckdb.connect(table) as con:
        con.execute("DELETE FROM t WHERE id = 1")
    for partition in (first, "2026-01-02|US"):
        run.night(partition)
    assert sorted(run.rows()) == [0, 2, 110, 111, 112]
    assert claude_emulator.bill()["requests"] == 6


def test_a_tick_asks_about_the_last_window_of_each_other_key(table: str, tmp_path: Path) -> None:
    declared = pipeline(tmp_path, partitions=BOTH, partition_column=COLUMNS, schedule="0 1 * * *")
    run = Nights(declared, ClaudeBatches(api_key="any"), BatchStore(root=str(tmp_path / "store")))
    repository = run.definitions.get_repository_def()
    schedule = repository.get_schedule_def("places_nightly")
    with dg.build_schedule_context(
        instance=run.instance,
        repository_def=repository,
        scheduled_execution_time=datetime(2026, 1, 3, 1, tzinfo=UTC),
    ) as context:
        requests = schedule.evaluate_tick(context).run_requests
    assert [request.partition_key for request in requests or []] == [
        "2026-01-02|EU",
        "2026-01-02|US",
    ]


def test_arrivals_are_told_by_pair(table: str) -> None:
    windows = [(str(day), *_window(day)) for day in DAYS.get_partition_keys()]
    grouping = [Windowed("day", "UTC", windows), Keyed("region")]
    source = DuckDBSource(database=table, table="t", key="id")
    found, _ = read(source, lambda _columns: ["v"], grouping, 10)
    pairs = {f"{day}|{region}" for day in DAYS.get_partition_keys() for region in ("EU", "US")}
    assert {key: group.rows for key, group in found.items() if key in pairs} == dict.fromkeys(
        pairs, 3
    )
    assert found.keys() - pairs == {"2026-01-01|XX"}
    with duckdb.connect(table) as con:
        con.execute("UPDATE t SET v = 'other' WHERE id = 110")
    again, _ = read(source, lambda _columns: ["v"], grouping, 10)
    assert [key for key in found if found[key] != again[key]] == ["2026-01-02|US"]


def _window(day: str) -> tuple[Any, Any]:
    window = DAYS.time_window_for_partition_key(day)
    return window.start, window.end


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"partitions": BOTH, "partition_column": "region"},
            r"date and region.*\"date\": \"COLUMN\"",
        ),
        ({"partitions": BOTH, "partition_column": {"date": "day"}}, "each of which needs a column"),
        ({"partitions": BOTH, "partition_column": COLUMNS | {"x": "y"}}, "each of which needs"),
        (
            {"partitions": BOTH, "partition_column": COLUMNS | {"date": ""}},
            "must be a column's name",
        ),
        ({"partitions": REGIONS, "partition_column": {"region": "region"}}, "Give it as text"),
        ({"partitions": REGIONS, "partition_column": 3}, "must be a column's name"),
        ({"partitions": ["EU"], "partition_column": "region"}, "partitions definitions"),
        ({"partitions": BOTH}, "partition_column is missing"),
    ],
)
def test_what_cannot_match_a_column_is_refused_when_declared(
    fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        pipeline(tmp_path, **fields)


@pytest.mark.parametrize(
    ("column", "key", "says"),
    [
        ("id", "EU", "can never have a record.*INTEGER|BIGINT"),
        ("id", "01", "prints it as `1`"),
        ("day", "2026-1-1", "prints it as `2026-01-01`"),
        ("flag", "True", "prints it as `true`"),
        ("share", "1", "prints it as `1.0`"),
    ],
)
def test_a_key_that_no_value_prints_is_an_error_before_money(
    column: str, key: str, says: str, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as con:
        con.execute(
            "CREATE TABLE t AS SELECT 1 AS id, 'x' AS v, DATE '2026-01-01' AS day,"
            " true AS flag, 1.0::DOUBLE AS share"
        )
    run = Nights(
        pipeline(
            tmp_path, partitions=dg.StaticPartitionsDefinition([key]), partition_column=column
        ),
        ClaudeBatches(api_key="any", base_url=claude_emulator.base_url),
        BatchStore(root=str(tmp_path / "store")),
    )
    with pytest.raises(dg.Failure, match=says):
        run.submit(key)
    assert claude_emulator.bill()["requests"] == 0
