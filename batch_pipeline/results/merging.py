"""What all destinations share: what a merge reports, and how columns grow together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import stored_type
from batch_pipeline.records.connections import quote_files, quote_name

OUR_COLUMNS = ("_custom_id", "_status")
"""Every table of results has these; a table without them was not made by this package."""


@dataclass(frozen=True)
class Merged:
    """What one merge did to a destination.

    Attributes:
        inserted: rows whose key was not there before.
        updated: rows that replaced the row of their key.
        deleted: rows removed because their record is gone.
        total: rows there now.
    """

    inserted: int
    updated: int
    deleted: int
    total: int


def file_rows(con: duckdb.DuckDBPyConnection, path: str) -> int:
    """Return how many rows a Parquet file has."""
    row = con.execute(f"SELECT count(*) FROM read_parquet({quote_files([path])})").fetchone()
    return row[0] if row else 0


def grown_columns(
    con: duckdb.DuckDBPyConnection, old: Mapping[str, str], new: Mapping[str, str]
) -> dict[str, str]:
    """Return the columns that hold the rows of both: ``old`` in their order, then what is added.

    Names are compared without case; a column of two types gets one that holds both.
    """
    grown = dict(old)
    spelled = {name.lower(): name for name in old}
    for name, kind in new.items():
        known = spelled.get(name.lower())
        if known is None:
            grown[name] = stored_type(kind)
        else:
            grown[known] = wider_type(con, grown[known], kind)
    return grown


def wider_type(con: duckdb.DuckDBPyConnection, old: str, new: str) -> str:
    """Return the DuckDB type that holds the values of both types; text if there is no other."""
    if old == new:
        return old
    if "VARCHAR" in (old, new):
        # Asked first: DuckDB would make JSON of JSON and text, and fail on text that is no JSON.
        return "VARCHAR"
    # On a cursor of its own: the question may fail, and that would abort a transaction of ``con``.
    with con.cursor() as asking:
        try:
            row = asking.execute(
                f"SELECT typeof(coalesce(CAST(NULL AS {old}), CAST(NULL AS {new})))"
            ).fetchone()
        except duckdb.Error:
            return "VARCHAR"
    return stored_type(row[0]) if row else "VARCHAR"


def cast_columns(have: Mapping[str, str], want: Mapping[str, str], table: str) -> str:
    """Return a SELECT list that gives the rows of ``table`` the columns of ``want``."""
    spelled = {name.lower(): name for name in have}
    parts: list[str] = []
    for name, kind in want.items():
        known = spelled.get(name.lower())
        value = "NULL" if known is None else f"{table}.{quote_name(known)}"
        if known is None or have[known] != kind:
            value = f"CAST({value} AS {kind})"
        parts.append(f"{value} AS {quote_name(name)}")
    return ", ".join(parts)


def same_key(key: Sequence[str], left: str, right: str) -> str:
    """Return the SQL condition that two tables' rows have the same key."""
    return " AND ".join(
        f"{left}.{quote_name(name)} IS NOT DISTINCT FROM {right}.{quote_name(name)}" for name in key
    )


def check_key_is_there(key: Sequence[str], columns: Mapping[str, str], destination: str) -> None:
    """Check that the key's columns are among the destination's ``columns``.

    Raises:
        InputError: one is not: the destination was filled under another key.
    """
    known = {name.lower() for name in columns}
    for name in key:
        if name.lower() not in known:
            raise InputError(
                f"The destination ({destination}) has no key column `{name}`: it was filled under"
                f" another key. Name a new destination, or go back to the earlier key."
            )
