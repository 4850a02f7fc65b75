"""Variants: the same records, asked in several ways, one row per key and variant."""

from collections import Counter
from collections.abc import Callable, Mapping
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
    InputError,
    MessageTemplate,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.stage_calls import StageCalls

RECORDS = 8
SORTED = {"type": "object", "properties": {"section": {"type": "string", "enum": ["net", "text"]}},
          "required": ["section"], "additionalProperties": False}  # fmt: skip
THREE: dict[str, dict[str, Any]] = {
    "base": {},
    "short": {"prompt": "{{ summary }}"},
    "told": {"system": "You sort packages with care."},
}
Make = Callable[..., StageCalls]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A DuckDB file with a table of a few records."""
    path = tmp_path / "packages.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute(
            "create table packages as select i as id, 'package ' || i as summary, 'the text of ' || i as description,"
            f" if(i % 2 = 0, 'net', 'text') as kind, i % 2 as day from range({RECORDS}) as t (i)"
        )
    return path


@pytest.fixture
def make(claude_emulator: EmulatorProcess, tmp_path: Path, database: Path, clock: HandClock) -> Make:
    """Make a pipeline over the records; called again, it is the next version of the code."""
    instance = dg.DagsterInstance.ephemeral()

    def made(variants: Mapping[str, Mapping[str, Any]] | None = None, **fields: Any) -> StageCalls:
        request = MessageTemplate(
            model="claude-haiku-4-5", max_tokens=50, prompt="{{ summary }}: {{ description }}", output=SORTED
        )  # fmt: skip
        pipeline = BatchPipeline(
            **{
                "name": "packages",
                "source": DuckDBSource(database=str(database), table="packages", key="id"),
                "request": request,
                "destination": DuckDBTable(database=str(database), table="sections"),
                "variants": variants or {},
                **fields,
            }
        )
        claude = ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url)
        return StageCalls(pipeline, claude, BatchStore(root=str(tmp_path / "store")), instance)

    return made


def rows(database: Path) -> list[tuple[int, str, str]]:
    """The key, the variant and the status of each row, in order."""
    with duckdb.connect(str(database)) as con:
        return con.execute("select id, _variant, _status from sections order by all").fetchall()


def billed(emulator: EmulatorProcess) -> int:
    return emulator.bill()["requests"]


def test_a_variant_that_is_added_is_asked_alone_and_one_that_is_changed_again(
    make: Make, database: Path, claude_emulator: EmulatorProcess
) -> None:
    make(THREE).night()
    everything = [(key, name, "answered") for key in range(RECORDS) for name in sorted(THREE)]
    assert rows(database) == everything
