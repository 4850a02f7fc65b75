"""The status sensor: what it asks for, what it says, and what it never does twice."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from sqlalchemy import update

from batch_pipeline import ClaudeBatches, DuckDBTable
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.tables import meta
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole

FEW = {"limit": 3}
LIST = "GET /v1/messages/batches"


def jobs(tick: Any) -> list[str]:
    """The jobs that a tick asks for."""
    return [request.job_name for request in tick.run_requests or []]


def lists(emulator: EmulatorProcess) -> int:
    """How often the batch list was read."""
    return emulator.stats()["calls"].get(LIST, 0)


def add_run(run: Nights, job: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """Put a run into Dagster's history."""
    return run.instance.add_run(dg.DagsterRun(job_name=job, status=status))


def test_a_lost_or_unreadable_cursor_changes_nothing_of_what_is_asked_for(nights) -> None:
    run = nights()
    run.submit(**FEW)
    for cursor in (None, "", "garbage", '{"version": 99}', "[1]", run.tick().cursor * 2):
        run.cursor = cursor
        tick = run.tick()
        assert jobs(tick) == ["packages_collect"] and json.loads(tick.cursor)["version"] == 1
    run.cursor = '{"version": 1, "transition": 1000000}'  # of a ledger that is gone
    assert jobs(run.tick()) == ["packages_collect"]


def test_nothing_is_forgotten_when_dagsters_history_is(nights) -> None:
    run = nights()
    run.submit(**FEW)
    run.tick()
    reborn = Nights(run.pipeline, run.claude, run.store)
    reborn.until_quiet()
    assert len(reborn.rows()) == 3


def test_a_job_under_way_is_not_asked_for_again_until_its_run_is_stale(
    nights, clock: HandClock
) -> None:
    run = nights()
    run.submit(**FEW)
    for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED):
        added = add_run(run, "packages_collect", status)
        tick = run.tick()
        assert not tick.run_requests and "packages_collect is running" in tick.skip_message
        run.instance.delete_run(added.run_id)
    # A run that started earlier counts as well when a later one failed.
    add_run(run, "packages_collect", dg.DagsterRunStatus.STARTED)
    add_run(run, "packages_collect", dg.DagsterRunStatus.FAILURE)
    assert "packages_collect is running" in run.tick().skip_message
    clock.advance(16 * 60)
    assert jobs(run.tick()) == ["packages_collect"]
    # Another job's run stands in nobody's way.
    other = nights()
    add_run(other, "packages_send", dg.DagsterRunStatus.STARTED)
    assert jobs(other.tick()) == ["packages_collect"]


def test_a_failed_collect_run_is_asked_for_again_after_a_while_that_doubles(
    nights, warehouse: Path, clock: HandClock, claude_emulator: EmulatorProcess
) -> None:
    run = nights(destination=DuckDBTable(database=str(warehouse), table="answers"))
    run.submit(**FEW)
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("create table answers as select 1 as somebody_elses")
    assert run.tick_and_run(raises=False) == 1
    assert run.tick_and_run() == 0
    assert "packages_collect failed; it is requested again after " in run.ticks[-1].skip_message
    clock.advance(61)
    assert run.tick_and_run(raises=False) == 1
    clock.advance(30)  # run records bear the machine's time: this is 91 seconds after the second
    assert run.tick_and_run() == 0
    assert "packages_collect failed 2 times in a row" in run.ticks[-1].skip_message
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("drop table answers")
    clock.advance(40)
    assert run.tick_and_run() == 1
    assert len(run.rows()) == 3 and run.tick_and_run() == 0
    assert claude_emulator.bill()["requests"] == 3


