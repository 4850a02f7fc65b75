"""A good answer stays until a better one exists."""

from typing import Any

import pytest

from batch_pipeline import ParquetDataset
from batch_pipeline.batches.cancel import cancel
from batch_pipeline.results.history import history
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import RECORDS, House

SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string"}},
    "required": ["word"],
    "additionalProperties": False,
}


def rows_of(house: House, where: str = "true") -> list[tuple[Any, ...]]:
    return house.sql(
        f"select id, _status, _last_error, _attempt from answers where {where} order by id"
    )


# What the emulator calls invalid is an invalid_request_error.
FAILURES = {status: {status} for status in ("errored", "expired", "truncated", "refused")} | {
    "invalid": {"rejected"}
}


@only_whole
@pytest.mark.parametrize("status", ["errored", "expired", "invalid", "truncated", "refused"])
def test_a_forced_attempt_that_fails_does_not_take_the_place_of_an_answer(
    house: House, status: str
) -> None:
    request = {"output": SCHEMA}
    house.nights(request).night()
    before = house.sql("select id, word, _custom_id from answers order by id")
    house.emulator.configure(rates={status: 1.0})
    run = house.nights(request)
    run.night(where="id < 30", force=True)
    assert house.statuses() == {"answered": RECORDS}
    assert house.sql("select id, word, _custom_id from answers order by id") == before
    assert {last.split(":")[0] for _, _, last, _ in rows_of(house, "id < 30")} <= FAILURES[status]
    assert {last for _, _, last, _ in rows_of(house, "id >= 30")} == {None}
    paid = house.paid
    house.emulator.configure(rates={})
    house.nights(request).night()
    house.nights(request).night()
    assert house.paid == paid and house.statuses() == {"answered": RECORDS}


def test_a_forced_send_that_is_cancelled_leaves_the_answers(house: House) -> None:
    house.nights().night()
    house.emulator.configure(manual=True)
    house.emulator.fault("create", "status_before", status=500, times=1)
    run = house.nights()
    run.run("submit", {"force": True, "where": "id < 30"}, raises=False)
    store = run.store.open()
    api = run.claude.api()
    cancel(store, api, "notes", None)
    api.close()
    house.clock.advance(300)
    house.emulator.configure(manual=False)
    for _ in range(6):
        run.tick_and_run()
        house.clock.advance(130)
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert {last.split(":")[0] for _, _, last, _ in rows_of(house, "id < 30")} == {"canceled"}
    paid = house.paid
    house.nights().night()
    assert house.paid == paid


@only_whole
def test_history_tells_of_the_attempt_that_failed(house: House) -> None:
    house.nights().night()
    house.emulator.configure(rates={"errored": 1.0})
    run = house.nights(key="ID")
    run.night(where="id = 3", force=True)
    for keys in (["id"], ["ID"]):
        first, second = history(run.store.open(), "notes", keys, ["3"])
        assert (first.status, second.status, second.attempt) == ("answered", "errored", 2)


@only_whole
def test_a_better_answer_takes_its_place_and_clears_the_error(house: House) -> None:
    house.nights().night()
    house.emulator.configure(rates={"errored": 1.0})
    house.nights().night(where="id < 5", force=True)
    house.emulator.configure(rates={})
    house.nights().night(where="id < 3", force=True)
    assert [row[2] is None for row in rows_of(house, "id < 5")] == [True] * 3 + [False] * 2
    assert [row[3] for row in rows_of(house, "id < 5")] == [3, 3, 3, 1, 1]


@only_whole
def test_of_another_content_or_question_a_failure_is_the_row(house: House) -> None:
    house.nights().night()
    house.sql("update notes set text = text || '!' where id < 5")
    house.emulator.configure(rates={"errored": 1.0})
    run = house.nights(max_attempts=1)
    run.night()
    assert house.statuses() == {"answered": RECORDS - 5, "errored": 5}
    house.sql("update notes set text = 'note ' || id where id < 5")
    run.night()  # what it said before is answered
    assert house.statuses() == {"answered": RECORDS}
    assert house.paid == RECORDS
    house.nights({"prompt": "Weigh {{ text }}"}, max_attempts=1).night()
    assert house.statuses() == {"errored": RECORDS}


@only_whole
def test_in_parquet_and_in_a_table_of_today_without_the_column(house: House) -> None:
    for destination in (ParquetDataset(path=str(house.folder / "answers")), None):
        name = "one" if destination else "two"
        run = house.nights(name=name, destination=destination)
        run.night()
        house.emulator.configure(rates={"errored": 1.0})
        run.night(where="id < 3", force=True)
        house.emulator.configure(rates={})
        rows = run.rows()
        assert {row["_status"] for row in rows.values()} == {"answered"}
        assert {key for key, row in rows.items() if row["_last_error"]} == {0, 1, 2}
    house.nights().night()
    house.sql("alter table answers drop _last_error")
    house.emulator.configure(rates={"errored": 1.0})
    house.nights().night(where="id < 3", force=True)
    assert house.statuses() == {"answered": RECORDS}
    assert house.sql("select count(_last_error) from answers") == [(3,)]


@only_whole
def test_a_record_that_is_deleted_goes_though_an_attempt_failed(house: House) -> None:
    house.nights(on_deleted="drop").night()
    house.emulator.configure(rates={"errored": 1.0})
    house.nights(on_deleted="drop").night(where="id < 3", force=True)
    house.emulator.configure(rates={})
    house.sql("delete from notes where id = 1")
    house.nights(on_deleted="drop").night()
    assert house.statuses() == {"answered": RECORDS - 1}
    house.sql("insert into notes values (1, 'note 1', 1)")
    paid = house.paid
    house.nights(on_deleted="drop").night()
    assert house.statuses() == {"answered": RECORDS} and house.paid == paid
