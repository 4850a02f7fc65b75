"""A code location for several machines: all that it reaches is named by the environment, none of it is a disk."""

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
    build_definitions,
)

labels = BatchPipeline(
    name="labels",
    source=ParquetSource(path=dg.EnvVar("SOURCE_FILES"), key="id"),
    request=MessageTemplate(
        model="claude-haiku-4-5",
        max_tokens=100,
        system="You label support tickets: billing, technical, account or other. Answer with one word.",
        prompt="{{ text }}",
    ),
    destination=ParquetDataset(path=dg.EnvVar("RESULTS_FOLDER")),
    schedule="0 23 * * *",
)

defs: dg.Definitions = build_definitions(
    labels,
    claude=ClaudeBatches(api_key=dg.EnvVar("ANTHROPIC_API_KEY")),
    store=BatchStore(root=dg.EnvVar("STORE_ROOT"), ledger=dg.EnvVar("BATCH_LEDGER")),
)
