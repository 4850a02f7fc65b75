"""Nights by the clock: when they are, which records they are about, and what they do not do twice."""

from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest

# The times at which the daemon ticks a schedule; there is no public way to ask for them.
from dagster._utils.schedules import schedule_execution_time_iterator

from batch_pipeline import Arrivals, Schedule
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Schedule("30 2 * * *", timezone="Europe/Berlin")


def schedule_of(run: Nights) -> dg.ScheduleDefinition:
    return run.definitions.resolve_schedule_def(f"{run.pipeline.name}_nightly")


def ticks(run: Nights, first: str, days: int) -> list[datetime]:
    """The moments at which the schedule ticks, as the daemon reckons them."""
    schedule = schedule_of(run)
    start = datetime.fromisoformat(first).replace(tzinfo=BERLIN)
    moments = schedule_execution_time_iterator(
        start.timestamp(), schedule.cron_schedule, schedule.execution_timezone
    )
    return list(takewhile(lambda moment: moment < start + timedelta(days=days), moments))


def night(run: Nights, moment: datetime) -> list[str | None]:
    """Tick the schedule, run what it requests, and return which partitions that were."""
    context = dg.build_schedule_context(
        instance=run.instance,
        scheduled_execution_time=moment,
        repository_def=run.definitions.get_repository_def(),
    )
    requests = schedule_of(run).evaluate_tick(context).run_requests or []
    for request in requests:
        run.run("submit", partition=request.partition_key)
    return [request.partition_key for request in requests]


def change(warehouse: Path, statement: str) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(statement)


def few(warehouse: Path) -> None:
    change(
        warehouse,
        "create or replace table packages as select *, date '2026-03-28' as day from packages"
        " order by package limit 10",
    )


def add(warehouse: Path, name: str) -> None:
    change(
        warehouse,
        f"insert into packages select * replace ('{name}' as package) from packages limit 1",
    )


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        # There is no 02:30 on the 29th: at 02:00 it is 03:00.
        ("2026-03-28", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        # At 03:00 on the 25th it is 02:00 again.
        ("2026-10-24", ["24 02:30 +0200", "25 02:30 +0100", "26 02:30 +0100"]),
    ],
)
def test_there_is_one_night_a_day_also_when_the_clocks_change(
    nights, first: str, expected: list[str]
) -> None:
    moments = ticks(nights(schedule=NIGHT), first, 3)
    assert [moment.astimezone(BERLIN).strftime("%d %H:%M %z") for moment in moments] == expected


def test_each_night_of_the_change_asks_about_the_day_before_once(
    nights, warehouse: Path, claude_emulator: EmulatorProcess, clock: HandClock
) -> None:
    few(warehouse)
    change(
        warehouse,
        "update packages set day = day + (rowid % 4)::int",  # the 28th to the 31st
    )
    daily = dg.DailyPartitionsDefinition(start_date="2026-03-26", timezone="Europe/Berlin")
    run = nights(schedule=NIGHT, partitions=daily, partition_column="day")
    asked: list[Any] = []
    for moment in ticks(run, "2026-03-28", 5):
        clock.stopped_at = moment
        asked += night(run, moment)
    assert asked == ["2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
    assert claude_emulator.bill()["requests"] == 10


def test_a_night_that_finds_yesterdays_batch_open_asks_nothing_twice_and_both_are_collected(
    nights, warehouse: Path, claude_emulator: EmulatorProcess
) -> None:
    few(warehouse)
    claude_emulator.configure(manual=True)
    run = nights(schedule=NIGHT)
    first, second, third = ticks(run, "2026-06-01", 3)
    night(run, first)
    add(warehouse, "new")
    change(
        warehouse,
        "update packages set summary = 'another' where package = (select min(package) from packages)",
    )
    night(run, second)
    night(run, third)
    assert sorted(batch["requests"] for batch in claude_emulator.batches()) == [2, 10]
    assert run.tick().skip_message.startswith("0 of 2 batches ended; 2 open")
    claude_emulator.end()
    run.until_quiet()
    rows = run.rows()
    assert len(rows) == 11 and {row["_status"] for row in rows.values()} == {"answered"}
    assert [row["summary"] for row in rows.values()].count("another") == 1
    assert claude_emulator.bill()["requests"] == 12


def test_the_nightly_run_asks_nothing_that_an_arrivals_run_asks(
    nights, warehouse: Path, claude_emulator: EmulatorProcess
) -> None:
    few(warehouse)
    run = nights(schedule=NIGHT, arrivals=Arrivals())
    run.submit()  # requested by the arrivals sensor
    [moment] = ticks(run, "2026-06-01", 1)
    assert night(run, moment) == [None]
    assert run.metadata("records")["asked"] == 0
    assert claude_emulator.bill()["requests"] == 10
