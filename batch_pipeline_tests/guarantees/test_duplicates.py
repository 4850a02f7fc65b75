"""Records that would ask the same are asked once, and each has its row."""

import shutil
from typing import Any

import pytest

from batch_pipeline.results.rebuild import rebuild
from batch_pipeline_tests.support.extent import every_form, extent, only_whole
from batch_pipeline_tests.support.house import House
from batch_pipeline_tests.support.moments import ended_at

COLUMNS = "id, _status, _custom_id, _duplicate_of, _cost_usd, _input_tokens"


def fill(house: House, *, texts: int = 5, each: int = 4) -> None:
    """Let so many texts stand in so many records each: 0, 5, 10, ... have the first one."""
    house.sql(
        "create or replace table notes as select i::integer as id, 'note ' || (i % "
        f"{texts}) as text, i % 4 as part from range({texts * each}) t(i)"
    )


def told(house: House, where: str = "true") -> list[tuple[Any, ...]]:
    return house.sql(f"select {COLUMNS} from answers where {where} order by id")


def check(house: House, *, records: int = 20, paid: int = 5, texts: int = 5) -> None:
    """Assert that each record has its answer, and what was billed stands once in the table."""
    rows = told(house)
    assert [row[0] for row in rows] == list(range(records))
    assert {row[1] for row in rows} == {"answered"}
    assert len({row[2] for row in rows}) == records
    asked = {row[2]: row for row in rows if row[3] is None}
    assert len(asked) == texts and house.paid == paid
    assert all(row[3] in asked and row[4] == 0 and row[5] is None for row in rows if row[3])
    assert all(row[4] > 0 for row in asked.values())
    said = "answer, text"
    assert house.sql(f"select count(distinct ({said})) from answers") == [(texts,)]


def test_what_is_the_same_is_asked_once_and_answered_to_all(house: House) -> None:
    fill(house)
    run = house.nights()
    run.night()
    check(house)
    [(cost,)] = house.sql("select sum(_cost_usd) from answers")
    assert cost == pytest.approx(float(house.emulator.bill()["usd"]))
    shown = run.metadata("records")
    assert (shown["asked"], shown["duplicates"]) == (20, 15)
    assert run.metadata("requests")["requests"] == 5
    # Each is known to be answered.
    house.nights().night()
    house.nights(dedupe=False).night()
    assert house.paid == 5
    # Only one whose content is new is asked, and one that is new by itself.
    house.sql("update notes set text = 'another' where id in (5, 6)")
    house.sql("insert into notes values (20, 'note 0', 0)")
    house.nights().night()
    assert house.paid == 7
    assert [row[3] is None for row in told(house, "id in (5, 6, 20)")] == [True, False, True]


@only_whole
def test_each_is_asked_without_dedupe(house: House) -> None:
    fill(house)
    house.nights(dedupe=False).night()
    assert house.paid == 20
    assert house.sql("select count(_duplicate_of), min(_cost_usd) > 0 from answers") == [(0, True)]


@pytest.mark.parametrize("status", ["errored", "expired", "truncated"])
def test_what_fails_is_asked_again_once_for_all(house: House, status: str) -> None:
    fill(house)
    house.emulator.configure(rates={status: 1.0})
    run = house.nights()
    run.submit()
    run.collect()
    assert house.statuses() == {status: 20}
    house.emulator.configure(rates={})
    paid = house.paid
    run.until_quiet()
    assert house.statuses() == {"answered": 20}
    assert house.paid == paid + 5


def test_what_changes_or_leaves_while_the_batch_is_open(house: House) -> None:
    fill(house)
    house.emulator.configure(manual=True)
    run = house.nights(on_deleted="drop")
    run.submit()
    # Of the first text: one changes, and the one that was asked leaves; of the second, all change.
    house.sql(
        "update notes set text = 'changed' where id = 5", "delete from notes where id = 0",
        "update notes set text = 'other' where id % 5 = 1",
    )  # fmt: skip
    run.submit()
    house.emulator.end()
    run.until_quiet()
    assert house.paid == 5 + 2
    rows = {row[0]: row for row in told(house)}
    assert set(rows) == set(range(1, 20))
    assert {row[1] for row in rows.values()} == {"answered"}
    assert rows[5][3] is None and rows[10][3] == rows[15][3] is not None
    assert rows[1][3] is None and {rows[key][3] for key in (6, 11, 16)} == {rows[1][2]}
    house.emulator.configure(manual=False)
    house.nights(on_deleted="drop").night()
    assert house.paid == 7