def test_an_api_that_is_down_is_said_and_waited_for(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights()
    run.submit(**FEW)
    claude_emulator.stop()
    tick = run.tick()
    assert not tick.run_requests
    assert f"{claude_emulator.base_url} could not be asked" in tick.skip_message
    assert "1 open" in tick.skip_message
    claude_emulator.start()
    claude_emulator.fault("list", "status_before", status=500, message="Sorry")
    assert "answers 500: Sorry" in run.tick().skip_message
    claude_emulator.fault("list", "replace_body", body="<html>")
    tick = run.tick()
    assert not tick.run_requests and "no Message Batches reply" in tick.skip_message
    run.until_quiet()
    assert len(run.rows()) == 3 and claude_emulator.bill()["requests"] == 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_said_and_no_run_is_asked_for(
    nights, claude_emulator: EmulatorProcess, status: int
) -> None:
    run = nights()
    run.submit(**FEW)
    claude_emulator.fault("list", "status_before", status=status, message="Not you", times=2)
    for _ in range(2):
        tick = run.tick()
        assert not tick.run_requests
        assert f"({status}: Not you" in tick.skip_message and "api_key" in tick.skip_message
        assert "test-key" not in tick.skip_message
    run.until_quiet()
    assert len(run.rows()) == 3


def test_no_key_and_a_store_that_cannot_be_used_are_said(
    nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = nights()
    run.submit(**FEW)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    keyless = Nights(run.pipeline, ClaudeBatches(base_url=run.claude.url), run.store)
    assert "There is no API key" in keyless.tick().skip_message
    run.tick()
    cursor = run.cursor
    with run.store.open().ledger.write() as tx:
        tx.execute(update(meta).where(meta.c.key == "schema_version").values(value="99"))
    assert "newer batch_pipeline" in run.tick().skip_message
    assert run.cursor == cursor


def test_batches_of_another_address_are_left_alone_until_it_is_set_back(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights()
    run.submit(**FEW)
    there = claude_emulator.base_url
    elsewhere = nights(claude={"base_url": there.replace("127.0.0.1", "127.0.0.2")})
    claude_emulator.end()
    before = lists(claude_emulator)
    tick = elsewhere.tick()
    assert not tick.run_requests and lists(claude_emulator) == before
    assert "1 of 1 batch " not in tick.skip_message
    assert f"What was sent to {there} (" in tick.skip_message
    assert "is left alone while base_url is http://127.0.0.2" in tick.skip_message
    run.until_quiet()
    assert len(run.rows()) == 3 and claude_emulator.bill()["requests"] == 3


@only_whole
def test_failed_records_of_another_address_are_asked_again_only_there(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 1.0})
    run = nights(max_attempts=2)
    run.submit(**FEW)
    run.collect()
    elsewhere = nights(
        max_attempts=2, claude={"base_url": run.claude.url.replace("127.0.0.1", "127.0.0.2")}
    )
    assert not elsewhere.tick().run_requests
    assert jobs(run.tick()) == ["packages_submit"]
    run.until_quiet()
    assert len(claude_emulator.billed_requests()) == 6


def test_work_of_another_workspace_is_left_alone(nights, claude_emulator: EmulatorProcess) -> None:
    claude_emulator.configure(keys={"test-key": "ours", "other-key": "theirs"}, manual=True)
    run = nights(claude={"max_queued_requests": 3})
    run.submit(limit=6)
    other = nights(claude={"api_key": "other-key", "max_queued_requests": 3})
    tick = other.tick()
    assert not tick.run_requests and "the key now belongs to" in tick.skip_message
    # Nothing is open, but a file waits: a run would find nothing to send, again and again.
    claude_emulator.end()
    run.tick()
    run.collect()
    assert jobs(run.tick()) == ["packages_send"]
    tick = other.tick()
    assert not tick.run_requests
    assert "is left alone while the key belongs to" in tick.skip_message
    assert "theirs" in tick.skip_message


def test_a_change_is_observed_once(nights, claude_emulator: EmulatorProcess) -> None:
    claude_emulator.configure(manual=True)
    run = nights()
    run.submit(**FEW)
    (sent,) = run.tick().asset_events
    assert sent.asset_key == run.pipeline.asset_key("batches")
    assert sent.description.startswith("0 of 1 batch ended; 1 open, oldest 0 min")
    assert sent.metadata["batches_open"].value == 1
    assert not run.tick().asset_events
    claude_emulator.end()
    (ended,) = run.tick().asset_events
    assert ended.metadata["batches_open"].value == 0 and ended.metadata["batches_ended"].value == 1
    (change,) = ended.metadata["changes"].records
    assert change.data["from"] == "in_progress" and change.data["to"] == "ended"
    assert not run.tick().asset_events
    run.until_quiet()
    *_, collected = [event for tick in run.ticks for event in tick.asset_events]
    assert collected.metadata["batches_ended"].value == 1  # collected or not
    assert sum(len(tick.asset_events) for tick in run.ticks) == 3


def test_pipelines_of_one_endpoint_look_once_an_interval(
    nights, claude_emulator: EmulatorProcess, clock: HandClock
) -> None:
    claude_emulator.configure(manual=True)
    first, second = nights(), nights(name="letters")
    first.submit(**FEW)
    second.submit(**FEW)
    first.tick()
    second.tick()
    for _ in range(2):
        clock.advance(61)
        before = lists(claude_emulator)
        assert not first.tick().run_requests and not second.tick().run_requests
        assert lists(claude_emulator) - before == 1
    claude_emulator.end()
    clock.advance(61)
    before = lists(claude_emulator)
    assert jobs(first.tick()) == ["packages_collect"]
    assert jobs(second.tick()) == ["letters_collect"]
    assert lists(claude_emulator) - before <= 2  # the second makes sure whose key it has


def test_a_file_that_waits_for_room_is_sent_when_there_is(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 4, "max_queued_requests": 5})
    run.submit(limit=6)
    tick = run.tick()
    assert not tick.run_requests
    assert tick.skip_message == (
        "0 of 1 batch ended; 1 open, oldest 0 min; 1 file to be sent "
        "(room in the queue, its hours, its submission's first request, or a next try)"
    )
    claude_emulator.end()
    assert jobs(run.tick()) == ["packages_collect", "packages_send"]


def test_a_held_pipeline_says_why_and_asks_for_nothing(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights()
    claude_emulator.fault(
        "create",
        "status_before",
        status=400,
        message="You have reached your specified API usage limits.",
        error_code="spend_limit_reached",
    )
    assert not run.run("submit", FEW, raises=False).success
    tick = run.tick()
    assert not tick.run_requests
    assert "Nothing is sent: " in tick.skip_message and "spend limit" in tick.skip_message
    run.run("send")
    run.until_quiet()
    assert len(run.rows()) == 3 and claude_emulator.bill()["requests"] == 3


def test_a_quiet_pipeline_asks_nobody(nights, claude_emulator: EmulatorProcess) -> None:
    run = nights()
    tick = run.tick()
    assert tick.skip_message == "no batch is open" and not claude_emulator.stats()["calls"]


def test_failed_records_are_asked_again_and_then_never(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 1.0})
    run = nights(max_attempts=2)
    run.submit(**FEW)
    asked: list[str] = []
    while run.tick_and_run():
        asked += jobs(run.ticks[-1])
    assert asked == ["packages_collect", "packages_submit", "packages_collect"]
    assert run.tick_and_run() == 0 and len(claude_emulator.billed_requests()) == 6
