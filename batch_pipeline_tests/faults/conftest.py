"""Nights of forty records in several batches, with a fault in the middle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import duckdb
import pytest
from sqlalchemy import Engine

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, DuckDBSource, MessageTemplate
from batch_pipeline.batches.held import Held, list_held
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store import ledger as ledger_module
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.cost_unknown import CostUnknown
from batch_pipeline.store.standing import standing
from batch_pipeline.store.store import Store
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.judgement import Judgement, judge
from batch_pipeline_tests.support.pooling import pooled
from batch_pipeline_tests.support.stage_calls import PlayedNights

MINUTE, HOUR, DAY = 60.0, 3600.0, 24 * 3600.0
RECORDS = {number: f"Invoice {number}: {number * 7} pallets" for number in range(40)}
SIZES = [14, 13, 12, 1]  # of the request files they make: no two are alike
BATCH_SECONDS = 5 * MINUTE
EVERY = 5 * MINUTE  # between two ticks: longer than the list may lag


@dataclass
class Night(PlayedNights):
    """A pipeline in a Dagster of its own, with all that a person can read of its nights."""

    emulator: EmulatorProcess = field(kw_only=True)
    clock: HandClock = field(kw_only=True)
    read: Callable[[], str] = field(kw_only=True)
    prompt: str = field(kw_only=True)

    @property
    def said(self) -> str:
        """What the sensors and the runs have logged so far, failures included."""
        return self.read()

    @property
    def prompts(self) -> dict[int, str]:
        """What is asked about each record."""
        return {number: self.prompt.replace("{{ text }}", text) for number, text in RECORDS.items()}

    @property
    def message(self) -> str:
        """What the sensor said at its last tick, which asked for nothing."""
        assert self.ticks[-1].skip_message, f"it asked for {self.ticks[-1].run_requests}"
        return self.ticks[-1].skip_message

    @cached_property
    def opened(self) -> Store:
        """The store, for a look from outside."""
        return self.store.open()

    @property
    def held(self) -> Held:
        """What ``batch-pipeline held`` shows."""
        return list_held(self.opened, self.pipeline.name)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is on its way but what a person must decide."""
        return standing(self.opened, self.pipeline.name).is_quiet

    def batch(self, size: int) -> str:
        """The id of the one batch of a size that the API has."""
        (found,) = (one["id"] for one in self.emulator.batches() if one["requests"] == size)
        return found

    def fail(self, job: str, **config: Any) -> str:
        """Run a job that fails; return what its failure says."""
        failure = self.refusal(job, config)
        assert failure, f"{job} did not fail"
        return failure

    def tick_for(self, seconds: float, every: float = EVERY) -> None:
        """Let the sensor work for so long; a run that fails is read about in ``said``."""
        for _ in range(int(seconds // every)):
            self.tick_and_run(raises=False)
            self.clock.advance(every)

    def end(self, every: float = EVERY, most: int = 60) -> None:
        """Let the sensor work until nothing is on its way but what a person must decide."""
        for _ in range(most):
            if self.tick_and_run(raises=False) == 0 and self.is_quiet:
                return
            self.clock.advance(every)
        raise AssertionError(f"not quiet after {most} ticks: {self.ticks[-1].skip_message}")

    def judge(self) -> Judgement:
        """Assert what no fault excuses; see ``judge``."""
        return judge(self.opened, self.rows(), self.prompts, self.emulator)

    def judge_open(self) -> list[CostUnknown]:
        """Judge the bill while some records have no row yet; return what the ledger does not know."""
        rows = self.rows()
        prompts = {key: self.prompts[key] for key in rows}
        return judge(self.opened, rows, prompts, self.emulator).unknown

    def judge_good(self) -> Judgement:
        """Assert that all was answered, and nothing paid for twice or left open."""
        found = self.judge()
        assert found.statuses == {"answered": len(RECORDS)}, found.statuses
        assert (found.paid_twice, found.asked_again, found.unknown) == (0, 0, [])
        assert {file["state"] for file in found.files} <= {"collected", "split"}
        check = f"'every_record_accounted_for' on '{self.pipeline.name}/results'"
        checks = [line for line in self.said.splitlines() if check in line]
        assert "passed. Description: 'Every record has exactly one row" in checks[-1]
        return found


@pytest.fixture
def clock(claude_emulator: EmulatorProcess) -> Iterator[HandClock]:
    """The clock of this process and of the API, moved by hand."""
    with going_by(HandClock(moved=claude_emulator.advance)) as clock:
        yield clock


@pytest.fixture(scope="session")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DuckDB file with the records; half of them are of part ``a``, half of ``b``."""
    path = tmp_path_factory.mktemp("warehouse") / "warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create table invoices as select n as id, ['a', 'b'][1 + n % 2] as part, "
            "'Invoice ' || n || ': ' || n * 7 || ' pallets' as text from range(40) as _(n)"
        )
    return path


on_both_ledgers = pytest.mark.usefixtures("ledger_url")
_SQLITE_FIRST = pytest.mark.parametrize(
    "ledger_url", ["sqlite", pytest.param("postgresql", marks=only_whole)], indirect=True
)


def on_sqlite_first(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test on both databases, in the sample on SQLite only."""
    return on_both_ledgers(_SQLITE_FIRST(test))


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> str | None:
    """The ledger's URL: None (SQLite in the store) unless a test is to run on both databases."""
    if "ledger_url" in request.fixturenames:
        return request.getfixturevalue("ledger_url")
    return None


@contextmanager
def economical() -> Iterator[None]:
    """Let all that open a ledger in this block share its connections and its compiled statements."""
    engines: dict[str, Engine] = {}
    make = ledger_module._engine

    def engine_of(url: str) -> Engine:
        if url not in engines:
            engines[url] = make(url)
        return engines[url]

    with pooled(), mock.patch.object(ledger_module, "_engine", engine_of):
        yield
    for engine in engines.values():
        engine.dispose()


@pytest.fixture(scope="session")
def dagster() -> dg.DagsterInstance:
    """A Dagster in memory; to make one takes as long as half a night."""
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def nights(
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    warehouse: Path,
    clock: HandClock,
    ledger: str | None,
    dagster: dg.DagsterInstance,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Callable[..., Night]]:
    """Make a pipeline; called again with the same fields, it is the same in another process."""
    dagster.wipe()
    instances = iter([dagster])
    claude_emulator.configure(answers="digest", batch_seconds=BATCH_SECONDS)

    texts: list[str] = []

    def read() -> str:
        texts.extend(capsys.readouterr())
        return "".join(texts)

    def make(
        claude: dict[str, Any] | None = None,
        store: BatchStore | None = None,
        prompt: str = "{{ text }}",
        **fields: Any,
    ) -> Night:
        source = DuckDBSource(database=str(warehouse), table="invoices", key="id")
        request = MessageTemplate(model="claude-haiku-4-5", max_tokens=100, prompt=prompt)
        pipeline = BatchPipeline(
            **{"name": "invoices", "source": source, "request": request, **fields}
        )
        resource = ClaudeBatches(
            **{
                "api_key": "test-key",
                "base_url": claude_emulator.base_url,
                "max_batch_requests": max(SIZES),
                **(claude or {}),
            }
        )
        return Night(
            pipeline,
            resource,
            store or BatchStore(root=str(tmp_path / "store"), ledger=ledger),
            next(instances, None) or dg.DagsterInstance.ephemeral(),
            emulator=claude_emulator,
            clock=clock,
            prompt=prompt,
            read=read,
        )

    with economical():
        yield make


def parts(nights: Callable[..., Night]) -> Night:
    """A pipeline with the partitions ``a`` and ``b``."""
    return nights(partitions=dg.StaticPartitionsDefinition(["a", "b"]), partition_column="part")


def sizes(emulator: EmulatorProcess) -> list[int]:
    """How large the batches are that the API made, the largest first."""
    return sorted((batch["requests"] for batch in emulator.batches()), reverse=True)


@pytest.fixture
def night(nights: Callable[..., Night]) -> Night:
    """A pipeline that nobody has changed anything about."""
    return nights()


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    """What each process does once is done once: these tests are about nights, not about connections."""
    with pooled():
        yield
