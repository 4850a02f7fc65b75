"""The pipelines of `make cluster`: from Parquet in an object store to Parquet there.

Whatever differs between two deployments stands in the environment, as in an image that runs anywhere.
"""

import os
from typing import Any

import dagster as dg

from batch_pipeline import (
    BatchPipeline,
    BatchStore,
    ClaudeBatches,
    MessageTemplate,
    ParquetDataset,
    ParquetSource,
    Schedule,
)

PREFIX = "CLUSTER_"
PARTITIONED, BY_STEPS = "parts", "steps"
"""The pipeline of partitions, and the one whose steps are runs of their own, each on another worker."""
COLUMN = "part"


def told(name: str, default: str = "") -> str:
    """Return a variable of the cluster."""
    return os.environ.get(PREFIX + name, default)


def names(pipelines: int) -> list[str]:
    """Return the names of so many pipelines."""
    return [PARTITIONED, BY_STEPS, *(f"plain{number:02}" for number in range(pipelines - 2))][
        :pipelines
    ]


def partition_keys(partitions: int) -> list[str]:
    """Return the keys of so many partitions."""
    return [f"part{number:02}" for number in range(partitions)]


def pipeline(name: str) -> BatchPipeline:
    """Return a pipeline by its name; only the two that have names of their own have no schedule."""
    more: dict[str, Any] = {}
    if name == PARTITIONED:
        keys = partition_keys(int(told("PARTITIONS", "8")))
        more = {
            "partitions": dg.StaticPartitionsDefinition(keys),
            "partition_column": COLUMN,
        }
    elif name != BY_STEPS:
        more["schedule"] = Schedule(told("CRON", "0 23 * * *"), status=RUNNING)
    bucket = told("BUCKET", "s3://cluster")
    return BatchPipeline(
        name=name,
        source=ParquetSource(path=f"{bucket}/sources/{name}/*.parquet", key="k"),
        request=MessageTemplate(
            model="claude-haiku-4-5", max_tokens=100, prompt="{{ k }}: {{ t }}"
        ),
        destination=ParquetDataset(path=f"{bucket}/answers/{name}"),
        **more,
    )


RUNNING = dg.DefaultScheduleStatus.RUNNING


def resources() -> dict[str, Any]:
    """Return the API and the store, as the environment says."""
    return {
        "claude": ClaudeBatches(
            api_key=dg.EnvVar("ANTHROPIC_API_KEY"),
            max_batch_requests=int(told("BATCH_REQUESTS", "1000")),
            poll_interval_seconds=int(told("POLL_SECONDS", "10")),
            reconcile_after_seconds=float(told("RECONCILE_SECONDS", "15")),
            timeout_seconds=float(told("TIMEOUT_SECONDS", "20")),
        ),
        "store": BatchStore(
            root=f"{told('BUCKET', 's3://cluster')}/store", ledger=dg.EnvVar("BATCH_LEDGER")
        ),
    }
