"""Clocks that are wrong: the server's against ours, and ours against itself."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from batch_pipeline.definitions.arrivals.cursor import Memory, Waiting, remembered
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.store.tables import leases, request_files
from batch_pipeline_tests.faults.conftest import BATCH_SECONDS, HOUR, MINUTE, Night, on_sqlite_first
from batch_pipeline_tests.support.extent import only_whole


@pytest.mark.parametrize("seconds", [-2 * HOUR, -10 * MINUTE, 10 * MINUTE, 2 * HOUR])
def test_lost_replies_of_a_server_whose_clock_is_off_are_settled(
    night: Night, claude_emulator: EmulatorProcess, seconds: float
) -> None:
    claude_emulator.fault("clock_skew", seconds=seconds)
    claude_emulator.fault("create", "drop_after", nth=2)
    claude_emulator.fault("create", "drop_before", nth=3)
    night.submit()
    night.end()
    night.judge_good()
    assert len(claude_emulator.batches()) == 4


def turn_back(night: Night, seconds: float) -> None:
    """Our clock alone is corrected."""
    night.clock.ahead -= timedelta(seconds=seconds)


@only_whole
@on_sqlite_first
def test_our_clock_jumps_back_after_replies_were_lost(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after", nth=2)
    claude_emulator.fault("create", "drop_before", nth=3)
    night.submit()
    turn_back(night, 10 * MINUTE)
    night.end()
    night.judge_good()
    assert len(claude_emulator.batches()) == 4


@only_whole
def test_our_clock_jumps_back_between_any_two_steps(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after", nth=2)
    claude_emulator.fault("create", "queue_full", nth=3)
    night.submit()
    for _ in range(20):
        turn_back(night, 10 * MINUTE)
        night.tick_and_run()
        night.clock.advance(15 * MINUTE)
        if night.is_quiet:
            break
    night.end()
    night.judge_good()
    assert len(claude_emulator.batches()) == 4


# A clock that was ahead, and is back

YEAR = 365 * 24 * HOUR


def ours_alone(night: Night, seconds: float) -> None:
    """Our clock alone jumps."""
    night.clock.ahead += timedelta(seconds=seconds)


@pytest.mark.parametrize("ahead", [2 * HOUR, YEAR], ids=["two hours", "a year"])
@pytest.mark.parametrize(
    ("on", "kind", "batches"),
    [
        ("create", "drop_after", 4),
        ("create", "drop_before", 4),
        ("create", "queue_full", 4),
        ("create", "internal_error", 4),
        ("results", "cut_results_at_line", 4),
        ("results", "drop_before", 4),
    ],
)
def test_a_night_whose_clock_was_ahead_is_gone_on_with_when_it_is_back(
    night: Night, claude_emulator: EmulatorProcess, ahead: float, on: str, kind: str, batches: int
) -> None:
    ours_alone(night, ahead)
    claude_emulator.fault(on, kind, nth=2, times=2)
    night.submit()
    night.clock.advance(BATCH_SECONDS)
    night.tick_and_run(raises=False)
    ours_alone(night, -ahead)
    night.end(every=MINUTE, most=40)
    night.judge_good()
    assert len(claude_emulator.batches()) == batches


@pytest.mark.parametrize("ahead", [2 * HOUR, YEAR], ids=["two hours", "a year"])
@pytest.mark.parametrize("sent", [True, False])
def test_a_sender_that_died_under_a_clock_that_was_ahead_holds_no_longer_than_its_lease(
    night: Night, claude_emulator: EmulatorProcess, ahead: float, sent: bool
) -> None:
    ours_alone(night, ahead)
    claude_emulator.fault("create", "drop_after" if sent else "drop_before", nth=1)
    night.submit()
    with night.opened.ledger.write() as tx:  # as the kill of its process would have left it
        left = tx.execute(
            update(request_files)
            .where(request_files.c.state == "unknown")
            .values(
                state="sending", owner="gone", attempt_ended_at=None, error=None,
                lease_until=night.clock.now() + timedelta(seconds=660),
            )
        )  # fmt: skip
        assert left.rowcount == 1
    ours_alone(night, -ahead)
    night.end(every=MINUTE, most=40)
    night.judge_good()
    assert len(claude_emulator.batches()) == 4


def test_a_table_whose_writer_died_under_a_clock_that_was_ahead_is_free_after_its_lease(
    night: Night,
) -> None:
    ledger = night.opened.ledger
    ours_alone(night, YEAR)
    with ledger.write() as tx:
        until = night.clock.now() + timedelta(seconds=100)
        tx.execute(insert(leases).values(name="table", owner="gone", until=until))
    ours_alone(night, -YEAR)
    with ledger.lease("table") as lease:
        assert lease is None  # its holder may live: then it renews it
    night.clock.advance(2 * MINUTE + 1)
    with ledger.lease("table") as lease:
        assert lease is not None


def test_a_holder_that_lives_keeps_its_lease_though_its_clock_is_ahead(night: Night) -> None:
    ledger = night.opened.ledger
    ours_alone(night, HOUR)
    with ledger.lease("table") as held:
        assert held is not None
        ours_alone(night, -HOUR)
        for _ in range(5):
            with ledger.lease("table") as other:
                assert other is None
            night.clock.advance(MINUTE)
            assert held.still_held()


@only_whole
def test_a_pipeline_that_looked_last_under_a_clock_that_was_ahead_keeps_no_other_from_looking(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    one, two = nights(), nights(name="others")
    ours_alone(one, YEAR)
    one.submit()
    one.tick()
    ours_alone(one, -YEAR)
    two.submit()
    two.end()
    assert len(two.rows()) == 40


@only_whole
def test_the_night_after_one_whose_clock_was_a_year_ahead_asks_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    ours_alone(night, YEAR)
    night.submit()
    night.end()
    ours_alone(night, -YEAR)
    night.submit()
    night.end()
    night.judge_good()
    assert len(claude_emulator.batches()) == 4


def test_arrivals_of_a_cursor_that_is_ahead_count_from_now() -> None:
    memory = Memory("basis", since=9e9, changing=9e9, waiting={"": Waiting(9e9, "new")})
    again = remembered(memory.text(), "basis", now=1e9)
    assert (again.since, again.changing, again.waiting[""].since) == (1e9, 1e9, 1e9)
