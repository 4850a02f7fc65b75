"""One deployment of one pipeline without Dagster: its stages, run as its jobs and its sensor would.

Whoever has the same ``Deployment`` works on the same store, ledger, source and table: objects in one
process stand for as many processes, and real ones get theirs by pickle.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from types import SimpleNamespace
from typing import Any
from unittest import mock

import dagster as dg
import duckdb
from sqlalchemy import select

from batch_pipeline import BatchPipeline, ClaudeBatches, DuckDBSource, DuckDBTable, MessageTemplate
from batch_pipeline.batches import api, listing
from batch_pipeline.batches import poll as poll_module
from batch_pipeline.batches.cancel import cancel
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.send import send
from batch_pipeline.batches.settle import settle
from batch_pipeline.definitions.assets.look import may_send
from batch_pipeline.definitions.budget import caps_of
from batch_pipeline.definitions.partition import filter_of
from batch_pipeline.definitions.rows import destination_of
from batch_pipeline.definitions.status import tick as status_tick
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import HeldError, StoreError
from batch_pipeline.records.connections import memory_connection, open_database, quote_list
from batch_pipeline.records.selection import Ask
from batch_pipeline.records.submission import select_submission
from batch_pipeline.requests.budget import weigh_the_rest
from batch_pipeline.requests.compiled import compile_question
from batch_pipeline.requests.prepare import prepare
from batch_pipeline.results.account import account
from batch_pipeline.results.collect import collect
from batch_pipeline.results.join import results_files
from batch_pipeline.results.lost import make_again, with_lost_files
from batch_pipeline.results.publish import publish
from batch_pipeline.results.question import Question
from batch_pipeline.store import ledger
from batch_pipeline.store.clock import Clock
from batch_pipeline.store.cost_unknown import costs_unknown
from batch_pipeline.store.standing import Standing, standing
from batch_pipeline.store.store import open_store
from batch_pipeline.store.submissions import Scope, know_endpoint
from batch_pipeline.store.tables import request_files
from batch_pipeline_tests.support.clock import HandClock

NANO = Decimal(10) ** 9
TICK_SECONDS = 60.0  # from a tick that asked for runs to the next
IDLE_SECONDS = 400.0  # from one that did not: longer than the list may lag
MOST_TICKS = 80


@dataclass(frozen=True, eq=False)
class Deployment:
    """Where a pipeline's things are, and what it is. It can be pickled.

    Attributes:
        folder: the store's root.
        warehouse: a DuckDB file with the table ``records (k, t, part)``.
        url: of the API.
        ledger: a SQLAlchemy URL; None: SQLite in the store.
        key: the API key.
        partitions: the values of ``part``; empty when the pipeline has none.
        table: whether the results go to a table in the warehouse; else they are Parquet in the store.
        looks: whether the table is looked at before what waits is sent.
        pipeline: further fields of the pipeline.
        claude: further fields of the resource.
    """

    folder: str
    warehouse: str
    url: str
    ledger: str | None = None
    key: str = "test-key"
    partitions: tuple[str, ...] = ()
    table: bool = True
    looks: bool = False
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    claude: Mapping[str, Any] = field(default_factory=dict)


def make_records(warehouse: str, records: Mapping[str, str], parts: Sequence[str] = ()) -> None:
    """Make the source: records by key, their partitions in turn."""
    with duckdb.connect(warehouse) as connection:
        connection.execute("create table records (k varchar primary key, t varchar, part varchar)")
        for number, (key, text) in enumerate(records.items()):
            part = parts[number % len(parts)] if parts else None
            connection.execute("insert into records values (?, ?, ?)", [key, text, part])


def change_records(warehouse: str, statement: str, *values: Any) -> None:
    """Change the source while the pipeline may be reading it."""
    with open_database(warehouse, read_only=False) as database:
        database.connection.execute(statement, list(values))


def read_records(warehouse: str) -> dict[str, str]:
    """Return the source: texts by key."""
    with open_database(warehouse, read_only=True) as database:
        return dict(database.connection.execute("select k, t from records").fetchall())


@contextmanager
def on_clock(clock: HandClock) -> Iterator[None]:
    """Let what waits and measures in this process go by a clock that is moved by hand."""
    with ExitStack() as stack:
        for module in (api, listing, poll_module, ledger):
            stack.enter_context(mock.patch.object(module, "time", clock))
        yield


class Stages:
    """A process that runs a deployment's jobs and its sensor.

    Args:
        deployment: which.
        clock: the time of this process.
    """

    def __init__(self, deployment: Deployment, clock: Clock) -> None:
        self.deployment = deployment
        parts = deployment.partitions
        table = DuckDBTable(database=deployment.warehouse, table="answers")
        self.pipeline = BatchPipeline(
            **{
                "name": "p",
                "source": DuckDBSource(database=deployment.warehouse, table="records", key="k"),
                "request": MessageTemplate(
                    model="claude-haiku-4-5", max_tokens=100, prompt="{{ k }}: {{ t }}"
                ),
                "destination": table if deployment.table else None,
                "partitions": dg.StaticPartitionsDefinition(list(parts)) if parts else None,
                "partition_column": "part" if parts else None,
                **deployment.pipeline,
            }
        )
        self.name = self.pipeline.name
        self.claude = ClaudeBatches(
            api_key=deployment.key, base_url=deployment.url, **deployment.claude
        )
        self.store = open_store(deployment.folder, deployment.ledger, clock)
        self.api = self.claude.api()
        # The SDK would wait, in real time, before it repeats a look.
        self.api._client = self.api._client.with_options(max_retries=0)

    def close(self) -> None:
        """Close what a process that ends would."""
        self.api.close()
        self.store.ledger.engine.dispose()

    # The jobs

    def submit(self, partition: str = "", **ask: Any) -> None:
        """Run ``NAME_submit``."""
        scope = self.scope(partition)
        self._whole(
            lambda: select_submission(
                self.store,
                scope,
                self.pipeline.source,
                self._compile,
                partition_filter=filter_of(self.pipeline, partition),
                refresh=self.pipeline.refresh,
                max_attempts=self.pipeline.max_attempts,
                on_deleted=self.pipeline.on_deleted,
                ask=Ask(**ask),
            )
        )
        prepare(
            self.store,
            scope,
            self._compile,
            self.claude.limits,
            lambda question: Question(
                question.output, self.pipeline.output_prefix, question.tool_calls
            ).to_store(),
        )
        self._send(scope)

    def send(self, partition: str = "") -> None:
        """Run ``NAME_send``."""
        self._send(self.scope(partition))

    def _send(self, scope: Scope) -> None:
        reconcile(self.store, self.api, scope, self.claude.policy)
        if self.deployment.looks:
            context: Any = SimpleNamespace(log=logging.getLogger(__name__))
            assert may_send(context, self.store, self.api, self.pipeline, scope)
        weigh_the_rest(self.store, scope)
        caps = caps_of(self.pipeline, self.claude, self.store.clock.now())
        report = send(self.store, self.api, scope, self.claude.policy, caps=caps)
        if report.refused:
            raise HeldError(report.refused)

    def collect(self, partition: str = "") -> None:
        """Run ``NAME_collect``, with its asset check."""
        scope = self.scope(partition)
        limit = self.pipeline.max_attempts
        make_again(self.store, self.api, self.name, limit)
        poll(self.store, self.api, scope.endpoint, self.claude.policy)
        report = collect(self.store, self.api, scope, limit)
        if report.broken:
            make_again(self.store, self.api, self.name, limit, thorough=True)
            report = collect(self.store, self.api, scope, limit)
        self._whole(
            lambda: publish(
                self.store,
                self.name,
                destination_of(self.pipeline, self.store),
                self.pipeline.source.keys,
            )
        )
        if report.broken:
            raise StoreError("; ".join(report.broken))
        failures = self._whole(lambda: account(self.store, scope)).failures
        assert not failures, f"every_record_accounted_for: {failures}"

    def _whole(self, action: Callable[[], Any]) -> Any:
        """Do what reads the store's files; those that are lost are made again first."""
        limit = self.pipeline.max_attempts
        return with_lost_files(self.store, self.api, self.name, limit, action)

    # What a person does on the command line

    def cancel(self, partition: str = "") -> None:
        """Do what ``batch-pipeline cancel`` does."""
        cancel(self.store, self.api, self.name, partition or None)

    def settle(self, partition: str = "") -> None:
        """Do what ``batch-pipeline reconcile`` does."""
        settle(self.store, self.api, self.claude.policy, self.name)

    def scope(self, partition: str) -> Scope:
        endpoint = self.api.identify()
        know_endpoint(self.store.ledger, endpoint)
        return Scope(self.name, partition, endpoint)

    def _compile(self, columns: Mapping[str, str]) -> Any:
        return compile_question(self.pipeline.request, columns, self.pipeline.output_prefix)

    # The sensor

    def look(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Look as the sensor does; return the runs it asks for: job, partition, run config."""
        wanted, _said = status_tick._look(self.store, self.claude, self.pipeline)
        return [
            (
                status_tick.JOBS[need.job],
                need.partition,
                {"retries_only": True} if need.job == "retry" else {},
            )
            for need in wanted
        ]

    def tick(self, run: Callable[..., None] | None = None) -> int:
        """Look, and run what is needed; return how many runs that were.

        Args:
            run: runs a job, given its name, its partition and its config; by default a run that
                fails raises.
        """
        wanted = self.look()
        for job, partition, ask in wanted:
            (run or self.run)(job, partition, **ask)
        return len(wanted)

    def run(self, job: str, partition: str = "", **ask: Any) -> None:
        """Run a job by its name."""
        getattr(self, job)(partition, **ask)

    def standing(self) -> Standing:
        """How the pipeline stands."""
        return standing(self.store, self.name)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is on its way."""
        now = self.standing()
        return now.is_quiet and not now.held

    def until_quiet(
        self,
        advance: Callable[[float], None],
        between: Callable[[], object] = lambda: None,
        run: Callable[..., None] | None = None,
    ) -> None:
        """Tick as time goes by, until nothing is on its way.

        Args:
            advance: lets seconds pass for everybody.
            between: is done before each tick: batches end, a person decides.
            run: as for ``tick``.
        """
        for _ in range(MOST_TICKS):
            between()
            busy = self.tick(run) > 0
            if not busy and self.is_quiet:
                return
            advance(TICK_SECONDS if busy else IDLE_SECONDS)
        raise AssertionError(
            f"not quiet after {MOST_TICKS} ticks: {self.standing().line(self.store.clock.now())}"
        )

    # What came of it

    def rows(self) -> list[dict[str, Any]]:
        """The results table."""
        with memory_connection() as connection:
            destination = destination_of(self.pipeline, self.store)
            query = f"select * from {destination.relation(connection)}"
            return connection.sql(query).to_arrow_table().to_pylist()

    def files(self) -> list[Any]:
        """The ledger's request files."""
        return list(self.store.ledger.rows(select(request_files)))

    def owns(self, custom_id: str) -> bool:
        """Whether a custom_id is of this ledger."""
        return custom_id.startswith(f"{self.store.ledger.id}-")

    def check_table(self, records: Mapping[str, str] | None = None) -> None:
        """Assert that each record has its one row, and each row what it was asked.

        Args:
            records: texts by key, as they are in the source now; None: read them.
        """
        records = read_records(self.deployment.warehouse) if records is None else records
        rows = self.rows() if records else []
        twice = {key: n for key, n in Counter(row["k"] for row in rows).items() if n > 1}
        assert not twice, f"keys with several rows: {twice}"
        table = {row["k"]: row for row in rows}
        missing = records.keys() - table.keys()
        assert not missing, f"keys without a row: {sorted(missing)}"
        if self.pipeline.on_deleted == "drop":
            extra = table.keys() - records.keys()
            assert not extra, f"rows of keys that are gone: {sorted(extra)}"
        if self.pipeline.refresh == "changed":
            shown = {key: table[key]["t"] for key in records}
            assert shown == dict(records), "rows show another text than the source"
        for key, row in table.items():
            if row["_status"] == "answered":
                digest = sha256(f"{key}: {row['t']}".encode()).hexdigest()
                assert row["answer"] == digest, f"{key} has the answer of another request: {row}"
            else:
                assert row["_error"], f"{key} has neither answer nor reason: {row}"

    def check_bill(self, emulator: EmulatorProcess, *, forced: bool = False) -> None:
        """Assert that each attempt was paid once, and that the ledger tells the bill to the cent.

        Args:
            emulator: who was paid.
            forced: a run has asked again what was answered, on purpose.
        """
        bill = [line for line in emulator.billed_requests() if self.owns(line["custom_id"])]
        paid = [line for line in bill if line["result"] == "succeeded"]
        twice = {one: n for one, n in Counter(line["custom_id"] for line in paid).items() if n > 1}
        assert not twice, f"paid more than once: {twice}"
        if not forced:
            again = self._answered_again()
            assert not again, f"asked again though answered: {again}"
        usd: dict[str, Decimal] = defaultdict(Decimal)
        for line in paid:
            usd[line["batch_id"]] += Decimal(line["usd"])
        files = {file["batch_id"]: file for file in self.files() if file["batch_id"]}
        batch_ids, custom_ids = self._costs_unknown()
        given_up = {line["batch_id"] for line in paid if line["custom_id"] in custom_ids}
        for batch_id, cost in usd.items():
            file = files.get(batch_id)
            told = Decimal((file and file["cost_nanousd"]) or 0) / NANO
            if batch_id in batch_ids or (file is None and batch_id in given_up):
                assert told <= cost, f"{batch_id} cost ${cost}, not ${told} and more"
            else:
                assert abs(told - cost) < Decimal("1e-8"), (
                    f"{batch_id} cost ${cost}; the ledger tells ${told}, and does not list it as "
                    f"of unknown cost: {dict(file) if file else 'it has no such batch'}"
                )
        for batch_id, file in files.items():
            if file["cost_nanousd"]:
                assert batch_id in usd, f"the ledger has a cost for {batch_id}, which cost nothing"

    def _costs_unknown(self) -> tuple[set[str], set[str]]:
        """What the ledger's costs leave open: batches, and requests of files without a batch."""
        batch_ids: set[str] = set()
        custom_ids: set[str] = set()
        paths = {file["id"]: file["path"] for file in self.files()}
        for one in costs_unknown(self.store, self.name):
            if one.batch_id is not None:
                batch_ids.add(one.batch_id)
            else:
                with self.store.files.open(paths[one.file]) as lines:
                    custom_ids |= {json.loads(line)["custom_id"] for line in lines}
        return batch_ids, custom_ids

    def _answered_again(self) -> dict[str, list[str]]:
        """Requests that were asked in a later attempt though an earlier one was answered."""
        names = [self.store.files.url(name) for name in results_files(self.store, self.name)]
        if not names:
            return {}
        with memory_connection() as connection:
            found = connection.execute(
                "select distinct _custom_id from read_parquet(" + quote_list(names) + ", "
                "union_by_name = true) where _status = 'answered'"
            ).fetchall()
        attempts: dict[str, list[str]] = defaultdict(list)
        for (custom_id,) in found:
            variant = custom_id.split("-")[1]
            attempts[variant].append(custom_id)
        return {variant: ids for variant, ids in attempts.items() if len(ids) > 1}
