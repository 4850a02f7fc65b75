"""What is asked about our tickets, each night."""

import dagster as dg
import duckdb
import pandas as pd

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
        prompt="{{ subject }}\n{{ body }}",
        output=TOPIC,
    ),
    destination=DuckDBTable(database="shop.duckdb", table="ticket_topics"),
)


@dg.asset(ins={"results": dg.AssetIn(key=["tickets", "results"])})
def topic_counts(results: pd.DataFrame) -> None:
    """How many tickets have which topic."""
    results = results.reset_index(drop=True)
    counts = results.groupby("topic", dropna=False).size().reset_index(name="tickets")
    with duckdb.connect("shop.duckdb") as shop:
        shop.register("counts", counts)
        shop.execute("create or replace table topic_counts as select topic, tickets from counts")


defs = dg.Definitions.merge(
    build_definitions(
        tickets,
        claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
        store=BatchStore(root="data/batches"),
    ),
    dg.Definitions(assets=[topic_counts]),
)
