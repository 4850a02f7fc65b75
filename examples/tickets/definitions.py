"""Support tickets, sorted by what they are about."""

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

WAREHOUSE = "data/warehouse.duckdb"

tickets = BatchPipeline(
    name="tickets",
    source=DuckDBSource(database=WAREHOUSE, table="tickets", key="ticket_id"),
    request=Classify(
        labels={
            "shipping": "a parcel is late, lost, or went elsewhere",
            "billing": "invoices, charges, refunds",
            "damaged": "what came is broken or wrong",
            "account": "logging in, passwords, addresses",
            "other": None,
        },
        column=["subject", "body"],
        explain=True,
        model="claude-haiku-4-5",
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="ticket_labels"),
    skip_when="body = ''",
    schedule="0 23 * * *",
)
defs = build_definitions(
    tickets,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
