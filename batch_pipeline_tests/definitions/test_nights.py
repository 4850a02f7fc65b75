"""Whole nights: what is asked, what is paid, and what stands in the table in the morning."""

import hashlib
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from batch_pipeline import DuckDBTable, ParquetDataset, ParquetSource
from batch_pipeline.definitions.assets import requests as requests_step
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.requests.prompt import text_of
from batch_pipeline.results import collect as collecting
from batch_pipeline_tests.definitions.conftest import RECORDS
from batch_pipeline_tests.support.extent import only_whole


def change(warehouse: Path, sql: str) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(sql)


def digest(row: dict) -> str:
    return hashlib.sha256(
        f"{text_of(row['summary'])}\n{text_of(row['description'])}".encode()
    ).hexdigest()


def test_every_record_gets_its_own_answer(nights, claude_emulator: EmulatorProcess) -> None:
    claude_emulator.configure(answers="digest")
    run = nights(
        source=ParquetSource(path=str(RECORDS), key="package"), claude={"max_batch_requests": 85}
    )
    run.night()
    rows = run.rows()
    assert len(rows) == 2000 and {row["_status"] for row in rows.values()} == {"answered"}
    assert all(row["answer"] == digest(row) for row in rows.values())
    bill = claude_emulator.bill()
    assert bill["requests"] == 2000 and bill["batches"] >= 25
    served = claude_emulator.requests(claude_emulator.batches()[0]["id"])
    order = [line["custom_id"] for line in served]
    assert len(order) == len(set(order))
    spent = sum(row["_cost_usd"] for row in rows.values())
    assert abs(spent - float(bill["usd"])) < 0.01


