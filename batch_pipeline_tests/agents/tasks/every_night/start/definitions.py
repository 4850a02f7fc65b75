"""What is asked about our tickets, each night."""

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

TOPIC = {
    "type": "object",
    "properties": {"topic": {"type": "string"}},
    "required": ["topic"],
    "additionalProperties": False,
}

tickets = BatchPipeline(
    name="tickets",
    source=DuckDBSource(database="shop.duckdb", table="tickets", key="ticket_id"),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=100,
        system="What is this ticket about?",
        prompt="{{ record | tojson }}",
        output=TOPIC,
    ),
    destination=DuckDBTable(database="shop.duckdb", table="ticket_topics"),
)
defs = build_definitions(
    tickets,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
