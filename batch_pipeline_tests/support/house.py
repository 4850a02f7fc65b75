"""A small house: one table of records, one pipeline over it, and what changes between two nights."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    RequestFiles,
)
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.stage_calls import PlayedNights

RECORDS = 40


@dataclass
class House:
    """A warehouse with the table ``notes``, a store, and an API."""

    folder: Path
    emulator: EmulatorProcess
    clock: HandClock
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)

    def __post_init__(self) -> None:
        self.sql(
            f"create table notes as select i::integer as id, 'note ' || i as text, i % 4 as part "
            f"from range({RECORDS}) t(i)"
        )

    @property
    def warehouse(self) -> str:
        return str(self.folder / "warehouse.duckdb")

    @property
    def root(self) -> Path:
        return self.folder / "store"

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        with duckdb.connect(self.warehouse) as connection:
            for statement in statements:
                rows = connection.execute(statement).fetchall()
        return rows

    def nights(
        self,
        request: dict[str, Any] | None = None,
        claude: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Nights:
        """The pipeline as the code declares it now."""
        key = fields.pop("key", "id")
        fields.setdefault("source", DuckDBSource(database=self.warehouse, table="notes", key=key))
        if not isinstance(fields["source"], RequestFiles):
            fields["request"] = MessageTemplate(
                **{
                    "model": "claude-haiku-4-5",
                    "max_tokens": 200,
                    "prompt": "Sort {{ text }}",
                    **(request or {}),
                }
            )
        pipeline = BatchPipeline(
            **{
                "name": "notes",
                "destination": DuckDBTable(database=self.warehouse, table="answers"),
                **fields,
            }
        )
        resource = ClaudeBatches(
            **{"api_key": "any", "base_url": self.emulator.base_url, **(claude or {})}
        )
        return PlayedNights(
            pipeline, resource, BatchStore(root=str(self.root)), instance=self.instance
        )

    def address(self, host: str) -> str:
        """Return the emulator's address with another host."""
        return re.sub(r"//[^:/]+", f"//{host}", self.emulator.base_url)

    @property
    def paid(self) -> int:
        return self.emulator.bill()["requests"]

    @property
    def paid_twice(self) -> int:
        """How many prompts were paid more than once."""
        batches = [batch["id"] for batch in self.emulator.batches()]
        lines = [line for batch in batches for line in self.emulator.requests(batch)]
        asked = Counter(str(line["params"]["messages"]) for line in lines)
        return sum(count - 1 for count in asked.values())

    def statuses(self, table: str = "answers") -> dict[str, int]:
        return dict(self.sql(f"select _status, count(*) from {table} group by all"))

    def refusal(self, run: Nights, partition: str | None = None, **config: Any) -> str:
        """Submit, and return why that was refused; "" when it was not."""
        return run.refusal("submit", config, partition)
