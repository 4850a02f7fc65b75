"""Batches of ours that turn up after their file was sent again: the risk that remains, accounted for."""

import pytest

from batch_pipeline.batches.held import release
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import (
    DAY,
    HOUR,
    MINUTE,
    SIZES,
    Night,
    on_sqlite_first,
    sizes,
)
from batch_pipeline_tests.support.extent import only_whole


def second_batch(night: Night) -> None:
    """Judge a night in which the file of 13 was paid twice, which is told to the cent and said."""
    found = night.judge()
    assert found.statuses == {"answered": 40}
    assert (found.paid_twice, found.asked_again, found.unknown) == (13, 0, [])
    assert sorted(file["kind"] for file in found.files) == ["batch"] * 4 + ["late"]
    assert {file["state"] for file in found.files} == {"collected"}
    assert "is a second batch of" in night.said
    assert "what both answered was paid twice; both costs are in the ledger" in night.said
    made = len(night.emulator.batches())
    night.submit()  # the next night asks nothing
    assert len(night.emulator.batches()) == made


@on_sqlite_first
def test_a_list_that_lags_longer_than_we_wait_costs_a_second_batch_which_is_said(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "list_lag", seconds=8 * MINUTE, times=None)
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit()
    night.end()
    assert "left no batch in the API's list; it is sent again" in night.said
    second_batch(night)
    assert "Raise ClaudeBatches(reconcile_after_seconds=...) above that lag" in night.said


@only_whole
def test_a_late_batch_is_found_when_the_night_is_over_already(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "list_lag", seconds=2 * HOUR, times=None)
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit()
    night.end()
    assert len(night.rows()) == 40
    night.tick_for(3 * HOUR, every=30 * MINUTE)
    second_batch(night)


@only_whole
def test_a_late_batch_is_watched_for_during_a_day_and_no_longer(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_before", nth=2)
    night.submit()
    night.end()
    night.tick_for(30 * HOUR, every=5 * HOUR)
    assert night.message == "no batch is open"
    before = claude_emulator.stats()["calls"]
    night.tick_for(DAY, every=5 * HOUR)
    assert claude_emulator.stats()["calls"] == before  # a quiet pipeline asks nobody
    night.judge_good()


def test_a_batch_that_was_taken_though_the_api_said_429_is_a_second_one_when_sent_again_at_once(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "queue_full", nth=2, when="after")
    night.submit()
    night.end(every=MINUTE)
    night.tick_for(HOUR, every=30 * MINUTE)
    second_batch(night)


def test_a_batch_that_was_taken_though_the_api_said_429_is_paid_once_when_it_is_seen_in_time(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(batch_seconds=0)
    claude_emulator.fault("create", "rate_limited", nth=2, when="after", retry_after=600)
    night.submit()
    night.end(every=MINUTE)
    night.judge_good()
    assert sizes(claude_emulator) == SIZES


@only_whole
def test_the_late_batch_of_a_file_that_was_sent_again_and_is_still_open_is_found_too(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(batch_seconds=3 * HOUR)
    claude_emulator.fault("list", "list_lag", seconds=HOUR, times=None)
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit()
    night.end(every=20 * MINUTE)
    second_batch(night)


@pytest.mark.parametrize("kind", ["spend_limit", "request_too_large"])
def test_a_batch_that_was_taken_though_the_api_refused_it_is_accounted_for(
    night: Night, claude_emulator: EmulatorProcess, kind: str
) -> None:
    claude_emulator.fault("create", kind, nth=2, when="after")
    night.run("submit", raises=False)
    for hold in night.held.pipelines:
        release(night.opened, hold.pipeline)
    night.end()
    night.tick_for(HOUR, every=30 * MINUTE)
    found = night.judge()
    assert found.statuses == {"answered": 40} and found.paid_twice == 13
