"""A ledger that is older than the store's files refuses to work, and is mended from them."""

import secrets
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_pipeline import ParquetDataset
from batch_pipeline.errors import StoreError
from batch_pipeline.records import submission
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store import high_water
from batch_pipeline.store.files import Files
from batch_pipeline.store.layout import new_submission_id
from batch_pipeline.store.store import open_store, owner_of
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import RECORDS, House

MORE = "insert into notes select id + 1000, text || ' more', part from notes where id < 10"


def ledger_files(house: House) -> list[Path]:
    return list(house.root.glob("ledger.sqlite*"))


def backup(house: House) -> Path:
    """Copy the ledger, as a backup would."""
    kept = house.folder / f"backup-{secrets.token_hex(3)}.sqlite"
    with sqlite3.connect(house.root / "ledger.sqlite") as now, sqlite3.connect(kept) as copy:
        now.backup(copy)
    return kept


def restore(house: House, kept: Path) -> None:
    lose(house)
    shutil.copy(kept, house.root / "ledger.sqlite")


def lose(house: House) -> None:
    for path in ledger_files(house):
        path.unlink()


def refused(house: House) -> str:
    """What a run and a tick say."""
    run = house.nights()
    said = house.refusal(run)
    assert "rebuild-ledger" in said and "rebuild-ledger" in (run.tick().skip_message or "")
    return said


def mended(house: House):
    return rebuild(open_store(str(house.root), lost=True))


def all_right(house: House, records: int) -> None:
    house.clock.advance(300)
    house.nights().night()
    house.nights().night()
    assert house.statuses() == {"answered": records}
    assert house.paid == records and not house.paid_twice


def test_a_ledger_restored_from_before_a_night_refuses_and_is_mended(house: House) -> None:
    house.nights().night()
    kept = backup(house)
    house.sql(MORE)
    house.nights().night()
    restore(house, kept)
    said = refused(house)
    assert "older than the files" in said and house.paid == RECORDS + 10
    report = mended(house)
    assert report.submissions == 1 and report.collected == 1
    all_right(house, RECORDS + 10)


@only_whole
@pytest.mark.parametrize("is_open", [False, True])
def test_a_ledger_restored_from_before_a_renaming_is_mended(house: House, is_open: bool) -> None:
    house.nights().night()
    kept = backup(house)
    house.sql(MORE)
    run = house.nights(name="remarks", renamed_from="notes")
    house.emulator.configure(manual=is_open)
    if is_open:
        run.submit()
    else:
        run.night()
    restore(house, kept)
    assert "rebuild-ledger" in house.refusal(run)
    mended(house)
    house.emulator.configure(manual=False)
    house.emulator.end()
    house.clock.advance(400)
    for again in (run, house.nights(name="remarks")):
        again.night()
        again.until_quiet()
        assert house.statuses() == {"answered": RECORDS + 10}
        assert house.paid == RECORDS + 10 and not house.paid_twice
    assert "was renamed to remarks" in house.refusal(house.nights(destination=None))


@only_whole
def test_a_ledger_restored_from_before_the_first_night_is_mended(house: House) -> None:
    house.nights().store.open()
    kept = backup(house)
    house.nights().night()
    restore(house, kept)
    refused(house)
    mended(house)
    all_right(house, RECORDS)


@only_whole
def test_a_ledger_deleted_with_its_guard_refuses_and_is_mended(house: House) -> None:
    house.nights().night()
    lose(house)
    (house.root / "ledger.json").unlink()
    refused(house)
    refused(house)  # and it is no stranger at the second look
    mended(house)
    all_right(house, RECORDS)


