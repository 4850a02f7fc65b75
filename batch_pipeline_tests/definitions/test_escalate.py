"""Cheap first: what one model does not settle, a better one is asked in the same night, once."""

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
    MessageTemplate,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.clock import HandClock
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
    # The second night asks nothing, nor does the sensor.
    nights.night()
    make(escalate).night()
    assert table(database) == rows
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4
    # What changes is asked of the first, and of the better one where that meets the condition.
    with duckdb.connect(str(database)) as con:
        con.execute("update packages set summary = summary || ' again' where id in (1, 2)")
    nights.night()
    assert table(database) == rows
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4 + 3
    # Without escalation the better answers stay, and nothing is asked; with it, nothing again.
    make(None).night()
    make(escalate).night()
    assert table(database) == rows
    # When the first one is asked once more, the better answer is put back at no cost.
    nights.night(force=True)
    assert table(database) == rows
    assert len(paid(claude_emulator)) == RECORDS * 5 // 4 + 3 + RECORDS
