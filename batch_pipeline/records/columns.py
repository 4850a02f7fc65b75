"""Column names that may not occur twice, and the types in which source columns are stored."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import duckdb
import duckdb.sqltypes as duckdb_typing

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import quote_files, quote_name
from batch_pipeline.records.sources import PARAMS, PARAMS_HASH

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
    "_duplicate_of": "VARCHAR",
    "_attempts": "JSON",
    "_last_error": "VARCHAR",
}
"""The columns every result row ends with, in order, and their DuckDB types."""

DOUBLED = "_bp_doubled"
"""The column of records.parquet that says how often a record's answer was cut short."""

ASKED_ROW = "_bp_asked_row"
"""The column of records.parquet that says which record was asked in the place of a duplicate."""
DUPLICATE_OF = "_duplicate_of"
"""The column beside it: what that one's request is called."""

OUTCOME = "_bp_rule"
"""The column of records.parquet that says what a rule makes of a record: `rules.Rule.outcome`."""

PAST_ATTEMPTS = "_bp_attempts"
"""The column that says what came of a record's earlier attempts, as JSON; NULL at its first."""
EARLIER_ANSWER = "_bp_earlier_answer"
"""The column of an earlier answer that did not fit, as JSON: the blocks that a correction goes on from."""
EARLIER_ERROR = "_bp_earlier_error"
"""The column beside it: why it did not fit."""
WIRE_ID = "_bp_wire_id"
"""The column of records.parquet that says what a record's request is called in a batch that was made elsewhere."""

HELPER_COLUMNS: dict[str, str] = {
    "_row": "BIGINT",
    "_kind": "VARCHAR",
    "_reason": "VARCHAR",
    "_key_hash": "UUID",
    "_content_hash": "UUID",
    "_custom_id": "VARCHAR",
    "_attempt": "INTEGER",
    DOUBLED: "INTEGER",
    ASKED_ROW: "BIGINT",
    DUPLICATE_OF: "VARCHAR",
    OUTCOME: "VARCHAR",
    PAST_ATTEMPTS: "VARCHAR",
    EARLIER_ANSWER: "VARCHAR",
    EARLIER_ERROR: "VARCHAR",
    WIRE_ID: "VARCHAR",
}
"""What records.parquet holds after the source columns, in order, and their DuckDB types."""

HIDDEN_COLUMNS = frozenset((*HELPER_COLUMNS, PARAMS, PARAMS_HASH))
"""What no row of results has of a record's columns in records.parquet."""

AS_TEXT = (
    "interval",
    "time with time zone",
    "union",
    "variant",
    "bignum",
    "bit",
    "geometry",
)
"""The types, by DuckDB's ids, that Parquet or its readers cannot give back as they were."""

_OFTEN_LOSSY = re.compile(
    r"HUGEINT|TIMESTAMP_M?S|INTERVAL|TIME WITH TIME ZONE|UNION|VARIANT|BIGNUM|BIT|GEOMETRY|\[\d+\]"
)

_RESERVED = {
    *(name.lower() for name in (*RESULT_COLUMNS, *HELPER_COLUMNS)),
    # What rows carry on their way into a table.
    "_bp_file",
    "_bp_bucket",
}


def check_names(source_columns: Iterable[str], output_columns: Iterable[str]) -> None:
    """Check that no two columns of a result row share a name, compared without case.

    Args:
        source_columns: the source's columns (a ``source_columns`` mapping will do).
        output_columns: the output's columns, after ``output_prefix``.

    Raises:
        InputError: names the column, and says what to do.
    """
    source: dict[str, str] = {}
    for name in source_columns:
        lower = name.lower()
        if lower in source:  # DuckDB tells names apart that differ in the case of Ä and ä
            raise InputError(
                f"The source's columns `{source[lower]}` and `{name}` differ in case only. Give one of them"
                f' another name in the source\'s query, for example `select * rename ("{name}" as'
                f' "{name}_2") from ...`.'
            )
        source[lower] = name
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


def asked_row(table: str, duplicates: bool) -> str:
    """Return SQL for the row of the record whose request is about a row of records.parquet.

    Args:
        table: what that file is called.
        duplicates: it has the columns of duplicates.
    """
    own = f"{table}._row"
    return f"coalesce({table}.{ASKED_ROW}, {own})" if duplicates else own


def stored_columns(
    source_columns: Mapping[str, str], as_text: Collection[str] = ()
) -> list[tuple[str, str]]:
    """Return (name, DuckDB type) in which the source columns go to Parquet.

    Args:
        source_columns: the source's columns and their types.
        as_text: those whose integers are too wide for a DECIMAL, and are stored as text.
    """
    return [(name, stored_type(kind, name in as_text)) for name, kind in source_columns.items()]


def stored_type(duckdb_type: str, wide_as_text: bool = False) -> str:
    """Return the type that holds a column's values in Parquet without loss.

    What Parquet has no type for, or one that loses something, is stored as the text that DuckDB
    prints, at any depth: of an INTERVAL it would keep no microseconds, of a TIMETZ no offset.

    Args:
        duckdb_type: the column's type.
        wide_as_text: integers of 128 bits become text, and not DECIMAL(38,0), which holds most.
    """
    if not _OFTEN_LOSSY.search(duckdb_type):
        return duckdb_type
    try:
        stored = _stored(duckdb.sqltype(duckdb_type), wide_as_text)
        return str(duckdb.sqltype(stored))  # spelled as DuckDB spells it
    except duckdb.Error:  # a struct whose fields have no names; a type only the database knows
        return "VARCHAR"


def has_wide_integers(duckdb_type: str) -> bool:
    """Return whether a type may hold integers of 128 bits."""
    return "HUGEINT" in duckdb_type


def _stored(kind: duckdb_typing.DuckDBPyType, wide_as_text: bool) -> str:
    def inner(child: Any) -> str:
        return _stored(child, wide_as_text)

    match kind.id:
        case "hugeint" | "uhugeint":
            # Parquet has no 128-bit integers, and DuckDB would write them as DOUBLE.
            return "VARCHAR" if wide_as_text else "DECIMAL(38,0)"
        case "timestamp_s" | "timestamp_ms":
            return "TIMESTAMP"
        case name if name in AS_TEXT:
            return "VARCHAR"
        case "list" | "array":
            # A reader gets a list of either; of an array that is NULL Arrow cannot read any.
            return f"{inner(kind.children[0][1])}[]"
        case "map":
            return f"MAP({', '.join(inner(child) for _, child in kind.children)})"
        case "struct":
            fields = (f"{quote_name(name)} {inner(child)}" for name, child in kind.children)
            return f"STRUCT({', '.join(fields)})"
    return str(kind)


def file_columns(con: duckdb.DuckDBPyConnection, path: str) -> dict[str, str]:
    """Return the columns of a Parquet file: name to DuckDB type, in order."""
    rows = con.execute(f"DESCRIBE SELECT * FROM read_parquet({quote_files([path])})").fetchall()
    return {row[0]: row[1] for row in rows}
