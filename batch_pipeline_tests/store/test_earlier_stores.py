"""A store and a ledger that an earlier version wrote are gone on with.

``kept/store_of_0_1.tar.gz`` holds what version 0.1 left behind on 2026-11-21: a night of 12 records (one
of them failed twice), and the next night's batch, of three new records and a changed one, still
open; the emulated API's state with it. An endpoint is known by its address, so the API has to be at
the port that it had then.
"""

import tarfile
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.clock import going_by
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights

DATA = Path(__file__).with_name("kept") / "store_of_0_1.tar.gz"
PORT = 48_799
LEFT_AT = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)


def test_a_store_of_version_0_1_is_gone_on_with_and_nothing_is_paid_again(tmp_path: Path) -> None:
    with tarfile.open(DATA) as packed:
        packed.extractall(tmp_path, filter="data")
    warehouse = str(tmp_path / "warehouse.duckdb")
    with EmulatorProcess(tmp_path / "emulator", port=PORT) as emulator:
        emulator.set_clock(LEFT_AT.timestamp())
        emulator.configure(answers="digest", manual=True)
        paid = emulator.bill()["requests"]
        assert paid == 11
        clock = HandClock(LEFT_AT, emulator.advance)
        with going_by(clock):
            run = Nights(
                BatchPipeline(
                    name="notes",
                    source=DuckDBSource(database=warehouse, table="notes", key="id"),
                    request=MessageTemplate(
                        model="claude-haiku-4-5", max_tokens=200, prompt="{{ text }}"
                    ),
                    destination=DuckDBTable(database=warehouse, table="answers"),
                    max_attempts=2,
                ),
                ClaudeBatches(api_key="any", base_url=emulator.base_url, max_batch_requests=5),
                BatchStore(root=str(tmp_path / "store")),
            )
            assert run.tick().skip_message.startswith("0 of 1 batch ended; 1 open")
            run.submit()  # what was asked is known, by content and question
            assert len(emulator.batches()) == 5
            emulator.end()
            run.until_quiet()
            rows = run.rows()
            assert {key: row["_status"] for key, row in rows.items()} == {
                key: "errored" if key == 7 else "answered" for key in range(15)
            }
            assert rows[3]["text"] == "another note" and rows[3]["_attempt"] == 1
            assert emulator.bill()["requests"] == paid + 4
            custom_ids = [line["custom_id"] for line in emulator.billed_requests()]
            assert len(custom_ids) == len(set(custom_ids))
            # And so do the nights after it.
            with duckdb.connect(warehouse) as connection:
                connection.execute("insert into notes values (15, 'note 15')")
            emulator.configure(rates={"expired": 1.0})
            run.submit()
            emulator.end()
            run.collect()
            emulator.configure(rates={})
            run.tick_and_run()
            emulator.end()
            run.until_quiet()
            rows = run.rows()
            assert set(rows) == set(range(16))
            assert emulator.bill()["requests"] == paid + 5
            # A column that came later is NULL in the rows of then.
            assert [key for key, row in rows.items() if row["_attempts"] is not None] == [15]
            assert '"expired"' in rows[15]["_attempts"]
