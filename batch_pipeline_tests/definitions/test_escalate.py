"""Cheap first: what one model does not settle, a better one is asked in the same night, once."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Escalate,
    InputError,
    MessageTemplate,
    RequestFiles,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.stage_calls import StageCalls

RECORDS = 40
CHEAP, BETTER = "claude-haiku-4-5", "claude-opus-5-5"
SORTED = {"type": "object", "properties": {"section": {"type": "string", "enum": ["net", "text"]}},
          "required": ["section"], "additionalProperties": False}  # fmt: skip
Make = Callable[..., StageCalls]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A DuckDB file with a table of records, every fourth of which is small."""
    path = tmp_path / "packages.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute(
            "create table packages as select i as id, 'package ' || i || ' of ' || if(i % 2 = 0, 'net', 'text') as"
            f" summary, i % 4 as size, i % 2 as day from range({RECORDS}) as t (i)"
        )
    return path


@pytest.fixture
def make(
    claude_emulator: EmulatorProcess, tmp_path: Path, database: Path, clock: HandClock
) -> Make:
    """Make a pipeline over the records; called again, it is the next version of the code."""
    instance = dg.DagsterInstance.ephemeral()

    def made(escalate: Escalate | None, **fields: Any) -> StageCalls:
        request = fields.pop("request", {})
        pipeline = BatchPipeline(
            **{
                "name": "packages",
                "source": DuckDBSource(database=str(database), table="packages", key="id"),
                "request": MessageTemplate(
                    **{"model": CHEAP, "max_tokens": 50, "prompt": "{{ summary }}", "output": SORTED, **request}
                ),
                "destination": DuckDBTable(database=str(database), table="sections"),
                "escalate": escalate,
                **fields,
            }
        )  # fmt: skip
        claude = ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url)
        return StageCalls(pipeline, claude, BatchStore(root=str(tmp_path / "store")), instance)

    return made


def table(database: Path) -> dict[int, tuple[str, str | None, str]]:
    """Of each key the model that its row is of, why, and the status."""
    with duckdb.connect(str(database)) as con:
        rows = con.execute("select id, _model, _escalated, _status from sections").fetchall()
    assert len(rows) == len({row[0] for row in rows})
    return {row[0]: tuple(row[1:]) for row in rows}


def paid(emulator: EmulatorProcess) -> list[str]:
    """The custom_ids of all that was billed, each once."""
    found = [line["custom_id"] for line in emulator.billed_requests()]
    assert len(found) == len(set(found))
    return found


