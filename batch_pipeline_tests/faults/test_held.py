"""What only a person can settle: one clear message, and everything else goes on meanwhile."""

from collections.abc import Callable

from batch_pipeline.batches.held import drop, release, resend
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import (
    HOUR,
    MINUTE,
    RECORDS,
    Night,
    on_sqlite_first,
    parts,
)
from batch_pipeline_tests.support.extent import only_whole

HOLD = {"on_unknown": "hold"}


def held_night(nights: Callable[..., Night], emulator: EmulatorProcess, kind: str) -> Night:
    """A night of which the file of 13 is held, since nobody knows whether it was taken."""
    night = nights(HOLD)
    emulator.fault("create", kind, nth=2)
    night.submit()
    night.end()
    (held,) = night.held.files
    assert held.requests == 13
    assert "had no reply and no such batch is in the API's list" in held.error
    assert 'on_unknown="hold" leaves the decision to you: `batch-pipeline held`' in held.error
    assert "1 file held: that needs you (`batch-pipeline held`)" in night.message
    assert len(night.rows()) == 27
    return night


@on_sqlite_first
def test_on_unknown_hold_sends_nothing_until_a_person_says_so(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    night = held_night(nights, claude_emulator, "drop_before")
    night.tick_for(5 * HOUR, every=HOUR)
    assert len(claude_emulator.batches()) == 3
    resend(night.opened, night.held.files[0].id)
    night.end()
    night.judge_good()


@only_whole
@on_sqlite_first
def test_a_held_file_that_turns_out_to_have_been_taken_is_collected_by_itself(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "list_lag", seconds=2 * HOUR, times=None)
    night = held_night(nights, claude_emulator, "drop_after")
    night.tick_for(3 * HOUR, every=30 * MINUTE)
    night.end()
    assert "whose reply was lost: its answers are collected" in night.said
    assert night.held.files == []
    night.judge_good()


def test_a_file_that_was_dropped_is_asked_anew_and_its_late_batch_is_in_the_cost(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "list_lag", seconds=2 * HOUR, times=None)
    night = held_night(nights, claude_emulator, "drop_after")
    drop(night.opened, night.held.files[0].id)
    night.end()
    found = night.judge_open()
    assert [(one.batch_id, one.requests) for one in found] == [(None, 13)]
    assert "given up before anybody knew whether the API took it" in found[0].why
    night.tick_for(3 * HOUR, every=30 * MINUTE)
    night.end()
    judged = night.judge()
    assert judged.statuses == {"answered": 40}
    assert (judged.paid_twice, judged.asked_again, judged.unknown) == (0, 13, [])


def unreadable_night(night: Night) -> str:
    """A night of which the file of 13 is held: a batch may be it, and cannot be read for hours."""
    night.emulator.fault("create", "drop_after", nth=2)
    night.submit()
    theirs = night.batch(13)
    night.emulator.fault("results", "replace_body", body="<html>", times=None, batch_id=theirs)
    night.tick_for(3 * HOUR, every=20 * MINUTE)
    (held,) = night.held.files
    assert f"{theirs} may be it, but its results cannot be read" in held.error
    assert "Look it up in the Console, then decide: `batch-pipeline held`" in held.error
    assert len(night.rows()) == 27
    (unknown,) = night.judge_open()
    assert (unknown.batch_id, unknown.requests) == (theirs, 13)
    return theirs


@only_whole
def test_a_batch_that_may_be_ours_and_cannot_be_read_for_hours_is_collected_when_it_can(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    unreadable_night(night)
    claude_emulator.clear_faults()
    night.tick_for(HOUR, every=20 * MINUTE)
    night.end()
    assert night.held.files == []
    night.judge_good()


@only_whole
def test_a_file_that_is_dropped_because_its_batch_cannot_be_read_is_asked_anew(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    theirs = unreadable_night(night)
    drop(night.opened, night.held.files[0].id)
    night.end()
    found = night.judge()
    assert found.statuses == {"answered": 40}
    assert (found.paid_twice, found.asked_again) == (0, 13)
    assert theirs in {one.batch_id for one in found.unknown}


@only_whole
def test_a_held_file_keeps_no_other_file_and_no_other_partition_waiting(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    night = parts(nights)
    claude_emulator.fault("create", "status_before", status=422)
    night.submit("a")
    night.submit("b")
    night.end()
    (held,) = night.held.files
    assert (held.partition, held.requests) == ("a", 14)
    assert len(night.rows()) == 26  # the rest of a, and all of b
    night.submit("b")  # the next night
    night.end()
    resend(night.opened, held.id)
    night.end()
    night.judge_good()


def test_a_held_pipeline_keeps_no_other_pipeline_waiting_and_is_collected(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    night, other = parts(nights), nights(name="letters", prompt="Translate: {{ text }}")
    night.submit("a")
    claude_emulator.fault("create", "own_spend_limit")
    result = night.run("submit", partition="b", raises=False)
    assert not result.success
    other.submit()
    other.end()
    assert len(other.rows()) == 40
    night.tick_for(HOUR, every=20 * MINUTE)
    assert "Nothing is sent: " in night.message
    assert night.rows().keys() == {number for number in RECORDS if number % 2 == 0}
    release(night.opened, "invoices")
    night.end()
    night.judge_good()
    other.judge_good()
