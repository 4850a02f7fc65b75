"""Every step of submit, send and collect, times how a process ends there, times how it is begun again.

Real processes; time passes by moving clocks. The ledger is on SQLite and on PostgreSQL in turn. The
sample has each step once, and each way to end with each way to go on as often as any other.
"""

import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, get_args

import pytest

from batch_pipeline.batches.claim import claim
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support import processes
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.crash_steps import (
    BY_NAME,
    STEPS,
    Kind,
    crash,
    restart,
    terminated_after,
)
from batch_pipeline_tests.support.deployment import Deployment, Stages, make_records, on_clock
from batch_pipeline_tests.support.extent import every_form, extent
from batch_pipeline_tests.support.pooling import pooled
from batch_pipeline_tests.support.postgres import Schemas

Restart = Literal["at once", "after the batch ended", "by two processes"]
RECORDS = {f"k{number}": f"text {number}" for number in range(6)}
LIMITS = {"max_batch_requests": 3}  # three files, of 3, 2 and 1 requests
LEASES_RUN_OUT_SECONDS = 800.0  # longer than a lease, and than the list may lag after it
WAYS = [(kind, how) for kind in get_args(Kind) for how in get_args(Restart)]
CELLS = [
    (step.name, *way)
    for number, step in enumerate(STEPS)
    if number % extent(3, 1) == 0
    for way in extent([WAYS[number % len(WAYS)]], WAYS)
]
# The SDK catches what goes wrong in a call: it is a lost reply then, and the run goes on.
ENDS = {"killed": [-signal.SIGKILL], "exception": [0, 1], "terminated": [1]}
MOMENTS = extent(1, 8)  # of each job, at which it is terminated wherever it is


