"""The traps of Dagster that its users complain about most, and that a sensor of ours must not be in.

Each test puts the pipeline and the naive code through the same check: ours passes, the naive fails.
"""

import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
import tenacity
from sqlalchemy import select

from batch_pipeline import Arrivals, DuckDBTable
from batch_pipeline.batches import listing
from batch_pipeline.batches import poll as poll_module
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.definitions.status import tick as status_tick
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.records import connections
from batch_pipeline.store.tables import FileState, request_files, transitions
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole

TICK_SECONDS = 60.0  # after which the daemon gives a sensor up
FEW = {"limit": 3}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster with its history on disk."""
    with dg.instance_for_test() as instance:
        yield instance


class Daemon:
    """What Dagster's daemon makes of the ticks of a sensor.

    The outcome of a tick that raises is discarded: cursor, events and requests. A request whose run
    key any run has had, a failed one too, is skipped.
    """

    def __init__(self, run: Nights, definition: dg.SensorDefinition) -> None:
        self.run, self.sensor = run, definition
        self.cursor: str | None = None
        self.events: list[Any] = []

    def tick(self) -> list[dg.RunRequest]:
        """Evaluate the sensor; return the requests of which runs are made."""
        run = self.run
        with dg.build_sensor_context(
            instance=run.instance,
            instance_ref=run.instance.get_ref() if run.instance.is_persistent else None,
            cursor=self.cursor,
            definitions=run.definitions,
            resources={"claude": run.claude, "store": run.store},
        ) as context:
            try:
                result = self.sensor.evaluate_tick(context)
            except Exception:
                return []
        self.cursor = result.cursor
        self.events += result.asset_events
        return [one for one in result.run_requests or [] if not self._is_burnt(one)]

    def _is_burnt(self, request: dg.RunRequest) -> bool:
        tags = {"dagster/run_key": request.run_key or ""}
        return request.run_key is not None and bool(
            self.run.instance.get_run_records(dg.RunsFilter(tags=tags), limit=1)
        )

    def launch(self, request: dg.RunRequest) -> bool:
        """Run what a tick asked for; return whether that succeeded."""
        job = self.run.definitions.resolve_job_def(request.job_name or "packages_collect")
        key = {"dagster/run_key": request.run_key} if request.run_key else {}
        return job.execute_in_process(
            run_config=request.run_config,
            instance=self.run.instance,
            partition_key=request.partition_key,
            tags={**request.tags, **key},
            raise_on_error=False,
        ).success


def our_sensor(run: Nights, kind: str = "status") -> dg.SensorDefinition:
    """One of the pipeline's own sensors."""
    name = f"{run.pipeline.name}_{kind}"
    return run.definitions.get_repository_def().get_sensor_def(name)


def naive_sensor(run: Nights, evaluate: Callable[[Any], Any]) -> dg.SensorDefinition:
    """A sensor as one would write it first."""
    return dg.SensorDefinition(
        name="naive",
        evaluation_fn=evaluate,
        jobs=[run.definitions.resolve_job_def(f"{run.pipeline.name}_collect")],
    )


def open_batches(run: Nights) -> list[str]:
    """The ids of the batches in progress, as the ledger has them."""
    in_progress = request_files.c.state == FileState.IN_PROGRESS
    rows = run.store.open().ledger.rows(select(request_files.c.batch_id).where(in_progress))
    return [row["batch_id"] for row in rows]


# A tick has 60 seconds


