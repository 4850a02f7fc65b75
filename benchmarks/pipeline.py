"""Our pipeline, which asks what the loop asks. It is defined without loading any stage."""

from pathlib import Path

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    DuckDBSource,
    DuckDBTable,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
)
from benchmarks.night import TABLE, Night
from benchmarks.question import MAX_TOKENS, MODEL, PROMPT, SYSTEM, Entry


def pipeline_of(night: Night) -> BatchPipeline:
    """Return the pipeline that asks what the loop asks."""
    if night.destination == "duckdb":
        source = DuckDBSource(database=night.warehouse, table=TABLE, key="id")
        destination = DuckDBTable(database=night.warehouse, table="answers")
    else:
        source = ParquetSource(path=night.records, key="id")
        destination = ParquetDataset(path=str(Path(night.folder, "answers")))
    return BatchPipeline(
        name="bench",
        source=source,
        request=MessageTemplate(
            model=MODEL,
            max_tokens=MAX_TOKENS,
            system=SYSTEM,
            prompt=PROMPT,
            output=Entry if night.structured else None,
        ),
        destination=destination,
        max_attempts=1,  # the loop does not ask again, either
    )


def resources_of(night: Night) -> tuple[ClaudeBatches, BatchStore]:
    """Return the API and the store of the pipeline."""
    claude = ClaudeBatches(
        api_key="any-key",
        base_url=night.url,
        max_batch_requests=night.requests_per_batch,
        max_queued_requests=10_000_000,  # nothing waits for a second run
    )
    return claude, BatchStore(root=str(Path(night.folder, "store")))
