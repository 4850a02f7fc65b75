"""Partitions: each is selected, asked and collected by itself, and all share one table."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from sqlalchemy import select

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, DuckDBSource, MessageTemplate
from batch_pipeline.definitions.jobs import ask_config
from batch_pipeline.definitions.status import tick as status_tick
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.tables import submissions
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import extent, only_whole

DAYS = [str(date(2026, 3, 1) + timedelta(days=day)) for day in range(extent(7, 30))]
MOST_RUNS = extent(5, status_tick.MOST_RUNS)  # of a tick
BERLIN = "Europe/Berlin"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """A DuckDB file to make tables in."""
    return tmp_path / "events.duckdb"


def fill(events: Path, *statements: str) -> None:
    with duckdb.connect(str(events)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def partitioned(
    claude_emulator: EmulatorProcess, tmp_path: Path, events: Path, clock: HandClock
) -> Callable[..., Nights]:
    """Make a pipeline over the table ``events``, in a Dagster of its own."""

    def make(
        partitions: dg.PartitionsDefinition | None,
        column: str | None,
        instance: dg.DagsterInstance | None = None,
        **fields: Any,
    ) -> Nights:
        pipeline = BatchPipeline(
            **{
                "name": "events",
                "source": DuckDBSource(database=str(events), table="events", key="id"),
                "request": MessageTemplate(
                    model="claude-haiku-4-5", max_tokens=50, prompt="{{ summary }}"
                ),
                "partitions": partitions,
                "partition_column": column,
                **fields,
            }
        )
        claude = ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url)
        store = BatchStore(root=str(tmp_path / "store"))
        return Nights(pipeline, claude, store, instance or dg.DagsterInstance.ephemeral())

    return make


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster that keeps dynamic partitions: an ephemeral one does not hand them to its ticks."""
    with dg.instance_for_test() as instance:
        yield instance


def asked(run: Nights) -> dict[str, set[Any]]:
    """The keys of the records that were selected, by partition."""
    store = run.store.open()
    found: dict[str, set[Any]] = {}
    for row in store.ledger.rows(select(submissions)):
        with duckdb.connect() as connection, store.files.local(row["records_path"]) as path:
            keys = connection.execute("select id from read_parquet(?)", [path]).fetchall()
        found.setdefault(row["partition"], set()).update(key for (key,) in keys)
    return found


def submit_range(run: Nights, first: str, last: str) -> dg.ExecuteInProcessResult:
    """One submit run over a range of partitions, as a single-run backfill launches it."""
    return run.definitions.resolve_job_def("events_submit").execute_in_process(
        instance=run.instance,
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        },
    )


@only_whole
def test_each_day_is_a_run_of_its_own_and_asked_once(
    partitioned, claude_emulator: EmulatorProcess, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_tick, "MOST_RUNS", MOST_RUNS)
    fill(
        events,
        "create table events as select d * 3 + n as id, date '2026-03-01' + d::int as day,"
        " 'event ' || d || ' ' || n as summary"
        f" from range({len(DAYS)}) days(d), range(3) numbers(n)",
        "insert into events values (999, null, 'an event of no day')",
    )
    claude_emulator.configure(manual=True)
    run = partitioned(dg.DailyPartitionsDefinition(start_date="2026-03-01"), "day")
    for day in DAYS:
        run.submit(day)
    assert len(claude_emulator.batches()) == len(DAYS)
    assert run.tick_and_run() == 0
    assert run.ticks[-1].skip_message.startswith(
        f"0 of {len(DAYS)} batches ended; {len(DAYS)} open, oldest"
    )

    claude_emulator.end()
    before = claude_emulator.stats()["calls"]["GET /v1/messages/batches"]
    first = run.tick()
    assert (
        claude_emulator.stats()["calls"]["GET /v1/messages/batches"] - before == 1
    )  # one look serves all partitions
    assert [request.partition_key for request in first.run_requests] == DAYS[:MOST_RUNS]
    assert {request.job_name for request in first.run_requests} == {"events_collect"}
    for request in first.run_requests:
        run.collect(request.partition_key)
    assert [request.partition_key for request in run.tick().run_requests] == DAYS[MOST_RUNS:]
    for day in DAYS[MOST_RUNS:]:
        run.collect(day)
    assert run.tick_and_run() == 0 and run.ticks[-1].skip_message == "no batch is open"

    rows = run.rows()
    assert sorted(rows) == list(range(3 * len(DAYS)))
    assert all(row["_status"] == "answered" for row in rows.values())
    assert claude_emulator.bill()["requests"] == 3 * len(DAYS)
    assert {day: len(keys) for day, keys in asked(run).items()} == dict.fromkeys(DAYS, 3)

    fill(events, "insert into events values (1000, date '2026-03-04', 'a late event')")
    run.submit(DAYS[3])
    run.submit(DAYS[4])
    claude_emulator.end()
    run.until_quiet()
    assert claude_emulator.bill()["requests"] == 3 * len(DAYS) + 1
    assert set(run.rows()) == set(rows) | {1000}
    assert asked(run)[DAYS[3]] == {9, 10, 11, 1000}