@only_whole
def test_a_slow_api_does_not_use_up_the_time_of_a_tick(
    nights,
    claude_emulator: EmulatorProcess,
    clock: HandClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 1})
    run.submit(limit=30)
    claude_emulator.end()
    # The list shows none of them, so that each has to be looked up by itself.
    claude_emulator.fault("list_lag", newest=1_000, times=None)
    calls: Counter[str] = Counter()

    def slow(name: str) -> None:
        real = getattr(BatchesApi, name)

        @functools.wraps(real)
        def slowly(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            clock.advance(12)
            return real(*args, **more)

        monkeypatch.setattr(BatchesApi, name, slowly)

    for name in ("page", "retrieve", "identify"):
        slow(name)
    for module in (listing, poll_module):
        monkeypatch.setattr(module, "time", clock)

    def check(tick: Callable[[], Any]) -> None:
        before = clock.monotonic()
        tick()
        assert clock.monotonic() - before < TICK_SECONDS

    def naive(_context: Any) -> None:
        with_api = run.claude.api(patient=False)
        for batch_id in open_batches(run):
            with_api.retrieve(batch_id)
        with_api.close()

    with pytest.raises(AssertionError):
        check(Daemon(run, naive_sensor(run, naive)).tick)
    assert calls.pop("retrieve") == 30

    ours = Daemon(run, our_sensor(run))
    left = len(open_batches(run))
    while left:
        check(ours.tick)
        assert len(open_batches(run)) < left  # no tick is for nothing
        left = len(open_batches(run))
        clock.advance(60)
    assert calls["retrieve"] == 30  # and nothing is looked up again that has been seen


# A run key is burnt by the run that failed


@only_whole
def test_a_run_that_failed_is_requested_again(
    nights,
    instance: dg.DagsterInstance,
    warehouse: Path,
    clock: HandClock,
    claude_emulator: EmulatorProcess,
) -> None:
    run = nights(destination=DuckDBTable(database=str(warehouse), table="answers"))
    run.instance = instance
    run.submit(**FEW)
    (batch_id,) = open_batches(run)

    def check(daemon: Daemon) -> None:
        """A collect run fails; once its cause is mended, the next one must come."""
        with duckdb.connect(str(warehouse)) as connection:
            connection.execute("create table answers as select 1 as somebody_elses")
        (request,) = daemon.tick()
        assert not daemon.launch(request)
        with duckdb.connect(str(warehouse)) as connection:
            connection.execute("drop table answers")
        for _ in range(3):
            clock.advance(61)
            if requests := daemon.tick():
                assert daemon.launch(requests[0])
                return
        raise AssertionError("the failed run is never requested again")

    def naive(_context: Any) -> Any:
        # It ended, so it is collected: once, says the run key.
        return dg.RunRequest(run_key=batch_id)

    with pytest.raises(AssertionError, match="never requested again"):
        check(Daemon(run, naive_sensor(run, naive)))
    check(Daemon(run, our_sensor(run)))
    assert len(run.rows()) == 3 and claude_emulator.bill()["requests"] == 3


# An exception loses the cursor


def batches_observed(events: Sequence[Any]) -> list[tuple[str, str]]:
    """The changes that events show: which file, and to which state."""
    return [
        (change.data["file"], change.data["to"])
        for event in events
        for change in event.metadata["changes"].records
    ]


def history(run: Nights) -> list[tuple[str, str]]:
    """The changes that there were."""
    rows = run.store.open().ledger.rows(select(transitions).order_by(transitions.c.id))
    return [(row["file_id"], row["to_state"]) for row in rows]


@pytest.mark.parametrize("trouble", ["the API dies", "a tick raises"])
def test_what_ends_a_tick_loses_and_doubles_nothing(
    nights,
    instance: dg.DagsterInstance,
    claude_emulator: EmulatorProcess,
    clock: HandClock,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 1})
    run.instance = instance
    run.submit(**FEW)

    raising = False

    def fail_if_told() -> None:
        if raising:
            raise RuntimeError("something that nobody thought of")

    real = status_tick.evaluations

    def evaluations(*given: Any) -> Any:
        fail_if_told()  # late in the tick: all that it found is there
        return real(*given)

    monkeypatch.setattr(status_tick, "evaluations", evaluations)

    @contextmanager
    def in_trouble() -> Iterator[None]:
        nonlocal raising
        if trouble == "the API dies":
            claude_emulator.fault("list", "drop_before", times=None)
        else:
            raising = True
        yield
        raising = False
        claude_emulator.clear_faults()

    def check(daemon: Daemon, observed: Callable[[], list[tuple[str, str]]]) -> None:
        daemon.tick()  # the cursor is there
        run.submit(limit=6)
        with in_trouble():
            for _ in range(3):
                clock.advance(61)
                daemon.tick()
        for _ in range(2):
            clock.advance(61)
            daemon.tick()
        assert Counter(observed()) == Counter(history(run))

    seen: list[tuple[str, str]] = []

    def naive(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Report what is new at once, then look at the API."""
        known = int(context.cursor or 0)
        changes = history(run)
        for change in changes[known:]:
            event = dg.AssetObservation("naive", metadata={"change": str(change)})
            context.instance.report_runless_asset_event(event)
            seen.append(change)
        api = run.claude.api(patient=False)
        try:
            api.page()
        finally:
            api.close()
        fail_if_told()
        return dg.SensorResult(cursor=str(len(changes)))

    with pytest.raises(AssertionError):
        check(Daemon(run, naive_sensor(run, naive)), lambda: seen)
    assert max(Counter(seen).values()) == 4  # three times in trouble, and once after that

    ours = Daemon(run, our_sensor(run))
    check(ours, lambda: batches_observed(ours.events))
    claude_emulator.end()
    clock.advance(61)
    asked = ours.tick()
    assert [request.job_name for request in asked] == ["packages_collect"]
    assert Counter(batches_observed(ours.events)) == Counter(history(run))


# Of several events between two ticks, an asset sensor sees the last


@only_whole
def test_each_partition_that_was_materialized_between_two_ticks_is_asked_for(
    nights, instance: dg.DagsterInstance, warehouse: Path
) -> None:
    regions = ["north", "east", "south", "west"]
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "alter table packages add column region varchar; "
            "update packages set region = ['north', 'east', 'south', 'west'][1 + (hash(package) % 4)::int]"
        )
    run = nights(
        partitions=dg.StaticPartitionsDefinition(regions),
        partition_column="region",
        upstream=["raw"],
        arrivals=Arrivals(cooldown_minutes=0),
    )
    run.instance = instance

    def check(daemon: Daemon) -> None:
        for _ in range(3):  # what was there before is asked
            for request in daemon.tick():
                assert daemon.launch(request)
        for region in regions[1:]:
            instance.report_runless_asset_event(dg.AssetMaterialization("raw", partition=region))
        assert sorted(str(one.partition_key) for one in daemon.tick()) == sorted(regions[1:])

    def naive(context: dg.SensorEvaluationContext) -> Any:
        """What `@asset_sensor` does: the newest event, if it is newer than the last time's."""
        newest = context.instance.fetch_materializations(dg.AssetKey("raw"), limit=1).records
        if not newest or str(newest[0].storage_id) == context.cursor:
            return dg.SensorResult()
        return dg.SensorResult(
            run_requests=[dg.RunRequest(partition_key=newest[0].partition_key)],
            cursor=str(newest[0].storage_id),
        )

    with pytest.raises(AssertionError):
        check(Daemon(run, naive_sensor(run, naive)))
    check(Daemon(run, our_sensor(run, "arrivals")))


# A DuckDB file that another process has open


HOLD = (
    "import duckdb, sys; connection = duckdb.connect(sys.argv[1]); print('held', flush=True); "
    "sys.stdin.readline(); connection.close(); print('free', flush=True)"
)


@contextmanager
def held(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Let another process hold a file for writing, until somebody waits for it.

    Yields:
        The waits there were.
    """
    waits: list[float] = []
    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        monkeypatch.context() as patched,
    ):
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "held\n"

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 1:
                print(file=process.stdin, flush=True)
                assert process.stdout and process.stdout.readline() == "free\n"

        patient = functools.partial(tenacity.Retrying, sleep=wait)
        patched.setattr(connections.tenacity, "Retrying", patient)
        yield waits
        process.kill()


def test_a_warehouse_that_another_process_holds_is_waited_for(
    nights,
    warehouse: Path,
    claude_emulator: EmulatorProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = nights(destination=DuckDBTable(database=str(warehouse), table="answers"))

    def check(work: Callable[[], Any]) -> None:
        with held(warehouse, monkeypatch) as waits:
            try:
                work()
            except duckdb.IOException as error:
                raise AssertionError("the lock was not waited for") from error
        assert waits, "nobody met the lock"

    def naive(statement: str) -> Callable[[], Any]:
        def work() -> None:
            with duckdb.connect(str(warehouse)) as connection:
                connection.execute(statement)

        return work

    with pytest.raises(AssertionError, match="not waited for"):
        check(naive("from packages"))
    check(lambda: run.submit(**FEW))
    with pytest.raises(AssertionError, match="not waited for"):
        check(naive("create table answers as select 1"))
    check(run.collect)
    assert [row["_status"] for row in run.rows().values()] == ["answered"] * 3
    assert claude_emulator.bill()["requests"] == 3