@pytest.mark.played
def test_the_next_night_asks_only_what_is_new_or_changed(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    run = nights()
    run.night()
    run.night()
    assert claude_emulator.bill()["requests"] == 300
    change(
        warehouse,
        "update packages set summary = summary || '!' where package in (select package from packages order by package limit 7)",
    )
    change(
        warehouse,
        "delete from packages where package in (select package from packages order by package desc limit 3)",
    )
    change(
        warehouse,
        "insert into packages select * replace ('new-' || package as package) from packages order by package limit 5",
    )
    run.night()
    assert claude_emulator.bill()["requests"] == 312
    rows = run.rows()
    assert len(rows) == 305  # a row whose record is gone is kept
    run.night()
    assert claude_emulator.bill()["requests"] == 312


@pytest.mark.played
def test_a_column_that_the_question_does_not_read_changes_nothing(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    run = nights()
    run.night()
    change(warehouse, "update packages set section = 'another'")
    run.night()
    assert claude_emulator.bill()["requests"] == 300


@pytest.mark.played
def test_a_changed_prompt_asks_again_with_refresh_changed_only(
    nights, claude_emulator: EmulatorProcess
) -> None:
    nights().night()
    nights({"prompt": "Sort this: {{ summary }}\n{{ description }}"}, refresh="new").night()
    assert claude_emulator.bill()["requests"] == 300
    nights({"prompt": "Sort this: {{ summary }}\n{{ description }}"}).night()
    assert claude_emulator.bill()["requests"] == 600


@pytest.mark.played
@only_whole
def test_cache_and_max_tokens_are_no_new_question(nights, claude_emulator: EmulatorProcess) -> None:
    nights().night()
    nights({"max_tokens": 300}).night()
    nights({"cache": "1h"}).night()
    assert claude_emulator.bill()["requests"] == 300


@only_whole
@pytest.mark.played
def test_an_older_batch_that_is_collected_last_does_not_overwrite_a_newer_answer(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    claude_emulator.configure(answers="digest", manual=True)
    run = nights()
    run.submit()
    older = claude_emulator.batches()
    change(
        warehouse,
        "update packages set summary = 'changed' where package = (select min(package) from packages)",
    )
    run.submit()
    newer = [
        batch["id"]
        for batch in claude_emulator.batches()
        if batch["id"] not in {one["id"] for one in older}
    ]
    assert len(newer) == 1
    claude_emulator.end(newer[0])
    run.tick_and_run()
    first = min(run.rows())
    assert run.rows()[first]["summary"] == "changed"
    claude_emulator.end()
    run.until_quiet()
    row = run.rows()[first]
    assert len(run.rows()) == 300 and row["summary"] == "changed" and row["answer"] == digest(row)


@pytest.mark.played
def test_content_that_comes_back_brings_its_answer_back_at_no_cost(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    claude_emulator.configure(answers="digest")
    run = nights()
    run.night()
    before = run.rows()
    first = min(before)
    change(warehouse, f"update packages set summary = 'B' where package = '{first}'")
    run.night()
    assert run.rows()[first]["summary"] == "B" and claude_emulator.bill()["requests"] == 301
    change(
        warehouse,
        f"update packages set summary = '{before[first]['summary']}' where package = '{first}'",
    )
    run.night()
    assert claude_emulator.bill()["requests"] == 301
    assert run.rows()[first] == before[first]
    run.night()
    assert claude_emulator.bill()["requests"] == 301


@only_whole
def test_failed_records_are_asked_again_the_same_night(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 0.10, "expired": 0.05, "invalid": 0.03})
    run = nights()
    run.night()
    rows = run.rows()
    statuses = Counter(row["_status"] for row in rows.values())
    assert len(rows) == 300 and set(statuses) >= {"answered", "rejected"}
    for row in rows.values():
        assert row["_error"] or row["_status"] == "answered"
        assert row["_attempt"] == 3 or row["_status"] in ("answered", "rejected")
    refused = [line for line in claude_emulator.billed_requests() if line["result"] == "errored"]
    assert statuses["rejected"] <= len(refused) and statuses["rejected"] > 0
    assert max(row["_attempt"] for row in rows.values()) > 1
    billed = [line for line in claude_emulator.billed_requests() if line["result"] == "succeeded"]
    assert len(billed) == statuses["answered"]


@only_whole
@pytest.mark.played
def test_after_the_last_attempt_the_last_reason_stands(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 1.0})
    run = nights(max_attempts=2)
    run.night()
    rows = run.rows()
    assert {(row["_status"], row["_attempt"]) for row in rows.values()} == {("errored", 2)}
    run.night()
    assert len(claude_emulator.billed_requests()) == 600


@pytest.mark.played
@only_whole
def test_a_partial_ask_takes_limit_where_and_force(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights()
    run.night(limit=10)
    assert claude_emulator.bill()["requests"] == 10
    run.night(where="section = 'admin'")
    admin = sum(1 for row in run.rows().values() if row["section"] == "admin")
    assert claude_emulator.bill()["requests"] == len(run.rows()) >= admin
    before = claude_emulator.bill()["requests"]
    run.night(limit=3, force=True)
    assert claude_emulator.bill()["requests"] == before + 3
    run.night(limit=0)
    assert claude_emulator.bill()["requests"] == before + 3


@pytest.mark.played
@only_whole
def test_the_retry_round_of_a_partial_ask_asks_nothing_else(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(rates={"errored": 0.5})
    run = nights()
    run.night(limit=20)
    assert len(run.rows()) == 20


@pytest.mark.played
@only_whole
def test_a_full_queue_is_emptied_and_filled_until_all_is_sent(
    nights, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(manual=True)
    run = nights(claude={"max_batch_requests": 40, "max_queued_requests": 75})
    run.submit()
    for _ in range(30):
        run.tick_and_run()
        claude_emulator.end()
    run.until_quiet()
    assert len(run.rows()) == 300
    stats = claude_emulator.stats()
    assert stats["max_queued"] <= 75 and claude_emulator.bill()["requests"] == 300


@pytest.mark.played
def test_the_answers_land_in_a_duckdb_table_beside_the_source(nights, warehouse: Path) -> None:
    run = nights(destination=DuckDBTable(database=str(warehouse), table="package_answers"))
    run.night()
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        assert connection.execute(
            "select count(*), count(distinct package) from package_answers"
        ).fetchone() == (300, 300)


@pytest.mark.played
def test_the_answers_land_in_a_parquet_dataset(nights, tmp_path: Path) -> None:
    run = nights(destination=ParquetDataset(path=str(tmp_path / "answers")))
    run.night()
    assert len(run.rows()) == 300


@pytest.mark.played
def test_on_deleted_drop_takes_the_row_away_and_gives_it_back(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    run = nights(on_deleted="drop")
    run.night()
    first = min(run.rows())
    change(warehouse, f"create table kept as select * from packages where package = '{first}'")
    change(warehouse, f"delete from packages where package = '{first}'")
    run.night()
    assert first not in run.rows() and len(run.rows()) == 299
    change(warehouse, "insert into packages from kept")
    run.night()
    assert first in run.rows() and claude_emulator.bill()["requests"] == 300


@pytest.mark.played
def test_an_empty_source_is_a_good_night(
    nights, claude_emulator: EmulatorProcess, warehouse: Path
) -> None:
    change(warehouse, "delete from packages")
    run = nights()
    run.night()
    run.collect()
    assert claude_emulator.stats()["batches"] == 0
    assert run.metadata("records")["source_rows"] == 0


@pytest.mark.played
@only_whole
def test_results_cut_at_a_line_end_are_noticed_and_fetched_again(
    nights, claude_emulator: EmulatorProcess
) -> None:
    run = nights()
    run.submit()
    claude_emulator.fault("results", "cut_results_at_line", line=10)
    run.until_quiet()
    rows = run.rows()
    assert len(rows) == 300 and {row["_status"] for row in rows.values()} == {"answered"}


@pytest.mark.played
@only_whole
def test_results_that_stay_cut_are_accepted_as_damaged_after_an_hour(
    nights, claude_emulator: EmulatorProcess, clock
) -> None:
    run = nights(claude={"max_batch_requests": 1000}, max_attempts=1)
    run.submit()
    claude_emulator.fault("results", "cut_results_at_line", line=10, times=None)
    for _ in range(8):
        run.tick_and_run()
        clock.advance(1201)
    run.until_quiet()
    statuses = Counter(row["_status"] for row in run.rows().values())
    assert statuses == {"answered": 10, "missing": 290}
    assert all(
        "lines instead of" in row["_error"]
        for row in run.rows().values()
        if row["_status"] == "missing"
    )


@pytest.mark.played
def test_structured_answers_become_typed_columns(nights) -> None:
    schema = {
        "type": "object",
        "properties": {
            "size": {"type": "integer"},
            "kind": {"type": "string", "enum": ["game", "library"]},
        },
        "required": ["size", "kind"],
    }
    run = nights({"output": schema}, output_prefix="claude_")
    run.night(limit=20)
    rows = run.rows()
    assert all(
        isinstance(row["claude_size"], int) and row["claude_kind"] in ("game", "library")
        for row in rows.values()
    )


@pytest.mark.played
@only_whole
def test_an_api_that_is_down_when_the_night_begins_does_not_cost_the_night(
    nights, claude_emulator: EmulatorProcess, warehouse: Path, clock
) -> None:
    run = nights()
    run.night()
    change(warehouse, "update packages set summary = summary || '!'")
    claude_emulator.fault("any", "status_before", status=529, times=None)
    assert not run.run("submit", {"allow_reask": True}, raises=False).success
    claude_emulator.clear_faults()
    clock.advance(60)
    run.until_quiet()
    assert claude_emulator.bill()["requests"] == 600
    assert all(row["summary"].endswith("!") for row in run.rows().values())


@pytest.mark.played
@pytest.mark.parametrize(
    ("on", "kind", "settings"),
    [
        ("results", "status_before", {"status": 404}),
        ("retrieve", "status_before", {"status": 404}),
        ("retrieve", "change_fields", {"fields": {"results_url": None}}),
    ],
)
def test_one_reply_that_denies_the_answers_does_not_give_them_up(
    nights, claude_emulator: EmulatorProcess, clock, on: str, kind: str, settings: dict
) -> None:
    run = nights()
    run.submit(limit=20)
    claude_emulator.fault(on, kind, **settings)
    for _ in range(5):
        run.tick_and_run()
        clock.advance(1201)
    run.until_quiet()
    assert claude_emulator.bill()["requests"] == 20
    assert {row["_status"] for row in run.rows().values()} == {"answered"}


@pytest.mark.played
def test_an_overtaken_collector_changes_nothing_that_is_collected(
    nights, claude_emulator: EmulatorProcess, clock, monkeypatch
) -> None:
    run = nights()
    run.submit(limit=20)
    seen: list = []
    real = collecting.ready_to_collect
    monkeypatch.setattr(
        collecting, "ready_to_collect", lambda *given: seen.append(real(*given)) or seen[-1]
    )
    run.tick_and_run()
    monkeypatch.setattr(collecting, "ready_to_collect", lambda *_: seen[0])
    claude_emulator.fault("any", "status_before", status=404, times=None, nth=3)
    run.collect()
    claude_emulator.clear_faults()
    monkeypatch.undo()
    run.until_quiet()
    assert {row["_status"] for row in run.rows().values()} == {"answered"}


@only_whole
@pytest.mark.played
def test_a_selection_whose_run_ended_before_its_requests_is_built_by_the_sensor(
    nights, claude_emulator: EmulatorProcess, clock, monkeypatch
) -> None:
    run = nights()

    def fail(*_args, **_more):
        raise OSError("the disk is full")

    monkeypatch.setattr(requests_step, "prepare", fail)
    assert not run.run("submit", raises=False).success
    monkeypatch.undo()
    clock.advance(301)
    run.until_quiet()
    assert len(run.rows()) == 300 and claude_emulator.bill()["requests"] == 300
