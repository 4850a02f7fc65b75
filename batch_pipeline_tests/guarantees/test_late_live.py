"""What is late and asked live is paid once, at full price, within the caps, whatever breaks on the way."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import select

from batch_pipeline import AnswerBy, Budget, Escalate, InputError
from batch_pipeline.batches.cancel import cancel
from batch_pipeline.batches.held import drop, list_held, release, resend
from batch_pipeline.batches.live import AT_ONCE, MOST_LOST
from batch_pipeline.results.erase import erase
from batch_pipeline.results.fetch import fetch
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store.live import note_reply
from batch_pipeline.store.overdue import batch_lengths
from batch_pipeline.store.reservations import counted_for, month_of
from batch_pipeline.store.store import open_store
from batch_pipeline.store.tables import live_requests, request_files
from batch_pipeline_tests.support import live_asker, processes
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import every_form, only_whole
from batch_pipeline_tests.support.house import RECORDS, House

HOURS = 3


def wanted(house: House, late: Any = "live") -> AnswerBy:
    return AnswerBy(f"{house.clock.now() + timedelta(hours=HOURS):%H:%M}", late=late)


def begun(
    house: House, by: AnswerBy | None = None, partition: str | None = None, **fields: Any
) -> Nights:
    """A night whose batch is open at the time."""
    house.emulator.configure(manual=True)
    run = house.nights(answer_by=by or wanted(house), **fields)
    run.submit(partition)
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


def said_in(folder: Path) -> str:
    """Return what a folder's ledger and files of lines say."""
    paths = [*folder.glob("ledger.sqlite*"), *folder.rglob("*.jsonl")]
    return "".join(path.read_bytes().decode("utf-8", "replace") for path in paths)


def live_rows(run: Nights) -> list[dict[str, Any]]:
    return [row for row in run.rows().values() if str(row["_batch_id"]).startswith("live_")]


def test_what_is_late_is_cancelled_and_asked_live_once(house: House) -> None:
    run = begun(house, claude={"max_batch_requests": 30})
    [second, first] = [batch["id"] for batch in house.emulator.batches()]
    house.emulator.end(first)
    run.tick_and_run()
    # Nothing is asked while it may still answer.
    run.tick_and_run()
    states = {batch["id"]: batch["processing_status"] for batch in house.emulator.batches()}
    assert states[second] == "canceling" and live_paid(house) == 0
    house.emulator.end(second)
    house.emulator.fault(
        "messages", "rate_limited", times=2
    )  # they are not billed, and asked again
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
    # The next night asks nothing.
    run.night()
    assert house.paid + live_paid(house) == RECORDS
    # What is erased of it is also gone from the pages that the ledger has left.
    key, text = live[-1]["id"], live[-1]["text"]
    assert text in said_in(house.root)
    erased = erase(store, "notes", ["id"], [[str(key)]], run.pipeline.destination)
    assert erased.batches == [second] and text not in said_in(house.root)


@only_whole
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
    "kind",
    [
        "drop_after",
        "gateway_timeout",
        "internal_error",
        "cut_body",
        "replace_body",
        pytest.param("slow_reply", marks=only_whole),
    ],
)
def test_a_lost_reply_is_never_asked_again_by_itself(house: House, kind: str) -> None:
    run = called_off(house, claude={"timeout_seconds": 4.0} if kind == "slow_reply" else None)
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


@only_whole
def test_an_api_that_loses_all_replies_is_left_alone_soon(house: House) -> None:
    run = called_off(house)
    house.emulator.fault("messages", "drop_after", times=None)
    run.run("send")
    lost = live_paid(house)
    assert MOST_LOST <= lost < MOST_LOST + AT_ONCE
    house.emulator.clear_faults()
    house.clock.advance(600)
    run.until_quiet()
    assert sum(one.requests for one in list_held(run.store.open()).files) == lost
    assert house.statuses() == {"answered": RECORDS - lost, "canceled": lost}
    assert (house.paid, live_paid(house)) == (0, RECORDS)


@only_whole
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


@only_whole
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("rate_limited", {"times": 3}),
        ("overloaded", {"times": 2}),
        pytest.param("drop_before_connecting", {}, marks=only_whole),
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


