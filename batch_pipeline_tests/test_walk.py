"""A random walk through nights that go wrong: whatever happens, each request is paid once and each record has its row.

A seed decides what the records are, how they change, which calls fail in which way, when a process
dies and when batches end. Then all is calm, and what is left must be right.
"""

import hashlib
import random
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from sqlalchemy import select

from batch_pipeline import BatchPipeline, ClaudeBatches, DuckDBSource, DuckDBTable, MessageTemplate
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.reconcile import reconcile
from batch_pipeline.batches.send import send
from batch_pipeline.definitions.assets import compile_question, destination_of
from batch_pipeline.definitions.needs import needs, progress
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.records.choose import choose
from batch_pipeline.records.connections import memory_connection
from batch_pipeline.records.selection import Ask
from batch_pipeline.requests.prepare import prepare
from batch_pipeline.results.account import account
from batch_pipeline.results.collect import collect
from batch_pipeline.results.join import Question
from batch_pipeline.results.publish import publish
from batch_pipeline.store.clock import going_by
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.store import open_store
from batch_pipeline.store.submissions import Scope, know_endpoint
from batch_pipeline.store.tables import FileState, request_files
from batch_pipeline_tests.clock import HandClock

EPISODES = 40
MOST_TICKS = 60
# No 429 or 529 after the call was done: the API says that it took nothing then, and is believed.
FAULTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "create": [
        ("drop_before", {}),
        ("drop_before", {"while_sending": True}),
        ("drop_after", {}),
        ("drop_after", {}),
        ("status_before", {"status": 500}),
        ("status_before", {"status": 529}),
        ("status_before", {"status": 429, "headers": {"retry-after": "7"}}),
        ("status_before", {"status": 413}),
        ("status_after", {"status": 500}),
        ("status_after", {"status": 504, "body": "<html>"}),
        ("replace_body", {}),
        ("cut_body", {}),
        ("cut_body", {"clean": True}),
    ],
    "list": [
        ("drop_before", {}),
        ("status_before", {"status": 500}),
        ("cut_body", {}),
        ("replace_body", {}),
    ],
    "retrieve": [
        ("drop_before", {}),
        ("status_before", {"status": 529}),
        ("status_before", {"status": 404}),
        ("replace_body", {}),
    ],
    "results": [
        ("drop_before", {}),
        ("status_before", {"status": 500}),
        ("cut_results_at_line", {"line": 1}),
        ("cut_results_at_line", {"line": 1, "clean": False}),
        ("cut_results_mid_line", {"line": 1}),
        ("cut_results_at_line", {"line": 0}),
        ("status_before", {"status": 404}),
        ("line_twice", {}),
        ("line_missing", {"line": 1}),
        ("line_replaced", {"line": 1}),
    ],
}


class Killed(BaseException):
    """The process died."""