@pytest.mark.parametrize("answered", [False, True])
def test_a_ledger_of_before_the_sending_does_not_send_again(house: House, answered: bool) -> None:
    """The submission is known, and that it was sent is not."""
    house.emulator.configure(manual=True)
    run = house.nights()
    run.select("records", "requests")
    kept = backup(house)
    run.run("send")
    assert len(house.emulator.batches()) == 1
    if answered:
        house.emulator.end()
        run.until_quiet()
    restore(house, kept)
    said = refused(house)
    assert "was sent" in said
    mended(house)
    house.emulator.end()
    house.emulator.configure(manual=False)
    house.clock.advance(300)
    for _ in range(4):
        run.tick_and_run()
        house.clock.advance(130)
    all_right(house, RECORDS)
    assert len(house.emulator.batches()) == 1


@only_whole
def test_a_ledger_of_before_a_file_was_cut_in_two_is_mended(house: House) -> None:
    house.emulator.fault("create", "status_before", status=413, times=1)
    run = house.nights()
    run.select("records", "requests")
    kept = backup(house)
    run.run("send")
    run.until_quiet()
    restore(house, kept)
    refused(house)
    mended(house)
    house.clock.advance(300)
    run.until_quiet()
    assert house.statuses() == {"answered": RECORDS} and not house.paid_twice


@only_whole
def test_what_a_killed_selection_left_behind_is_no_evidence(house: House) -> None:
    """Files are put in place before the ledger names them."""
    house.nights().night()
    source = next(path for path in (house.root / "notes").iterdir() if (path / "index").is_dir())
    left = house.root / "notes" / new_submission_id(house.clock.now())
    shutil.copytree(source / "index", left / "index")
    shutil.copy(source / "records.parquet", left / "records.parquet")
    shutil.copytree(source / "requests", left / "requests")
    all_right(house, RECORDS)


@only_whole
def test_an_abandoned_selection_is_no_evidence(house: House) -> None:
    run = house.nights()
    run.select("records")
    all_right(house, RECORDS)


@only_whole
def test_files_of_a_ledger_that_was_given_up_long_ago_do_not_stop_the_one_of_today(
    house: House,
) -> None:
    """A store that went on with a new ledger before stores looked for that."""
    house.nights().night()
    lose(house)
    (house.root / "ledger.json").unlink()
    checked = high_water.check
    high_water.check = lambda files, ledger: None
    try:
        house.nights().night(allow_reask=True)
    finally:
        high_water.check = checked
    assert house.paid == 2 * RECORDS
    house.nights().night()
    assert house.paid == 2 * RECORDS


def test_a_ledger_that_knows_all_is_not_rebuilt(house: House) -> None:
    house.nights().night()
    with pytest.raises(StoreError, match="knows all that the store's files tell"):
        mended(house)


@only_whole
@pytest.mark.parametrize("content", [b"", b'{"ledg', b"[]"])
def test_a_damaged_guard_is_written_anew_for_a_ledger_that_knows_all(
    house: House, content: bytes
) -> None:
    house.nights().night()
    guard = house.root / "ledger.json"
    whole = guard.read_bytes()
    guard.write_bytes(content)
    said = refused(house)
    assert "ledger.json" in said and "damaged" in said
    report = mended(house)
    assert any("ledger.json" in line for line in report.lines) and not report.submissions
    assert guard.read_bytes() == whole
    all_right(house, RECORDS)


@only_whole
def test_a_damaged_guard_beside_an_older_ledger_is_mended_with_it(house: House) -> None:
    house.nights().night()
    kept = backup(house)
    house.sql(MORE)
    house.nights().night()
    restore(house, kept)
    (house.root / "ledger.json").write_bytes(b"")
    refused(house)
    assert mended(house).submissions == 1
    all_right(house, RECORDS + 10)


