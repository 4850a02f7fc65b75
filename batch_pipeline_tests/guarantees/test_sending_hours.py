"""Outside of the hours in which batches are sent nothing is, and nothing is lost."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from batch_pipeline import Budget, InputError, SendBetween
from batch_pipeline.batches import send
from batch_pipeline_tests.support.extent import every_form, only_whole
from batch_pipeline_tests.support.house import RECORDS, House


def hours(house: House, first: float, last: float, zone: str = "UTC") -> SendBetween:
    """Return hours, given by how far they are from now."""
    now = house.clock.now().astimezone(ZoneInfo(zone))
    start, end = (f"{now + timedelta(hours=one):%H:%M}" for one in (first, last))
    return SendBetween(f"{start}-{end}", zone)


def test_what_is_ready_waits_for_the_hours_and_is_sent_by_the_sensor(house: House) -> None:
    between = hours(house, 2, 10, "Asia/Kolkata")
    run = house.nights(send_between=between, claude={"max_batch_requests": 30})
    run.submit()
    run.run("send")
    assert run.tick_and_run() == 0
    assert f"sent between {between}" in run.ticks[-1].skip_message
    assert house.emulator.batches() == []
    house.clock.advance(2.2 * 3600)
    run.until_quiet()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}


@only_whole
def test_they_end_between_two_files_and_a_lost_reply_is_settled_outside(house: House) -> None:
    between = hours(house, -1, 1)
    claude = {"max_batch_requests": 15}
    run = house.nights(send_between=between, claude=claude)
    house.emulator.fault("create", "drop_after", nth=2)
    attempt = send._attempt

    def late(*arguments: Any) -> None:
        attempt(*arguments)
        if len(house.emulator.batches()) == 2:
            house.clock.advance(2 * 3600)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(send, "_attempt", late)
        run.submit()
    # Two of three were taken; of the second no reply came. It is settled, and the third waits.
    assert len(house.emulator.batches()) == 2
    for _ in range(4):
        run.tick_and_run()
        house.clock.advance(900)
    assert len(house.emulator.batches()) == 2 and house.paid < RECORDS
    assert sum(house.statuses().values()) == house.paid
    house.clock.advance(21 * 3600)
    run.until_quiet()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}


def test_what_a_cap_holds_is_said_in_the_hours_and_asks_for_one_run(house: House) -> None:
    run = house.nights(send_between=hours(house, 2, 10), budget=Budget(per_submission_usd=0.000001))
    run.submit()
    assert run.tick_and_run() == 0 and "cap" not in run.ticks[-1].skip_message
    house.clock.advance(2.2 * 3600)
    assert run.tick_and_run() == 1 and run.tick_and_run() == 0
    assert "cap per_submission_usd" in run.ticks[-1].skip_message and house.paid == 0


BERLIN = "Europe/Berlin"
MOMENTS = [
    ("22:00-06:00", "UTC", "2026-01-01T22:00", True),
    ("22:00-06:00", "UTC", "2026-01-01T05:59", True),
    ("22:00-06:00", "UTC", "2026-01-01T06:00", False),
    ("22:00-06:00", "UTC", "2026-01-01T21:59", False),
    ("08:00-24:00", "UTC", "2026-01-01T23:59", True),
    ("08:00-24:00", "UTC", "2026-01-02T00:00", False),
    ("09:00-17:00", BERLIN, "2026-01-01T08:00", True),
    ("09:00-17:00", BERLIN, "2026-07-01T07:00", True),
    ("09:00-17:00", BERLIN, "2026-07-01T15:00", False),
    # On 29 March 2026 the hour from two to three is left out: at one UTC it is three in Berlin.
    ("22:00-03:00", BERLIN, "2026-03-29T00:59", True),
    ("22:00-03:00", BERLIN, "2026-03-29T01:00", False),
    ("02:30-06:00", BERLIN, "2026-03-29T00:59", False),
    ("02:30-06:00", BERLIN, "2026-03-29T01:00", True),
    # On 25 October it comes twice.
    ("22:00-02:30", BERLIN, "2026-10-25T00:29", True),
    ("22:00-02:30", BERLIN, "2026-10-25T00:30", False),
    ("22:00-02:30", BERLIN, "2026-10-25T01:29", True),
    ("22:00-02:30", BERLIN, "2026-10-25T01:30", False),
]


@every_form
@pytest.mark.parametrize(("between", "zone", "moment", "is_open"), MOMENTS)
def test_they_are_by_the_clock_on_the_wall(
    between: str, zone: str, moment: str, is_open: bool
) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    assert SendBetween(between, zone).is_open(now) is is_open


@every_form
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (("22-6",), "hours is '22-6'"),
        (("25:00-06:00",), "hours is '25:00-06:00'"),
        (("22:00-22:00",), "two different times"),
        (("00:00-24:00",), "two different times"),
        ((5,), "hours is 5"),
        (("22:00-06:00", "Europe/Berlim"), "timezone is 'Europe/Berlim'"),
        (("22:00-06:00", None), "timezone is None"),
    ],
)
def test_bad_hours_are_refused_when_declared(fields: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError) as raised:
        SendBetween(*fields)
    assert said in str(raised.value)


def test_a_pipeline_says_that_they_are_its_own(house: House) -> None:
    with pytest.raises(InputError, match="Pipeline notes: SendBetween: hours is '22-6'"):
        house.nights(send_between="22-6")
    assert house.nights(send_between="22:00-06:00").pipeline.sending_hours == SendBetween(
        "22:00-06:00"
    )
