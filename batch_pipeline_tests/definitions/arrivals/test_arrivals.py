"""What arrives is asked: when, how often, and what a tick says about it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

# Dagster takes no queued run into its history that does not say which code location it is of, and
# has no public name for that.
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from batch_pipeline import Arrivals, DuckDBSource, ParquetSource
from batch_pipeline.definitions.arrivals import tick as arrivals_tick
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.definitions.conftest import RECORDS
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import extent, only_whole

ORIGIN = RemoteJobOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__"),
    "packages_submit",
)


class Arriving:
    """A pipeline and its arrivals sensor, ticked by hand as the daemon would."""

    def __init__(self, run: Nights) -> None:
        self.run, self.cursor = run, None
        self.name = f"{run.pipeline.name}_submit"

    def tick(self) -> Any:
        run = self.run
        sensor = run.definitions.get_repository_def().get_sensor_def(
            f"{run.pipeline.name}_arrivals"
        )
        context = dg.build_sensor_context(
            instance=run.instance,
            instance_ref=run.instance.get_ref() if run.instance.is_persistent else None,
            cursor=self.cursor,
            definitions=run.definitions,
            resources={"claude": run.claude, "store": run.store},
        )
        with context:
            result = sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def asked(self) -> list[str | None]:
        """The partitions that a tick requests runs for; None stands for the whole source."""
        requests = self.tick().run_requests or []
        assert all(one.job_name == self.name and one.run_key is None for one in requests)
        return [one.partition_key for one in requests]

    def says(self) -> str:
        """What a tick says that requests nothing."""
        tick = self.tick()
        assert not tick.run_requests
        return tick.skip_message

    def tick_and_run(self, ticks: int = 2, raises: bool = True) -> int:
        """Tick, run what is requested, and return how many runs that were."""
        done = 0
        for _ in range(ticks):
            for request in self.tick().run_requests or []:
                done += 1
                self.run.definitions.resolve_job_def(request.job_name).execute_in_process(
                    run_config=request.run_config,
                    instance=self.run.instance,
                    partition_key=request.partition_key,
                    tags=request.tags,
                    raise_on_error=raises,
                )
        return done

    def quiet(self) -> "Arriving":
        """Tick until what is there is known and asked."""
        self.tick_and_run(3)
        return self


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """A DuckDB file with a table of 20 real records."""
    path = tmp_path / "warehouse.duckdb"
    change(
        path,
        "create table packages as select *, 0 as revision, date '2026-03-01' as day,"
        f" 'de' as region from read_parquet('{RECORDS}') order by package limit 20",
    )
    return path


@pytest.fixture
def arriving(nights) -> Callable[..., Arriving]:
    """Make a pipeline over the warehouse, with arrivals."""

    def make(**fields: Any) -> Arriving:
        return Arriving(nights(**{"arrivals": Arrivals(cooldown_minutes=0), **fields}))

    return make


def change(warehouse: Path, *statements: str) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        for statement in statements:
            connection.execute(statement)


def add(warehouse: Path, *names: str, **values: Any) -> None:
    """Add new packages to the table."""
    replaced = "".join(f", {value!r} as {name}" for name, value in values.items())
    change(
        warehouse,
        *(
            f"insert into packages select * replace ('{name}' as package{replaced}) from packages"
            " limit 1"
            for name in names
        ),
    )


def many(count: int, prefix: str = "new") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@contextmanager
def held_by_another_program(warehouse: Path) -> Iterator[None]:
    """Another process has the database open for writing."""
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True);"
        " sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin and program.stdout and program.stdout.readline() == "open\n"
        yield
        program.stdin.close()


def in_groups(definition: dg.PartitionsDefinition, column: str, **fields: Any) -> dict[str, Any]:
    return {"partitions": definition, "partition_column": column, **fields}


def test_what_is_there_when_the_sensor_is_switched_on_is_an_arrival(
    arriving, claude_emulator: EmulatorProcess
) -> None:
    one = arriving()
    assert "once it stays the same from one tick to the next" in one.says()
    assert one.tick_and_run(1) == 1
    assert claude_emulator.bill()["requests"] == 20
    assert "What arrived was asked by packages_submit" in one.says()
    assert "Nothing new in table packages" in one.says()


def test_what_is_asked_already_is_none(arriving, claude_emulator: EmulatorProcess) -> None:
    one = arriving()
    one.run.submit()
    one.says()
    assert "nothing of what is there needs an answer" in one.says()
    assert "Nothing new in table packages" in one.says()
    assert claude_emulator.bill()["requests"] == 20


def test_new_and_changed_rows_are_asked_and_other_writes_are_not(
    arriving, warehouse: Path, claude_emulator: EmulatorProcess
) -> None:
    one = arriving().quiet()
    add(warehouse, *many(5))
    one.says()
    assert one.tick_and_run(1) == 1
    change(warehouse, "update packages set summary = 'another' where package = 'new1'")
    assert one.tick_and_run() == 1
    change(
        warehouse,
        "create table other as select 1 as x",
        "update packages set revision = 7",  # a column that the question does not read
        "checkpoint",
    )
    assert one.tick_and_run(3) == 0
    assert claude_emulator.bill()["requests"] == 26


def test_another_prompt_is_no_arrival(arriving, claude_emulator: EmulatorProcess) -> None:
    one = arriving().quiet()
    again = arriving(template={"prompt": "Sort {{ summary }} {{ homepage }}"})
    again.cursor, again.run.instance = one.cursor, one.run.instance
    assert again.tick_and_run(3) == 0
    assert claude_emulator.bill()["requests"] == 20


def test_a_file_that_is_still_written_is_no_arrival(
    arriving, tmp_path: Path, claude_emulator: EmulatorProcess
) -> None:
    folder = tmp_path / "in"
    one = arriving(source=ParquetSource(path=f"{folder}/*.parquet", key="package"))
    assert f"There is no file yet: Parquet files at {folder}/*.parquet" in one.says()
    whole = RECORDS.read_bytes()
    folder.mkdir()
    with (folder / "some.parquet").open("wb") as file:
        for start in range(0, len(whole), len(whole) // 3):
            file.write(whole[start : start + len(whole) // 3])
            file.flush()
            assert "so that nothing half-written is read" in one.says()
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (from '{RECORDS}' limit 7) to '{folder}/some.parquet' (format parquet)"
        )
    one.says()
    assert one.tick_and_run(1) == 1
    # A further file; the one that was there is not asked again.
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (from '{RECORDS}' limit 9 offset 5) to '{folder}/b.parquet' (format parquet)"
        )
        connection.execute(
            f"copy (from '{RECORDS}' limit 5) to '{folder}/some.parquet' (format parquet)"
        )
    assert one.tick_and_run() == 1
    assert one.tick_and_run(3) == 0
    assert claude_emulator.bill()["requests"] == 14


@only_whole
def test_a_database_that_is_written_all_the_time_is_read_all_the_same(
    arriving, warehouse: Path, clock: HandClock
) -> None:
    one = arriving().quiet()
    for number in range(10):
        add(warehouse, f"new{number}")
        assert "stays the same" in one.says()
        clock.advance(60)
    add(warehouse, "last")
    assert one.tick_and_run(1) == 1


def test_a_source_that_did_not_change_is_not_opened(arriving, warehouse: Path) -> None:
    one = arriving().quiet()
    with held_by_another_program(warehouse):
        assert "Nothing new in table packages" in one.says()


@only_whole
def test_a_database_in_use_is_looked_at_again(
    arriving, warehouse: Path, claude_emulator: EmulatorProcess
) -> None:
    one = arriving().quiet()
    add(warehouse, "new")
    one.says()
    with held_by_another_program(warehouse):
        for _ in range(2):
            said = one.says()
            assert said.startswith(
                "It is looked at again at the next tick: another program is using"
            )
    assert one.tick_and_run() == 1
    assert claude_emulator.bill()["requests"] == 21


def test_no_run_is_asked_for_until_the_cooldown_is_over_and_nothing_is_forgotten(
    arriving, warehouse: Path, clock: HandClock, claude_emulator: EmulatorProcess
) -> None:
    one = arriving(arrivals=Arrivals(cooldown_minutes=60))
    one.run.submit()  # by hand: it counts as well
    add(warehouse, "new")
    one.says()
    for _ in range(2):
        said = one.says()
        assert "the last packages_submit was at " in said and "(cooldown_minutes)" in said
    clock.advance(59 * 60)
    one.says()
    clock.advance(61)
    assert one.tick_and_run(1) == 1
    assert one.tick_and_run(3) == 0
    assert claude_emulator.bill()["requests"] == 21


@pytest.mark.parametrize(
    "status",
    [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED],
)
def test_no_run_is_asked_for_beside_another(
    arriving, warehouse: Path, clock: HandClock, status: dg.DagsterRunStatus
) -> None:
    one = arriving().quiet()
    nightly = one.run.instance.add_run(
        dg.DagsterRun(job_name="packages_submit", status=status, remote_job_origin=ORIGIN)
    )
    add(warehouse, "new")
    one.says()
    assert "packages_submit is queued or running" in one.says()
    if status == dg.DagsterRunStatus.STARTED:
        clock.advance(121 * 60)  # killed hard, it seems; a queued one is Dagster's to start
    else:
        one.run.instance.delete_run(nightly.run_id)
    assert one.asked() == [None]


@only_whole
def test_what_another_run_took_along_is_not_asked_for(arriving, warehouse: Path) -> None:
    one = arriving().quiet()
    add(warehouse, "new")
    one.says()
    one.run.submit()  # the nightly schedule's
    assert "What arrived was asked by packages_submit" in one.says()
    add(warehouse, "more")
    one.says()
    one.run.submit(limit=1)  # that is not all there is
    assert one.asked() == [None]


@only_whole
def test_a_materialize_of_the_assets_counts_as_well(arriving, warehouse: Path) -> None:
    one = arriving().quiet()
    add(warehouse, "new")
    one.says()
    run, stages = one.run, ("records", "requests", "batches")
    for names, done in ((stages[:1], False), (stages, True)):
        selected = [run.pipeline.asset_key(name) for name in names]
        run.definitions.get_implicit_global_asset_job_def().execute_in_process(
            instance=run.instance, asset_selection=selected
        )
        assert (one.asked() == []) == done


def test_a_run_that_failed_is_asked_for_again_after_a_while(
    arriving, warehouse: Path, clock: HandClock, claude_emulator: EmulatorProcess
) -> None:
    one = arriving(arrivals=Arrivals(cooldown_minutes=60))
    add(warehouse, "new", "new")  # a key that occurs twice
    assert one.tick_and_run(raises=False) == 1
    assert "packages_submit failed; it is requested again after " in one.says()
    clock.advance(61)
    assert one.tick_and_run(1, raises=False) == 1
    clock.advance(30)  # run records bear the machine's time: this is 91 seconds after the second
    assert "packages_submit failed 2 times in a row" in one.says()
    change(warehouse, "create or replace table packages as select distinct * from packages")
    assert one.tick_and_run(2) == 0
    clock.advance(40)
    assert one.tick_and_run(1) == 1
    assert one.tick_and_run(3) == 0
    assert claude_emulator.bill()["requests"] == 21


def test_too_few_records_wait_for_more(
    arriving, warehouse: Path, claude_emulator: EmulatorProcess
) -> None:
    one = arriving(arrivals=Arrivals(min_records=12, cooldown_minutes=0)).quiet()
    add(warehouse, *many(7))
    one.says()
    for _ in range(2):
        assert ": 7 of 12 records" in one.says()
    change(
        warehouse,
        "update packages set summary = 'another'"
        " where package = (select min(package) from packages)",
    )
    one.says()
    assert ": 8 of 12 records" in one.says()
    add(warehouse, *many(4, "more"))
    one.says()
    assert one.asked() == [None]


@only_whole
@pytest.mark.parametrize("changes", [None, "revision"])
def test_what_waits_is_counted_from_where_it_was_last_asked(
    arriving, warehouse: Path, changes: str | None
) -> None:
    source = DuckDBSource(database=str(warehouse), table="packages", key="package", changes=changes)
    one = arriving(source=source, arrivals=Arrivals(min_records=9, cooldown_minutes=0)).quiet()
    for number in range(2):
        add(warehouse, *many(4, f"n{number}-"), revision=number + 1)
        one.says()
        assert f": {4 * (number + 1)} of 9 records" in one.says()
    change(
        warehouse, "update packages set summary = 'another', revision = 3 where package = 'n0-0'"
    )
    one.says()
    assert ": 8 of 9 records" in one.says()
    add(warehouse, "last", revision=4)
    assert one.tick_and_run() == 1
    assert one.tick_and_run(3) == 0


def test_with_a_column_that_tells_of_changes_no_other_is_read(arriving, warehouse: Path) -> None:
    source = DuckDBSource(
        database=str(warehouse), table="packages", key="package", changes="Revision"
    )
    one = arriving(source=source).quiet()
    change(warehouse, "update packages set summary = 'another' where package < 'b'")
    assert one.tick_and_run(3) == 0  # nothing told of it
    change(warehouse, "update packages set revision = 1 where package < 'b'")
    assert one.tick_and_run() == 1
    change(
        warehouse, "insert into packages select * replace ('new' as package) from packages limit 1"
    )
    assert one.tick_and_run() == 1


@pytest.mark.parametrize("cursor", [None, "", "garbage", "[1]", '{"version": 99}', '{"version":1}'])
def test_a_lost_or_unreadable_cursor_loses_nothing_and_starts_no_endless_loop(
    arriving, warehouse: Path, claude_emulator: EmulatorProcess, cursor: str | None
) -> None:
    one = arriving().quiet()
    one.cursor = cursor
    one.says()
    assert "nothing of what is there needs an answer" in one.says()
    add(warehouse, "new")
    one.cursor = cursor
    assert one.tick_and_run(3) == 1
    assert claude_emulator.bill()["requests"] == 21
    for _ in range(3):
        one.cursor = cursor
        assert not one.asked()


def test_dagsters_history_may_be_lost(arriving, claude_emulator: EmulatorProcess) -> None:
    one = arriving().quiet()
    reborn = arriving()
    reborn.cursor = one.cursor
    assert reborn.tick_and_run(3) == 0
    reborn.cursor = None
    assert reborn.tick_and_run(3) == 0
    assert claude_emulator.bill()["requests"] == 20


def test_a_requested_run_that_was_never_launched_is_requested_again(arriving) -> None:
    one = arriving()
    one.says()
    assert one.asked() == [None] and one.asked() == [None]


def test_an_error_is_said_and_loses_no_cursor(
    arriving, warehouse: Path, claude_emulator: EmulatorProcess
) -> None:
    one = arriving().quiet()
    cursor = one.cursor
    whole = warehouse.read_bytes()
    warehouse.write_bytes(b"this is no database")
    one.says()
    assert "cannot be opened" in one.says()
    change_name = "alter table packages rename to others"
    warehouse.write_bytes(whole)
    change(warehouse, change_name)
    one.says()
    assert "There is no table `packages`" in one.says()
    assert json.loads(one.cursor)["groups"] == json.loads(cursor)["groups"]
    change(warehouse, "alter table others rename to packages")
    add(warehouse, "new")
    assert one.tick_and_run(3) == 1
    assert claude_emulator.bill()["requests"] == 21


def test_an_unexpected_error_is_said_and_loses_no_cursor(
    arriving, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = arriving().quiet()
    cursor = one.cursor

    def fail(*_args: Any, **_more: Any) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr("batch_pipeline.definitions.arrivals.changes.look", fail)
    said = one.says()
    assert "OSError: the disk is on fire" in said and "Nothing is forgotten" in said
    assert one.cursor == cursor


def test_nothing_is_requested_while_the_pipeline_is_held(
    arriving, warehouse: Path, claude_emulator: EmulatorProcess
) -> None:
    one = arriving().quiet()
    claude_emulator.fault("create", "spend_limit")
    add(warehouse, "new")
    assert one.tick_and_run(2, raises=False) == 1
    assert "What arrived waits, because nothing is sent: " in one.says()


# Partitions -----------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster that keeps dynamic partitions and an event log."""
    with dg.instance_for_test() as instance:
        yield instance


