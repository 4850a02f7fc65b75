"""A pipeline that was renamed goes on with what was asked under its old name."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from batch_pipeline import BatchPipeline, DuckDBSource, MessageTemplate, ParquetDataset
from batch_pipeline.errors import InputError, StoreError
from batch_pipeline.results.history import history
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store.renaming import name_in_ledger
from batch_pipeline.store.store import open_store
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import RECORDS, House


def renamed(house: House, **more):
    return house.nights(name="remarks", renamed_from="notes", **more)


def test_a_renamed_pipeline_asks_only_what_is_new_and_keeps_its_table(house: House) -> None:
    house.nights().night()
    house.sql("insert into notes values (900, 'one more', 0)")
    run = renamed(house)
    run.night()
    run.night()
    assert house.paid == RECORDS + 1 and not house.paid_twice
    assert house.statuses() == {"answered": RECORDS + 1}
    house.sql("update notes set text = 'changed' where id = 3")
    renamed(house).night()
    house.nights(name="remarks").night()  # once it went over, renamed_from may go
    assert house.paid == RECORDS + 2 and house.statuses() == {"answered": RECORDS + 1}


@only_whole
def test_its_table_in_the_store_goes_along(house: House) -> None:
    house.nights(destination=None).night()
    run = renamed(house, destination=None)
    run.night()
    assert house.paid == RECORDS
    assert {row["_status"] for row in run.rows().values()} == {"answered"}
    assert len(run.rows()) == RECORDS


def test_open_batches_are_collected_and_unsent_files_sent_under_the_new_name(
    house: House,
) -> None:
    house.emulator.configure(manual=True)
    limits = {"max_batch_requests": 10, "max_queued_requests": 20}
    house.nights(claude=limits).submit()
    assert len(house.emulator.batches()) == 2
    run = renamed(house, claude=limits)
    house.emulator.configure(manual=False)
    house.emulator.end()
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS}
    assert house.paid == RECORDS and not house.paid_twice


@only_whole
def test_rows_of_before_are_where_they_were_and_not_lost(house: House) -> None:
    """They stay in the folder of the old name, and the API drops answers after 29 days."""
    house.nights().night()
    house.sql("update notes set text = 'changed' where id = 3")
    house.nights().night()
    house.clock.advance(30 * 86_400)
    house.emulator.advance(30 * 86_400)
    house.sql("update notes set text = 'note 3' where id = 3")
    house.sql("insert into notes values (900, 'one more', 0)")
    run = renamed(house)
    run.night()
    assert house.paid == RECORDS + 2 and not house.paid_twice
    assert house.statuses() == {"answered": RECORDS + 1}
    assert run.rows()[3]["text"] == "note 3"
    found = history(run.store.open(), "remarks", ["id"], ["3"])
    assert [asked.reason for asked in found] == ["new", "changed", "reuse"]


def test_old_code_that_still_runs_is_refused(house: House) -> None:
    house.nights().night()
    renamed(house).night()
    assert "was renamed to remarks" in house.refusal(house.nights())
    assert house.paid == RECORDS
    # And back again.
    house.nights(renamed_from="remarks").night()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}


@only_whole
def test_two_names_with_work_of_their_own_are_refused(house: House) -> None:
    house.nights().night()
    house.nights(name="remarks", destination=None).night()
    assert "work of both" in house.refusal(renamed(house))
    assert "work of both" in renamed(house).tick().skip_message
    assert house.paid == 2 * RECORDS


@only_whole
def test_what_the_new_name_selected_and_never_sent_is_no_work(house: House) -> None:
    house.nights().night()
    run = house.nights(name="remarks", destination=None)
    run.select("records")
    renamed(house).night()
    assert house.paid == RECORDS


@only_whole
@pytest.mark.parametrize("back", [False, True])
def test_a_ledger_that_is_made_again_knows_the_new_name(house: House, back: bool) -> None:
    house.nights().night()
    house.sql("insert into notes values (900, 'one more', 0)")
    renamed(house).night()
    house.sql("insert into notes values (901, 'two more', 0)")
    run = house.nights(renamed_from="remarks") if back else renamed(house)
    run.night()
    for path in Path(house.root).glob("ledger.sqlite*"):
        path.unlink()
    report = rebuild(open_store(str(house.root), lost=True))
    assert report.submissions == 3 and not report.skipped
    run.night()
    assert house.paid == RECORDS + 2 and house.statuses() == {"answered": RECORDS + 2}


@pytest.mark.parametrize("went_on", [False, True])
def test_a_ledger_of_before_a_renaming_that_nothing_followed_pays_nothing_again(
    house: House, went_on: bool
) -> None:
    house.nights(destination=None).night()
    with (
        sqlite3.connect(house.root / "ledger.sqlite") as now,
        sqlite3.connect(house.folder / "kept") as copy,
    ):
        now.backup(copy)
    renamed(house, destination=None).submit()
    for path in house.root.glob("ledger.sqlite*"):
        path.unlink()
    shutil.copy(house.folder / "kept", house.root / "ledger.sqlite")
    if went_on:  # as old code did: the other name is another pipeline then
        house.sql("insert into notes values (900, 'one more', 0)")
        house.nights(destination=None).night()
    run = house.nights(name="remarks", destination=None)  # renamed_from was taken away
    run.night()
    assert house.paid == (2 * RECORDS + 2 if went_on else RECORDS)
    assert len(run.rows()) == RECORDS + went_on


@only_whole
def test_an_old_name_whose_work_went_over_to_another_is_refused(house: House) -> None:
    house.nights().night()
    house.sql("insert into notes values (900, 'one more', 0)")
    renamed(house).night()
    run = house.nights(name="comments", renamed_from="notes")
    assert "renamed_from='remarks'" in house.refusal(run)
    assert "renamed_from='remarks'" in run.tick().skip_message
    with pytest.raises(StoreError, match="renamed_from='remarks'"):
        name_in_ledger(run.store.open().ledger, "comments", "notes")
    renamed(house).night()  # this one goes on
    assert house.paid == RECORDS + 1
    house.nights(name="comments", renamed_from="remarks").night()
    assert house.paid == RECORDS + 1 and house.statuses() == {"answered": RECORDS + 1}


@only_whole
def test_a_ledger_that_is_made_again_refuses_old_code(house: House) -> None:
    house.nights().night()
    house.sql("insert into notes values (900, 'one more', 0)")
    renamed(house).night()
    for path in Path(house.root).glob("ledger.sqlite*"):
        path.unlink()
    rebuild(open_store(str(house.root), lost=True))
    assert "was renamed to remarks" in house.refusal(house.nights(destination=None))
    assert house.paid == RECORDS + 1


@only_whole
@pytest.mark.parametrize("kind", ["table", "files"])
def test_quiet_nights_after_renamings_keep_the_table(house: House, kind: str) -> None:
    """No row is merged in them, and yet the table is the new name's."""
    files = ParquetDataset(path=str(house.folder / "answers"))
    more = {"destination": files} if kind == "files" else {}
    house.nights(**more).night()
    renamed(house, **more).night()
    house.nights(name="remarks", **more).night()
    run = house.nights(name="comments", renamed_from="remarks", **more)
    run.night()
    house.sql("insert into notes values (900, 'one more', 0)")
    house.nights(name="comments", **more).night()
    assert house.paid == RECORDS + 1 and not house.paid_twice
    assert len(run.rows()) == RECORDS + 1
    other = house.nights(destination=run.pipeline.destination)
    assert "holds the results of the pipeline comments" in house.refusal(other, allow_reask=True)


@only_whole
def test_two_renamings_without_a_night_between_keep_the_table(house: House) -> None:
    house.nights().night()
    renamed(house).tick()
    house.nights(name="comments", renamed_from="remarks").tick()
    house.nights(name="comments").night()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}


@pytest.mark.parametrize("name", ["notes", "no name", ""])
def test_what_cannot_be_an_old_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="renamed_from"):
        BatchPipeline(
            name="notes",
            source=DuckDBSource(database="w.duckdb", table="t", key="id"),
            request=MessageTemplate(model="claude-haiku-4-5", max_tokens=9, prompt="{{ text }}"),
            renamed_from=name,
        )


@only_whole
def test_stores_are_refused_as_the_stages_do(house: House) -> None:
    from batch_pipeline.store.renaming import take_over

    house.nights().night()
    house.nights(name="remarks", destination=None).night()
    with pytest.raises(StoreError, match="two pipelines"):
        take_over(house.nights().store.open(), "remarks", "notes", republish=False)
