"""What may happen to results on their way: they are believed when each request has its one line."""

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.faults.conftest import HOUR, MINUTE, SIZES, Night
from batch_pipeline_tests.support.extent import only_whole

RESULTS = "GET /v1/messages/batches/{batch_id}/results"

# Each takes an answer away that was paid for.
LOSSES = {
    "cut in the middle of a line": (
        "cut_results_mid_line",
        {"line": 5},
        "5 lines instead of 13, 1 line that is no result, 9 requests without a result",
    ),
    "cut at a line end, with a clean close": (
        "cut_results_at_line",
        {"line": 4},
        "4 lines instead of 13, 9 requests without a result",
    ),
    "garbage in the middle": (
        "garbage_line",
        {"line": 6},
        "1 line that is no result, 1 request without a result",
    ),
    "a foreign line in place of ours": (
        "foreign_line",
        {"line": 6, "instead": True},
        "1 result of other requests, 1 request without a result",
    ),
    "a line that is missing": (
        "line_missing",
        {"line": 6},
        "12 lines instead of 13, 1 request without a result",
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_results_that_come_incomplete_are_not_believed_and_fetched_again(
    night: Night, claude_emulator: EmulatorProcess, loss: str
) -> None:
    kind, settings, words = LOSSES[loss]
    night.submit()
    claude_emulator.fault("results", kind, times=2, batch_id=night.batch(13), **settings)
    night.tick_for(10 * MINUTE)
    assert f"came incomplete ({words}), download 2 of 5; fetched again after" in night.said
    assert len(night.rows()) == 27  # the others' answers do not wait
    night.end(every=20 * MINUTE)
    night.judge_good()


def test_a_damaged_download_is_followed_by_another_one_in_the_same_run(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    for size, loss in zip(SIZES[:3], LOSSES.values(), strict=False):
        kind, settings, _words = loss
        claude_emulator.fault("results", kind, batch_id=night.batch(size), **settings)
    night.end()
    assert "came incomplete" not in night.said
    night.judge_good()
    assert claude_emulator.stats()["calls"][RESULTS] == 4 + 3  # the batch of one has no line 6


@pytest.mark.parametrize("kind", ["line_twice", "foreign_line"])
def test_a_line_too_many_takes_nothing_away(
    night: Night, claude_emulator: EmulatorProcess, kind: str
) -> None:
    night.submit()
    claude_emulator.fault("results", kind, line=6, times=None, batch_id=night.batch(13))
    night.end()
    night.judge_good()
    assert claude_emulator.stats()["calls"][RESULTS] == 4  # all that was asked for is there
    ignored = "ignored 1 answer that came twice or for no request of it"
    assert (ignored in night.said) == (kind == "foreign_line")  # the same line twice says nothing


def test_results_during_which_the_connection_breaks_are_fetched_again(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    theirs = night.batch(13)
    claude_emulator.fault("results", "cut_results_mid_line", line=5, clean=False, batch_id=theirs)
    night.end()
    assert "could not be asked" in night.said and "it is tried again later" in night.said
    night.judge_good()


@only_whole
def test_downloads_that_are_damaged_in_different_places_are_whole_together(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    theirs = night.batch(13)
    claude_emulator.fault("results", "garbage_line", line=2, batch_id=theirs)
    claude_emulator.fault("results", "line_missing", line=2, batch_id=theirs)
    claude_emulator.fault("results", "garbage_line", line=9, nth=2, batch_id=theirs)
    night.end()
    night.judge_good()
    assert claude_emulator.stats()["calls"][RESULTS] == 5


def served(emulator: EmulatorProcess, batch_id: str) -> list[bytes]:
    """The lines of a batch's results, as the API sends them."""
    request = urllib.request.Request(
        f"{emulator.base_url}/v1/messages/batches/{batch_id}/results",
        headers={"x-api-key": "test-key", "anthropic-version": "2026-10-21"},
    )
    with urllib.request.urlopen(request) as reply:
        return reply.read().splitlines()


@only_whole
def test_damage_that_stays_is_accepted_after_an_hour_and_said_loudly(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    theirs = night.batch(13)
    claude_emulator.fault("results", "garbage_line", line=6, times=None, batch_id=theirs)
    night.end(every=20 * MINUTE)
    assert "the cost of 1 request is not known" in night.said
    found = night.judge()
    # What was lost is asked again, in an attempt of its own.
    assert found.statuses == {"answered": 40}
    assert (found.paid_twice, found.asked_again) == (0, 1)
    (unknown,) = found.unknown
    assert (unknown.batch_id, unknown.requests) == (theirs, 1)
    assert "their results are lost: 1 line that is no result" in unknown.why
    (file,) = (one for one in found.files if one["batch_id"] == theirs)
    assert file["downloads"] == 5
    with night.opened.files.open(file["answers_path"]) as kept:
        raw = kept.read().splitlines()
    sent = served(claude_emulator, theirs)
    assert sorted(raw) == sorted(sent)
    assert any(b"\x00\xff\xfe" in line for line in raw)  # byte for byte, garbage as well


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A host that writes down who calls it, and with what."""
    calls: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(f"{self.path}\n{self.headers}")
            self.send_error(404)

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", calls
        server.shutdown()


def test_a_results_url_on_another_host_is_not_asked_and_sees_no_key(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    with listening() as (elsewhere, calls):
        for call in ("retrieve", "list"):
            claude_emulator.fault(call, "results_elsewhere", url=elsewhere, times=None)
        night.submit()
        night.tick_for(10 * MINUTE)
        assert calls == []
    assert len(night.rows()) == 40
    night.end()
    night.judge_good()


def test_results_past_their_29_days_are_lost_asked_again_and_fail_a_check(
    night: Night, claude_emulator: EmulatorProcess
) -> None:
    night.submit()
    theirs = night.batch(13)
    claude_emulator.fault("results", "archive_results", which=theirs, batch_id=theirs)
    night.tick_for(2 * HOUR, every=20 * MINUTE)
    night.end()
    found = night.judge()
    assert found.statuses == {"answered": 40}
    assert (found.paid_twice, found.asked_again) == (0, 13)
    (unknown,) = found.unknown
    assert (unknown.batch_id, unknown.requests) == (theirs, 13)
    assert "they are kept for 29 days" in unknown.why
    assert "The answers of 1 batch are lost: the API does not have them any more" in night.message
    assert theirs in night.message and "are asked again as far as max_attempts" in night.message
    checks = {one.check_name: one for one in night.collect().get_asset_check_evaluations()}
    assert checks["every_record_accounted_for"].passed
    assert not checks["answers_fetched_in_time"].passed