def test_a_timestamp_belongs_to_the_day_it_says(partitioned, events: Path) -> None:
    fill(
        events,
        "create table events (id int, moment timestamp, summary varchar)",
        "insert into events values (1, '2026-03-01 23:59:59.999999', 'a'),"
        " (2, '2026-03-02 00:00:00', 'b'), (3, '2026-03-02 23:59:59.999999', 'c'),"
        " (4, '2026-03-03 00:00:00', 'd')",
    )
    run = partitioned(dg.DailyPartitionsDefinition(start_date="2026-03-01"), "moment")
    result = submit_range(run, "2026-03-01", "2026-03-03")
    assert result.success
    assert asked(run) == {"2026-03-01": {1}, "2026-03-02": {2, 3}, "2026-03-03": {4}}


def test_an_instant_belongs_to_the_day_of_the_partitions_zone(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    # On 2026-03-29 clocks go forward in Berlin: the day lasts from 23:00 UTC to 22:00 UTC.
    fill(
        events,
        "create table events (id int, moment timestamptz, summary varchar)",
        "insert into events values (1, '2026-03-28 22:59:59+00', 'a'),"
        " (2, '2026-03-28 23:00:00+00', 'b'), (3, '2026-03-29 21:59:59+00', 'c'),"
        " (4, '2026-03-29 22:00:00+00', 'd'), (5, '2026-03-30 22:00:00+00', 'e')",
    )
    daily = dg.DailyPartitionsDefinition(start_date="2026-03-28", timezone=BERLIN)
    run = partitioned(daily, "moment")
    submit_range(run, "2026-03-28", "2026-03-30")
    assert asked(run) == {"2026-03-28": {1}, "2026-03-29": {2, 3}, "2026-03-30": {4}}
    run.until_quiet()
    assert set(run.rows()) == {1, 2, 3, 4} and claude_emulator.bill()["requests"] == 4


@only_whole
def test_a_range_of_partitions_is_one_run_with_a_materialization_each(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(
        events,
        "create table events as select d as id, date '2026-03-01' + d::int as day,"
        " 'event ' || d as summary from range(4) days(d)",
    )
    run = partitioned(dg.DailyPartitionsDefinition(start_date="2026-03-01"), "day")
    submit_range(run, DAYS[0], DAYS[2])
    assert len(claude_emulator.batches()) == 3
    for stage in ("records", "requests", "batches"):
        done = run.instance.get_materialized_partitions(run.pipeline.asset_key(stage))
        assert done == set(DAYS[:3])
    run.until_quiet()
    submit_range(run, DAYS[0], DAYS[3])
    run.until_quiet()
    assert claude_emulator.bill()["requests"] == 4 and set(run.rows()) == {0, 1, 2, 3}


@only_whole
def test_static_partitions_go_by_the_text_of_their_column(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(
        events,
        "create table events as select * from (values (1, 7, 'a'), (2, 8, 'b'), (3, 7, 'c'),"
        " (4, null, 'd')) as t(id, region, summary)",
    )
    run = partitioned(dg.StaticPartitionsDefinition(["7", "8", "it's"]), "region")
    run.night("7")
    assert set(run.rows()) == {1, 3}
    run.night("it's")
    run.night("8")
    assert asked(run) == {"7": {1, 3}, "8": {2}}
    assert claude_emulator.bill()["requests"] == 3


def test_dynamic_partitions_are_asked_as_they_come_and_wait_when_they_are_gone(
    partitioned, claude_emulator: EmulatorProcess, events: Path, instance: dg.DagsterInstance
) -> None:
    fill(
        events,
        "create table events as select * from (values (1, 'a.csv', 'a'), (2, 'b.csv', 'b'),"
        " (3, 'c.csv', 'c')) as t(id, file, summary)",
    )
    run = partitioned(dg.DynamicPartitionsDefinition(name="files"), "file", instance)
    instance.add_dynamic_partitions("files", ["a.csv", "b.csv"])
    run.submit("a.csv")
    run.submit("b.csv")
    instance.delete_dynamic_partition("files", "a.csv")
    # A request for a run of a partition that is gone would fail the tick, for all of them.
    assert run.tick_and_run() == 1
    assert run.tick_and_run() == 0
    said = run.ticks[-1].skip_message
    assert "that the pipeline does not have any more" in said and "(a.csv)" in said
    assert set(run.rows()) == {2}
    instance.add_dynamic_partitions("files", ["a.csv", "c.csv"])
    run.submit("c.csv")
    run.until_quiet()
    assert set(run.rows()) == {1, 2, 3} and claude_emulator.bill()["requests"] == 3


def test_what_was_open_when_partitions_came_is_said_and_fails_no_tick(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(
        events,
        "create table events as select * from (values (1, date '2026-03-01', 'a'),"
        " (2, date '2026-03-02', 'b')) as t(id, day, summary)",
    )
    daily = dg.DailyPartitionsDefinition(start_date="2026-03-01")
    before = partitioned(None, None)
    before.submit()
    run = partitioned(daily, "day")
    assert run.tick_and_run() == 0
    assert "that the pipeline does not have any more" in run.ticks[-1].skip_message
    before.until_quiet()
    assert set(before.rows()) == {1, 2} and claude_emulator.bill()["requests"] == 2
    run.submit("2026-03-01")
    assert claude_emulator.bill()["requests"] == 2  # what was answered is answered


@only_whole
def test_a_partial_ask_of_a_partition_takes_limit_where_and_force(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(
        events,
        "create table events as select n as id, date '2026-03-01' + (n % 2)::int as day,"
        " 'event ' || n as summary from range(20) numbers(n)",
    )
    claude_emulator.configure(rates={"errored": 1.0})
    run = partitioned(dg.DailyPartitionsDefinition(start_date="2026-03-01"), "day", max_attempts=2)
    run.run("submit", ask_config(run.pipeline, limit=3), DAYS[0])
    run.until_quiet()
    # Failed records are asked again in their partition, and nothing else with them.
    assert asked(run) == {DAYS[0]: {0, 2, 4}}
    assert len(claude_emulator.billed_requests()) == 6
    run.run("submit", ask_config(run.pipeline, where="id > 16"), DAYS[1])
    assert asked(run)[DAYS[1]] == {17, 19}


@only_whole
def test_two_partitions_may_run_at_the_same_time(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(
        events,
        "create table events as select n as id, date '2026-03-01' + (n % 4)::int as day,"
        " 'event ' || n as summary from range(40) numbers(n)",
    )
    daily = dg.DailyPartitionsDefinition(start_date="2026-03-01")

    def night(day: str) -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            run = partitioned(daily, "day", instance)
            run.submit(day)
            run.collect(day)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(night, DAYS[:4]))
    run = partitioned(daily, "day")
    run.until_quiet()  # a collect run that found another one publishing left it to the next
    assert set(run.rows()) == set(range(40)) and claude_emulator.bill()["requests"] == 40


@only_whole
def test_two_runs_of_one_partition_at_the_same_time_ask_once(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(
        events,
        "create table events as select n as id, date '2026-03-01' as day,"
        " 'event ' || n as summary from range(10) numbers(n)",
    )
    daily = dg.DailyPartitionsDefinition(start_date="2026-03-01")

    def submit(_: int) -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            partitioned(daily, "day", instance).submit(DAYS[0])

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(submit, range(3)))
    run = partitioned(daily, "day")
    run.until_quiet()
    assert len(run.rows()) == 10 and claude_emulator.bill()["requests"] == 10


def test_a_record_that_moves_to_another_partition_keeps_its_answer(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(
        events,
        "create table events as select * from (values (1, date '2026-03-01', 'a'),"
        " (2, date '2026-03-02', 'b')) as t(id, day, summary)",
    )
    run = partitioned(
        dg.DailyPartitionsDefinition(start_date="2026-03-01"), "day", on_deleted="drop"
    )
    submit_range(run, DAYS[0], DAYS[1])
    run.until_quiet()
    fill(events, "update events set day = date '2026-03-02' where id = 1")
    run.night(DAYS[0])
    assert set(run.rows()) == {1, 2}  # it is in the source
    run.night(DAYS[1])
    assert set(run.rows()) == {1, 2} and claude_emulator.bill()["requests"] == 2
    run.submit(DAYS[0])  # it is not this partition's any more, and not for it to drop
    assert set(run.rows()) == {1, 2}


def test_a_partition_column_that_is_no_time_is_an_error_before_anything_is_sent(
    partitioned, claude_emulator: EmulatorProcess, events: Path
) -> None:
    fill(events, "create table events as select 1 as id, 2 as day, 'a' as summary")
    for column, message in (("day", "is of type INTEGER"), ("dag", "Did you mean `day`")):
        run = partitioned(dg.DailyPartitionsDefinition(start_date="2026-03-01"), column)
        with pytest.raises(dg.Failure) as failed:
            run.submit(DAYS[0])
        assert message in (failed.value.description or "")
    assert not claude_emulator.batches()
