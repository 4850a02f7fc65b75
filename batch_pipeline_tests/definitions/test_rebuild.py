"""A ledger that is lost, and rows that are lost: made again, and nothing is bought twice."""

import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from sqlalchemy import func, select

from batch_pipeline import BatchStore, DuckDBSource
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import BatchPipelineError, StoreError
from batch_pipeline.results.lost import rebuild_lost
from batch_pipeline.results.rebuild import rebuild
from batch_pipeline.store.files import Files
from batch_pipeline.store.store import open_store
from batch_pipeline.store.tables import request_files, submissions
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import only_whole

TABLES: Any = (submissions, request_files)


def lose_ledger(run: Nights) -> None:
    """The disk with the ledger is gone."""
    for path in Path(run.store.root).glob("ledger.sqlite*"):
        path.unlink()


def made_again(run: Nights):
    return rebuild(open_store(run.store.root, lost=True))


def costs(run: Nights) -> tuple[int, int]:
    rows = run.store.open().ledger.rows(
        select(func.sum(request_files.c.cost_nanousd), func.sum(request_files.c.cost_unknown))
    )
    return tuple(int(value or 0) for value in rows[0].values())  # type: ignore[return-value]


def paid_once(emulator: EmulatorProcess) -> bool:
    billed = Counter(line["custom_id"] for line in emulator.billed_requests())
    return set(billed.values()) == {1}


@only_whole
def test_a_store_whose_ledger_is_lost_is_not_taken_for_a_new_one(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights()
    run.night()
    lose_ledger(run)
    result = run.run("submit", raises=False)
    assert not result.success
    failure = result.failure_data_for_node("packages__records")
    assert "rebuild-ledger" in str(failure.error) or "rebuild-ledger" in str(
        failure.user_failure_data.description
    )
    assert "rebuild-ledger" in run.tick().skip_message
    assert claude_emulator.bill()["requests"] == 300


@only_whole
@pytest.mark.played
def test_a_ledger_rebuilt_after_finished_nights_asks_and_pays_nothing(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    claude_emulator.configure(rates={"errored": 0.1, "invalid": 0.05})
    run = nights()
    run.night()
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "update packages set summary = summary || '!' where package in "
            "(select package from packages order by package limit 7)"
        )
    run.night()
    before, paid, bill = run.rows(), costs(run), claude_emulator.bill()
    lose_ledger(run)
    report = made_again(run)
    assert not report.unknown and not report.skipped and not report.kept
    assert costs(run) == paid
    run.night()
    assert claude_emulator.bill() == bill
    assert run.rows() == before
    run.submit(limit=300)
    assert run.metadata("records")["asked"] == 0


@pytest.mark.played
def test_whatever_was_on_its_way_when_the_ledger_was_lost_is_found_and_paid_once(
    nights, claude_emulator: EmulatorProcess, clock
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 30, "max_queued_requests": 160})
    run.submit()  # some files are sent, others wait for room
    sent = claude_emulator.batches()
    assert 2 < len(sent) < 10
    claude_emulator.end(sent[0]["id"])
    claude_emulator.end(sent[1]["id"])
    run.tick_and_run()  # one batch and another are collected
    claude_emulator.end(sent[2]["id"])
    lose_ledger(run)
    report = made_again(run)
    assert report.collected == 2 and report.unknown > 5
    claude_emulator.configure(manual=False)
    clock.advance(130)
    for _ in range(20):
        claude_emulator.end()
        run.tick_and_run()
        clock.advance(130)
    run.until_quiet()
    assert paid_once(claude_emulator)
    assert claude_emulator.bill()["requests"] == 300
    assert {row["_status"] for row in run.rows().values()} == {"answered"}