class Walk:
    """One pipeline on a few records, run stage by stage as its jobs and its sensor would."""

    def __init__(self, seed: int, emulator: EmulatorProcess, folder: Path, clock: HandClock):
        self.rng = rng = random.Random(seed)
        self.emulator, self.clock, self.turn = emulator, clock, 0
        self.warehouse = str(folder / "warehouse.duckdb")
        self.records = {f"k{number:02d}": f"t{number}" for number in range(rng.randint(6, 14))}
        with duckdb.connect(self.warehouse) as connection:
            connection.execute("create table records (k varchar, t varchar)")
            connection.executemany("insert into records values (?, ?)", list(self.records.items()))
        self.pipeline = BatchPipeline(
            name="p",
            source=DuckDBSource(database=self.warehouse, table="records", key="k"),
            request=MessageTemplate(
                model="claude-haiku-4-5", max_tokens=50, prompt="{{ k }}: {{ t }}"
            ),
            destination=rng.choice([None, DuckDBTable(database=self.warehouse, table="answers")]),
            on_deleted=rng.choice(["keep", "drop"]),
            max_attempts=rng.choice([1, 2, 3, 6]),
        )
        self.claude = ClaudeBatches(
            api_key="test-key",
            base_url=emulator.base_url,
            max_batch_requests=rng.randint(3, 8),
            max_queued_requests=rng.choice([8, 20, 1000]),
            timeout_seconds=10.0,
        )
        emulator.configure(
            answers="digest",
            seed=seed,
            manual=rng.random() < 0.3,
            batch_seconds=rng.choice([0, 0, 300, 4000]),
            rates={name: rng.choice([0, 0.2]) for name in ("errored", "expired", "invalid")},
        )
        self.store = open_store(str(folder / "store"), clock=clock)
        self.api = self.claude.api(patient=False)
        self.scope = Scope("p", "", self.api.identify())
        know_endpoint(self.store.ledger, self.scope.endpoint)

    def change_table(self, statement: str, *values: str) -> None:
        with duckdb.connect(self.warehouse) as connection:
            connection.execute(statement, list(values))

    # The jobs

    def submit(self, **ask: Any) -> None:
        def compiled(columns):
            return compile_question(self.pipeline, columns)

        choose(
            self.store,
            self.scope,
            self.pipeline.source,
            compiled,
            partition_filter=lambda _: None,
            refresh="changed",
            max_attempts=self.pipeline.max_attempts,
            on_deleted=self.pipeline.on_deleted,
            ask=Ask(**ask),
        )
        prepare(
            self.store,
            self.scope,
            compiled,
            self.claude.limits,
            lambda question: Question(question.output, "").to_store(),
        )
        self.send()

    def send(self) -> None:
        reconcile(self.store, self.api, self.scope, self.claude.policy)
        assert send(self.store, self.api, self.scope, self.claude.policy).refused is None

    def collect(self) -> None:
        poll(self.store, self.api, self.scope.endpoint, self.claude.policy)
        collect(self.store, self.api, self.scope, self.pipeline.max_attempts)
        publish(self.store, "p", destination_of(self.pipeline, self.store), ("k",))
        assert account(self.store, self.scope).failures == []

    def run(self, job: str, **ask: Any) -> None:
        try:
            getattr(self, job)(**ask)
        except (BatchPipelineError, Killed):
            pass  # the run has failed; the next one goes on from the ledger

    def tick(self) -> int:
        """Look and do what is needed, as the sensor does; return how many runs that were."""
        try:
            poll(self.store, self.api, self.scope.endpoint, self.claude.policy, "p")
            wanted = needs(self.store, "p", self.scope.endpoint, self.claude.policy)
        except (BatchPipelineError, Killed):
            return 1
        for need in wanted:
            if need.job == "retry":
                self.run("submit", retries_only=True)
            else:
                self.run(need.job)
        return len(wanted)

    # What happens to it

    def change_records(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.turn += 1
            key = f"k{self.rng.randint(0, 24):02d}"
            # Sometimes the text that the key had at first: its answer is known.
            text = self.rng.choice([f"c{self.turn}", f"t{int(key[1:])}"])
            if key not in self.records:
                self.change_table("insert into records values (?, ?)", key, text)
                self.records[key] = text
            elif self.rng.random() < 0.6:
                self.change_table("update records set t = ? where k = ?", text, key)
                self.records[key] = text
            else:
                self.change_table("delete from records where k = ?", key)
                del self.records[key]

    def lay_fault(self) -> None:
        on = self.rng.choice(["create", "create", "list", "retrieve", "results"])
        kind, settings = self.rng.choice(FAULTS[on])
        nth, times = self.rng.randint(1, 3), self.rng.randint(1, 2)
        self.emulator.fault(on, kind, nth=nth, times=times, **settings)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.emulator.advance(seconds)

    def go(self) -> None:
        """Let anything happen for a while."""
        self.run("submit")
        for _ in range(self.rng.randint(3, 7)):
            for _ in range(self.rng.randint(0, 3)):
                self.lay_fault()
            match self.rng.choice(["change", "submit", "end", "tick", "tick", "tick"]):
                case "change":
                    self.change_records()
                case "submit":
                    self.run("submit", **self.rng.choice([{}, {}, {"limit": 3}]))
                case "end":
                    for batch in self.emulator.batches():
                        if self.rng.random() < 0.5 and batch["processing_status"] == "in_progress":
                            self.emulator.end(batch["id"])
                case "tick":
                    self.tick()
            self.advance(self.rng.choice([0, 20, 130, 400, 3700]))

    def calm_down(self) -> None:
        """Nothing fails any more, and one more night goes by."""
        self.emulator.configure(manual=False, batch_seconds=0, rates={})
        _clear_faults(self.emulator)
        self.until_quiet()
        self.run("submit")
        self.until_quiet()

    def until_quiet(self) -> None:
        for _ in range(MOST_TICKS):
            self.emulator.end()
            if self.tick() == 0:
                now = progress(self.store, "p")
                if not (now.open or now.ended or now.waiting or now.unknown):
                    return
            self.advance(400)
        raise AssertionError(f"not quiet: {progress(self.store, 'p').line(self.clock.now())}")

    # What must be true

    def rows(self) -> list[dict[str, Any]]:
        destination = destination_of(self.pipeline, self.store)
        with memory_connection() as connection:
            query = f"select * from {destination.relation(connection)}"
            return connection.sql(query).to_arrow_table().to_pylist()

    def check_bill(self) -> None:
        bill = self.emulator.billed_requests()
        asked = Counter(line["custom_id"] for line in bill)
        assert {custom_id: times for custom_id, times in asked.items() if times > 1} == {}
        answered = Counter(line["params_sha256"] for line in bill if line["result"] == "succeeded")
        assert {params: times for params, times in answered.items() if times > 1} == {}
        files = self.store.ledger.rows(select(request_files))
        assert [file["id"] for file in files if file["state"] == FileState.HELD] == []
        counted = Decimal(sum(file["cost_nanousd"] or 0 for file in files)) / 10**9
        # An answer whose line stayed damaged is paid for, and its cost is said to be unknown.
        if not any(file["cost_unknown"] for file in files):
            assert abs(counted - sum(Decimal(line["usd"]) for line in bill)) < Decimal("1e-7")

    def check_table(self) -> None:
        rows = self.rows()
        table = {row["k"]: row for row in rows}
        assert len(table) == len(rows)
        if self.pipeline.on_deleted == "drop":
            assert table.keys() == self.records.keys()
        assert {key: table[key]["t"] for key in self.records} == self.records
        for key, row in table.items():
            if row["_status"] == "answered":
                assert row["answer"] == hashlib.sha256(f"{key}: {row['t']}".encode()).hexdigest()
            else:
                assert row["_error"]


def _clear_faults(emulator: EmulatorProcess) -> None:
    request = urllib.request.Request(f"{emulator.base_url}/_emulator/faults", method="DELETE")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, seed: int) -> Iterator[None]:
    """Let the process die, now and then, right before or right after a transaction of the ledger."""
    rng, real = random.Random(seed), Ledger.write
    chance = rng.choice([0.0, 0.01])

    @contextmanager
    def write(self: Ledger):
        if rng.random() < chance:
            raise Killed
        with real(self) as tx:
            yield tx
        if rng.random() < chance:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", write)
        yield


@pytest.mark.parametrize("seed", range(EPISODES))
def test_whatever_happens_each_answer_is_paid_once_and_each_record_has_its_row(
    seed: int, claude_emulator: EmulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with going_by(HandClock()) as clock:
        assert isinstance(clock, HandClock)
        walk = Walk(seed, claude_emulator, tmp_path, clock)
        with dying(monkeypatch, seed):
            walk.go()
        walk.calm_down()
        walk.check_bill()
        walk.check_table()
        walk.api.close()
