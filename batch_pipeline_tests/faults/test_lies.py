"""An API, or a gateway before it, that lies, dawdles or repeats itself: nothing is paid again on such words."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.bounded import MOST_REPLY_BYTES
from batch_pipeline.batches.held import drop, resend
from batch_pipeline.batches.lines import SHOWN_BYTES, lines_of
from batch_pipeline.batches.outcome import ApiUnavailable, OutcomeUnknown
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import InputError
from batch_pipeline.store.tables import request_files
from batch_pipeline_tests.faults.conftest import HOUR, MINUTE, Night, sizes
from batch_pipeline_tests.support.extent import only_whole

COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
BODY = b'{"requests":[]}'


def counts(**given: Any) -> dict[str, Any]:
    """Fields of a batch that says such counts of itself."""
    return {"request_counts": {name: given.get(name, 0) for name in COUNTS}}


# What a list says

LISTS = {
    "counts of 0": counts(),
    "counts below 0": counts(processing=-3),
    "counts that are no numbers": counts(processing="many"),
    "counts beyond all limits": counts(processing=10**9),
    "no counts": {"request_counts": None},
    "dates of another age": {"created_at": "1970-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("lie", LISTS)
def test_a_list_that_lies_about_its_batches_has_nothing_paid_again(
    night: Night, claude_emulator: EmulatorProcess, lie: str
) -> None:
    claude_emulator.fault("list", "change_batches", fields=LISTS[lie], times=None)
    claude_emulator.fault("create", "drop_after", nth=2)
    claude_emulator.fault("create", "drop_before", nth=3)
    night.submit()
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 13, 12, 1]


def test_a_list_that_has_the_same_wrong_count_for_all_has_nothing_paid_again(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    fields = counts(processing=7)
    claude_emulator.fault("list", "change_batches", fields=fields, times=None)
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit()
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 13, 12, 1]


def test_a_list_that_goes_in_circles_settles_nothing_and_says_so(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_after", nth=1)
    claude_emulator.fault("create", "drop_before", nth=2)
    claude_emulator.fault("list", "list_circles", times=None)
    night.submit()
    night.tick_for(HOUR, every=10 * MINUTE)
    assert "its pages repeat" in night.said
    # The batch that the list did show is found; what it does not show is not concluded from.
    assert len(claude_emulator.batches()) == 3
    claude_emulator.clear_faults()
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 13, 12, 1]


@pytest.mark.parametrize(
    "fields",
    [
        {"has_more": None},
        {"data": [], "has_more": True},
        {"data": None},
        {"data": "none"},
        {"data": [{"type": "message_batch"}]},
    ],
)
def test_a_list_that_is_none_settles_nothing(
    night: Night, claude_emulator: EmulatorProcess, fields: dict[str, Any]
) -> None:
    claude_emulator.fault("create", "drop_after", nth=2)
    night.submit()
    claude_emulator.fault("list", "change_fields", fields=fields, times=None)
    night.tick_for(HOUR, every=20 * MINUTE)
    assert "sent something that is no Message Batches reply" in night.message
    assert len(claude_emulator.batches()) == 4
    claude_emulator.clear_faults()
    night.end()
    night.judge_good()


# What the reply to a create call says


@pytest.mark.parametrize("wrong", [None, "", 7, "a\nb", {"id": "x"}])
def test_a_reply_without_an_id_is_a_lost_one(
    night: Night, claude_emulator: EmulatorProcess, wrong: object
) -> None:
    claude_emulator.fault("create", "change_fields", nth=2, fields={"id": wrong})
    night.submit()
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 13, 12, 1]


def test_a_reply_that_names_a_batch_that_is_not_there_is_paid_once(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    fields = {"id": "msgbatch_of_nobody"}
    claude_emulator.fault("create", "change_fields", nth=2, fields=fields)
    night.submit()
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 13, 12, 1]
    assert night.held.files == []


@only_whole
def test_a_batch_that_only_its_reply_has_named_is_waited_for_while_the_list_lags(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    fields = {"id": "msgbatch_of_nobody"}
    claude_emulator.fault("create", "change_fields", nth=4, fields=fields)
    claude_emulator.fault("list", "list_lag", newest=1, times=None)
    night.submit()
    night.tick_for(25 * MINUTE)
    assert len(claude_emulator.batches()) == 4 and night.held.files == []
    # However long that lasts, nobody can tell that it was not taken: it is not asked again.
    night.tick_for(HOUR, every=20 * MINUTE)
    (held,) = night.held.files
    assert "msgbatch_of_nobody" in held.error and "may have been made, and paid" in held.error
    assert "1 file held: that needs you" in night.said
    assert len(claude_emulator.batches()) == 4
    claude_emulator.clear_faults("list_lag")
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 13, 12, 1]


@only_whole
def test_a_reply_that_names_a_batch_of_another_file_is_a_lost_one(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.fault("create", "drop_before", nth=2)  # the sizes are sent one by one
    night.submit()
    first = next(one["id"] for one in claude_emulator.batches() if one["requests"] == 14)
    claude_emulator.fault("create", "change_fields", fields={"id": first})
    night.end()
    night.judge_good()
    assert "is the batch of" in night.said
    assert sizes(claude_emulator) == [14, 13, 12, 1]


def test_a_reply_that_names_another_programs_batch_is_not_paid_again(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    api = BatchesApi("test-key", claude_emulator.base_url, 10.0)
    line = b'{"custom_id":"theirs-%d","params":{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}}'
    body = b'{"requests":[' + b",".join(line % number for number in range(13)) + b"]}"
    theirs = api.create(iter([body]), len(body))
    fields = {"id": theirs.id}
    claude_emulator.fault("create", "change_fields", nth=2, fields=fields)
    night.submit()
    night.tick_for(3 * HOUR, every=15 * MINUTE)
    assert "not one result of this batch is in it" in night.said
    night.end()
    night.judge_good()  # its own was found by its custom_ids
    assert sizes(claude_emulator) == [14, 13, 13, 12, 1]


# What comes as results

NO_RESULTS = {
    "a page of a gateway": ("replace_body", {"body": "<html>\n<p>Please log in</p>\n</html>"}),
    "nothing": ("cut_results_at_line", {"line": 0}),
    "an error": ("replace_body", {"body": '{"type": "error", "error": {"type": "api_error"}}'}),
}


@pytest.mark.parametrize("kind", NO_RESULTS)
def test_what_is_no_results_is_never_taken_for_lost_answers(
    night: Night, claude_emulator: EmulatorProcess, kind: str
) -> None:
    night.submit()
    name, settings = NO_RESULTS[kind]
    theirs = night.batch(13)
    claude_emulator.fault("results", name, times=None, batch_id=theirs, **settings)
    night.tick_for(3 * HOUR, every=15 * MINUTE)
    (held,) = night.held.files
    assert theirs in held.error and "not one result of this batch is in it" in held.error
    assert len(night.rows()) == 27
    assert len(claude_emulator.batches()) == 4
    with pytest.raises(InputError, match="it is not sent again as it is"):
        resend(night.opened, held.id)
    # Whoever put it right finds it collected.
    claude_emulator.clear_faults()
    night.end()
    night.judge_good()
    assert sizes(claude_emulator) == [14, 13, 12, 1]


@only_whole
def test_what_is_no_results_can_be_given_up(night: Night, claude_emulator: EmulatorProcess) -> None:
    night.submit()
    theirs = night.batch(13)
    claude_emulator.fault("results", "replace_body", times=None, batch_id=theirs)
    night.tick_for(2 * HOUR, every=15 * MINUTE)
    assert "1 file held: that needs you" in night.said
    drop(night.opened, night.held.files[0].id)
    night.end()
    found = night.judge()
    assert found.statuses == {"answered": 40}
    assert (found.paid_twice, found.asked_again) == (0, 13)
    assert sum(one.requests for one in found.unknown) == 13


def test_a_batch_that_is_said_to_have_ended_and_has_not_is_waited_for(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    fields = {"processing_status": "ended"}
    claude_emulator.configure(batch_seconds=6 * HOUR)
    claude_emulator.fault("list", "change_batches", fields=fields, times=None)
    night.submit()
    night.tick_for(2 * HOUR, every=20 * MINUTE)
    assert "showed" in night.said and "as ended, and now says in_progress" in night.said
    night.clock.advance(5 * HOUR)
    night.end()
    night.judge_good()


def test_a_404_of_a_gateway_is_no_word_of_the_api(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    claude_emulator.fault("list", "list_lag", newest=4, times=None)
    claude_emulator.fault("retrieve", "replace_body", body="no route", status=404, times=None)
    night.tick_for(2 * HOUR, every=20 * MINUTE)
    assert "answers 404 with something that is not the API's own reply" in night.said
    assert night.held.files == [] and len(claude_emulator.batches()) == 4
    claude_emulator.clear_faults()
    night.end()
    night.judge_good()


def test_results_without_end_are_broken_off_and_what_is_ours_counts(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    flood = "\n".join(["{}"] * 5_000)
    claude_emulator.fault("results", "line_added", text=flood, times=None, batch_id=night.batch(1))
    night.end()
    night.judge_good()


@only_whole
def test_a_download_that_breaks_is_tried_again_within_seconds_and_then_less_and_less_often(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    night.clock.advance(10 * MINUTE)
    theirs = night.batch(13)
    claude_emulator.fault(
        "results", "cut_results_at_line", line=2, clean=False, times=None, batch_id=theirs
    )
    waits = []
    # Else what a slow machine takes for a run would be missing in what is left of a pause.
    night.clock.stopped_at = datetime.now(UTC)
    for _ in range(200):
        night.tick_and_run(raises=False)
        (file,) = (
            one
            for one in night.opened.ledger.rows(select(request_files))
            if one["batch_id"] == theirs
        )
        if file["not_before"] is not None and file["not_before"] > night.clock.now():
            waits.append(round((file["not_before"] - night.clock.now()).total_seconds()))
            night.clock.advance(waits[-1] + 1)
        else:
            night.clock.advance(1)
        if len(waits) == 10:
            break
    assert waits[0] <= 6 and waits == sorted(waits) and 290 < waits[-1] <= 300, waits
    night.clock.stopped_at = None
    claude_emulator.clear_faults()
    night.end()
    night.judge_good()


# How long and how large

CALLS = {
    "list": lambda api: api.page(),
    "retrieve": lambda api: api.retrieve(api.page().batches[0].id),
    "results": lambda api: list(api.results(api.page().batches[0].id)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("patient", [True, False])
def test_a_reply_that_trickles_ends_with_the_calls_time(
    night: Night, claude_emulator: EmulatorProcess, call: str, patient: bool
) -> None:
    night.submit()
    night.clock.advance(10 * MINUTE)
    claude_emulator.fault(call, "trickle_body", seconds=0.2, times=None)
    api = BatchesApi("test-key", claude_emulator.base_url, 1.5, patient=patient)
    began = time.monotonic()
    with pytest.raises(ApiUnavailable, match="had all its time"):
        CALLS[call](api)
    assert time.monotonic() - began < 10


def test_all_calls_of_a_tick_share_one_deadline(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    api = BatchesApi("test-key", claude_emulator.base_url, 15.0, patient=False, budget_seconds=1.0)
    claude_emulator.fault("retrieve", "trickle_body", seconds=0.2, times=None)
    began = time.monotonic()
    for batch in claude_emulator.batches():
        with pytest.raises(ApiUnavailable, match="had all its time"):
            api.retrieve(batch["id"])
    assert time.monotonic() - began < 10


def test_a_reply_to_a_create_call_that_trickles_is_a_lost_one(
    claude_emulator: EmulatorProcess,
) -> None:
    claude_emulator.fault("create", "trickle_body", seconds=0.2)
    api = BatchesApi("test-key", claude_emulator.base_url, 1.5)
    line = b'{"custom_id":"one","params":{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}}'
    body = b'{"requests":[' + line + b"]}"
    with pytest.raises(OutcomeUnknown, match="no reply"):
        api.create(iter([body]), len(body))


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, gzip"])
@pytest.mark.parametrize("call", ["list", "retrieve"])
def test_a_reply_that_unpacks_to_gigabytes_is_not_unpacked(
    night: Night, claude_emulator: EmulatorProcess, call: str, encoding: str
) -> None:
    night.submit()
    claude_emulator.fault(call, "swollen_body", megabytes=50, encoding=encoding, times=None)
    api = BatchesApi("test-key", claude_emulator.base_url, 10.0, patient=False)
    words = f"larger than {MOST_REPLY_BYTES / 1e6:.0f} MB" if encoding == "gzip" else "packed as"
    with pytest.raises(ApiUnavailable, match=words):
        CALLS[call](api)


def test_a_line_without_end_is_read_in_pieces_and_only_its_beginning_is_kept() -> None:
    chunks = [b"one\ntw", b"o\n", b"x" * 5_000, b"y" * 5_000, b"z\nthree\n\n", b"four"]
    one, two, cut, three, four = lines_of(iter(chunks), most=4_000)
    assert (one, two, three, four) == (b"one\n", b"two\n", b"three\n", b"four\n")
    assert cut.startswith(b"x" * SHOWN_BYTES) and len(cut) < SHOWN_BYTES + 50
