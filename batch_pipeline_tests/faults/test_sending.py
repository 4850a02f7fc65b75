"""What may happen to the call that creates a batch: each file is paid once, and all are answered."""

from collections.abc import Callable

import pytest

from batch_pipeline.batches.held import drop, release, resend
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import HOUR, MINUTE, SIZES, Night, on_sqlite_first, sizes
from batch_pipeline_tests.support.extent import only_whole

CREATE = "POST /v1/messages/batches"

# What proves nothing about whether the API took the batch, at a call that it did not take ...
NOT_TAKEN = {
    "connection dropped": ("drop_before", {}),
    "connection dropped while sending": ("drop_before", {"while_sending": True}),
    "500": ("internal_error", {"when": "before"}),
    "502": ("bad_gateway", {"when": "before"}),
    "504": ("gateway_timeout", {"when": "before"}),
    "529": ("overloaded", {"when": "before"}),
    "408": ("request_timeout", {"when": "before"}),
    "409": ("conflict", {"when": "before"}),
}
# ... and at one that it took.
TAKEN = {
    "connection dropped": ("drop_after", {}),
    "500": ("internal_error", {"when": "after"}),
    "502": ("bad_gateway", {"when": "after"}),
    "504": ("gateway_timeout", {"when": "after"}),
    "529": ("overloaded", {"when": "after"}),
    "408": ("request_timeout", {"when": "after"}),
    "409": ("conflict", {"when": "after"}),
    "a reply that is cut": ("cut_body", {}),
    "a page instead of a reply": ("replace_body", {}),
}


@pytest.mark.parametrize("fault", NOT_TAKEN)
def test_a_batch_that_was_not_taken_is_sent_again_when_the_list_proves_it(
    night: Night, claude_emulator: EmulatorProcess, fault: str
) -> None:
    kind, settings = NOT_TAKEN[fault]
    claude_emulator.fault("create", kind, nth=2, **settings)
    night.submit()
    assert sizes(claude_emulator) == [14, 12, 1]  # the others do not wait for it
    assert "Whether the API took it is found out from its batch list in 120 s" in night.said
    night.tick()
    assert "1 file without a reply, to be reconciled" in night.message
    night.end()
    assert "attempt 1 left no batch in the API's list; it is sent again" in night.said
    night.judge_good()
    assert sizes(claude_emulator) == SIZES


@pytest.mark.parametrize("fault", TAKEN)
def test_a_batch_whose_reply_was_lost_is_found_in_the_list_and_paid_once(
    night: Night, claude_emulator: EmulatorProcess, fault: str
) -> None:
    kind, settings = TAKEN[fault]
    claude_emulator.fault("create", kind, nth=2, **settings)
    night.submit()
    assert "Whether the API took it is found out from its batch list in 120 s" in night.said
    night.end()
    lost = night.batch(13)
    assert f"{lost} is " in night.said
    assert "whose reply was lost: its answers are collected" in night.said
    night.judge_good()
    assert sizes(claude_emulator) == SIZES


def test_a_reply_slower_than_the_time_out_is_paid_once(
    nights: Callable[..., Night], claude_emulator: EmulatorProcess
) -> None:
    night = nights({"timeout_seconds": 1.0})  # half of it is for the reply
    claude_emulator.fault("create", "slow_reply", nth=2)
    night.submit()
    assert "timed out" in night.said
    night.end()
    assert "whose reply was lost: its answers are collected" in night.said
    night.judge_good()
    assert sizes(claude_emulator) == SIZES


@on_sqlite_first
def test_all_replies_of_a_night_are_lost(night: Night, claude_emulator: EmulatorProcess) -> None:
    for nth, kind in enumerate(["drop_before", "drop_after", "drop_before", "drop_after"], 1):
        claude_emulator.fault("create", kind, nth=nth)
    night.submit()
    night.tick()
    assert "4 files without a reply, to be reconciled" in night.message
    assert sizes(claude_emulator) == [13, 1]
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == SIZES


