"""Invoices, their departments, and who must approve them."""

from decimal import Decimal
from typing import Literal

import dagster as dg
import duckdb
from pydantic import BaseModel, Field

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    Budget,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    build_definitions,
)

WAREHOUSE = "data/warehouse.duckdb"
LIMIT = 5_000
"""What a department may spend without asking."""


class Invoice(BaseModel):
    """What we want to know of each one."""

    department: Literal["IT", "HR", "Admin", "Marketing"]
    amount: Decimal = Field(decimal_places=2, description="the total, without the currency")
    currency: str


invoices = BatchPipeline(
    name="invoices",
    source=DuckDBSource(database=WAREHOUSE, table="invoices", key="invoice_id"),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=256,
        system="You are an accounts-payable clerk. Say which department pays for the invoice.",
        prompt="Supplier: {{ supplier }}\nText: {{ description }}",
        output=Invoice,
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="invoice_answers"),
    budget=Budget(per_submission_usd=5, per_month_usd=50),
    schedule="0 23 * * *",
)


@dg.asset(
    deps=[invoices.asset_key("results")],
    group_name="invoices",
    automation_condition=dg.AutomationCondition.eager(),
)
def approvals() -> None:
    """What a manager must sign."""
    with duckdb.connect(WAREHOUSE) as warehouse:
        warehouse.execute(
            """
            create or replace table approvals as
            select invoice_id, supplier, department, amount, currency, amount > ? as needs_manager
            from invoice_answers where _status = 'answered'
            """,
            [LIMIT],
        )


pipelines = build_definitions(
    invoices,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
defs = dg.Definitions.merge(pipelines, dg.Definitions(assets=[approvals]))
