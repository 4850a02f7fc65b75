"""What is late and asked live is paid once, at full price, within the caps, whatever breaks on the way."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from batch_pipeline import AnswerBy
from batch_pipeline.batches.held import drop, list_held, resend
from batch_pipeline.store.overdue import batch_lengths
from batch_pipeline.store.tables import live_requests, request_files
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.house import RECORDS, House

HOURS = 3


def wanted(house: House, late: Any = "live") -> AnswerBy:
    return AnswerBy(f"{house.clock.now() + timedelta(hours=HOURS):%H:%M}", late=late)


def begun(house: House, by: AnswerBy | None = None, **fields: Any) -> Nights:
    """A night whose batch is open at the time."""
    house.emulator.configure(manual=True)
    run = house.nights(answer_by=by or wanted(house), **fields)
    run.submit()
    house.clock.advance(HOURS * 3600 + 60)
    return run


def called_off(house: House, **fields: Any) -> Nights:
    """A night whose batch is late and was cancelled, and whose requests are about to be asked live."""
    run = begun(house, **fields)
    run.tick()
    house.emulator.end()
    run.collect() if run.tick_and_run() == 0 else None
    run.select("records", "requests")
    return run


def live_paid(house: House) -> int:
    """How many requests were paid live."""
    return house.emulator.bill()["messages"]


def live_rows(run: Nights) -> list[dict[str, Any]]:
    return [row for row in run.rows().values() if str(row["_batch_id"]).startswith("live_")]


def test_what_is_late_is_cancelled_and_asked_live_once(house: House) -> None:
    run = begun(house, claude={"max_batch_requests": 30})
    [second, first] = [batch["id"] for batch in house.emulator.batches()]
    house.emulator.end(first)
    run.tick_and_run()
    assert "1 batch is late and cancelled" in (
        run.ticks[-1].skip_message or "1 batch is late and cancelled"
    )
    # Nothing is asked while it may still answer.
    run.tick_and_run()
    states = {batch["id"]: batch["processing_status"] for batch in house.emulator.batches()}
    assert states[second] == "canceling" and live_paid(house) == 0
    house.emulator.end(second)
    run.until_quiet()
    live = live_rows(run)
    assert house.statuses() == {"answered": RECORDS}
    assert len(live) == live_paid(house) > 0 and house.paid == RECORDS - len(live)
    bill = house.emulator.bill()
    assert sum(row["_cost_usd"] for row in live) == pytest.approx(float(bill["messages_usd"]))
    assert {row["_attempt"] for row in live} == {2}
    assert run.metadata("batches")["asked_live"] == len(live)
    store = run.store.open()
    assert store.ledger.rows(select(live_requests)) == []
    lengths = batch_lengths(store, "notes")
    assert lengths is not None and lengths.batches == 2  # what was asked live was no batch
    # The next night asks nothing, and a submission after the time is wanted by the next day's.
    house.emulator.configure(manual=False)
    run.night()
    house.sql("insert into notes values (1000, 'more', 0)")
    run.night()
    assert (house.paid, live_paid(house)) == (RECORDS - len(live) + 1, len(live))


def test_what_was_answered_until_a_batch_ended_is_taken_at_half_price(house: House) -> None:
    house.emulator.configure(batch_seconds=HOURS * 3600 * 2)
    house.emulator.freeze_clock()
    run = house.nights(answer_by=wanted(house))
    run.submit()
    for seconds in (HOURS * 3600 + 60, 60):
        house.clock.advance(seconds)
        house.emulator.advance(seconds)
        run.tick_and_run()
    run.until_quiet()
    live = len(live_rows(run))
    assert 0 < live < RECORDS and house.statuses() == {"answered": RECORDS}
    assert (house.paid, live_paid(house)) == (RECORDS - live, live)


@pytest.mark.parametrize(
    "kind", ["drop_after", "gateway_timeout", "internal_error", "cut_body", "replace_body"]
)
def test_a_lost_reply_is_never_asked_again_by_itself(house: House, kind: str) -> None:
    run = called_off(house)
    house.emulator.fault("messages", kind, nth=2)
    run.run("send")
    run.until_quiet()
    [held] = list_held(run.store.open()).files
    assert held.requests == 1 and "may have been paid" in held.error
    assert house.statuses() == {"answered": RECORDS - 1, "canceled": 1}
    paid = live_paid(house)
    house.clock.advance(24 * 3600)
    run.until_quiet()
    assert live_paid(house) == paid >= RECORDS - 1 and house.paid == 0
    # A person says that it may be paid once more: it goes with a batch.
    resend(run.store.open(), held.id)
    house.emulator.configure(manual=False)
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert (house.paid, live_paid(house)) == (1, paid)


def test_a_lost_reply_that_is_given_up_is_a_cost_that_nobody_knows(house: House) -> None:
    run = called_off(house, max_attempts=2)
    house.emulator.fault("messages", "drop_after", nth=1)
    run.run("send")
    [held] = list_held(run.store.open()).files
    drop(run.store.open(), held.id)
    run.until_quiet()
    [row] = [row for row in run.rows().values() if row["_status"] != "answered"]
    assert row["_status"] == "missing" and "may have been paid" in row["_error"]
    files = run.store.open().ledger.rows(select(request_files.c.cost_unknown))
    assert sum(file["cost_unknown"] or 0 for file in files) == 1
    assert live_paid(house) == RECORDS


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("rate_limited", {"times": 3}),
        ("overloaded", {"times": 2}),
        ("drop_before_connecting", {}),
    ],
)
def test_what_is_turned_away_is_asked_again_and_paid_once(
    house: House, kind: str, settings: dict[str, Any]
) -> None:
    run = called_off(house)
    if kind == "drop_before_connecting":
        house.emulator.stop()
        run.run("send", raises=False)
        house.emulator.start()
    else:
        house.emulator.fault("messages", kind, **settings)
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert (house.paid, live_paid(house)) == (0, RECORDS)
