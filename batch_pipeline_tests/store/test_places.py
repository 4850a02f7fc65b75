"""Whole nights with the store in other places: an object store, and PostgreSQL."""

import gc
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import psycopg
import pytest

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, MessageTemplate, ParquetSource
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.clock import going_by
from batch_pipeline_tests.definitions.conftest import RECORDS, TEMPLATE
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole


@pytest.fixture
def clock() -> Iterator[HandClock]:
    with going_by(HandClock()) as clock:
        yield clock


@pytest.fixture
def nights_in(claude_emulator: EmulatorProcess, clock: HandClock) -> Callable[..., Nights]:
    """Make a pipeline whose store is in a given place."""

    def make(
        store: BatchStore, instance: dg.DagsterInstance | None = None, **fields: Any
    ) -> Nights:
        pipeline = BatchPipeline(
            **{
                "name": "packages",
                "source": ParquetSource(path=str(RECORDS), key="package"),
                "request": MessageTemplate(**TEMPLATE),
                **fields,
            }
        )
        claude = ClaudeBatches(
            api_key="test-key", base_url=claude_emulator.base_url, max_batch_requests=20
        )
        return Nights(pipeline, claude, store, instance or dg.DagsterInstance.ephemeral())

    return make


def live_a_little(run: Nights, emulator: EmulatorProcess) -> None:
    """A night with failures, a night without work, and one with answers that are known."""
    emulator.configure(answers="digest", rates={"errored": 0.3, "invalid": 0.1})
    run.night(limit=50)
    rows = run.rows()
    assert len(rows) == 50 and {row["_status"] for row in rows.values()} >= {"answered", "rejected"}
    asked = len(emulator.billed_requests())
    answered = [line for line in emulator.billed_requests() if line["result"] == "succeeded"]
    assert len(answered) == sum(row["_status"] == "answered" for row in rows.values())
    run.submit(limit=0)
    run.until_quiet()
    assert len(emulator.billed_requests()) == asked and run.rows() == rows


def test_a_store_in_an_object_store_lives_as_one_on_a_disk(
    nights_in, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    bucket = f"memory://bucket-{secrets.token_hex(4)}"
    fsspec.filesystem("memory").put_file(str(RECORDS), f"{bucket}/in/packages.parquet")
    store = BatchStore(root=f"{bucket}/store", ledger=f"sqlite:///{tmp_path}/ledger.sqlite")
    run = nights_in(store, source=ParquetSource(path=f"{bucket}/in/*.parquet", key="package"))
    live_a_little(run, claude_emulator)
    found = fsspec.filesystem("memory").find(f"{bucket}/store")
    kinds = {Path(name).parent.name for name in found}
    assert {"requests", "answers", "results", "index", "data", "_manifests"} <= kinds
    assert [path.name for path in tmp_path.iterdir() if "ledger" not in path.name] == []


def test_a_ledger_in_postgresql_lives_as_one_in_sqlite(
    nights_in, claude_emulator: EmulatorProcess, tmp_path: Path, postgres_ledger: str
) -> None:
    store = BatchStore(root=str(tmp_path / "store"), ledger=postgres_ledger)
    run = nights_in(store)
    live_a_little(run, claude_emulator)
    assert not (tmp_path / "store" / "ledger.sqlite").exists()
    # Runs at the same time ask once, whatever they lock.
    before = claude_emulator.bill()["requests"]
    claude_emulator.configure(rates={})

    def submit(_: int) -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            nights_in(store, instance).submit(where="section = 'admin'")

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(submit, range(3)))
    run.until_quiet()
    sent = {row["_custom_id"] for row in run.rows().values() if row["section"] == "admin"}
    assert len(sent) > 20
    billed = [line["custom_id"] for line in claude_emulator.billed_requests()]
    assert claude_emulator.bill()["requests"] > before and len(billed) == len(set(billed))


@only_whole
def test_a_reply_that_is_lost_is_paid_once_with_postgresql(
    nights_in,
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    postgres_ledger: str,
    clock: HandClock,
) -> None:
    claude_emulator.fault("create", "drop_after")
    run = nights_in(BatchStore(root=str(tmp_path / "store"), ledger=postgres_ledger))
    run.submit(limit=30)
    clock.advance(700)
    run.until_quiet()
    assert len(run.rows()) == 30 and claude_emulator.bill()["requests"] == 30


def test_ticks_of_one_process_share_a_few_connections_to_postgresql(
    nights_in, tmp_path: Path, postgres_ledger: str, postgres: str
) -> None:
    run = nights_in(BatchStore(root=str(tmp_path / "store"), ledger=postgres_ledger))
    gc.disable()  # it would close what is left open now and then
    try:
        for _ in range(12):
            run.tick()
    finally:
        gc.enable()
    with psycopg.connect(postgres) as connection:
        (count,) = connection.execute(
            "select count(*) from pg_stat_activity where datname = 'ledger'"
        ).fetchone() or (0,)
    assert count <= 5
