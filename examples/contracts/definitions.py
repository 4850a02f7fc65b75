"""What our contracts say, as columns."""

from datetime import date
from typing import Self

import dagster as dg
from pydantic import BaseModel, Field, model_validator

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Extract,
    build_definitions,
)

WAREHOUSE = "data/warehouse.duckdb"


class Contract(BaseModel):
    """The terms of a contract; None where it does not say."""

    begins: date | None
    ends: date | None
    monthly_eur: float | None = Field(description="what is paid each month")
    notice_months: int | None = Field(ge=0, le=60)
    renews: bool | None = Field(description="whether it goes on unless somebody ends it")

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.begins and self.ends and self.ends < self.begins:
            raise ValueError("the contract ends before it begins")
        return self


contracts = BatchPipeline(
    name="contracts",
    source=DuckDBSource(database=WAREHOUSE, table="contracts", key="contract_id"),
    request=Extract(fields=Contract, column="body", model="claude-haiku-4-5", cache="1h"),
    destination=DuckDBTable(database=WAREHOUSE, table="contract_terms"),
    schedule="0 23 * * *",
)
defs = build_definitions(
    contracts,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
