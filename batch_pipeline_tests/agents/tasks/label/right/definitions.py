"""The class of each ticket."""

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    Classify,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    build_definitions,
)

ticket_labels = BatchPipeline(
    name="ticket_labels",
    source=DuckDBSource(database="shop.duckdb", table="tickets", key="ticket_id"),
    request=Classify(
        labels=["shipping", "billing", "other"],
        column=["subject", "body"],
        model="claude-haiku-4-5",
    ),
    destination=DuckDBTable(database="shop.duckdb", table="ticket_labels"),
    schedule="0 23 * * *",
)
defs = build_definitions(
    ticket_labels,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
