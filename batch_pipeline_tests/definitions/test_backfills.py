"""Backfills: many partitions as so many runs, several at once, and as one run over their range."""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from sqlalchemy import select

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.tables import submissions
from batch_pipeline_tests.support import processes
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import extent, only_whole

DAYS = [str(date(2026, 3, 1) + timedelta(days=day)) for day in range(extent(8, 30))]
STAGES = ("records", "requests", "batches", "results")
SOME = DAYS[:6]  # enough for what is not about the number
OF_EACH_DAY = 3
AT_ONCE = 4


@pytest.fixture
def backfill(
    claude_emulator: EmulatorProcess, tmp_path: Path, clock: HandClock
) -> Iterator[Callable[..., Nights]]:
    """Make a pipeline over days of events, whose answers go to a table beside them."""
    warehouse = str(tmp_path / "events.duckdb")
    with duckdb.connect(warehouse) as connection:
        connection.execute(
            "create table events as select d * $n + n as id, date '2026-03-01' + d::int as day, "
            "'event ' || d || ' ' || n as summary from range($days) days(d), range($n) numbers(n)",
            {"days": len(DAYS), "n": OF_EACH_DAY},
        )
    with dg.instance_for_test() as instance:
        yield lambda policy=None: events(
            warehouse, str(tmp_path / "store"), claude_emulator.base_url, instance, policy
        )


def events(
    warehouse: str,
    store: str,
    base_url: str,
    instance: dg.DagsterInstance,
    policy: dg.BackfillPolicy | None = None,
) -> Nights:
    """The pipeline; any process that is told the same works on the same."""
    pipeline = BatchPipeline(
        name="events",
        source=DuckDBSource(database=warehouse, table="events", key="id"),
        request=MessageTemplate(model="claude-haiku-4-5", max_tokens=50, prompt="{{ summary }}"),
        destination=DuckDBTable(database=warehouse, table="answers"),
        partitions=dg.DailyPartitionsDefinition(start_date=DAYS[0]),
        partition_column="day",
        backfill_policy=policy,
    )
    claude = ClaudeBatches(api_key="test-key", base_url=base_url)
    return Nights(pipeline, claude, BatchStore(root=store), instance)


def submit_some(where: tuple[str, str, str], instance: Any, days: Sequence[str]) -> None:
    """Run the submit job for some days, in this process."""
    with dg.DagsterInstance.from_ref(instance) as opened:
        assert all(events(*where, opened).submit(day).success for day in days)


def submit_days(run: Nights, days: Sequence[str], reports: Path) -> None:
    """Run the submit job for each day in other processes, as a backfill's runs are: some at once."""
    source = run.pipeline.source
    assert isinstance(source, DuckDBSource)
    where = (source.database, run.store.root, run.claude.url)
    instance = run.instance.get_ref()
    each = [(where, instance, days[number::AT_ONCE]) for number in range(AT_ONCE)]
    processes.together(reports, submit_some, *each)


def run_range(
    run: Nights, job: str, first: str, last: str, raises: bool = True
) -> dg.ExecuteInProcessResult:
    """One run over a range of days, as a backfill launches it under a single-run policy."""
    return run.definitions.resolve_job_def(f"events_{job}").execute_in_process(
        instance=run.instance,
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        },
        raise_on_error=raises,
    )


def submitted(run: Nights) -> dict[str, int]:
    """How many submissions each partition has."""
    found: dict[str, int] = {}
    for row in run.store.open().ledger.rows(select(submissions.c.partition)):
        found[row["partition"]] = found.get(row["partition"], 0) + 1
    return found


