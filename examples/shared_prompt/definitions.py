"""Questions of customers, each asked with the same handbook, which the API caches."""

from pathlib import Path

import dagster as dg

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
HANDBOOK = Path(__file__).with_name("handbook.md").read_text(encoding="utf-8")

questions = BatchPipeline(
    name="questions",
    source=DuckDBSource(database=WAREHOUSE, table="questions", key="question_id"),
    request=MessageTemplate(
        model="claude-sonnet-5-5",
        max_tokens=400,
        system=HANDBOOK,
        prompt="{{ question }}",
        cache="1h",
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="replies"),
    schedule="0 23 * * *",
)
defs = build_definitions(
    questions,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
