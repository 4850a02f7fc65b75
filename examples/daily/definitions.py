"""How angry the callers of each day were."""

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Score,
    build_definitions,
)

WAREHOUSE = "data/warehouse.duckdb"

calls = BatchPipeline(
    name="calls",
    source=DuckDBSource(database=WAREHOUSE, table="calls", key="call_id"),
    request=Score(
        rubric={1: "calm or friendly", 3: "annoyed", 5: "furious"},
        column="notes",
        model="claude-haiku-4-5",
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="call_scores"),
    partitions=dg.DailyPartitionsDefinition(start_date="2026-11-02"),
    partition_column="called_on",
    backfill_policy=dg.BackfillPolicy.single_run(),
    schedule="0 2 * * *",
)
defs = build_definitions(
    calls,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
