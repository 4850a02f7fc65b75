"""Settling by hand: what is open is shown with its reason, and what can be settled is."""

from datetime import timedelta

import pytest

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.cancel import cancel
from batch_pipeline.batches.claim import hold_pipeline
from batch_pipeline.batches.held import drop
from batch_pipeline.batches.outcome import ApiUnavailable
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.settle import Settlement, settle
from batch_pipeline.store.cost_unknown import costs_unknown
from batch_pipeline.store.tables import FileState
from batch_pipeline_tests.batches.conftest import Desk


def settled(desk: Desk, pipeline: str | None = None, **policy) -> Settlement:
    wanted = SendPolicy(timeout_seconds=10.0, **policy)
    return settle(desk.store, desk.api, wanted, pipeline)


def test_what_is_open_is_shown_with_what_it_waits_for(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    first, second = desk.put(2, 3)
    desk.emulator.fault("create", "drop_before", nth=2)
    desk.send()
    (third,) = desk.put(4)
    lines = {line.file: line for line in settled(desk).lines}
    assert [lines[one].state for one in (first, second, third)] == [
        FileState.IN_PROGRESS,
        FileState.UNKNOWN,
        FileState.READY,
    ]
    assert "working on it" in lines[first].why and lines[first].batch_id
    assert "reply was lost" in lines[second].why
    assert "p_send" in lines[third].why
    assert not any(line.did or line.todo for line in lines.values())


def test_lost_replies_are_settled_and_each_decision_has_its_reason(desk: Desk) -> None:
    kept, lost = desk.put(2, 3)
    desk.emulator.fault("create", "drop_after", nth=1)
    desk.emulator.fault("create", "drop_before", nth=2)
    desk.send()
    desk.clock.advance(121)
    report = settled(desk)
    lines = {line.file: line for line in report.lines}
    assert lines[kept].did == "unknown → in_progress; in_progress → ended"
    assert any(kept in note and "reply was lost" in note for note in report.notes)
    assert lines[lost].did == "unknown → ready" and "no batch" in lines[lost].why
    assert not report.waits_for_a_person
    assert len(desk.emulator.batches()) == 1  # settling sends nothing
    desk.send()
    assert len(desk.emulator.batches()) == 2


def test_what_waits_for_a_person_says_what_to_do(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_before")
    desk.send()
    hold_pipeline(desk.store.ledger, desk.scope, "401: no such key")
    desk.clock.advance(121)
    report = settled(desk, on_unknown="hold")
    assert report.waits_for_a_person
    by_file = {line.file: line for line in report.lines}
    assert by_file[file].state == FileState.HELD
    assert f"held --resend {file}, or --drop {file}" in str(by_file[file].todo)
    assert by_file[""].why == "401: no such key" and "held p --release" in str(by_file[""].todo)


def test_only_one_pipeline_is_looked_at_when_it_is_named(desk: Desk) -> None:
    desk.put(2)
    other = desk.put(3, pipeline="q")
    assert [line.file for line in settled(desk, "q").lines] == other


def test_what_was_sent_with_another_key_is_shown_and_left_alone(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    desk.put(3)
    desk.send()
    desk.emulator.configure(keys={"other": "elsewhere"})
    other = BatchesApi("other", desk.emulator.base_url, 10.0)
    report = settle(desk.store, other, desk.policy)
    other.close()
    (line,) = report.lines
    assert line.state == FileState.IN_PROGRESS and not line.did
    assert "the key belongs to" in line.why and line.todo


def test_nothing_is_decided_while_the_api_does_not_answer(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_before")
    desk.send()
    desk.clock.advance(121)
    desk.emulator.fault("list", "status_before", status=500, times=None)
    with pytest.raises(ApiUnavailable):
        settled(desk)
    assert desk.file(file)["state"] == FileState.UNKNOWN


def test_a_dropped_file_that_may_be_paid_is_listed_until_its_batch_is_found(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_after")
    desk.emulator.fault("list", "list_lag", newest=1, times=3)
    desk.send()
    desk.clock.advance(121)
    settled(desk, on_unknown="hold")
    assert desk.file(file)["state"] == FileState.HELD
    drop(desk.store, file)
    (unknown,) = costs_unknown(desk.store)
    assert (unknown.file, unknown.requests, unknown.batch_id) == (file, 3, None)
    assert "before anybody knew" in unknown.why
    desk.emulator.clear_faults()
    report = settled(desk)
    assert costs_unknown(desk.store) == report.costs_unknown == []
    assert desk.states() == [FileState.ENDED, FileState.ENDED]  # and its late batch beside it


def test_a_file_that_the_api_refused_cost_nothing_when_it_is_dropped(desk: Desk) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "status_before", status=400)
    desk.send()
    drop(desk.store, file)
    assert costs_unknown(desk.store) == []


def test_a_batch_that_is_found_for_a_file_about_to_be_sent_again_is_taken_instead(
    desk: Desk,
) -> None:
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_after")
    desk.emulator.fault("list", "list_lag", newest=1, times=1)
    desk.send()
    desk.clock.advance(121)
    desk.reconcile()
    assert desk.file(file)["state"] == FileState.READY  # the list lagged longer than we wait
    settled(desk)
    assert desk.file(file)["state"] == FileState.ENDED
    desk.send()
    assert len(desk.emulator.batches()) == 1


def test_nothing_is_sent_again_while_a_batch_that_may_be_it_is_open(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    (file,) = desk.put(3)
    desk.emulator.fault("create", "drop_after")
    desk.emulator.fault("list", "list_lag", newest=1, times=1)
    desk.send()
    desk.clock.advance(121)
    desk.reconcile()
    settled(desk)  # now the list shows a batch of that size
    desk.send()
    assert desk.file(file)["state"] == FileState.READY
    desk.emulator.end()
    settled(desk)
    assert desk.file(file)["state"] == FileState.ENDED
    assert len(desk.emulator.batches()) == 1


def test_a_cancelled_file_shows_so(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    desk.put(3)
    desk.send()
    cancel(desk.store, desk.api, "p")
    (line,) = settled(desk).lines
    assert "a person has cancelled it" in line.why


def test_old_answers_and_waits_are_told_in_hours(desk: Desk) -> None:
    desk.emulator.configure(manual=True)
    desk.put(3)
    desk.send()
    desk.clock.advance(timedelta(hours=5).total_seconds())
    (line,) = settled(desk).lines
    assert "5.0 h" in line.why