class World:
    """A deployment, the API, and the time of both.

    Args:
        folder: for all files.
        source: a warehouse to begin with.
        emulator: the API.
        ledger_url: None: SQLite in the store.
        table: whether the results go to a table.
        looks: whether that is looked at before anything is sent.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        emulator: EmulatorProcess,
        ledger_url: str | None = None,
        table: bool = True,
        looks: bool = False,
    ) -> None:
        self.folder, self.emulator = folder, emulator
        self.deployment = Deployment(
            folder=str(folder / "store"),
            warehouse=str(shutil.copyfile(source, folder / "warehouse.duckdb")),
            url=emulator.base_url,
            ledger=ledger_url,
            table=table,
            looks=looks,
            claude=LIMITS,
        )
        emulator.reset(answers="digest", manual=True)
        self.clock = HandClock(moved=emulator.advance)
        self.stages = Stages(self.deployment, self.clock)

    @property
    def ahead(self) -> float:
        """How far the clock is ahead of the machine's, in seconds."""
        return self.clock.ahead.total_seconds()

    def set(self, scene: str) -> None:
        """Bring the world to where a step's process starts."""
        match scene.partition(",")[0]:
            case "sender gone":
                self._turned_away()
                scope = self.stages.scope("")
                claim(self.stages.store.ledger, scope, "gone", self.stages.claude.policy)
                self.clock.advance(LEASES_RUN_OUT_SECONDS)
            case "lost on the way":
                self.emulator.fault("create", "drop_before", nth=2)
                self.stages.submit()
                self.clock.advance(LEASES_RUN_OUT_SECONDS)
            case "reply lost":
                self.emulator.fault("create", "drop_after", nth=2)
                self.stages.submit()
                self.emulator.end()
                self.clock.advance(LEASES_RUN_OUT_SECONDS)
            case "too large":
                self._turned_away()
                self.emulator.fault("create", "status_before", status=413)
            case "ended":
                self.stages.submit()
                self.emulator.end()
            case "restored":
                self._turned_away()
                root = Path(self.deployment.folder)
                kept = shutil.copytree(root, self.folder / "kept")
                self.stages.send()
                self.emulator.end()
                self.stages.collect()
                self.stages.close()
                shutil.rmtree(root)
                shutil.copytree(kept, root)
                self.stages = Stages(self.deployment, self.clock)

    def _turned_away(self) -> None:
        wait = {"retry-after": "1"}
        self.emulator.fault("create", "status_before", times=3, status=429, headers=wait)
        self.stages.submit()
        self.clock.advance(60.0)

    def begin_again(self, how: Restart) -> None:
        """Do what happens after a crash, until all is quiet."""
        match how:
            case "after the batch ended":
                self.emulator.end()
                self.clock.advance(4 * 3600.0)
            case "by two processes":
                self.emulator.end()
                self.clock.advance(LEASES_RUN_OUT_SECONDS)
                both = (self.deployment, self.ahead)
                processes.together(self.folder, restart, both, both)
        self.stages.submit()
        self.stages.until_quiet(self.clock.advance, self.emulator.end)

    def check(self) -> None:
        """Assert that each record has its row, and each request was paid once."""
        self.stages.check_table(RECORDS)
        self.stages.check_bill(self.emulator)
        rows = self.stages.rows()
        assert [row["_status"] for row in rows] == ["answered"] * len(RECORDS), rows
        paid = [line["custom_id"] for line in self.emulator.billed_requests()]
        assert sorted(paid) == sorted(row["_custom_id"] for row in rows)
        calls = self.emulator.stats()["calls"]
        assert not [route for route in calls if "cancel" in route], (
            "a run that ends cancels nothing"
        )


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with EmulatorProcess(tmp_path_factory.mktemp("emulator")) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with the records."""
    path = tmp_path_factory.mktemp("source") / "warehouse.duckdb"
    make_records(str(path), RECORDS)
    return path


@every_form
@pytest.mark.parametrize(("step", "kind", "how"), CELLS)
def test_a_process_that_ends_at_a_step_costs_nothing_and_loses_nothing(
    step: str,
    kind: Kind,
    how: Restart,
    emulator: EmulatorProcess,
    source: Path,
    tmp_path: Path,
    schemas: Schemas,
) -> None:
    scene = BY_NAME[step].scene
    with ExitStack() as stack:
        url = None
        if CELLS.index((step, kind, how)) % 2 and scene != "restored":
            [url] = stack.enter_context(schemas.some(1))
        stack.enter_context(pooled())
        world = World(
            tmp_path,
            source,
            emulator,
            url,
            table="no table" not in scene,
            looks=scene == "restored",
        )
        stack.callback(world.stages.close)
        stack.enter_context(on_clock(world.clock))
        world.set(scene)
        reached = tmp_path / "reached"
        child = processes.start(
            tmp_path, crash, world.deployment, world.ahead, step, kind, str(reached)
        )
        code = child.join()
        assert reached.exists(), f"the process never came to {step!r}: {child.error}"
        assert code in ENDS[kind], child.error
        world.begin_again(how)
        world.check()


@every_form
@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize("job", ["submit", "send", "collect"])
def test_a_run_that_is_terminated_wherever_it_is_costs_nothing_and_loses_nothing(
    job: str, moment: int, emulator: EmulatorProcess, source: Path, tmp_path: Path
) -> None:
    scene = {"submit": "fresh", "send": "reply lost", "collect": "ended"}[job]
    seconds = random.Random(f"{job} {moment}").uniform(0.001, 0.4)
    with pooled():
        world = World(tmp_path, source, emulator)
        with on_clock(world.clock):
            world.set(scene)
            child = processes.start(
                tmp_path, terminated_after, world.deployment, world.ahead, job, seconds
            )
            code = child.join()
            # DuckDB and the DBAPI have words of their own for it.
            ended = code == 0 or "interrupt" in child.error.lower()
            assert ended, f"{code} after {seconds} s: {child.error}"
            world.begin_again("at once")
            world.check()
        world.stages.close()
