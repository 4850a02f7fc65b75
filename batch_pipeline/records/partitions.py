"""A partition of a pipeline, as a condition over the source's rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import memory_connection, quote_list, quote_name, quote_text
from batch_pipeline.records.reading import closest


@dataclass(frozen=True)
class PartitionFilter:
    """The rows of one partition.

    Attributes:
        sql: a condition over the view ``source``.
        key: the partition's key, as Dagster has it; "" when unpartitioned.
    """

    sql: str
    key: str


HAS_OFFSET = r":\d\d.*([zZ]|[+-]\d\d(:?\d\d)?)$"
"""Finds the UTC offset at the end of a time stamp written as text."""


def time_window_filter(
    columns: Mapping[str, str], column: str, start: datetime, end: datetime, key: str
) -> PartitionFilter:
    """Return the rows whose ``column`` lies in ``start <= column < end``.

    A DATE, a TIMESTAMP and text without an offset are read as wall time of the window's own zone
    (a DATE as its midnight); a TIMESTAMP WITH TIME ZONE and text with an offset as instants. Rows
    without a value belong to no partition.

    Args:
        columns: the source's columns and their DuckDB types (``source_columns``).
        column: the pipeline's ``partition_column``.
        start: the window's first moment, with its time zone.
        end: the first moment after the window, with its time zone.
        key: the partition's key.

    Raises:
        InputError: the column is absent or holds no times.
    """
    kind = _type_of(columns, column)
    name = f"source.{quote_name(column)}"
    instants = (_literal(start.astimezone(UTC)), _literal(end.astimezone(UTC)))
    walls = (_literal(start.replace(tzinfo=None)), _literal(end.replace(tzinfo=None)))
    # A date may be too far off for a time stamp; text that is no time is an error.
    cast = "CAST" if kind == "VARCHAR" else "TRY_CAST"
    as_instant = _between(f"{cast}({name} AS TIMESTAMPTZ)", "TIMESTAMPTZ", instants)
    as_wall = _between(f"{cast}({name} AS TIMESTAMP)", "TIMESTAMP", walls)
    if kind.startswith("TIMESTAMP") and kind.endswith("WITH TIME ZONE"):
        return PartitionFilter(as_instant, key)
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return PartitionFilter(as_wall, key)
    if kind == "VARCHAR":
        has_offset = f"regexp_matches({name}, {quote_text(HAS_OFFSET)})"
        return PartitionFilter(f"CASE WHEN {has_offset} THEN {as_instant} ELSE {as_wall} END", key)
    raise InputError(
        f"The partition column `{column}` is of type {kind}; time partitions need a DATE, a"
        f" TIMESTAMP, or text that holds one. Cast it in the source's query, or choose another"
        f" `partition_column`."
    )


def key_filter(columns: Mapping[str, str], column: str, key: str) -> PartitionFilter:
    """Return the rows whose ``column``, as text, is ``key`` (static and dynamic partitions).

    Args:
        columns: the source's columns and their DuckDB types (``source_columns``).
        column: the pipeline's ``partition_column``.
        key: the partition's key.

    Raises:
        InputError: the column is absent.
    """
    _type_of(columns, column)
    return PartitionFilter(f"CAST(source.{quote_name(column)} AS VARCHAR) = {quote_text(key)}", key)


def check_keys(columns: Mapping[str, str], column: str, keys: Sequence[str]) -> None:
    """Check that a column can hold a value whose text is one of ``keys``: else none is ever asked.

    Args:
        columns: the source's columns and their DuckDB types (``source_columns``).
        column: the pipeline's ``partition_column``.
        keys: the partitions' keys.

    Raises:
        InputError: the column is absent, or prints no value as any of them.
    """
    kind = _type_of(columns, column)
    if not keys or kind in ("VARCHAR", "JSON") or kind.startswith("ENUM"):
        return
    with memory_connection() as con:
        try:
            rows = con.execute(
                f"SELECT key, CAST(TRY_CAST(key AS {kind}) AS VARCHAR)"
                f" FROM (SELECT unnest({quote_list(keys)}) AS key)"
            ).fetchall()
        except duckdb.Error:  # a type that only the user's database knows
            return
    if any(key == text for key, text in rows):
        return
    key, text = next((row for row in rows if row[1] is not None), rows[0])
    printed = f", which prints it as `{text}`" if text is not None else ""
    raise InputError(
        f"The partition `{key}` can never have a record, and neither can any other: the partition"
        f" column `{column}` is of type {kind}{printed}. A partition's key is compared with the"
        f" column's text. Correct the partitions' keys, cast the column in the source's query, or"
        f" choose another `partition_column`."
    )


def all_of(conditions: Collection[str]) -> str:
    """Return the condition that holds where all of some do."""
    return " AND ".join(f"({one})" for one in conditions) if conditions else "true"


def any_of(conditions: Collection[str]) -> str:
    """Return the condition that holds where any of some does."""
    return f"({' OR '.join(conditions)})" if conditions else "false"


def _type_of(columns: Mapping[str, str], column: str) -> str:
    for name, kind in columns.items():
        if name.lower() == column.lower():
            return kind
    raise InputError(
        f"The partition column `{column}` is not in the source.{closest(column, list(columns))}"
        f" Its columns are: {', '.join(columns)}."
    )


def _literal(moment: datetime) -> str:
    return quote_text(moment.isoformat(sep=" "))


def _between(value: str, kind: str, window: tuple[str, str]) -> str:
    return f"({value} >= {kind} {window[0]} AND {value} < {kind} {window[1]})"
