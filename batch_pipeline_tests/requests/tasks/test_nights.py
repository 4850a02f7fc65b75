"""A night of each front door: what is asked, and which column of which type comes back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    Classify,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Extract,
    Score,
    Summarize,
    Translate,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.extent import only_whole
from batch_pipeline_tests.support.pooling import pooled
from batch_pipeline_tests.support.stage_calls import PlayedNights

ANY: dict[str, Any] = {"column": "body", "model": "claude-haiku-4-5"}
LABELS = {"billing {{ body }}": "an invoice, a payment", 'the "rest"': None}
DOORS = [
    (
        Classify(LABELS, explain=True, **ANY),
        {"explanation": "VARCHAR", "label": "VARCHAR"},
        lambda row: row["label"] in LABELS,
        "- billing {{ body }}: an invoice, a payment",
    ),
    pytest.param(
        Classify(list(LABELS), multi=True, **ANY),
        {"labels": "VARCHAR[]"},
        lambda row: set(row["labels"]) <= {*LABELS},
        "every one that fits",
        marks=only_whole,
    ),
    (
        Extract({"total": "number, the sum to pay", "size": ["S", "L"]}, **ANY),
        {"total": "DOUBLE", "size": "VARCHAR"},
        lambda row: row["size"] in ("S", "L", None),
        "- total: the sum to pay",
    ),
    pytest.param(
        Summarize(words=5, **ANY),
        {"summary": "VARCHAR"},
        lambda row: row["summary"],
        "in at most 5 words",
        marks=only_whole,
    ),
    pytest.param(
        Translate("German {%", **ANY),
        {"translation": "VARCHAR"},
        lambda row: row["translation"],
        "The language to translate into: German {%",
        marks=only_whole,
    ),
    (
        Score({1: "calm", 3: "furious"}, scale=(1, 3), system="Mine", **ANY),
        {"score": "BIGINT"},
        lambda row: row["score"] in (1, 2, 3),
        "Mine\n\nHow to score:\n- 1: calm\n- 3: furious",
    ),
]


@pytest.mark.parametrize(("door", "columns", "fits", "told"), DOORS)
def test_a_door_asks_what_has_a_text_and_gives_its_typed_columns(
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    door: Any,
    columns: dict[str, str],
    fits: Any,
    told: str,
) -> None:
    database = str(tmp_path / "warehouse.duckdb")
    with duckdb.connect(database) as warehouse:
        warehouse.execute(
            "create table notes as select * from (values (1, 'Pay 12.50 {{ x }}'), (2, 'Late'), (3, ' '), (4, null))"
            " as t(id, body)"
        )
    pipeline = BatchPipeline(
        name="notes",
        source=DuckDBSource(database=database, table="notes", key="id"),
        request=door,
        destination=DuckDBTable(database=database, table="answers"),
    )
    # What a door makes is asked as the template that it makes.
    assert replace(pipeline, name="others").request == door.template
    claude = ClaudeBatches(api_key="any", base_url=claude_emulator.base_url)
    nights = PlayedNights(pipeline, claude, BatchStore(root=str(tmp_path / "store")))
    with pooled():
        nights.submit()
        nights.collect()
    rows = nights.rows()
    statuses = {key: row["_status"] for key, row in rows.items()}
    assert statuses == {1: "answered", 2: "answered", 3: "rejected", 4: "rejected"}
    assert all(fits(rows[key]) for key in (1, 2))
    assert all(rows[key][name] is None for key in (3, 4) for name in columns)
    with duckdb.connect(database, read_only=True) as warehouse:
        types = {row[0]: row[1] for row in warehouse.execute("describe answers").fetchall()}
    assert {name: types[name] for name in columns} == columns
    assert [name for name in types if not name.startswith("_")] == ["id", "body", *columns]
    [batch] = claude_emulator.batches()
    asked = [one["params"] for one in claude_emulator.requests(batch["id"])]
    assert {one["messages"][0]["content"] for one in asked} == {"Pay 12.50 {{ x }}", "Late"}
    for one in asked:
        system = one["system"]
        assert told in (system if isinstance(system, str) else system[0]["text"])
        assert one["max_tokens"] == door.template.max_tokens