def test_another_process_that_goes_on_meanwhile_is_not_taken_for_an_older_ledger(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is sent between the look at the ledger and the one at the files."""
    house.emulator.configure(manual=True)
    run = house.nights()
    run.select("records", "requests")
    store = run.store.open()
    read, looks = high_water._open, []

    def looked(ledger):
        found = read(ledger)
        looks.append(found)
        if len(looks) == 1:
            with monkeypatch.context() as away:
                away.setattr(high_water, "_open", read)
                run.run("send")
        return found

    monkeypatch.setattr(high_water, "_open", looked)
    assert high_water.behind(store.files, store.ledger) == []
    assert len(looks) == 2


def test_a_submission_that_begins_meanwhile_is_not_taken_for_one_that_is_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first file is there before the ledger is read, its row and its manifest come after that."""
    house.emulator.configure(manual=True)
    run = house.nights()
    store = run.store.open()
    one = new_submission_id(house.clock.now())
    monkeypatch.setattr(submission, "new_submission_id", lambda _: one)
    (house.root / "notes" / one).mkdir(parents=True)
    read = high_water._known

    def known(ledger):
        found = read(ledger)
        with monkeypatch.context() as away:
            away.setattr(high_water, "_known", read)
            run.submit()
        return found

    monkeypatch.setattr(high_water, "_known", known)
    assert high_water.behind(store.files, store.ledger) == []
    assert list((house.root / "notes" / one).glob("manifest-*.json"))


# --- a store that does not know what the table holds


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_another_root_does_not_pay_what_the_table_holds(house: House, kind: str) -> None:
    where = {}
    if kind == "parquet":
        where["destination"] = ParquetDataset(path=str(house.folder / "answers"))
    house.nights(**where).night()
    away = house.root.rename(house.folder / "away")
    said = house.refusal(house.nights(**where))
    assert str(house.root) in said and "40 answered rows" in said and "answers" in said
    assert "earlier root" in said and "allow_reask" in said
    assert "`batch-pipeline adopt BATCH --pipeline notes`" in said and "_batch_id" in said
    assert house.refusal(house.nights(**where), limit=1) and house.paid == RECORDS
    shutil.rmtree(house.root)
    away.rename(house.root)
    house.nights(**where).night()
    assert house.paid == RECORDS


@only_whole
def test_an_emptied_store_asks_again_on_purpose(house: House) -> None:
    house.nights().night()
    shutil.rmtree(house.root)
    house.nights().night(allow_reask=True)
    house.nights().night()
    assert house.paid == 2 * RECORDS and house.statuses() == {"answered": RECORDS}


@only_whole
def test_another_root_does_not_pay_small_partitions_either(house: House) -> None:
    house.sql("alter table notes alter part type varchar")
    fields: dict[str, Any] = {
        "partitions": dg.StaticPartitionsDefinition(["0", "1", "2", "3"]),
        "partition_column": "part",
    }
    run = house.nights(**fields)
    for part in ("0", "1"):
        run.night(part)
    shutil.rmtree(house.root)
    for part in ("0", "1"):
        assert "earlier root" in house.refusal(house.nights(**fields), part)
    house.nights(**fields).night("2")  # it was never asked
    assert house.paid == 30 and not house.paid_twice


@only_whole
@pytest.mark.parametrize("change", ["new", "changed", "failed"])
def test_a_store_restored_with_its_ledger_does_not_pay_the_last_night_again(
    house: House, change: str
) -> None:
    if change == "failed":
        house.emulator.configure(rates={"errored": 1.0})
        run = house.nights()
        run.submit()
        run.run("collect")
        house.emulator.configure(rates={})
    else:
        house.nights().night()
    kept = shutil.copytree(house.root, house.folder / "kept")
    if change == "new":
        house.sql(MORE, MORE.replace("1000", "2000"))
    if change == "changed":
        house.sql("update notes set text = text || '!' where id < 15")
    house.nights().night()
    paid, rows = house.paid, house.sql("select * from answers order by id")
    shutil.rmtree(house.root)
    shutil.copytree(kept, house.root)
    said = house.refusal(house.nights())
    assert "restored from before the table's last change" in said, said
    assert house.paid == paid and house.sql("select * from answers order by id") == rows
    house.nights().night(allow_reask=True)
    assert house.paid > paid
    paid = house.paid
    house.nights().night()
    assert house.paid == paid and house.statuses() == {"answered": len(rows)}


def test_a_store_restored_from_before_the_sending_does_not_send_again(house: House) -> None:
    run = house.nights()
    run.select("records", "requests")
    kept = shutil.copytree(house.root, house.folder / "kept")
    run.night()
    shutil.rmtree(house.root)
    shutil.copytree(kept, house.root)
    said = house.refusal(house.nights())
    assert "restored from before the table's last change" in said and house.paid == RECORDS


@pytest.mark.parametrize("content", [b"", b'{"ledg'])
def test_a_store_that_holds_nothing_goes_on_with_a_damaged_guard(
    house: House, content: bytes
) -> None:
    store = open_store(str(house.root))
    (house.root / "ledger.json").write_bytes(content)
    assert owner_of(open_store(str(house.root))) == store.ledger.id
    # What a crash leaves of a selection: rebuild-ledger knows the way on.
    (house.root / "notes" / new_submission_id(house.clock.now())).mkdir(parents=True)
    (house.root / "notes" / "20260101T000000-00000000" / "index").mkdir(parents=True)
    (house.root / "ledger.json").write_bytes(content)
    with pytest.raises(StoreError, match="rebuild-ledger"):
        open_store(str(house.root))
    assert mended(house).guard and owner_of(open_store(str(house.root))) == store.ledger.id


# --- a ledger that is broken


def test_a_truncated_ledger_names_its_state_and_the_command(house: House) -> None:
    house.nights().night()
    path = house.root / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    whole = path.read_bytes()
    for path_ in ledger_files(house):
        path_.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    said = house.refusal(house.nights())
    assert "rebuild-ledger" in said and "damaged" in said and "othing is lost" not in said
    for path_ in ledger_files(house):
        path_.rename(house.folder / path_.name)
    mended(house)
    all_right(house, RECORDS)


@only_whole
def test_an_emptied_ledger_refuses_and_is_mended(house: House) -> None:
    house.nights().night()
    lose(house)
    (house.root / "ledger.sqlite").write_bytes(b"")
    refused(house)
    mended(house)
    all_right(house, RECORDS)


def test_a_locked_ledger_says_who_to_look_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_pipeline.store import ledger

    house.nights().night()
    monkeypatch.setattr(ledger, "SQLITE_WAIT_SECONDS", 0.1)
    with sqlite3.connect(house.root / "ledger.sqlite") as other:
        other.execute("begin immediate")
        said = house.refusal(house.nights())
        other.rollback()
    assert "locked" in said and "othing is lost" not in said
    all_right(house, RECORDS)


# --- object stores


@only_whole
def test_an_object_store_is_compared_by_a_few_listings(house: House) -> None:
    from batch_pipeline import BatchStore
    from batch_pipeline_tests.support.stage_calls import PlayedNights

    root = f"memory://house-{secrets.token_hex(4)}"
    path = house.folder / "remote.sqlite"
    made = house.nights()
    store = BatchStore(root=root, ledger=f"sqlite:///{path}")
    run = PlayedNights(made.pipeline, made.claude, store, instance=house.instance)
    run.night()
    with sqlite3.connect(path) as now, sqlite3.connect(house.folder / "kept.sqlite") as copy:
        now.backup(copy)
    house.sql(MORE)
    run.night()
    files = Files(root)
    assert files.folders("") == ["notes"]
    assert len(high_water.submission_folders(files)) == 2
    for one in house.folder.glob("remote.sqlite*"):
        one.unlink()
    shutil.copy(house.folder / "kept.sqlite", path)
    assert "rebuild-ledger" in house.refusal(run)
    rebuild(open_store(root, f"sqlite:///{path}", lost=True))
    run.night()
    assert house.paid == RECORDS + 10 and not house.paid_twice