@pytest.mark.played
def test_answers_that_were_kept_but_not_joined_are_not_fetched_again(
    nights, claude_emulator: EmulatorProcess, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_pipeline.results import collect as collecting

    def torn(*_given: Any, **_more: Any) -> Any:
        raise OSError("the disk is full")

    run = nights()
    run.submit()
    monkeypatch.setattr(collecting, "join_file", torn)
    assert not run.run("collect", raises=False).success
    monkeypatch.undo()
    fetched = claude_emulator.stats()["calls"]["GET /v1/messages/batches/{batch_id}/results"]
    lose_ledger(run)
    report = made_again(run)
    assert report.kept == 4
    clock.advance(120)  # the failed run is tried again after a minute
    run.until_quiet()
    stats = claude_emulator.stats()["calls"]
    assert stats["GET /v1/messages/batches/{batch_id}/results"] == fetched
    assert claude_emulator.bill()["requests"] == 300
    assert {row["_status"] for row in run.rows().values()} == {"answered"}


@pytest.mark.played
def test_a_ledger_that_is_not_empty_is_not_rebuilt(nights) -> None:
    run = nights()
    run.submit(limit=3)
    with pytest.raises(StoreError, match="not empty"):
        made_again(run)


@pytest.mark.played
@only_whole
def test_a_selection_that_was_never_built_is_selected_again(
    nights, claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_pipeline.requests import prepare as preparing

    run = nights()
    run.night(limit=10)

    def dead(*_given: Any, **_more: Any) -> Any:
        raise BatchPipelineError("the run was killed here")

    monkeypatch.setattr(preparing, "commit_build", dead)
    assert not run.run("submit", raises=False).success
    monkeypatch.undo()
    lose_ledger(run)
    assert made_again(run).submissions == 1
    run.night()
    assert paid_once(claude_emulator) and claude_emulator.bill()["requests"] == 300


@pytest.mark.played
@only_whole
def test_partitions_and_numbers_come_back(nights, claude_emulator: EmulatorProcess) -> None:
    run = nights(max_attempts=1)
    for _ in range(3):
        run.submit(limit=5)
    run.until_quiet()
    before = [dict(row) for row in run.store.open().ledger.rows(select(submissions))]
    lose_ledger(run)
    made_again(run)
    after = [dict(row) for row in run.store.open().ledger.rows(select(submissions))]
    kept = ("id", "pipeline", "partition", "number", "endpoint_id", "version", "created_at")
    assert [{name: row[name] for name in kept} for row in after] == [
        {name: row[name] for name in kept} for row in before
    ]
    run.submit(limit=5)
    numbers = [row["number"] for row in run.store.open().ledger.rows(select(submissions))]
    assert sorted(numbers) == [1, 2, 3, 4]


@pytest.mark.played
@pytest.mark.parametrize("gone", ["results", "index", "both"])
@pytest.mark.parametrize("job", ["submit", "collect"])
def test_rows_and_index_files_that_are_lost_are_made_from_the_kept_answers(
    nights, claude_emulator: EmulatorProcess, gone: str, job: str
) -> None:
    run = nights()
    run.night()
    before = run.rows()
    fetched = claude_emulator.stats()["calls"]["GET /v1/messages/batches/{batch_id}/results"]
    (folder,) = (path.parent for path in Path(run.store.root).glob("packages/*/results"))
    if gone != "index":
        shutil.rmtree(folder / "results")
    if gone != "results":
        for path in (folder / "index").glob("0*.parquet"):
            path.unlink()
    if job == "submit":
        run.submit()
    run.collect()
    run.until_quiet()
    assert run.rows() == before
    assert claude_emulator.bill()["requests"] == 300
    stats = claude_emulator.stats()["calls"]
    assert stats["GET /v1/messages/batches/{batch_id}/results"] == fetched
    assert len(list((folder / "results").glob("*.parquet"))) >= 3


@only_whole
@pytest.mark.played
def test_what_another_run_collects_meanwhile_is_not_taken_for_lost(
    nights, claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It collects right after the store's files were listed."""
    run = nights()
    run.night(limit=20)
    run.submit()
    store, listed, looks = run.store.open(), Files.names, []

    def names(files: Files, folder: str) -> set[str]:
        found = listed(files, folder)
        if not looks:
            looks.append(folder)
            run.until_quiet()
        return found

    monkeypatch.setattr(Files, "names", names)
    with closing(run.claude.api()) as api:
        assert rebuild_lost(store, api, run.pipeline.name, 3) == ([], [])
    assert looks and len(run.rows()) == 300


@pytest.mark.played
@only_whole
def test_rows_that_an_earlier_answer_gave_are_made_from_it_again(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    def set_summary(text: str) -> None:
        with duckdb.connect(str(warehouse)) as connection:
            connection.execute("update packages set summary = ?", [text])

    run = nights({"prompt": "{{ summary }}"}, source=source_of(warehouse))
    for text in ("a", "b", "a"):
        set_summary(text)
        run.night()
    before, asked = run.rows(), claude_emulator.bill()["requests"]
    assert asked == 20
    for folder in Path(run.store.root).glob("packages/*/results"):
        shutil.rmtree(folder)
    run.collect()
    assert run.rows() == before and claude_emulator.bill()["requests"] == asked
    lose_ledger(run)
    made_again(run)
    run.night()
    assert run.rows() == before and claude_emulator.bill()["requests"] == asked


def source_of(warehouse: Path) -> DuckDBSource:
    query = "select * from packages order by package limit 10"
    return DuckDBSource(database=str(warehouse), query=query, key="package")


@pytest.mark.played
@only_whole
def test_rows_whose_answers_are_lost_too_come_from_the_api(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights()
    run.night(limit=20)
    before = run.rows()
    (folder,) = (path.parent for path in Path(run.store.root).glob("packages/*/results"))
    shutil.rmtree(folder / "results")
    shutil.rmtree(folder / "answers")
    run.collect()
    assert run.rows() == before and claude_emulator.bill()["requests"] == 20
    assert len(list((folder / "answers").glob("*.jsonl"))) == 1


def test_records_that_are_lost_are_said_and_nothing_is_sent(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights()
    run.night(limit=20)
    (folder,) = (path.parent for path in Path(run.store.root).glob("packages/*/results"))
    shutil.rmtree(folder / "results")
    (folder / "records.parquet").unlink()
    result = run.run("collect", raises=False)
    assert not result.success
    assert "Bring the store's files back" in str(
        result.failure_data_for_node("packages__results").user_failure_data.description
    )


@pytest.mark.played
def test_two_ledgers_do_not_share_a_store(nights, tmp_path: Path) -> None:
    run = nights()
    run.store.open()
    other = BatchStore(root=run.store.root, ledger=f"sqlite:///{tmp_path}/other.sqlite")
    with pytest.raises(StoreError, match="was written with the ledger"):
        other.open()


def broken(path: Path, how: str) -> None:
    """Somebody or a full disk damages a file."""
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        whole = {"empty": b"", "cut": content[: len(content) // 2], "junk": b"junk" * 50}
        path.write_bytes(whole[how])


@pytest.mark.played
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "junk"])
def test_a_table_and_the_rows_of_the_store_that_are_both_lost_are_made_again(
    nights, claude_emulator: EmulatorProcess, how: str
) -> None:
    run = nights()
    run.night(limit=20)
    before, bill = run.rows(), claude_emulator.bill()
    for path in Path(run.store.root).glob("packages/*/results/*.parquet"):
        broken(path, how)
    table = run.pipeline.destination
    assert table is None
    shutil.rmtree(Path(run.store.root) / "packages" / "table")
    run.submit(limit=0)
    assert run.rows() == before and claude_emulator.bill() == bill
    assert run.run("collect").success


@pytest.mark.played
@pytest.mark.parametrize("how", ["empty", "cut", "junk"])
def test_damaged_rows_and_index_files_are_made_again_by_the_next_collect_run(
    nights, claude_emulator: EmulatorProcess, how: str
) -> None:
    run = nights()
    run.night(limit=20)
    before, bill = run.rows(), claude_emulator.bill()
    for folder in ("results", "index"):
        for path in Path(run.store.root).glob(f"packages/*/{folder}/0*.parquet"):
            broken(path, how)
    assert run.run("collect").success
    assert run.rows() == before and claude_emulator.bill() == bill


def test_a_damaged_selection_is_made_again_from_the_records_or_said_by_name(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights()
    run.submit(limit=20)
    (path,) = Path(run.store.root).glob("packages/*/index/selected.parquet")
    was = set(duckdb.read_parquet(str(path)).fetchall())
    broken(path, "cut")
    run.submit(limit=0)
    assert set(duckdb.read_parquet(str(path)).fetchall()) == was
    broken(path, "cut")
    (path.parent.parent / "records.parquet").unlink()
    for job in ("submit", "collect"):
        result = run.run(job, raises=False)
        step = "packages__records" if job == "submit" else "packages__results"
        said = str(result.failure_data_for_node(step).user_failure_data.description)
        assert "selected.parquet" in said and "from a backup" in said
    claude_emulator.end()
    assert claude_emulator.bill()["requests"] == 20
