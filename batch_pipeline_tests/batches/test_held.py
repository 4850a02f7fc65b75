"""A file that the API refuses waits for a person, who sends it again or gives it up."""

from pathlib import Path

import duckdb
import pytest

from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, DuckDBSource, MessageTemplate
from batch_pipeline.batches.held import drop, list_held, resend
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.dagster_nights import Nights


@pytest.fixture
def refused(tmp_path: Path, claude_emulator: EmulatorProcess) -> Nights:
    """A night whose one file the API refused."""
    database = str(tmp_path / "in.duckdb")
    with duckdb.connect(database) as connection:
        connection.execute(
            "create table notes as select range as id, 'note ' || range as text from range(5)"
        )
    nights = Nights(
        BatchPipeline(
            name="notes",
            source=DuckDBSource(database=database, table="notes", key="id"),
            request=MessageTemplate(model="claude-haiku-4-5", max_tokens=50, prompt="{{ text }}"),
            destination=None,
        ),
        ClaudeBatches(api_key="key", base_url=claude_emulator.base_url, poll_interval_seconds=1),
        BatchStore(root=str(tmp_path / "store")),
    )
    claude_emulator.fault("create", "status_before", status=400)
    nights.submit()
    return nights


def attempts(nights: Nights) -> set[tuple[str, int]]:
    """Status and attempt of the five records."""
    assert len(nights.rows()) == 5
    return {(row["_status"], row["_attempt"]) for row in nights.rows().values()}


def test_a_refused_file_is_held_with_the_reason_and_nothing_asks_for_it(refused: Nights):
    held = list_held(refused.store.open())
    assert [(file.pipeline, file.requests) for file in held.files] == [("notes", 5)]
    assert "400" in held.files[0].error
    assert held.files[0].since is not None
    assert refused.tick_and_run() == 0


def test_a_file_that_is_sent_again_is_answered(refused: Nights, claude_emulator: EmulatorProcess):
    store = refused.store.open()
    claude_emulator.clear_faults()
    resend(store, list_held(store).files[0].id)
    refused.until_quiet()
    assert attempts(refused) == {("answered", 1)}
    assert claude_emulator.bill()["requests"] == 5


def test_the_records_of_a_file_that_is_given_up_are_asked_in_a_new_one(
    refused: Nights, claude_emulator: EmulatorProcess
):
    store = refused.store.open()
    claude_emulator.clear_faults()
    drop(store, list_held(store).files[0].id)
    assert refused.tick_and_run() == 1  # collect
    assert attempts(refused) == {("missing", 1)}
    refused.until_quiet()
    assert attempts(refused) == {("answered", 2)}
    assert claude_emulator.bill()["requests"] == 5
