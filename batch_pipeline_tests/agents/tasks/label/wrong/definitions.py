"""The class of each ticket, as whatever text the model writes."""

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

ticket_labels = BatchPipeline(
    name="ticket_labels",
    source=DuckDBSource(database="shop.duckdb", table="tickets", key="ticket_id"),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=20,
        prompt="Answer shipping, billing or other. {{ subject }}: {{ body }}",
        output={
            "type": "object",
            "properties": {"label": {"type": "string"}},
            "required": ["label"],
            "additionalProperties": False,
        },
    ),
    destination=DuckDBTable(database="shop.duckdb", table="ticket_labels"),
    schedule="0 23 * * *",
)
defs = build_definitions(
    ticket_labels,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
