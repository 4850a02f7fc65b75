"""Short descriptions for a shop's pages."""

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    ParquetDataset,
    ParquetSource,
    Summarize,
    build_definitions,
)

products = BatchPipeline(
    name="products",
    source=ParquetSource(path="data/products_*.parquet", key="product_id"),
    request=Summarize(words=20, column=["body"], model="claude-haiku-4-5"),
    destination=ParquetDataset(path="data/descriptions"),
    schedule="0 23 * * *",
)
defs = build_definitions(
    products,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root="data/batches"),
)
