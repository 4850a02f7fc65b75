"""Partitions: which ones a step is about, and which rows of the source are theirs."""

from collections.abc import Callable, Mapping

import dagster as dg

from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.partitions import PartitionFilter, key_filter, time_window_filter


def partitions_of(context: dg.AssetExecutionContext) -> list[str]:
    """Return the partition keys of a step, "" for an unpartitioned pipeline."""
    return (
        list(context.partition_keys)
        if context.has_partition_key or context.has_partition_key_range
        else [""]
    )


def filter_of(
    pipeline: BatchPipeline, partition: str
) -> Callable[[Mapping[str, str]], PartitionFilter | None]:
    """Return what makes a partition's filter from the source's columns and their types."""
    definition, column = pipeline.partitions, pipeline.partition_column
    if definition is None or column is None:
        return lambda _columns: None
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        window = definition.time_window_for_partition_key(partition)
        return lambda columns: time_window_filter(
            columns, column, window.start, window.end, partition
        )
    return lambda columns: key_filter(columns, column, partition)