@only_whole
def test_force_on_one_of_them_asks_that_one(house: House) -> None:
    fill(house)
    house.nights().night()
    house.nights().night(where="id = 5", force=True)
    assert house.paid == 6
    assert [row[3] for row in told(house, "id = 5")] == [None]
    house.nights().night(where="id % 5 = 0", force=True)
    assert house.paid == 7
    house.nights().night()
    assert house.paid == 7


def test_what_cannot_be_asked_cannot_be_asked_for_its_duplicates(house: House) -> None:
    fill(house)
    house.sql("update notes set text = '' where id % 5 = 0")
    run = house.nights({"prompt": "{{ text }}"})
    run.night()
    assert house.statuses() == {"rejected": 4, "answered": 16}
    rows = told(house, "id % 5 = 0")
    assert [row[3] for row in rows] == [None, *[rows[0][2]] * 3]
    house.nights({"prompt": "{{ text }}"}).night()
    assert house.paid == 4


@only_whole
def test_what_the_api_refuses_is_told_in_requests(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(house)
    house.emulator.configure(rates={"invalid": 1.0})
    run = house.nights()
    run.submit()
    run.collect()
    assert house.statuses() == {"rejected": 20}
    assert "The API refused all 5 requests for one reason" in capfd.readouterr().err


@only_whole
def test_they_may_be_of_several_files_and_of_files_that_are_cut(house: House) -> None:
    fill(house)
    claude = {"max_batch_requests": 2}
    house.nights(claude=claude).night()
    check(house)
    # A file that is too large is cut; what is cut to one record and too large still is not asked.
    house.emulator.fault("create", "status_before", status=413, times=2)
    house.nights({"system": "Sort."}, claude).night()
    assert house.statuses() == {"rejected": 4, "answered": 16}
    assert house.sql("select _status, count(distinct text) from answers group by 1 order by 1") == [
        ("answered", 4), ("rejected", 1)
    ]  # fmt: skip


@pytest.mark.parametrize("lost", ["ledger", "results", "index", "selection"])
def test_what_is_lost_is_made_again_and_costs_nothing(house: House, lost: str) -> None:
    fill(house)
    house.sql("update notes set text = '' where id % 5 = 0")
    request = {"prompt": "{{ text }}"}
    run = house.nights(request)
    run.night()
    before = told(house)
    match lost:
        case "ledger":
            for path in house.root.glob("ledger.sqlite*"):
                path.unlink()
            rebuild(run.store.open(lost=True))
        case "selection":
            for path in house.root.glob("notes/*/index/selected.parquet"):
                path.unlink()
        case "results":
            for path in house.root.glob("notes/*/results/*.parquet"):
                path.unlink()
        case _:
            for part in ("index/0*", "requests/*"):
                for path in house.root.glob(f"notes/*/{part}.parquet"):
                    path.unlink()
    house.sql("drop table answers")
    house.nights(request).night()
    assert told(house) == before
    assert house.paid == 4


@every_form
@pytest.mark.parametrize("moment", extent([17], list(range(40))))
def test_a_run_that_ends_at_any_moment_pays_once(house: House, moment: int) -> None:
    fill(house)
    with ended_at(moment):
        run = house.nights()
        for job in ("submit", "collect"):
            run.run(job)
    house.clock.advance(7200)
    house.nights().night()
    check(house)


@only_whole
def test_a_store_and_ledger_of_before_the_sending(house: House) -> None:
    """The table has answers to duplicates, which the store lost: nothing is paid again."""
    fill(house)
    run = house.nights()
    run.select("records", "requests")
    shutil.copytree(house.root, house.folder / "kept")
    run.night()
    before = told(house)
    shutil.rmtree(house.root)
    shutil.copytree(house.folder / "kept", house.root)
    run = house.nights()
    run.run("send", raises=False)
    house.clock.advance(7200)
    run.until_quiet()
    assert house.paid == 5
    assert told(house) == before
