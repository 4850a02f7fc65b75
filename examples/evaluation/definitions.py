"""Two prompts and two models, compared on tickets that a person has sorted."""

from typing import Literal

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
TOLD = """Say which team answers a ticket.
delivery: parcels that are late, lost or with the courier
billing: invoices, charges, refunds
account: logging in, passwords, addresses"""


class Team(BaseModel):
    """The team that answers."""

    team: Literal["delivery", "billing", "account"]


tickets = BatchPipeline(
    name="teams",
    source=DuckDBSource(database=WAREHOUSE, table="tickets", key="ticket_id"),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=50,
        system="Say which team answers a ticket.",
        prompt="{{ subject }}\n{{ body }}",
        output=Team,
    ),
    variants={
        "haiku_short": {},
        "haiku_told": {"system": TOLD},
        "sonnet_short": {"model": "claude-sonnet-5"},
        "sonnet_told": {"model": "claude-sonnet-5", "system": TOLD},
    },
    label="team_by_hand",
    destination=DuckDBTable(database=WAREHOUSE, table="teams_compared"),
)
defs = build_definitions(
    tickets,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
