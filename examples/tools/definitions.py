"""Orders out of mails, by a tool that the model must call."""

from datetime import date

import dagster as dg
from pydantic import BaseModel, Field

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


class Order(BaseModel):
    """The arguments of the tool; None where the mail does not say."""

    sku: str | None = Field(description="the article's code, such as SKU-1234")
    quantity: int | None
    due: date | None
    email: str | None


orders = BatchPipeline(
    name="orders",
    source=DuckDBSource(database=WAREHOUSE, table="mails", key="mail_id"),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=300,
        system="Take the order out of the mail.",
        prompt="{{ body }}",
        output=Order,
        output_mode="tool",
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="orders"),
    schedule="0 23 * * *",
)
defs = build_definitions(
    orders,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
