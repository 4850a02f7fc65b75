"""Caps hold whatever crashes, and what they hold back costs nothing and goes on as declared."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert, select

from batch_pipeline.batches.cancel import cancel
from batch_pipeline.batches.claim import Room, claim
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.send import send
from batch_pipeline.store.budget import Caps, approve, over_budget
from batch_pipeline.store.ledger import Ledger
from batch_pipeline.store.needs import needs
from batch_pipeline.store.reservations import counted_for, month_of
from batch_pipeline.store.store import open_store
from batch_pipeline.store.submissions import Endpoint, NewFile, Scope, add_file, know_endpoint
from batch_pipeline.store.tables import (
    FileState,
    request_files,
    reservations,
    submissions,
    transitions,
)
from batch_pipeline_tests.batches.conftest import Desk
from batch_pipeline_tests.support.clock import HandClock

EACH = 1_000  # billionths of a dollar that a request may cost here


def caps(**limits: object) -> Caps:
    """Caps in requests, so to speak: each may cost `EACH`."""
    given = {
        name: value * EACH if isinstance(value, int) else value for name, value in limits.items()
    }
    return Caps(**given, reserve=lambda file: file["requests"] * EACH)  # type: ignore[arg-type]


def counted(desk: Desk) -> tuple[int, int]:
    """What counts this month: spent and reserved, in requests."""
    now = desk.clock.now()
    with desk.store.ledger.read() as tx:
        found = counted_for(tx, now, lambda _: None, since=month_of(now))
    assert not found.unknown
    return found.spent // EACH, found.reserved // EACH


def send_within(desk: Desk, limits: Caps):
    return send(desk.store, desk.api, desk.scope, desk.policy, caps=limits)


def wanted(desk: Desk, limits: Caps) -> list[str]:
    """The jobs that the sensor would launch now."""
    found = needs(
        desk.store,
        "p",
        desk.scope.endpoint,
        max_queued_requests=100_000,
        reconcile_after_seconds=120,
        caps=limits,
    )
    return [one.job for one in found]


def test_what_fits_is_sent_and_what_does_not_is_held_whole(desk: Desk) -> None:
    limits = caps(per_month=10)
    desk.put(4, 3)
    desk.put(3, 2)
    report = send_within(desk, limits)
    assert [batch.requests for batch in report.batches] == [4, 3]
    assert counted(desk) == (0, 7)
    [line] = report.over_budget
    for part in ("cap per_month_usd", "spent $0", "reserved $0.0000", "this submission"):
        assert part in line, line
    [held] = over_budget(desk.store, "p")
    assert (held.files, held.requests, held.number) == (2, 5, 2)
    # Quiet: no run is launched for it, however often the sensor looks.
    assert wanted(desk, limits) == []
    # It goes on by itself when the cap is raised, and when the month has turned.
    assert wanted(desk, caps(per_month=12)) == ["send"]
    desk.clock.advance(40 * 24 * 3600)
    assert wanted(desk, limits) == ["send"]
    assert [batch.requests for batch in send_within(desk, limits).batches] == [3, 2]
    assert over_budget(desk.store) == []


def test_a_person_lets_one_submission_through_once(desk: Desk) -> None:
    limits = caps(per_submission=3)
    desk.put(4)
    desk.put(5)
    assert send_within(desk, limits).batches == []
    assert len(over_budget(desk.store)) == 2
    [first] = [one for one in over_budget(desk.store) if one.number == 1]
    approve(desk.store, "p", "ann")
    assert approve(desk.store, "p", "bob") == []  # there is nothing left to approve
    assert wanted(desk, limits) == ["send"]
    assert sum(batch.requests for batch in send_within(desk, limits).batches) == 9
    desk.put(6)
    assert send_within(desk, limits).batches == [] and wanted(desk, limits) == []
    notes = desk.store.ledger.rows(
        select(transitions)
        .where(transitions.c.file_id == first.submission)
        .order_by(transitions.c.id)
    )
    assert [row["to_state"] for row in notes] == ["over budget", "approved", "let through"]
    assert "by ann" in notes[1]["note"] and notes[1]["at"] is not None


def test_approved_and_its_reply_lost_it_is_held_before_it_may_be_paid_again(desk: Desk) -> None:
    limits = caps(per_month=3)
    [file] = desk.put(4)
    send_within(desk, limits)
    approve(desk.store, "p", "ann")
    desk.emulator.fault("create", "drop_before")
    send_within(desk, limits)
    assert desk.file(file)["state"] == "unknown" and counted(desk) == (0, 4)
    desk.clock.advance(121)
    assert desk.reconcile().resent
    assert counted(desk) == (0, 4)  # the first attempt may have been paid
    assert send_within(desk, limits).batches == []
    assert desk.file(file)["state"] == "ready" and len(over_budget(desk.store)) == 1


def test_killed_between_claim_and_send_it_stays_reserved(desk: Desk) -> None:
    limits = caps(per_month=5)
    [file] = desk.put(4)
    claim(desk.store.ledger, desk.scope, "gone", desk.policy, limits)  # and is killed
    desk.put(3)
    for _ in range(3):
        assert send_within(desk, limits).batches == []
        assert counted(desk) == (0, 4)
        desk.clock.advance(121)
    assert desk.file(file)["state"] == "unknown"
    assert desk.reconcile().resent and counted(desk) == (0, 4)
    # As long as a batch of the first attempt may turn up, both attempts would have to be paid.
    assert send_within(desk, limits).batches == []
    desk.clock.advance(24 * 3600 + 1)
    assert [batch.requests for batch in send_within(desk, limits).batches] == [4]
    assert counted(desk) == (0, 4)


def test_killed_after_the_api_took_it_one_attempt_is_reserved(desk: Desk) -> None:
    limits = caps(per_month=8)
    [file] = desk.put(4)
    desk.emulator.fault("create", "drop_after")
    send_within(desk, limits)
    desk.clock.advance(121)
    desk.reconcile()
    assert desk.file(file)["batch_id"] and counted(desk) == (0, 4)


def test_a_resend_is_a_second_reservation_and_a_late_batch_takes_over_the_first(
    desk: Desk,
) -> None:
    limits = caps(per_month=8)
    [file] = desk.put(4)
    desk.emulator.fault("create", "drop_after")
    desk.emulator.fault("list", "list_lag", seconds=600, times=None)
    send_within(desk, limits)
    desk.clock.advance(121)
    assert desk.reconcile().resent
    send_within(desk, limits)
    assert counted(desk) == (0, 8)
    desk.emulator.clear_faults()
    poll(desk.store, desk.api, desk.scope.endpoint, desk.policy)
    rows = desk.store.ledger.rows(select(request_files).where(request_files.c.kind == "late"))
    assert len(rows) == 1 and counted(desk) == (0, 8)
    # The day after, both still count: each of them is a batch of ours that may have to be paid.
    desk.clock.advance(24 * 3600 + 1)
    assert counted(desk) == (0, 8) and file


def test_turned_away_it_stays_reserved_once(desk: Desk) -> None:
    limits = caps(per_month=5)
    desk.put(4)
    for _ in range(3):
        desk.emulator.fault("create", "status_before", status=429, headers={"retry-after": "1"})
        assert send_within(desk, limits).batches == [] and counted(desk) == (0, 4)
        desk.clock.advance(3601)
    assert len(send_within(desk, limits).batches) == 1 and counted(desk) == (0, 4)


def test_a_file_that_is_refused_or_cut_or_withdrawn_reserves_nothing_twice(desk: Desk) -> None:
    limits = caps(per_month=5)
    [refused] = desk.put(4)
    desk.emulator.fault("create", "status_before", status=400)
    send_within(desk, limits)
    assert desk.file(refused)["state"] == "held" and counted(desk) == (0, 0)
    [cut] = desk.put(5)
    claim(desk.store.ledger, desk.scope, "me", desk.policy, limits)
    assert counted(desk) == (0, 5)
    with desk.store.ledger.write() as tx:
        desk.store.ledger.move(tx, cut, FileState.SENDING, FileState.SPLIT, "413")
    assert counted(desk) == (0, 0)
    desk.policy = replace(desk.policy, max_queued_requests=3)
    desk.put(3, 2)
    send_within(desk, limits)
    assert counted(desk) == (0, 5)  # the second one waits for room
    cancel(desk.store, desk.api, "p")
    assert counted(desk) == (0, 3)


def test_a_cap_that_is_lowered_stops_what_was_set_aside(desk: Desk) -> None:
    desk.policy = replace(desk.policy, max_queued_requests=4)
    desk.put(4, 3)
    assert len(send_within(desk, caps(per_month=7)).batches) == 1
    assert counted(desk) == (0, 7)
    desk.policy = replace(desk.policy, max_queued_requests=100)
    report = send_within(desk, caps(per_month=6))
    assert report.batches == [] and len(report.over_budget) == 1
    assert len(send_within(desk, caps(per_month=7)).batches) == 1


def test_what_was_set_aside_without_a_price_counts_once_when_there_is_one(desk: Desk) -> None:
    desk.put(4)
    desk.emulator.fault("create", "rate_limited")
    desk.send()  # no caps and no prices then; it is set aside for the next attempt
    desk.clock.advance(600)
    assert len(send_within(desk, caps(per_month=4)).batches) == 1


def test_without_a_price_a_budget_holds_and_says_how_to_set_one(desk: Desk) -> None:
    desk.put(4)
    unpriced = Caps(per_month=10**12, unpriced='set prices={"m": ...}')
    [line] = send_within(desk, unpriced).over_budget
    assert "of unknown price" in line and 'prices={"m": ...}' in line
    assert wanted(desk, unpriced) == []
    assert wanted(desk, caps(per_month=4)) == ["send"]  # a price was set
    assert len(send_within(desk, caps(per_month=4)).batches) == 1


def test_what_was_sent_without_a_price_counts_by_the_price_that_is_set_later(desk: Desk) -> None:
    desk.put(4)
    desk.send()  # no caps and no prices then
    desk.put(3)
    unpriced = replace(caps(per_month=9), reserve=lambda f: 1 if f["requests"] == 3 else None)
    [line] = send_within(desk, unpriced).over_budget
    assert "not known" in line
    assert send_within(desk, caps(per_month=6)).batches == []
    assert len(send_within(desk, caps(per_month=7)).batches) == 1


def test_trim_sends_what_fits_and_leaves_the_rest_for_the_next_night(desk: Desk) -> None:
    limits = caps(per_submission=7, over="trim")
    desk.put(4, 3, 2)
    report = send_within(desk, limits)
    assert [batch.requests for batch in report.batches] == [4, 3]
    assert "waits for the next night" in report.over_budget[0]
    assert wanted(desk, limits) == []
    [left] = over_budget(desk.store)
    assert (left.requests, left.waits_for_a_person) == (2, False)
    desk.clock.advance(20 * 3600 + 1)
    assert "send" in wanted(desk, limits)
    assert [batch.requests for batch in send_within(desk, limits).batches] == [2]
    assert over_budget(desk.store) == []


def test_the_endpoints_cap_counts_all_pipelines(desk: Desk) -> None:
    limits = caps(endpoint_per_month=5)
    desk.put(4)
    desk.put(3, pipeline="q")
    assert len(send_within(desk, limits).batches) == 1
    other = Scope("q", "", desk.scope.endpoint)
    report = send(desk.store, desk.api, other, desk.policy, caps=limits)
    assert report.batches == [] and "ClaudeBatches(per_month_usd)" in report.over_budget[0]


def put_files(ledger: Ledger, endpoint: Endpoint, pipelines: list[str], size: int = 5) -> None:
    """A ready file each, of other sizes: files of one size are sent one after the other."""
    for number, pipeline in enumerate(pipelines):
        row = dict(
            id=f"s-{pipeline}", pipeline=pipeline, partition="", number=1, state="built",
            endpoint_id=endpoint.id, version="v", created_at=ledger.clock.now(), counts={},
        )  # fmt: skip
        with ledger.write() as tx:
            tx.execute(insert(submissions).values(**row))
            add_file(
                ledger, tx, row, NewFile(0, "x", size + number, 9, 0, 1), FileState.READY, "written"
            )


def test_of_eight_that_claim_at_once_under_a_cap_for_one_one_is_sent(ledger_url: str) -> None:
    clock = HandClock()
    endpoint = Endpoint("http://api", "o", "w")
    ledgers = [Ledger(ledger_url, clock) for _ in range(8)]
    names = [f"p{number}" for number in range(8)]
    know_endpoint(ledgers[0], endpoint)
    put_files(ledgers[0], endpoint, names)
    limits = replace(caps(endpoint_per_month=9), reserve=lambda file: 5 * EACH)

    def one(number: int) -> object:
        scope = Scope(names[number], "", endpoint)
        return claim(ledgers[number], scope, f"owner {number}", SendPolicy(), limits)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, range(8)))
    assert sum(1 for result in found if not isinstance(result, Room)) == 1
    assert sum(1 for result in found if isinstance(result, Room) and result.over_budget) == 7
    with ledgers[0].read() as tx:
        assert counted_for(tx, clock.now(), lambda _: None).total == 5 * EACH


def test_the_month_is_the_calendar_month_in_utc_of_the_sending(tmp_path: Path) -> None:
    clock = HandClock(datetime(2026, 11, 30, 23, 59, tzinfo=UTC))
    ledger = open_store(str(tmp_path / "store"), clock=clock).ledger
    endpoint = Endpoint("http://api", "o", "w")
    know_endpoint(ledger, endpoint)
    put_files(ledger, endpoint, ["p", "q"])
    limits = caps(endpoint_per_month=8)

    def sent(pipeline: str) -> bool:
        found = claim(ledger, Scope(pipeline, "", endpoint), "me", SendPolicy(), limits)
        return not isinstance(found, Room)

    assert sent("p") and not sent("q")
    clock.advance(timedelta(minutes=1).total_seconds())
    assert sent("q")
    [first, second] = ledger.rows(select(reservations).order_by(reservations.c.sent_at))
    assert first["sent_at"].month == 11 and second["sent_at"].month == 12
