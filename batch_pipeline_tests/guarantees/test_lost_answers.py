"""What waits to be sent, while the table holds answers to it that the store lost."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import dagster as dg
import pytest

from batch_pipeline import ParquetDataset
from batch_pipeline.batches.cancel import cancel
from batch_pipeline.batches.held import drop, list_held, resend
from batch_pipeline.definitions.assets import look, records
from batch_pipeline.definitions.rows import destination_of
from batch_pipeline.errors import InputError
from batch_pipeline.records import submission
from batch_pipeline.results import publish
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.house import RECORDS, House


def build(house: House, run: Nights) -> Path:
    """Select and build, send nothing, and return a copy of the store."""
    run.select("records", "requests")
    return keep(house)


def keep(house: House) -> Path:
    return Path(shutil.copytree(house.root, house.folder / "kept"))


def restore(house: House, kept: Path) -> None:
    shutil.rmtree(house.root)
    shutil.copytree(kept, house.root)


def delete_batches(house: House) -> None:
    with anthropic.Anthropic(api_key="any", base_url=house.emulator.base_url) as client:
        for batch in house.emulator.batches():
            client.messages.batches.delete(batch["id"])


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Each copy of a table's rows that is made to look at them."""
    made: list[str] = []
    real = look.copy_answered

    def copy(destination, key, path):
        made.append(path)
        return real(destination, key, path)

    monkeypatch.setattr(look, "copy_answered", copy)
    yield made


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_what_waits_and_is_answered_takes_its_answers_from_the_api(house: House, kind: str) -> None:
    fields = where(house, kind)
    run = house.nights(**fields)
    kept = build(house, run)
    run.night()
    restore(house, kept)
    run = house.nights(**fields)
    run.tick_and_run()
    (held,) = list_held(run.store.open()).files
    assert held.requests == RECORDS and f"{RECORDS} of its {RECORDS} records" in held.error
    for words in ("answers", str(house.root), "API's list", "allow_reask", "held --resend"):
        assert words in held.error
    run.until_quiet()
    run.night()
    assert house.paid == RECORDS and len(run.rows()) == RECORDS
    assert not list_held(run.store.open()).files


def test_what_waits_and_is_answered_is_held_when_the_api_has_it_no_more(house: House) -> None:
    run = house.nights()
    kept = build(house, run)
    run.night()
    delete_batches(house)
    restore(house, kept)
    run = house.nights()
    for _ in range(3):
        run.tick_and_run()
    (held,) = list_held(run.store.open()).files
    assert house.paid == RECORDS and "--drop" not in held.todo
    with pytest.raises(InputError, match="without answers"):
        drop(run.store.open(), held.id)
    run.submit()  # what it asks is on its way
    assert run.tick_and_run() == 0 and house.paid == RECORDS
    resend(run.store.open(), held.id)
    run.until_quiet()
    run.night()
    assert house.paid == 2 * RECORDS and house.statuses() == {"answered": RECORDS}


@only_whole
def test_a_run_that_may_ask_again_sends_what_is_held(house: House) -> None:
    run = house.nights()
    kept = build(house, run)
    run.night()
    delete_batches(house)
    restore(house, kept)
    run = house.nights()
    run.tick_and_run()
    assert list_held(run.store.open()).files and house.paid == RECORDS
    run.night(allow_reask=True)
    assert house.paid == 2 * RECORDS and house.statuses() == {"answered": RECORDS}


@only_whole
def test_of_several_files_only_what_is_answered_is_held(house: House) -> None:
    limits = {"max_batch_requests": 20, "max_queued_requests": 20}  # two files
    run = house.nights(claude=limits)
    kept = build(house, run)
    run.submit()
    run.collect()
    assert house.statuses() == {"answered": 20}
    restore(house, kept)
    run = house.nights(claude=limits)
    run.tick_and_run()
    assert len(list_held(run.store.open()).files) == 1
    run.until_quiet()
    assert house.paid == RECORDS and house.paid_twice == 0
    assert house.statuses() == {"answered": RECORDS}


