"""Cancelling on purpose: what was answered is collected, what was not sent is not sent."""

from collections import Counter

import pytest

from batch_pipeline.batches.cancel import cancel, cancellable
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole


def cancel_all(run: Nights):
    return cancel(run.store.open(), run.claude.api(), "packages")


@only_whole
@pytest.mark.played
def test_the_answered_part_of_a_cancelled_batch_is_collected_and_the_rest_is_asked_tomorrow(
    nights, claude_emulator: EmulatorProcess, clock
) -> None:
    claude_emulator.configure(batch_seconds=1000)
    run = nights(claude={"max_batch_requests": 50, "max_queued_requests": 160})
    run.submit()
    assert len(cancellable(run.store.open(), "packages")) > 5
    claude_emulator.advance(500)
    report = cancel_all(run)
    assert len(report.canceled) == 3 and report.withdrawn and not report.waiting
    assert report.failed == []
    run.until_quiet()
    statuses = Counter(row["_status"] for row in run.rows().values())
    assert statuses["answered"] + statuses["canceled"] == 300
    assert statuses["answered"] == claude_emulator.bill()["requests"] > 0
    assert claude_emulator.stats()["batches"] == 3  # the sensor asked for nothing again
    assert {row["_error"] for row in run.rows().values() if not row["_batch_id"]} == {
        "Canceled by a person before it was sent."
    }
    claude_emulator.configure(batch_seconds=0)
    run.night()
    assert {row["_status"] for row in run.rows().values()} == {"answered"}
    assert claude_emulator.bill()["requests"] == 300


@pytest.mark.played
def test_a_run_that_is_cancelled_in_dagster_cancels_no_batch(
    nights, claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_pipeline.batches import send as sending

    class Interrupted(BaseException):
        """What Dagster raises in a run that is terminated."""

    run = nights(claude={"max_batch_requests": 50})
    real, calls = sending.release_pipeline, []

    def interrupt(*given) -> None:
        real(*given)
        calls.append(given)
        if len(calls) == 3:
            raise Interrupted

    monkeypatch.setattr(sending, "release_pipeline", interrupt)
    with pytest.raises(Interrupted):
        run.submit()
    monkeypatch.undo()
    assert {batch["cancel_initiated_at"] for batch in claude_emulator.batches()} == {None}
    run.until_quiet()
    assert claude_emulator.bill()["requests"] == 300
    assert {row["_status"] for row in run.rows().values()} == {"answered"}


@pytest.mark.played
def test_a_cancel_that_the_api_did_not_hear_is_said_again_by_the_sensor(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights()
    run.submit(limit=20)
    claude_emulator.fault("cancel", "status_before", status=500, times=4)
    report = cancel_all(run)
    assert len(report.failed) == 1 and "500" in report.failed[0]
    run.tick()
    assert claude_emulator.batches()[0]["processing_status"] == "in_progress"
    run.tick()
    assert claude_emulator.batches()[0]["processing_status"] == "canceling"
    claude_emulator.end()
    run.until_quiet()
    assert {row["_status"] for row in run.rows().values()} == {"canceled"}
