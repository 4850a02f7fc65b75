"""A pipeline over records whose answers a test writes itself, from source to destination."""

import json
from pathlib import Path
from typing import Any

import duckdb

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    ParquetDataset,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.stage_calls import PlayedNights


def text(value: Any) -> dict[str, Any]:
    """A block of text; what is no text is written as JSON."""
    return {"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}


def call(name: str, **given: Any) -> dict[str, Any]:
    """A block that calls a tool."""
    return {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}


class OneRecord:
    """One record, ``id`` 1, that a template asks about; the test says what the API answers."""

    def __init__(
        self, folder: Path, emulator: EmulatorProcess, source: str = "select 1 as id, 'hello' as v"
    ):
        self.folder, self.emulator = folder, emulator
        self.database = str(folder / "warehouse.duckdb")
        with duckdb.connect(self.database) as connection:
            connection.execute(f"create table t as {source}")

    def nights(self, output_prefix: str = "", parquet: bool = False, **template: Any) -> Nights:
        """The pipeline with this template, as a code location of its own would load it."""
        fields = {"model": "claude-haiku-4-5", "max_tokens": 200, "prompt": "V {{ v }}"} | template
        table = DuckDBTable(database=self.database, table="answers")
        pipeline = BatchPipeline(
            name="p",
            source=DuckDBSource(database=self.database, table="t", key="id"),
            request=MessageTemplate(**fields),
            destination=ParquetDataset(path=str(self.folder / "answers")) if parquet else table,
            output_prefix=output_prefix,
        )
        claude = ClaudeBatches(api_key="any", base_url=self.emulator.base_url)
        return PlayedNights(pipeline, claude, BatchStore(root=str(self.folder / "store")))

    def send(self, nights: Nights) -> None:
        """Submit, and leave the batch open."""
        self.emulator.configure(manual=True)
        nights.submit()

    def end_with(self, *content: dict[str, Any], stop_reason: str = "end_turn") -> None:
        """End the open batch with this answer."""
        batch = self.emulator.batches()[-1]["id"]
        custom_id = self.emulator.requests(batch)[0]["custom_id"]
        self.emulator.end()
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": list(content), "stop_reason": stop_reason, "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 9},
        }  # fmt: skip
        line = {"custom_id": custom_id, "result": {"type": "succeeded", "message": message}}
        self.emulator.fault("results", "line_replaced", text=json.dumps(line), times=None)

    def answer(
        self, nights: Nights, *content: dict[str, Any], stop_reason: str = "end_turn"
    ) -> dict[str, Any]:
        """Ask, let the API answer this, collect; return the record's row."""
        self.send(nights)
        self.end_with(*content, stop_reason=stop_reason)
        nights.collect()
        return self.row()

    def row(self) -> dict[str, Any]:
        """The record's row in the destination."""
        with duckdb.connect(self.database, read_only=True) as connection:
            rows = connection.sql("from answers").to_arrow_table().to_pylist()
        assert len(rows) == 1
        return rows[0]

    def types(self) -> dict[str, str]:
        """The destination's columns and their types."""
        with duckdb.connect(self.database, read_only=True) as connection:
            return {row[0]: row[1] for row in connection.execute("describe answers").fetchall()}
