"""What people do meanwhile: in the Console, and to the API key."""

from collections import Counter
from collections.abc import Callable

from batch_pipeline.batches.held import release
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import HOUR, MINUTE, SIZES, Night, sizes
from batch_pipeline_tests.support.extent import only_whole

CREATE = "POST /v1/messages/batches"


@only_whole
def test_what_expired_in_a_batch_is_asked_again_the_same_night(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    claude_emulator.fault("list", "expire_half_way", which=night.batch(13))
    night.end()
    assert "7 expired" in night.said or "6 expired" in night.said
    night.judge_good()
    attempts = Counter(row["_attempt"] for row in night.rows().values())
    assert attempts[2] in (6, 7) and attempts[1] + attempts[2] == 40


def test_what_somebody_cancelled_is_asked_again_and_the_answered_half_is_kept(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    claude_emulator.fault("list", "cancel_half_way", which=night.batch(13))
    night.end()
    assert "7 canceled" in night.said or "6 canceled" in night.said
    night.judge_good()


@only_whole
def test_what_somebody_cancelled_in_the_last_attempt_keeps_its_reason(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    night = nights(max_attempts=1)
    night.submit()
    claude_emulator.fault("list", "cancel_half_way", which=night.batch(13))
    night.end()
    found = night.judge()
    assert found.statuses["canceled"] in (6, 7)
    assert (found.paid_twice, found.asked_again, found.unknown) == (0, 0, [])


def test_a_batch_that_somebody_deletes_before_it_was_seen_to_end_is_given_up_and_said(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    night.tick_and_run()  # one that no look has seen may be there under another id: it is held
    theirs = night.batch(13)
    claude_emulator.fault("list", "delete_batch", which=theirs)
    night.tick_for(HOUR, every=20 * MINUTE)
    assert f"{theirs} is gone" in night.said
    assert "somebody deleted it. Its answers are lost" in night.said
    night.tick_for(2 * HOUR, every=20 * MINUTE)
    night.end()
    found = night.judge()
    assert found.statuses == {"answered": 40}
    assert (found.paid_twice, found.asked_again) == (0, 13)
    assert [(one.batch_id, one.requests) for one in found.unknown] == [(theirs, 13)]


@only_whole
def test_a_batch_that_somebody_deletes_after_it_ended_is_given_up_and_said(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    theirs = night.batch(13)
    claude_emulator.fault("retrieve", "delete_batch", which=theirs, batch_id=theirs)
    night.tick_for(2 * HOUR, every=20 * MINUTE)
    night.end()
    assert f"the API has no answers of {theirs}" in night.said
    found = night.judge()
    assert found.statuses == {"answered": 40}
    assert (found.paid_twice, found.asked_again) == (0, 13)
    (unknown,) = found.unknown
    assert (unknown.batch_id, unknown.requests) == (theirs, 13)
    assert "No Message Batch" in unknown.why


@only_whole
def test_a_key_that_is_revoked_and_given_back_in_the_night_costs_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    claude_emulator.fault("revoke_key")
    night.tick_for(HOUR, every=20 * MINUTE)
    assert not night.ticks[-1].run_requests
    assert "does not accept the API key (401: invalid x-api-key" in night.message
    assert "Check ClaudeBatches(api_key=..., base_url=...)" in night.message
    claude_emulator.clear_faults("revoke_key")
    night.end()
    night.judge_good()


def test_a_key_that_is_revoked_while_batches_are_sent_holds_the_pipeline(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "revoke_key", nth=3)
    failure = night.fail("submit")
    assert "does not accept the API key (401: invalid x-api-key" in failure
    assert "then launch the job again" in failure
    claude_emulator.clear_faults("revoke_key")
    night.tick_for(HOUR, every=20 * MINUTE)
    assert "Nothing is sent: " in night.message and len(night.rows()) == 27
    assert claude_emulator.stats()["calls"][CREATE] == 3
    release(night.opened, "invoices")
    night.end()
    night.judge_good()


def test_a_key_that_is_revoked_while_answers_are_fetched_costs_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    claude_emulator.fault("results", "revoke_key", nth=2)
    night.tick_for(HOUR, every=20 * MINUTE)
    assert "does not accept the API key (401: invalid x-api-key" in night.said
    claude_emulator.clear_faults("revoke_key")
    night.end()
    night.judge_good()


@only_whole
def test_a_key_that_is_moved_to_another_workspace_and_back_costs_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit()
    claude_emulator.fault("move_key")
    night.tick_for(2 * HOUR, every=20 * MINUTE)
    assert not night.ticks[-1].run_requests
    assert "but the key now belongs to" in night.message
    assert "Set ClaudeBatches(api_key=..., base_url=...) back to collect them" in night.message
    assert "nothing was changed" in night.message
    night.run("send")  # a person's try changes nothing, either
    night.collect()
    claude_emulator.clear_faults("move_key")
    night.end()
    night.judge_good()
    assert len(claude_emulator.batches()) == 4


def test_a_submit_run_while_the_key_is_of_another_workspace_asks_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    claude_emulator.fault("move_key")
    failure = night.fail("submit")
    assert "another-workspace" in failure
    claude_emulator.clear_faults("move_key")
    night.end()
    night.judge_good()


def test_a_key_that_is_moved_while_batches_are_sent_costs_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "move_key", nth=2)
    failure = night.fail("submit")
    assert "another-workspace): the API key moved there from" in failure
    assert "nothing more is sent. Set ClaudeBatches(api_key=...) to a key of the account" in failure
    night.tick_for(HOUR, every=20 * MINUTE)
    assert len(night.rows()) == 13  # what was made there is collected there
    assert "but the key now belongs to" in night.message
    claude_emulator.clear_faults("move_key")
    night.run("send")
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == SIZES
