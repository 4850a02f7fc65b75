"""The API keeps answers for 29 days: the pipeline warns early, and is loud when it gets late."""

import dagster as dg
import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.dagster_nights import Nights

pytestmark = pytest.mark.played

DAY = 24 * 3600
NAME = "answers_fetched_in_time"


def age(run: Nights, emulator: EmulatorProcess, clock, days: float) -> None:
    clock.advance(days * DAY)
    emulator.advance(days * DAY)


def evaluated(events) -> list[dg.AssetCheckEvaluation]:
    return [
        event
        for event in events
        if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == NAME
    ]


def test_answers_that_nobody_fetches_are_a_warning_then_a_failure_said_once_a_day(
    nights, claude_emulator: EmulatorProcess, clock
) -> None:
    run = nights()
    run.submit(limit=10)
    claude_emulator.fault("results", "status_before", status=403, times=None)
    age(run, claude_emulator, clock, 19)
    assert evaluated(run.tick().asset_events) == []
    age(run, claude_emulator, clock, 1.5)
    tick = run.tick()
    (warned,) = evaluated(tick.asset_events)
    assert warned.passed and warned.severity == dg.AssetCheckSeverity.WARN
    assert "20 days or more" in str(warned.description) and "29 days" in str(warned.description)
    assert evaluated(run.tick().asset_events) == []  # once a day
    age(run, claude_emulator, clock, 7)
    (failed,) = evaluated(run.tick().asset_events)
    assert not failed.passed and failed.severity == dg.AssetCheckSeverity.ERROR
    assert "packages_collect" in str(failed.description)
    claude_emulator.clear_faults()
    run.until_quiet()
    assert {row["_status"] for row in run.rows().values()} == {"answered"}
    over = [one for tick in run.ticks for one in evaluated(tick.asset_events)][-1]
    assert over.passed


def test_answers_that_are_past_their_29_days_fail_the_check_and_are_asked_again(
    nights, claude_emulator: EmulatorProcess, clock
) -> None:
    run = nights()
    run.submit(limit=10)
    age(run, claude_emulator, clock, 30)
    failed = []
    for _ in range(8):
        run.tick_and_run()
        failed += [one for one in evaluated(run.ticks[-1].asset_events) if not one.passed]
        clock.advance(1201)
        claude_emulator.advance(1201)
    run.until_quiet()
    assert failed and any("lost" in str(one.description) for one in failed)
    assert {row["_status"] for row in run.rows().values()} == {"answered"}
    assert {row["_attempt"] for row in run.rows().values()} == {2}
    result = run.collect()
    (found,) = (one for one in result.get_asset_check_evaluations() if one.check_name == NAME)
    assert not found.passed
    age(run, claude_emulator, clock, 8)
    (found,) = (
        one for one in run.collect().get_asset_check_evaluations() if one.check_name == NAME
    )
    assert found.passed
