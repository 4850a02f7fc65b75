"""Reviews are sorted; of complaints it is said in ten words what is wrong."""

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    Classify,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Summarize,
    build_definitions,
)

WAREHOUSE = "data/warehouse.duckdb"

reviews = BatchPipeline(
    name="reviews",
    source=DuckDBSource(database=WAREHOUSE, table="reviews", key="review_id"),
    request=Classify(
        labels=["praise", "complaint", "question"], column="body", model="claude-haiku-4-5"
    ),
    destination=DuckDBTable(database=WAREHOUSE, table="review_labels"),
    schedule="0 23 * * *",
)
complaints = BatchPipeline(
    name="complaints",
    source=reviews.results(where="_status = 'answered' and label = 'complaint'"),
    request=Summarize(words=10, column="body", model="claude-sonnet-5"),
    destination=DuckDBTable(database=WAREHOUSE, table="complaint_gists"),
    on_deleted="drop",  # a review that is no complaint any more loses its row
)
defs = build_definitions(
    reviews,
    complaints,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
