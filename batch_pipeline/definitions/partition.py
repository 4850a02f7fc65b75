"""Partitions: which ones a step is about, and which rows of the source are theirs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from batch_pipeline.pipeline import BatchPipeline
from batch_pipeline.records.partitions import (
    PartitionFilter,
    all_of,
    any_of,
    check_keys,
    key_filter,
    time_window_filter,
)


@dataclass(frozen=True)
class Dimension:
    """One of the things that tell partitions apart: a definition, and the column it is matched with.

    Attributes:
        name: what Dagster calls it in a definition of several; else "".
        definition: its partitions.
        column: the source's column.
    """

    name: str
    definition: dg.PartitionsDefinition
    column: str

    @property
    def is_time(self) -> bool:
        """Whether its partitions are windows of time."""
        return isinstance(self.definition, dg.TimeWindowPartitionsDefinition)

    def window(self, key: str) -> dg.TimeWindow:
        """Return the window of a key, where they are windows of time."""
        assert isinstance(self.definition, dg.TimeWindowPartitionsDefinition)
        return self.definition.time_window_for_partition_key(key)


def partitions_of(context: dg.AssetExecutionContext) -> list[str]:
    """Return the partition keys of a step, "" for an unpartitioned pipeline."""
    return (
        [str(key) for key in context.partition_keys]
        if context.has_partition_key or context.has_partition_key_range
        else [""]
    )


def dimensions(pipeline: BatchPipeline) -> list[Dimension]:
    """Return what tells a pipeline's partitions apart, in the order of Dagster's keys."""
    definition, column = pipeline.partitions, pipeline.partition_column
    if isinstance(definition, dg.MultiPartitionsDefinition) and isinstance(column, Mapping):
        return [
            Dimension(one.name, one.partitions_def, column[one.name])
            for one in definition.partitions_defs
        ]
    if definition is None or not isinstance(column, str):
        return []
    return [Dimension("", definition, column)]


def keys_in(pipeline: BatchPipeline, partition: str) -> list[str]:
    """Return the key that a partition has in each dimension."""
    definition = pipeline.partitions
    if not isinstance(definition, dg.MultiPartitionsDefinition):
        return [partition]
    found = definition.get_partition_key_from_str(partition).keys_by_dimension
    return [found[one.name] for one in definition.partitions_defs]


def is_dynamic(pipeline: BatchPipeline) -> bool:
    """Return whether only Dagster's instance knows the partitions."""
    return any(
        isinstance(one.definition, dg.DynamicPartitionsDefinition) for one in dimensions(pipeline)
    )


def known_partitions(
    pipeline: BatchPipeline, instance: dg.DagsterInstance | None
) -> Callable[[str], bool]:
    """Return what tells whether a pipeline has a partition; "" is that of a pipeline without any.

    Without an instance dynamic partitions are believed to be there.
    """
    match pipeline.partitions:
        case None:
            return lambda key: key == ""
        case dg.DynamicPartitionsDefinition(name=str(name)) if instance is not None:
            return lambda key: instance.has_dynamic_partition(name, key)
        case dg.TimeWindowPartitionsDefinition() as windows:
            return windows.has_partition_key
        case _ if instance is None and is_dynamic(pipeline):
            return bool
        case definition:
            keys = set(definition.get_partition_keys(dynamic_partitions_store=instance))
            return keys.__contains__


def last_ended(pipeline: BatchPipeline, keys: Sequence[str], moment: datetime) -> list[str] | None:
    """Return those of some partitions whose window of time is the last that has ended at a moment.

    Args:
        pipeline: whose partitions they are.
        keys: the partitions that there are.
        moment: with its time zone.

    Returns:
        None: no window of time tells the pipeline's partitions apart.
    """
    times = [place for place, one in enumerate(dimensions(pipeline)) if one.is_time]
    if not times:
        return None
    place = times[0]
    one = dimensions(pipeline)[place]
    by_time: dict[str, list[str]] = {}
    for key in keys:
        by_time.setdefault(keys_in(pipeline, key)[place], []).append(key)
    # A definition with an end_offset has windows that are still open, too.
    ended = [key for key in by_time if one.window(key).end <= moment]
    return by_time[max(ended, key=lambda key: one.window(key).end)] if ended else []


def filter_of(
    pipeline: BatchPipeline, partition: str
) -> Callable[[Mapping[str, str]], PartitionFilter | None]:
    """Return what makes a partition's filter from the source's columns and their types."""
    found = dimensions(pipeline)
    if not found:
        return lambda _columns: None
    parts = list(zip(found, keys_in(pipeline, partition), strict=True))

    def made(columns: Mapping[str, str]) -> PartitionFilter:
        for one, key in parts:
            if isinstance(one.definition, dg.StaticPartitionsDefinition):
                check_keys(columns, one.column, one.definition.get_partition_keys())
            elif not one.is_time:
                check_keys(columns, one.column, [key])
        return PartitionFilter(
            all_of([_rows(one, [key], columns) for one, key in parts]), partition
        )

    return made


def rows_of(
    pipeline: BatchPipeline, partitions: Collection[str], columns: Mapping[str, str]
) -> str | None:
    """Return the condition on a table ``source`` that leaves the rows of some partitions.

    Args:
        pipeline: whose partitions they are.
        partitions: their keys.
        columns: the columns of the table, and their DuckDB types.
    """
    found = dimensions(pipeline)
    if not found:
        return None
    # What differs in the first time dimension alone is one range, as far as it is.
    times = [place for place, one in enumerate(found) if one.is_time] or [0]
    together: dict[tuple[str, ...], list[str]] = {}
    for partition in partitions:
        keys = keys_in(pipeline, partition)
        first = keys.pop(times[0])
        together.setdefault(tuple(keys), []).append(first)
    conditions = []
    for rest, firsts in together.items():
        keys = [[key] for key in rest]
        keys.insert(times[0], firsts)
        parts = zip(found, keys, strict=True)
        conditions.append(all_of([_rows(one, some, columns) for one, some in parts]))
    return any_of(conditions)


def _rows(one: Dimension, keys: Collection[str], columns: Mapping[str, str]) -> str:
    """Return the condition that leaves the rows of some keys of one dimension."""
    if not one.is_time:
        return any_of([key_filter(columns, one.column, key).sql for key in keys])
    windows: list[dg.TimeWindow] = []
    for window in sorted(map(one.window, keys)):
        # A year of days is one range, not 365 conditions.
        if windows and windows[-1].end == window.start:
            window = dg.TimeWindow(windows.pop().start, window.end)
        windows.append(window)
    return any_of(
        [time_window_filter(columns, one.column, w.start, w.end, "").sql for w in windows]
    )
