"""Partitions: which ones a step is about, and which rows of the source are theirs."""

from collections.abc import Callable, Collection, Mapping

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


def rows_of(
    pipeline: BatchPipeline, partitions: Collection[str], columns: Mapping[str, str]
) -> str | None:
    """Return the condition on a table ``source`` that leaves the rows of some partitions.

    Args:
        pipeline: whose partitions they are.
        partitions: their keys.
        columns: the columns of the table, and their DuckDB types.
    """
    definition, column = pipeline.partitions, pipeline.partition_column
    if definition is None or column is None:
        return None
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        found = [key_filter(columns, column, key).sql for key in partitions]
        return _any_of(found)
    windows: list[dg.TimeWindow] = []
    for window in sorted(map(definition.time_window_for_partition_key, partitions)):
        # A year of days is one range, not 365 conditions.
        if windows and windows[-1].end == window.start:
            window = dg.TimeWindow(windows.pop().start, window.end)
        windows.append(window)
    return _any_of(
        [time_window_filter(columns, column, one.start, one.end, "").sql for one in windows]
    )


def _any_of(conditions: Collection[str]) -> str:
    return f"({' OR '.join(conditions)})" if conditions else "false"