def test_what_meets_the_condition_is_asked_of_the_better_model_the_same_night_and_only_once(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    escalate = Escalate(to=BETTER, when="size = 1")
    nights = make(escalate)
    nights.night()
    rows = table(database)
    assert len(rows) == RECORDS
    assert {key for key, row in rows.items() if row[1]} == set(range(1, RECORDS, 4))
    assert all(row == (BETTER, "size = 1", "answered") for row in rows.values() if row[1])
    assert Counter(row[1] for row in rows.values())[None] == RECORDS * 3 // 4
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4
    # The second night asks nothing, nor does the sensor. What changes is asked of the first, and of the better one
    # where that meets the condition.
    with duckdb.connect(str(database)) as con:
        con.execute("update packages set summary = summary || ' again' where id in (1, 2)")
    make(escalate).night()
    assert table(database) == rows
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4 + 3


@only_whole
def test_a_better_answer_stays_without_escalation_and_is_put_back_when_the_first_model_answers_once_more(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    escalate = Escalate(to=BETTER, when="size = 1")
    make(escalate, on_deleted="drop").night()
    rows, asked = table(database), len(paid(claude_emulator))
    make(None).night()
    make(escalate).night()
    assert table(database) == rows
    assert len(paid(claude_emulator)) == asked
    nights = make(escalate, on_deleted="drop")
    nights.night(force=True)
    assert table(database) == rows
    selected = nights.metadata("records")
    assert (selected["source_rows"], selected["settled"]) == (RECORDS, RECORDS)
    assert len(paid(claude_emulator)) == asked + RECORDS
    # A key that left and is back has the better answer again.
    with duckdb.connect(str(database)) as con:
        con.execute("create table gone as from packages where id in (1, 2)")
        con.execute("delete from packages where id in (1, 2)")
    nights.night()
    assert table(database) == {key: row for key, row in rows.items() if key not in (1, 2)}
    with duckdb.connect(str(database)) as con:
        con.execute("insert into packages from gone")
    nights.night()
    assert table(database) == rows
    assert len(paid(claude_emulator)) == asked + RECORDS


@only_whole
def test_a_pipeline_that_has_answers_gets_escalation_and_what_failed_after_all_attempts_is_escalated(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    # Of the record 7 the first model makes nothing that fits; the better one refuses 8.
    claude_emulator.configure(outcomes={"package 7 ": "unfit", "package 8 ": "refused"})
    make(None, max_attempts=2).night()
    before = [(row[0], row[2]) for row in map(_plain(database).__getitem__, (7, 8))]
    assert before == [(CHEAP, "invalid"), (CHEAP, "refused")]
    asked = len(paid(claude_emulator))
    claude_emulator.configure(outcomes={"package 8 ": "refused"})
    nights = make(Escalate(to=BETTER, when=["invalid", "refused"]), max_attempts=2)
    # The sensor alone asks nothing about what was answered before; the next night does.
    nights.until_quiet()
    assert len(paid(claude_emulator)) == asked
    nights.night()
    rows = table(database)
    assert rows[7] == (BETTER, "invalid", "answered")
    # Without a better answer the first one's row stays.
    assert rows[8] == (CHEAP, None, "refused")
    assert len(paid(claude_emulator)) == asked + 2
    nights.night()
    assert len(paid(claude_emulator)) == asked + 2


@only_whole
def test_a_sample_is_asked_of_both_and_the_report_says_agreement_and_what_was_saved(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    claude_emulator.configure(mistakes={CHEAP: 0.4})
    nights = make(Escalate(to=BETTER, when=[], audit=0.5))
    nights.night()
    why = Counter(row[1] for row in table(database).values())
    assert 8 < why["audit"] < 32 and why["audit"] + why[None] == RECORDS
    shown = nights.metadata("results")
    assert shown["audited"] == why["audit"] and shown["escalated"] == 0
    assert 0.3 < shown["audit_agreement"] < 0.95
    assert "got the same answer of both models (section; 95% interval" in shown["audit"]
    costs = {CHEAP: 0.0, BETTER: 0.0}
    for line in claude_emulator.billed_requests():
        costs[line["model"]] += float(line["usd"])
    each = costs[BETTER] / why["audit"]
    assert shown["saved_usd"] == pytest.approx(each * RECORDS - sum(costs.values()), rel=0.01)
    # The sample is the same every night.
    asked = len(paid(claude_emulator))
    nights.night()
    assert len(paid(claude_emulator)) == asked


def test_a_run_that_ends_between_the_steps_and_two_at_once_ask_the_better_model_once(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    nights = make(Escalate(to=BETTER, when="size = 1"))
    nights.submit()
    nights.collect()
    nights.select("records")
    nights.select("records", "requests")
    left = make(None).tick()
    assert not left.run_requests
    assert "(the better model of escalate) will not be sent" in (left.skip_message or "")
    nights.select("records")
    nights.night()
    assert Counter(row[1] for row in table(database).values()) == {None: 30, "size = 1": 10}
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4


def test_a_model_that_takes_the_other_ones_place_asks_nothing_that_it_answered(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    make(Escalate(to=BETTER, when="size = 1")).night()
    rows, asked = table(database), len(paid(claude_emulator))
    # Requests of both would be called alike, and what was answered paid once more.
    for config in ({}, {"allow_reask": True}, {"force": True}):
        said = make(None, request={"model": BETTER}).refusal("submit", config)
        assert "what the first model is asked was asked of it before, as the better one" in said
        assert 'MessageTemplate(version="...")' in said
    # Before the new first model is paid, too.
    said = make(Escalate(to=CHEAP), request={"model": "claude-sonnet-5"}).refusal("submit", {})
    assert "what the better model is asked was asked of it before, as the first one" in said
    assert table(database) == rows and len(paid(claude_emulator)) == asked
    # A version of its own asks all of it, under other names.
    make(None, request={"model": BETTER, "version": "1"}).night()
    assert len(paid(claude_emulator)) == asked + RECORDS


@only_whole
def test_a_store_that_was_lost_stops_the_night_although_the_rows_are_the_better_models(
    make: Make, database: Path, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    escalate = Escalate(to=BETTER, when="size >= 0")
    make(escalate).night()
    asked = len(paid(claude_emulator))
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert "would be paid again" in make(escalate).refusal("submit", {})
    assert len(paid(claude_emulator)) == asked


@only_whole
def test_partitions_and_a_part_of_the_records(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    fields: dict[str, Any] = {
        "partitions": dg.StaticPartitionsDefinition(["0", "1"]), "partition_column": "day"
    }  # fmt: skip
    nights = make(Escalate(to=BETTER, when="size = 1"), **fields)
    nights.night("0")
    assert {row[1] for row in table(database).values()} == {None}
    # A run for a part asks the first model alone: the better one waits for a whole run.
    nights.submit("1", limit=8)
    nights.until_quiet()
    assert len(paid(claude_emulator)) == RECORDS // 2 + 8
    nights.night("1")
    assert Counter(row[1] for row in table(database).values()) == {None: 30, "size = 1": 10}
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4


def test_a_condition_that_fails_for_a_record_is_told_from_a_damaged_file(
    make: Make, database: Path, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    make(None).night()
    for condition in (
        "12 // size > 5",
        "strptime(summary, '%Y') is null",
        "repeat('x', size << 40) = ''",
    ):
        said = make(Escalate(to=BETTER, when=condition)).refusal("submit", {})
        assert f"escalate: when ({condition}) fails for a record" in said and "try_cast" in said
    for path in (tmp_path / "store").rglob("results/*.parquet"):
        whole = path.read_bytes()
        path.write_bytes(whole[:64] + bytes(len(whole) - 128) + whole[-64:])
    # That is made again.
    make(Escalate(to=BETTER, when="size = 1")).submit()
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"to": ""}, "to is ''"),
        ({"to": {"max_tokens": 5}}, "with the model"),
        ({"when": "disagree"}, "confidence < 0.8"),
        ({"when": "invalid | refused"}, 'write several as a list: ["invalid", "refused"]'),
        ({"when": "a <"}, "is no SQL"),
        ({"when": []}, "would never be asked"),
        ({"audit": 2}, "audit is 2; it must be a share"),
        ({"to": CHEAP}, "the model that is asked first"),
        ({"to": {"model": BETTER, "prompt": "{{ size }}"}}, "is asked the same question"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_declared(
    make: Make, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        make(Escalate(**{"to": BETTER, **given}))


def test_what_goes_not_together_is_refused_when_it_is_declared(make: Make) -> None:
    escalate = Escalate(to=BETTER)
    for fields, said in (
        ({"variants": {"base": {}}}, "Leave out one of them"),
        ({"refresh": "new"}, "Leave out one of them"),
        ({"source": RequestFiles("*.jsonl"), "request": None}, "Leave out escalate"),
    ):
        with pytest.raises(InputError, match=said):
            BatchPipeline(
                **{
                    "name": "packages",
                    "source": DuckDBSource(database="x", table="packages", key="id"),
                    "request": MessageTemplate(model=CHEAP, max_tokens=9, prompt="{{ a }}"),
                    "escalate": escalate,
                    **fields,
                }
            )
    # The requests of both are called otherwise, also with a version of one's own.
    one = make(escalate, request={"version": "1"}).pipeline
    assert len({asked.request.version for asked in one.by_scope.values()}) == 2


def _plain(database: Path) -> dict[int, tuple[str, None, str]]:
    """As ``table``, of a pipeline that never escalated."""
    with duckdb.connect(str(database)) as con:
        rows = con.execute("select id, _model, _status from sections").fetchall()
    return {key: (model, None, status) for key, model, status in rows}


@only_whole
def test_the_results_of_a_pipeline_that_escalates_are_the_source_of_one_that_does(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    first = make(Escalate(to=BETTER, when="size = 1"), output_prefix="first_")
    first.night()
    asked = len(paid(claude_emulator))
    second = make(
        Escalate(to=BETTER, when="first_section = 'net'"),
        name="again",
        request={"prompt": "Once more: {{ summary }}"},
        source=first.pipeline.results(),
        destination=DuckDBTable(database=str(database), table="again"),
    )
    second.night()
    with duckdb.connect(str(database)) as con:
        found = dict(con.execute("select _model, count(*) from again group by all").fetchall())
    assert sum(found.values()) == RECORDS and set(found) == {CHEAP, BETTER}
    assert len(paid(claude_emulator)) == asked + RECORDS + found[BETTER]
    second.night()
    assert len(paid(claude_emulator)) == asked + RECORDS + found[BETTER]
