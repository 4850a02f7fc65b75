"""Column names that may not occur twice, and the types in which source columns are stored."""

import re
from collections.abc import Iterable, Mapping

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import quote_text

RESULT_COLUMNS: dict[str, str] = {
    "_status": "VARCHAR",
    "_error": "VARCHAR",
    "_model": "VARCHAR",
    "_stop_reason": "VARCHAR",
    "_input_tokens": "BIGINT",
    "_output_tokens": "BIGINT",
    "_cache_read_tokens": "BIGINT",
    "_cache_write_tokens": "BIGINT",
    "_cost_usd": "DOUBLE",
    "_custom_id": "VARCHAR",
    "_batch_id": "VARCHAR",
    "_attempt": "INTEGER",
    "_answered_at": "TIMESTAMP WITH TIME ZONE",
    "_last_error": "VARCHAR",
}
"""The columns every result row ends with, in order, and their DuckDB types."""

DOUBLED = "_bp_doubled"
"""The column of records.parquet that says how often a record's answer was cut short."""

HELPER_COLUMNS: dict[str, str] = {
    "_row": "BIGINT",
    "_kind": "VARCHAR",
    "_reason": "VARCHAR",
    "_key_hash": "UUID",
    "_content_hash": "UUID",
    "_custom_id": "VARCHAR",
    "_attempt": "INTEGER",
    DOUBLED: "INTEGER",
}
"""What records.parquet holds after the source columns, in order, and their DuckDB types."""

_RESERVED = {name.lower() for name in (*RESULT_COLUMNS, *HELPER_COLUMNS)}


def check_names(source_columns: Iterable[str], output_columns: Iterable[str]) -> None:
    """Check that no two columns of a result row share a name, compared without case.

    Args:
        source_columns: the source's columns (a ``source_columns`` mapping will do).
        output_columns: the output's columns, after ``output_prefix``.

    Raises:
        InputError: names the column, and says what to do.
    """
    source = {name.lower(): name for name in source_columns}
    for lower, name in source.items():
        if lower in _RESERVED:
            raise InputError(
                f"The source has a column `{name}`, a name that results reserve. Give it another"
                f' name in the source\'s query, for example `select "{name}" as'
                f' "{name.strip("_")}", ...`.'
            )
    seen: dict[str, str] = {}
    for name in output_columns:
        lower = name.lower()
        if lower in source:
            raise InputError(
                f"The output field `{name}` has the name of the source column"
                f" `{source[lower]}`. Set `output_prefix` on the pipeline (for example"
                f' output_prefix="ai_"), or rename one of them.'
            )
        if lower in _RESERVED:
            raise InputError(
                f"The output field `{name}` has a name that results reserve. Rename the field,"
                f" or set another `output_prefix` on the pipeline."
            )
        if lower in seen:
            raise InputError(
                f"The output fields `{seen[lower]}` and `{name}` differ in case only. Rename one"
                f" of them; `output_prefix` does not help here."
            )
        seen[lower] = name


def stored_columns(source_columns: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (name, DuckDB type) in which the source columns go to Parquet."""
    return [(name, stored_type(kind)) for name, kind in source_columns.items()]


def stored_type(duckdb_type: str) -> str:
    """Return the type that holds a column's values in Parquet without loss."""
    # Parquet has no 128-bit integers, and DuckDB would write them as DOUBLE.
    return re.sub(r"\bU?HUGEINT\b", "DECIMAL(38,0)", duckdb_type)


def file_columns(con: duckdb.DuckDBPyConnection, path: str) -> dict[str, str]:
    """Return the columns of a Parquet file: name to DuckDB type, in order."""
    rows = con.execute(f"DESCRIBE SELECT * FROM read_parquet({quote_text(path)})").fetchall()
    return {row[0]: row[1] for row in rows}
