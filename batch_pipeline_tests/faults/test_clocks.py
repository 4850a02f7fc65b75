"""Clocks that are wrong: the server's against ours, and ours against itself."""

from datetime import timedelta

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import HOUR, MINUTE, Night, on_sqlite_first


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
