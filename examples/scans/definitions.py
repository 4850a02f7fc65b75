"""What letters want, and what charts show."""

from datetime import date

import dagster as dg
from pydantic import BaseModel

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    build_definitions,
)

WAREHOUSE = "data/warehouse.duckdb"
SCANS = "data/scans"


class Demand(BaseModel):
    """What a letter wants."""

    subject: str
    amount: float | None
    due: date | None


letters = BatchPipeline(
    name="letters",
    source=DuckDBSource(database=WAREHOUSE, table="letters", key="letter_id"),
    request=MessageTemplate(
        model="claude-sonnet-5",
        max_tokens=300,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "document", "path": "{{ letter_id }}.pdf"},
                    {"type": "text", "text": "{{ sender }} wrote this. What do they want?"},
                ],
            }
        ],
        output=Demand,
        files_root=SCANS,
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="letter_demands"),
    schedule="0 23 * * *",
)
charts = BatchPipeline(
    name="charts",
    source=DuckDBSource(database=WAREHOUSE, table="charts", key="chart_id"),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=100,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image", "path": "{{ file }}"},
                    {"type": "text", "text": "Which bar is the highest: left, middle or right?"},
                ],
            }
        ],
        files_root=SCANS,
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="chart_readings"),
    schedule="0 23 * * *",
)
defs = build_definitions(
    letters,
    charts,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