def check_all_answered(
    run: Nights, emulator: EmulatorProcess, days: Sequence[str] = tuple(DAYS)
) -> None:
    """Assert that each record of the days has its one row, and that each request was paid once."""
    rows = run.rows()
    assert sorted(rows) == list(range(len(days) * OF_EACH_DAY))
    assert {row["_status"] for row in rows.values()} == {"answered"}
    for key, row in rows.items():
        assert row["answer"] == f"event {key // OF_EACH_DAY} {key % OF_EACH_DAY}"
        assert str(row["day"]) == DAYS[key // OF_EACH_DAY]
    paid = [line["custom_id"] for line in emulator.billed_requests()]
    assert len(paid) == len(set(paid)) == len(days) * OF_EACH_DAY
    for stage in STAGES:
        done = run.instance.get_materialized_partitions(run.pipeline.asset_key(stage))
        assert done == set(days), stage


def test_a_run_for_each_day_several_at_once(
    backfill: Callable[..., Nights], claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    run = backfill()
    submit_days(run, DAYS, tmp_path)
    # A run that finds another one sending a file of the same size leaves its own to the sensor.
    run.until_quiet()
    assert len(claude_emulator.batches()) == len(DAYS)
    check_all_answered(run, claude_emulator)
    assert submitted(run) == dict.fromkeys(DAYS, 1)


@only_whole
def test_one_run_over_the_range(
    backfill: Callable[..., Nights], claude_emulator: EmulatorProcess
) -> None:
    run = backfill(dg.BackfillPolicy.single_run())
    for stage in STAGES:
        asset = run.definitions.resolve_assets_def(run.pipeline.asset_key(stage))
        assert asset.backfill_policy == dg.BackfillPolicy.single_run()
    assert run_range(run, "submit", DAYS[0], DAYS[-1]).success
    assert len(run.instance.get_run_records()) == 1 and len(claude_emulator.batches()) == len(DAYS)
    # Its answers can come back in one run, too: nobody has to wait for the sensor.
    assert run_range(run, "collect", DAYS[0], DAYS[-1]).success
    assert len(run.instance.get_run_records()) == 2
    check_all_answered(run, claude_emulator)
    assert run.tick_and_run() == 0 and run.ticks[-1].skip_message == "no batch is open"


@only_whole
def test_the_sensor_collects_a_single_run_range_day_by_day(
    backfill: Callable[..., Nights], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = backfill(dg.BackfillPolicy.single_run())
    run_range(run, "submit", SOME[0], SOME[-1])
    assert run.tick_and_run() == 0
    ended = claude_emulator.batches()[::2]
    for batch in ended:
        claude_emulator.end(batch["id"])
    assert run.tick_and_run() == len(ended) == 3
    assert len(run.rows()) == 3 * OF_EACH_DAY
    claude_emulator.end()
    run.until_quiet()
    check_all_answered(run, claude_emulator, SOME)


@only_whole
def test_a_backfill_over_days_that_are_asked_asks_the_others(
    backfill: Callable[..., Nights], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    single = backfill()
    for day in SOME[:4:3]:
        single.submit(day)  # they are on their way
    ranged = backfill(dg.BackfillPolicy.single_run())
    run_range(ranged, "submit", SOME[0], SOME[4])
    single.submit(SOME[5])
    run_range(ranged, "submit", SOME[2], SOME[5])
    claude_emulator.end()
    ranged.until_quiet()
    run_range(ranged, "submit", SOME[0], SOME[-1])  # answered
    check_all_answered(ranged, claude_emulator, SOME)


@only_whole
def test_a_range_that_fails_in_the_middle_goes_on_where_it_was(
    backfill: Callable[..., Nights], claude_emulator: EmulatorProcess
) -> None:
    run = backfill(dg.BackfillPolicy.single_run())
    claude_emulator.fault("create", "status_before", nth=4, status=401, message="Not you")
    failed = run_range(run, "submit", SOME[0], SOME[-1], raises=False)
    assert not failed.success and len(claude_emulator.batches()) == 3
    assert run_range(run, "submit", SOME[0], SOME[-1]).success
    run.until_quiet()
    check_all_answered(run, claude_emulator, SOME)
    assert submitted(run) == dict.fromkeys(SOME, 1)
