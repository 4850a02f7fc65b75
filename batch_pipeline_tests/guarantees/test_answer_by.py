"""What is not answered by when it was wanted is reported, and nothing is paid for that."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batch_pipeline import AnswerBy, InputError
from batch_pipeline.store.overdue import Overdue, batch_lengths, overdue_said
from batch_pipeline.store.variants import scope_name
from batch_pipeline_tests.support.extent import every_form
from batch_pipeline_tests.support.house import RECORDS, House


@every_form
@pytest.mark.parametrize(
    ("by", "submitted", "due"),
    [
        (AnswerBy("07:00"), "2026-11-27 23:00", "2026-11-28 07:00"),
        (AnswerBy("07:00"), "2026-11-28 06:59", "2026-11-28 07:00"),
        (AnswerBy("07:00"), "2026-11-28 07:00", "2026-11-29 07:00"),
        (AnswerBy("07:00", "Europe/Berlin"), "2026-07-01 23:00", "2026-07-02 05:00"),
        (AnswerBy("07:00", "Europe/Berlin"), "2026-12-01 23:00", "2026-12-02 06:00"),
        # The hour that is left out when clocks are turned, and the one that comes twice.
        (AnswerBy("02:30", "Europe/Berlin"), "2026-03-28 23:00", "2026-03-29 01:30"),
        (AnswerBy("02:30", "Europe/Berlin"), "2026-10-24 23:00", "2026-10-25 00:30"),
        (AnswerBy("07:00", "Asia/Kolkata"), "2026-11-27 23:00", "2026-11-28 01:30"),
    ],
)
def test_it_is_the_first_such_time_after_the_submission(
    by: AnswerBy, submitted: str, due: str
) -> None:
    given, wanted = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (submitted, due))
    assert by.due(given) == wanted


@every_form
@pytest.mark.parametrize(
    ("time", "zone"), [("7", "UTC"), ("24:00", "UTC"), (7, "UTC"), ("07:00", "Mars")]
)
def test_what_is_no_time_is_refused(time: Any, zone: str) -> None:
    with pytest.raises(InputError, match="AnswerBy"):
        AnswerBy(time, zone)


def test_what_is_late_is_said_until_it_is_answered(house: House) -> None:
    house.emulator.configure(manual=True)
    by = f"{house.clock.now() + timedelta(hours=3):%H:%M}"
    of_a_variant = Overdue(scope_name("0", "short"), 1, 2, house.clock.now())
    assert "(submission 1 0, variant short)" in overdue_said([of_a_variant], by)
    run = house.nights(answer_by=by, claude={"max_batch_requests": 30})
    run.submit()
    run.tick_and_run()
    assert "not answered by" not in run.ticks[-1].skip_message
    house.clock.advance(3.5 * 3600)
    run.tick_and_run()
    said = f"{RECORDS} records not answered by {by} UTC (submission 1)"
    assert said in run.ticks[-1].skip_message
    [first, _] = [batch["id"] for batch in house.emulator.batches()][::-1]
    house.emulator.end(first)
    run.tick_and_run()
    shown = run.metadata("results")
    assert (
        0 < shown["records_late"] < RECORDS and shown["answered"] == RECORDS - shown["records_late"]
    )
    house.emulator.end()
    run.until_quiet()
    shown = run.metadata("results")
    assert shown["records_late"] == 0 and house.paid == RECORDS
    assert f"{RECORDS} records not answered by {by} UTC" in shown["report"].replace("&#95;", "_")
    lengths = batch_lengths(run.store.open(), "notes")
    assert lengths is not None and lengths.batches == 2
    assert 0 <= lengths.p50 <= lengths.p95