def test_a_day_is_asked_when_its_rows_changed_and_it_is_over(
    arriving, warehouse: Path, clock: HandClock, claude_emulator: EmulatorProcess
) -> None:
    clock.stopped_at = datetime.fromisoformat("2026-03-05T12:00+00:00")
    daily = dg.DailyPartitionsDefinition(start_date="2026-03-01")
    one = arriving(**in_groups(daily, "day"))
    one.says()
    assert one.asked() == ["2026-03-01"]  # the others have no rows
    one.quiet()
    add(warehouse, "late", day="2026-03-03")
    add(warehouse, "today", "to-day", day="2026-03-05")
    one.says()
    assert one.asked() == ["2026-03-03"]
    one.quiet()
    assert "Nothing new in table packages" in one.says()
    clock.advance(12 * 3600)  # midnight; nobody writes to the file any more
    assert one.asked() == ["2026-03-05"]
    one.quiet()
    assert claude_emulator.bill()["requests"] == 23


@only_whole
def test_a_day_that_the_nightly_run_asked_is_not_asked_for(
    arriving, warehouse: Path, clock: HandClock
) -> None:
    clock.stopped_at = datetime.fromisoformat("2026-03-05T23:59+00:00")
    one = arriving(**in_groups(dg.DailyPartitionsDefinition(start_date="2026-03-01"), "day"))
    one.quiet()
    add(warehouse, "today", day="2026-03-05")
    one.quiet()
    clock.advance(90)
    one.run.run("submit", partition="2026-03-05")
    assert "What arrived was asked by packages_submit" in one.says()