@only_whole
def test_a_night_in_pieces_never_reads_the_table_for_it(house: House, looks: list[str]) -> None:
    house.emulator.configure(manual=True)
    limits = {"max_batch_requests": 20, "max_queued_requests": 20}  # two files
    run = house.nights(claude=limits)
    run.submit()
    house.emulator.configure(manual=False)
    house.emulator.end()
    run.until_quiet()
    house.sql("insert into notes select id + 1000, text || '!', part from notes")
    run.night()
    assert house.paid == 2 * RECORDS and not house.paid_twice and not looks


def test_a_merge_that_nobody_noted_is_looked_through_once(
    house: House, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash between the table's commit and the ledger's."""
    limits = {"max_batch_requests": 20, "max_queued_requests": 20}  # two files
    run = house.nights(claude=limits)
    with monkeypatch.context() as patch:
        patch.setattr(publish, "begin", lambda *_: None)
        patch.setattr(publish, "carry_on", lambda *_: None)
        run.submit()
        run.collect()
    run.until_quiet()
    assert house.paid == RECORDS and not house.paid_twice and len(looks) == 1
    assert house.statuses() == {"answered": RECORDS}


@only_whole
def test_asked_again_on_purpose_is_sent_file_by_file(house: House, looks: list[str]) -> None:
    limits = {"max_batch_requests": 20, "max_queued_requests": 20}  # two files
    house.nights(claude=limits).night()
    shutil.rmtree(house.root)
    house.nights(claude=limits).night(allow_reask=True)
    house.nights(claude=limits).night(force=True)
    assert house.paid == 3 * RECORDS and house.statuses() == {"answered": RECORDS} and not looks


@only_whole
def test_a_table_that_cannot_be_read_is_waited_for_an_hour(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.nights().night()
    house.sql("update notes set text = text || '!' where id < 3")
    run = house.nights()
    shutil.rmtree(build(house, run))

    def whose(*_):
        raise InputError("The DuckDB database stayed in use")

    monkeypatch.setattr("batch_pipeline.results.duckdb_table.DuckDBRows.whose", whose)
    assert run.tick_and_run() == 1 and run.tick_and_run() == 0 and house.paid == RECORDS
    house.clock.advance(310)
    assert run.tick_and_run() == 1 and house.paid == RECORDS
    house.clock.advance(3600)
    run.until_quiet()
    assert house.paid == RECORDS + 3


def where(house: House, kind: str) -> dict[str, Any]:
    """Fields of the pipeline, by what its table is."""
    if kind == "duckdb":
        return {}
    return {"destination": ParquetDataset(path=str(house.folder / "answers"))}


def statuses(run: Nights) -> dict[str, int]:
    return dict(Counter(row["_status"] for row in run.rows().values()))


@only_whole
@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_what_waits_and_is_cancelled_leaves_the_answers_that_the_store_lost(
    house: House, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = where(house, kind)
    run = house.nights(**fields)
    kept = build(house, run)
    run.run("send")
    run.until_quiet()
    before = run.rows()
    restore(house, kept)
    run = house.nights(**fields)
    with closing(run.claude.api()) as api:
        assert cancel(run.store.open(), api, "notes").withdrawn
    run.until_quiet()
    assert run.rows() == before and statuses(run) == {"answered": RECORDS}
    assert f"{RECORDS} records came back without an answer" in capsys.readouterr().err
    # Nothing of it is put right the next time, or told to be deleted, or paid again.
    assert not publish.publish(
        run.store.open(), "notes", destination_of(run.pipeline, run.store.open()), ["id"]
    ).inserted
    assert f"{RECORDS} of their records would be paid again" in house.refusal(run)
    assert house.paid == RECORDS


@pytest.mark.parametrize("status", ["errored", "expired", "invalid", "refused"])
def test_what_is_asked_again_and_fails_leaves_the_answers_that_the_store_lost(
    house: House, status: str
) -> None:
    house.nights().night()
    before = house.sql("select * from answers order by id")
    shutil.rmtree(house.root)
    house.emulator.configure(rates={status: 1.0})
    run = house.nights(max_attempts=1)
    run.night(allow_reask=True)
    assert house.sql("select * from answers order by id") == before
    house.emulator.configure(rates={})
    run.night(force=True)
    assert house.statuses() == {"answered": RECORDS}


@pytest.mark.parametrize("lost", ["records.parquet", "records.parquet requests", "."])
def test_answers_are_kept_while_the_records_they_belong_to_are_lost(
    house: House, lost: str
) -> None:
    """They could pass the API's 29 days while somebody looks for a backup."""
    house.emulator.configure(manual=True)
    run = house.nights()
    run.submit()
    kept = keep(house)
    (folder,) = house.root.glob("notes/2*")
    for name in lost.split():
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    house.emulator.end()
    assert "records.parquet" in run.refusal("collect", {})
    (answers,) = folder.glob("answers/*.jsonl")
    assert len(answers.read_text().splitlines()) == RECORDS
    delete_batches(house)
    house.clock.advance(3600)
    assert "records.parquet" in run.refusal("collect", {})
    shutil.copytree(kept / folder.relative_to(house.root), folder, dirs_exist_ok=True)
    run.until_quiet()
    run.night()
    assert house.statuses() == {"answered": RECORDS} and house.paid == RECORDS


@only_whole
def test_with_partitions_what_waits_in_each_is_looked_at(house: House) -> None:
    parts = dg.StaticPartitionsDefinition(["0", "1", "2", "3"])
    run = house.nights(partitions=parts, partition_column="part")
    busy = {"retry-after": "1"}
    house.emulator.fault("create", "status_before", times=2, status=429, headers=busy)
    run.submit("1")
    run.submit("2")
    kept = keep(house)
    house.clock.advance(60)
    run.run("send", partition="1")
    run.collect("1")
    assert house.statuses() == {"answered": 10}
    restore(house, kept)
    run = house.nights(partitions=parts, partition_column="part")
    for part in ("1", "2"):
        run.run("send", partition=part)
    (held,) = list_held(run.store.open()).files
    assert held.partition == "1" and held.requests == 10
    run.until_quiet()
    assert house.paid == 20 and not house.paid_twice and house.statuses() == {"answered": 20}


@only_whole
def test_under_another_name_what_waits_is_looked_at(house: House) -> None:
    run = house.nights()
    kept = build(house, run)
    run.run("send")
    run.until_quiet()
    restore(house, kept)
    run = house.nights(name="remarks", renamed_from="notes")
    run.run("send")
    (held,) = list_held(run.store.open()).files
    assert held.pipeline == "remarks" and f"{RECORDS} of its {RECORDS} records" in held.error
    run.until_quiet()
    assert house.paid == RECORDS and house.statuses() == {"answered": RECORDS}


@pytest.mark.parametrize("change", ["new", "changed"])
def test_one_answer_that_the_store_lost_is_not_paid_again(house: House, change: str) -> None:
    house.nights().night()
    kept = keep(house)
    if change == "new":
        house.sql("insert into notes values (1000, 'one more', 0)")
    else:
        house.sql("update notes set text = 'another' where id = 3")
    house.nights().night()
    restore(house, kept)
    said = house.refusal(house.nights())
    assert "1 of their records would be paid again" in said and house.paid == RECORDS + 1


@only_whole
def test_a_row_that_somebody_wrote_or_edited_is_no_lost_answer(house: House) -> None:
    house.nights().night()
    house.sql(
        "insert into answers select * replace (1000 as id) from answers where id = 1",
        "update answers set _custom_id = 'mine' where id = 2",
        "insert into notes values (1000, 'one more', 0)",
        "update notes set text = 'another' where id = 2",
    )
    house.nights().night()
    assert house.paid == RECORDS + 2 and house.statuses() == {"answered": RECORDS + 1}


@only_whole
def test_what_another_process_collects_meanwhile_is_no_lost_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = house.nights()
    run.night()
    real, reads = submission.situation, []

    def situation(ledger, scope):
        reads.append(scope)
        read = real(ledger, scope)
        # The first one reads the ledger before, and the table after, what the other one did.
        return replace(read, index=[]) if len(reads) == 1 else read

    monkeypatch.setattr(submission, "situation", situation)
    monkeypatch.setattr(records, "knows_all", lambda *_: False)
    run.night()
    assert len(reads) == 2 and house.paid == RECORDS
