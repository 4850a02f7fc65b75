"""The texts of an app, in several languages."""

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    Translate,
    build_definitions,
)

WAREHOUSE = "data/warehouse.duckdb"
LANGUAGES = {"german": "German", "portuguese": "Brazilian Portuguese"}

pipelines = [
    BatchPipeline(
        name=name,
        source=DuckDBSource(database=WAREHOUSE, table="texts", key="text_id"),
        request=Translate(to=language, column="english", words=100, model="claude-haiku-4-5"),
        destination=DuckDBTable(database=WAREHOUSE, table=f"texts_{name}"),
        schedule="0 23 * * *",
    )
    for name, language in LANGUAGES.items()
]
defs = build_definitions(
    *pipelines,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
