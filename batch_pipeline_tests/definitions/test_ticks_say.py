"""What a tick of the status sensor says to who looks at it, and what the batches' page shows meanwhile."""

import dagster as dg
import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights


def test_a_tick_says_what_ended_what_is_open_since_when_and_what_it_asks_for(
    nights,
    claude_emulator: EmulatorProcess,
    clock: HandClock,
    capfd: pytest.CaptureFixture[str],
) -> None:
    claude_emulator.configure(manual=True)
    run: Nights = nights(claude={"max_batch_requests": 3, "poll_interval_seconds": 1})
    run.submit(limit=10)  # sizes are distinct, so that a batch points to one file
    batches = claude_emulator.batches()
    clock.advance(41 * 60)
    tick = run.tick()
    open_now = f"{len(batches)} open, oldest 41 min"
    assert tick.skip_message == f"0 of {len(batches)} batches ended; {open_now}"
    (observed,) = tick.asset_events
    assert isinstance(observed, dg.AssetObservation)
    assert observed.asset_key.path == ["packages", "batches"]
    assert observed.description == tick.skip_message
    numbers = {name: value.value for name, value in observed.metadata.items()}
    assert numbers["batches_open"] == len(batches) and numbers["batches_ended"] == 0
    for name in ("batches_open", "batches_ended", "files_waiting", "files_held"):
        assert type(numbers[name]) is int
    assert {row.data["to"] for row in observed.metadata["changes"].records} >= {"in_progress"}
    # Nothing has changed: nothing new to look at.
    assert not run.tick().asset_events
    for batch in batches[:2]:
        claude_emulator.end(batch["id"])
    clock.advance(60)
    capfd.readouterr()
    tick = run.tick()
    assert [request.job_name for request in tick.run_requests or []] == ["packages_collect"]
    logged = capfd.readouterr().err
    assert f"2 of {len(batches)} batches ended; {len(batches) - 2} open, oldest 42 min" in logged
    assert "packages_collect is requested: batches have ended" in logged


def test_a_tick_names_the_partitions_for_which_it_asks(
    nights, capfd: pytest.CaptureFixture[str]
) -> None:
    run: Nights = nights(
        partitions=dg.StaticPartitionsDefinition(["admin", "devel"]), partition_column="section"
    )
    run.submit("admin")
    run.submit("devel")
    capfd.readouterr()
    assert len(run.tick().run_requests or []) == 2
    assert (
        "packages_collect is requested (admin, devel): batches have ended" in capfd.readouterr().err
    )