def test_a_process_killed_after_the_call_holds_what_it_did_not_write_down(house: House) -> None:
    by = wanted(house)
    run = called_off(house, by=by)
    asker = (str(house.root), house.emulator.base_url, by.time)
    ahead = house.clock.ahead.total_seconds()
    assert processes.start(house.folder, live_asker.ask, *asker, ahead, 3).join() == -9
    assert live_paid(house) == 3
    # Its lease is over in eleven minutes; two processes at once go on then, and ask nothing twice.
    ahead += 700
    processes.together(house.folder, live_asker.ask, (*asker, ahead), (*asker, ahead))
    house.clock.advance(700)
    run.until_quiet()
    [held] = list_held(run.store.open()).files
    assert held.requests == 1 and "whoever asked is gone" in held.error
    assert house.statuses() == {"answered": RECORDS - 1, "canceled": 1}
    assert (house.paid, live_paid(house)) == (0, RECORDS)


@only_whole
def test_a_reply_that_comes_after_its_file_was_taken_over_still_counts(house: House) -> None:
    run = called_off(house)
    house.emulator.fault("messages", "drop_after", nth=1)
    run.run("send")
    store = run.store.open()
    [lost] = store.ledger.rows(select(live_requests))
    # A process that slept wakes up, with the reply; it knows the file as it was.
    file = {"submission_id": lost["file_id"].partition("/")[0], "owner": lost["owner"]}
    said = b'{"custom_id":"%b","result":{"type":"errored","error":{"type":"error","error":{"type":"api_error","message":"x"}}}}\n'
    note_reply(store.ledger, file, lost["custom_id"], said % lost["custom_id"].encode())  # type: ignore[arg-type]
    house.clock.advance(600)
    run.run("send")
    assert not list_held(store).files and store.ledger.rows(select(live_requests)) == []
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    # It had errored, so it was asked once more: the one that the API answered, and lost, is the other.
    assert live_paid(house) == RECORDS + 1


def test_what_no_cap_lets_through_stays_in_its_batch(house: House) -> None:
    run = begun(house, budget=Budget(per_month_usd=0.025))
    run.tick_and_run()
    assert (
        "is late and stays in its batch: at full price cap per_month_usd"
        in run.ticks[-1].skip_message
    )
    house.emulator.end(finished_share=0.5)
    run.tick_and_run()
    # There is room for the other half in a batch, and not at full price: it goes in one, and is said.
    by = run.pipeline.deadline
    run = house.nights(answer_by=by, budget=Budget(per_month_usd=0.015))
    run.tick_and_run()
    assert "it is not asked live" in run.metadata("batches")["over_budget"]
    house.emulator.configure(manual=False)
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert (house.paid, live_paid(house)) == (RECORDS, 0)


@only_whole
def test_what_the_caps_let_through_is_counted_at_full_price(house: House) -> None:
    run = called_off(house, budget=Budget(per_month_usd=0.5))
    before = run.store.open()
    run.run("send")
    with before.ledger.read() as tx:
        now = house.clock.now()
        counted = counted_for(tx, now, lambda _: None, since=month_of(now))
    # Reserved, and not settled yet: not less than what it cost.
    assert counted.reserved >= float(house.emulator.bill()["messages_usd"]) * 1e9
    run.until_quiet()
    with before.ledger.read() as tx:
        counted = counted_for(tx, now, lambda _: None, since=month_of(now))
    assert counted.reserved == 0
    assert counted.spent == pytest.approx(float(house.emulator.bill()["messages_usd"]) * 1e9)


@only_whole
def test_it_is_switched_on_and_off_while_work_is_open(house: House) -> None:
    by = wanted(house, "report")
    run = begun(house, by=by)
    run.tick_and_run()
    assert "not answered by" in run.ticks[-1].skip_message
    on = house.nights(answer_by=AnswerBy(by.time, late="live"))
    on.tick()
    house.emulator.end()
    on.tick_and_run()
    house.emulator.fault("messages", "overloaded", nth=10, times=None)
    on.tick_and_run()
    asked = live_paid(house)
    assert 0 < asked < RECORDS
    # Off again: what was not asked yet goes in a batch.
    house.emulator.configure(manual=False)
    house.clock.advance(600)
    house.nights(answer_by=by).until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert (house.paid, live_paid(house)) == (RECORDS - asked, asked)


@only_whole
def test_a_person_stops_it(house: House) -> None:
    run = called_off(house)
    house.emulator.fault("messages", "overloaded", nth=10, times=None)
    run.run("send")
    asked = live_paid(house)
    with closing(run.claude.api()) as api:
        done = cancel(run.store.open(), api, "notes")
    assert len(done.waiting) == 1
    house.emulator.clear_faults()
    house.clock.advance(600)
    run.until_quiet()
    assert house.statuses() == {"answered": asked, "canceled": RECORDS - asked}
    assert (house.paid, live_paid(house)) == (0, asked)