@only_whole
def test_records_of_a_partition_that_there_is_not_are_named_and_asked_when_there_is(
    nights, warehouse: Path, instance: dg.DagsterInstance, claude_emulator: EmulatorProcess
) -> None:
    dynamic = dg.DynamicPartitionsDefinition(name="regions")
    run = nights(arrivals=Arrivals(cooldown_minutes=0), **in_groups(dynamic, "region"))
    run.instance = instance
    one = Arriving(run)
    one.says()
    said = one.says()
    assert "Records wait for 1 partition that the pipeline does not have (de)" in said
    instance.add_dynamic_partitions("regions", ["de", "fr"])
    assert one.asked() == ["de"]
    one.quiet()
    add(warehouse, "un", region="fr")
    one.says()
    assert one.asked() == ["fr"]


def test_no_partition_is_missed_however_many_arrive_at_once(
    nights,
    warehouse: Path,
    instance: dg.DagsterInstance,
    clock: HandClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = extent(5, arrivals_tick.MOST_RUNS)  # runs of a tick
    monkeypatch.setattr(arrivals_tick, "MOST_RUNS", most)
    clock.stopped_at = datetime.fromisoformat("2026-04-15T12:00+00:00")
    daily = dg.DailyPartitionsDefinition(start_date="2026-03-01")
    run = nights(arrivals=Arrivals(cooldown_minutes=0), upstream=["raw"], **in_groups(daily, "day"))
    run.instance = instance
    one = Arriving(run).quiet()
    days = daily.get_partition_keys(current_time=clock.now())[: most + 3]
    for day in days:
        instance.report_runless_asset_event(dg.AssetMaterialization("raw", partition=day))
    tick = one.tick()
    assert [request.partition_key for request in tick.run_requests] == days[:most]
    for day in days[:most]:
        run.run("submit", partition=day)
    assert one.asked() == days[most:]
    # A whole asset, or a day that there is not, tells nothing about a partition.
    for partition in (None, "2030-01-01"):
        instance.report_runless_asset_event(dg.AssetMaterialization("raw", partition=partition))
    one.quiet()
    assert "Nothing new" in one.says()


@only_whole
def test_upstream_and_source_lead_to_the_same_run(
    nights, warehouse: Path, instance: dg.DagsterInstance, claude_emulator: EmulatorProcess
) -> None:
    run = nights(arrivals=Arrivals(cooldown_minutes=0), upstream=["raw", ["erp", "more"]])
    run.instance = instance
    one = Arriving(run).quiet()
    add(warehouse, "new")
    for key in ("raw", "raw", ["erp", "more"]):
        instance.report_runless_asset_event(dg.AssetMaterialization(key))
    assert "stays the same" in one.says()
    [request] = one.tick().run_requests
    why = "raw was materialized and erp/more was materialized and the source changed"
    assert request.tags["batch_pipeline/why"] == why
    one.quiet()
    assert one.tick_and_run(3) == 0
    # Also when the source gives no sign.
    instance.report_runless_asset_event(dg.AssetMaterialization("raw"))
    assert one.tick_and_run() == 1
    assert claude_emulator.bill()["requests"] == 21


@only_whole
def test_the_cursor_stays_small(arriving, warehouse: Path) -> None:
    change(
        warehouse,
        "insert into packages select * exclude (n) replace ('p' || n as package, 'r' || n as region)"
        " from (from packages limit 1), range(3000) numbers(n)",
    )
    regions = dg.StaticPartitionsDefinition(["de", *(f"r{number}" for number in range(3000))])
    one = arriving(**in_groups(regions, "region"))
    one.says()
    assert len(one.asked()) == 25
    assert len(one.cursor) < 600_000
