"""A second code location for `make e2e`: a pipeline with daily partitions, next to the demo's."""

from pathlib import Path

import dagster as dg
import duckdb

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    DuckDBSource,
    MessageTemplate,
    build_definitions,
)
from batch_pipeline.demo.definitions import demo_claude
from batch_pipeline.settings import project_path

WAREHOUSE = ".demo/tickets.duckdb"
DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
TICKETS_A_DAY = 8


def write_tickets() -> None:
    """Make the table: a few tickets a day; one of them is no friend of web pages."""
    path = Path(project_path(WAREHOUSE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as warehouse:
        warehouse.execute("create or replace table tickets (id varchar, day date, body varchar)")
        warehouse.executemany(
            "insert into tickets values (?, ?, ?)",
            [
                (f"T-{day}-{number}", day, f"<b>My parcel</b> {number} is late & nobody answers")
                for day in DAYS
                for number in range(TICKETS_A_DAY)
            ],
        )


tickets = BatchPipeline(
    name="tickets",
    source=DuckDBSource(database=WAREHOUSE, table="tickets", key="id"),
    request=MessageTemplate(
        model="claude-haiku-4-5", max_tokens=100, prompt="Answer in one sentence: {{ body }}"
    ),
    partitions=dg.DailyPartitionsDefinition(start_date=DAYS[0], end_date="2026-01-08"),
    partition_column="day",
)
defs = build_definitions(
    tickets, claude=demo_claude(live=False), store=BatchStore(root=".demo/tickets_store")
)