@only_whole
def test_a_spend_limit_holds_the_pipeline_and_is_gone_on_from(house: House) -> None:
    run = called_off(house)
    house.emulator.fault("messages", "spend_limit", nth=5)
    assert "spend limit" in run.refusal("send", {})
    assert run.tick_and_run() == 0
    release(run.store.open(), "notes")
    house.clock.advance(600)
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert (house.paid, live_paid(house)) == (0, RECORDS)


@only_whole
def test_a_ledger_that_is_lost_while_it_asks_is_made_again_and_asks_nothing_twice(
    house: House,
) -> None:
    run = called_off(house)
    house.emulator.fault("messages", "overloaded", nth=10, times=None)
    run.run("send")
    asked = live_paid(house)
    for path in house.root.glob("ledger.sqlite*"):
        path.unlink()
    rebuild(open_store(str(house.root), lost=True))
    house.emulator.clear_faults()
    house.clock.advance(3600)
    again = house.nights(answer_by=run.pipeline.deadline)
    again.until_quiet()
    [held] = list_held(again.store.open()).files
    assert held.requests == RECORDS and "ledger that had the replies is lost" in held.error
    assert (house.paid, live_paid(house)) == (0, asked)


@only_whole
def test_variants_and_duplicates_are_asked_live_as_they_are(house: House) -> None:
    house.sql("update notes set text = 'the same' where id < 5")
    run = begun(house, variants={"short": {"max_tokens": 100}, "long": {"max_tokens": 300}})
    run.tick()
    house.emulator.end(finished_share=0.0)
    run.until_quiet()
    assert house.statuses() == {"answered": 2 * RECORDS}
    assert (house.paid, live_paid(house)) == (0, 2 * (RECORDS - 4))


@only_whole
def test_partitions_and_a_better_model_are_asked_live_as_they_are(house: House) -> None:
    parts = dg.StaticPartitionsDefinition(["0", "1", "2", "3"])
    run = begun(
        house,
        partition="1",
        partitions=parts,
        partition_column="part",
        escalate=Escalate(to="claude-sonnet-5", when="answer is not null"),
    )
    run.tick()
    house.emulator.end(finished_share=0.0)
    for _ in range(6):
        run.tick_and_run()
    # The first model is asked live; the better one afterwards, in a batch that the next day's time is for.
    assert live_paid(house) == RECORDS // 4
    house.emulator.end()
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS // 4}
    assert (house.paid, live_paid(house)) == (RECORDS // 4, RECORDS // 4)


@only_whole
def test_what_has_its_last_attempt_in_a_batch_stays_there(house: House) -> None:
    house.emulator.configure(manual=True)
    by = wanted(house)
    run = house.nights(answer_by=by, max_attempts=2)
    run.submit()
    house.emulator.end(finished_share=0.0)
    run.tick_and_run()
    run.tick_and_run()
    house.clock.advance(HOURS * 3600 + 60)
    run.tick_and_run()
    assert "have their last attempt of 2 in it" in run.ticks[-1].skip_message
    house.emulator.end()
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS} and live_paid(house) == 0


@only_whole
def test_answers_that_are_too_long_for_one_call_stay_in_their_batch(house: House) -> None:
    run = begun(house, request={"max_tokens": 30_000})
    run.tick_and_run()
    assert "may have more than 21,333 tokens" in run.ticks[-1].skip_message
    house.emulator.end(finished_share=0.5)
    house.emulator.configure(manual=False)
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert (house.paid, live_paid(house)) == (RECORDS, 0)


@every_form
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"late": "now"}, "AnswerBy: late is 'now'; it must be report"),
        ({"late": "live", "max_attempts": 1}, "would not be asked again"),
    ],
)
def test_what_cannot_work_is_refused(house: House, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        late = fields.pop("late")
        house.nights(answer_by=AnswerBy("07:00", late=late), **fields)


@only_whole
def test_what_was_asked_live_is_collected_without_code(house: House) -> None:
    run = called_off(house)
    house.emulator.fault("messages", "overloaded", nth=10, times=None)
    run.run("send")
    asked = live_paid(house)
    house.clock.advance(600)
    with closing(run.claude.api()) as api:
        done = fetch(run.store.open(), api, "notes", run.claude.policy, 3, ["id"])
    assert (
        sum(one.statuses.get("answered", 0) for one in done.collected) == asked == live_paid(house)
    )
    assert done.ready >= 1 and house.paid == 0
