"""Which night asks about which records."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    MessageTemplate,
    Schedule,
    build_definitions,
)


@dataclass
class Nightly:
    """The schedule of a pipeline, and the code location it is in."""

    definitions: dg.Definitions

    @property
    def schedule(self) -> dg.ScheduleDefinition:
        return self.definitions.resolve_schedule_def("events_nightly")

    def tick(
        self, moment: str, timezone: str = "UTC", instance: dg.DagsterInstance | None = None
    ) -> Any:
        context = dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime.fromisoformat(moment).replace(
                tzinfo=ZoneInfo(timezone)
            ),
            repository_def=self.definitions.get_repository_def(),
        )
        return self.schedule.evaluate_tick(context)

    def asked(self, moment: str, timezone: str = "UTC") -> list[str | None]:
        """The partitions that a tick at a moment asks about; None stands for the whole table."""
        requests = self.tick(moment, timezone).run_requests or []
        return [request.partition_key for request in requests]


def pipeline(**fields: Any) -> BatchPipeline:
    return BatchPipeline(
        **{
            "name": "events",
            "source": DuckDBSource(database="none.duckdb", table="events", key="id"),
            "request": MessageTemplate(
                model="claude-haiku-4-5", max_tokens=10, prompt="{{ summary }}"
            ),
            "schedule": "0 23 * * *",
            **fields,
        }
    )


def nightly(**fields: Any) -> Nightly:
    claude, store = ClaudeBatches(api_key="test-key"), BatchStore(root="none")
    return Nightly(build_definitions(pipeline(**fields), claude=claude, store=store))


def daily(**fields: Any) -> dict[str, Any]:
    partitions = dg.DailyPartitionsDefinition(**{"start_date": "2026-03-01", **fields})
    return {"partitions": partitions, "partition_column": "day"}


def test_a_cron_string_is_in_utc_and_waits_to_be_switched_on() -> None:
    schedule = nightly().schedule
    assert schedule.cron_schedule == "0 23 * * *" and schedule.execution_timezone == "UTC"
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert schedule.job.name == "events_submit"


def test_a_schedule_has_a_zone_and_may_run_from_the_start() -> None:
    running = dg.DefaultScheduleStatus.RUNNING
    schedule = nightly(
        schedule=Schedule("30 1 * * *", timezone="Europe/Berlin", status=running)
    ).schedule
    assert schedule.cron_schedule == "30 1 * * *" and schedule.execution_timezone == "Europe/Berlin"
    assert schedule.default_status == running


def test_without_a_schedule_there_is_none() -> None:
    assert not list(build_definitions(pipeline(schedule=None)).schedules or [])


def test_a_night_without_partitions_asks_about_the_whole_table() -> None:
    assert nightly().asked("2026-03-05T23:00") == [None]


def test_a_night_asks_about_the_last_day_that_is_over() -> None:
    schedule = nightly(**daily())
    assert schedule.asked("2026-03-05T23:00") == ["2026-03-04"]
    assert schedule.asked("2026-03-06T00:00") == ["2026-03-05"]


def test_a_day_that_is_still_open_is_not_asked_even_if_it_is_a_partition() -> None:
    assert nightly(**daily(end_offset=1)).asked("2026-03-05T23:00") == ["2026-03-04"]


def test_the_first_night_has_nothing_to_ask_about() -> None:
    tick = nightly(**daily()).tick("2026-03-01T23:00")
    assert not tick.run_requests
    assert tick.skip_message == "there is no partition to ask about yet"


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-03-28T00:30", "2026-03-27"),
        ("2026-03-29T00:30", "2026-03-28"),  # clocks go forward at 02:00: a day of 23 hours
        ("2026-03-30T00:30", "2026-03-29"),
        ("2026-10-25T00:30", "2026-10-24"),  # and back at 03:00: a day of 25 hours
        ("2026-10-26T00:30", "2026-10-25"),
    ],
)
def test_a_day_is_a_day_of_its_zone_when_the_clocks_change(moment: str, day: str) -> None:
    berlin = nightly(
        schedule=Schedule("30 0 * * *", timezone="Europe/Berlin"),
        **daily(timezone="Europe/Berlin"),
    )
    assert berlin.asked(moment, "Europe/Berlin") == [day]


def test_the_zones_of_schedule_and_partitions_may_differ() -> None:
    # 00:30 in Berlin is 22:30 of the day before in UTC: the UTC day is not over.
    schedule = nightly(schedule=Schedule("30 0 * * *", timezone="Europe/Berlin"), **daily())
    assert schedule.asked("2026-06-10T00:30", "Europe/Berlin") == ["2026-06-08"]


def test_hours_weeks_and_months_are_asked_when_they_are_over() -> None:
    hourly = dg.HourlyPartitionsDefinition(start_date="2026-03-01-00:00")
    weekly = dg.WeeklyPartitionsDefinition(start_date="2026-03-01")
    monthly = dg.MonthlyPartitionsDefinition(start_date="2026-01-01")
    for partitions, expected in (
        (hourly, "2026-03-17-22:00"),
        (weekly, "2026-03-08"),
        (monthly, "2026-02-01"),
    ):
        schedule = nightly(partitions=partitions, partition_column="day")
        assert schedule.asked("2026-03-17T23:00") == [expected]


def test_a_night_asks_about_each_of_the_static_partitions() -> None:
    regions = dg.StaticPartitionsDefinition(["de", "fr", "us"])
    schedule = nightly(partitions=regions, partition_column="region")
    assert schedule.asked("2026-03-05T23:00") == ["de", "fr", "us"]


def test_a_night_asks_about_each_of_the_dynamic_partitions_there_are() -> None:
    schedule = nightly(
        partitions=dg.DynamicPartitionsDefinition(name="files"), partition_column="file"
    )
    with dg.instance_for_test() as instance:
        for there in ([], ["a.csv", "b.csv"]):
            instance.add_dynamic_partitions("files", there)
            tick = schedule.tick("2026-03-05T23:00", instance=instance)
            assert [request.partition_key for request in tick.run_requests or []] == there