def test_a_submit_run_while_replies_are_missing_asks_nothing_again(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_before", nth=2)
    claude_emulator.fault("create", "drop_after", nth=3)
    night.submit()
    night.submit()
    night.end()
    night.submit()
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == SIZES


@only_whole
def test_replies_that_are_lost_for_hours_cost_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_before", times=12)
    night.submit()
    night.end()
    assert claude_emulator.stats()["calls"][CREATE] == 12 + 4
    night.judge_good()


def test_a_list_that_lags_less_than_we_wait_hides_nothing(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("list", "list_lag", seconds=100, times=None)
    claude_emulator.fault("create", "drop_after", nth=2, times=2)
    night.submit()
    night.end()
    assert "it is sent again" not in night.said
    night.judge_good()
    assert sizes(claude_emulator) == SIZES


def test_a_redirect_is_not_followed_and_says_what_address_to_set(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "redirect", nth=2)
    night.submit()
    night.end()
    (held,) = night.held.files
    assert "answers 307 and points to https://elsewhere.invalid/v1/messages/batches" in held.error
    assert "the key would go with them" in held.error
    assert "Set ClaudeBatches(base_url=...)" in held.error
    assert "1 file held: that needs you (`batch-pipeline held`)" in night.message
    assert sizes(claude_emulator) == [14, 12, 1]
    resend(night.opened, held.id)
    night.end()
    night.judge_good()


def test_a_refusal_holds_its_file_with_the_reason_and_the_others_go_on(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "status_before", nth=2, status=422)
    night.submit()
    assert "It is held; by these words the API took nothing of it" in night.said
    night.end()
    (held,) = night.held.files
    assert (held.requests, "refuses the batch (422: " in held.error) == (13, True)
    assert len(night.rows()) == 27  # the others are answered
    drop(night.opened, held.id)
    night.end()
    night.judge_good()  # asked anew, in a file of its own
    assert sum(row["_attempt"] == 2 for row in night.rows().values()) == 13


def test_a_batch_that_is_too_large_is_cut_in_two(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "request_too_large", nth=2, times=2)
    night.submit()
    assert "answers 413" in night.said and "cut into two" in night.said
    night.end()
    night.judge_good()
    assert sum(sizes(claude_emulator)) == 40 and len(sizes(claude_emulator)) == 6


def test_a_record_that_is_too_large_alone_is_rejected_with_the_reason(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "request_too_large", nth=4)
    night.submit()
    assert "its one record is rejected" in night.said
    night.end()
    found = night.judge()
    assert found.statuses == {"answered": 39, "rejected": 1}
    assert (found.paid_twice, found.asked_again, found.unknown) == (0, 0, [])
    (rejected,) = (row for row in night.rows().values() if row["_status"] == "rejected")
    assert "answers 413" in rejected["_error"]


@pytest.mark.parametrize(("kind", "seconds"), [("queue_full", 30), ("rate_limited", 7)])
def test_a_busy_api_is_waited_for_as_long_as_it_asks(
    night: Night, claude_emulator: EmulatorProcess, kind: str, seconds: int
) -> None:
    claude_emulator.fault("create", kind, nth=2, times=2)
    night.submit()
    assert f"sent again in {seconds} s" in night.said
    night.end(every=MINUTE)
    night.judge_good()
    outcomes = claude_emulator.stats()["outcomes"][CREATE]
    assert outcomes == {"200": 4, "429": 2}


# What the person reads, and does; nobody knows how long it takes.
LIMITS = {
    "429 without retry-after": (
        "rate_limited",
        {"retry_after": None},
        "429 without saying when to try again, which is how a spend limit looks",
    ),
    "the tier's spend limit": ("spend_limit", {}, "because a spend limit is reached (429: "),
    "the own spend limit": ("own_spend_limit", {}, "because a spend limit is reached (400: "),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_spend_limit_holds_the_pipeline_and_what_was_sent_is_collected(
    night: Night, claude_emulator: EmulatorProcess, limit: str
) -> None:
    kind, settings, words = LIMITS[limit]
    claude_emulator.fault("create", kind, nth=2, times=None, **settings)
    failure = night.fail("submit")
    assert words in failure and "then launch the send job" in failure
    night.tick_for(2 * HOUR, every=30 * MINUTE)
    assert "Nothing is sent: " in night.message and words in night.message
    assert len(night.rows()) == 14
    (held,) = night.held.pipelines
    assert words in held.error
    # It is not tried again and again.
    assert claude_emulator.stats()["outcomes"][CREATE]["200"] == 1
    assert sum(claude_emulator.stats()["outcomes"][CREATE].values()) == 2
    claude_emulator.clear_faults()
    release(night.opened, "invoices")
    night.end()
    night.judge_good()


@only_whole
def test_a_spend_limit_does_not_keep_lost_replies_from_being_settled(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after", nth=2)
    claude_emulator.fault("create", "drop_before", nth=3)
    claude_emulator.fault("create", "own_spend_limit", nth=4, times=None)
    night.fail("submit")
    night.tick_for(2 * HOUR, every=30 * MINUTE)
    assert len(night.rows()) == 27  # of 14, and of 13 whose reply was lost
    claude_emulator.clear_faults()
    release(night.opened, "invoices")
    night.end()
    night.judge_good()


@only_whole
def test_launching_the_send_job_ends_a_hold(night: Night, claude_emulator: EmulatorProcess) -> None:
    claude_emulator.fault("create", "own_spend_limit", nth=2)
    night.fail("submit")
    night.run("send")
    assert night.held.pipelines == []
    night.end()
    night.judge_good()
