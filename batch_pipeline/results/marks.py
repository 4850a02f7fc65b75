"""Whose a table is: a small table of ours beside the tables of results, in the same database.

A comment on the table would be the team's own, and ``CREATE OR REPLACE TABLE`` would lose it. The mark
is read and written in the transaction of the merge, so it tells a writer that slept, too, that another
one was here meanwhile. A table without a mark was written by an earlier version, and is taken over.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb

from batch_pipeline.records.connections import OpenDatabase, quote_name
from batch_pipeline.results.merging import Writer

SCHEMA, TABLE = "_batch_pipeline", "destinations"


@dataclass(frozen=True)
class Mark:
    """What is known of a table of results.

    Attributes:
        pipeline: whose it is.
        generation: counts its merges.
        ours: the columns that we wrote, in small letters.
    """

    pipeline: str
    generation: int
    ours: frozenset[str]


def read_mark(database: OpenDatabase, schema: str, table: str) -> Mark | None:
    """Return the mark of a table; None when it has none."""
    con = database.connection
    there = con.execute(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = ? AND schema_name = ?"
        " AND table_name = ?",
        [database.catalog, SCHEMA, TABLE],
    ).fetchone()
    if not there:
        return None
    row = con.execute(
        f"SELECT pipeline, generation, columns FROM {_marks(database)}"
        " WHERE schema_name = lower(?) AND table_name = lower(?)",
        [schema, table],
    ).fetchone()
    return Mark(row[0], row[1], frozenset(row[2])) if row else None


def write_mark(
    database: OpenDatabase,
    schema: str,
    table: str,
    before: Mark | None,
    writer: Writer | None,
    written: Iterable[str],
) -> None:
    """Write down, inside a merge's transaction, that a table was changed.

    Args:
        database: a connection inside the transaction.
        schema: the table's schema.
        table: the table.
        before: its mark until now.
        writer: who changed it.
        written: the columns that were written.
    """
    con, marks = database.connection, _marks(database)
    if before is None and writer is None:
        return
    earlier = before.ours if before else frozenset()
    ours = sorted(earlier | {name.lower() for name in written})
    owner = writer.pipeline if writer else before.pipeline if before else ""
    generation = before.generation + 1 if before else 1
    if before is None:
        _make(con, database.catalog, marks)
        con.execute(
            f"INSERT INTO {marks} VALUES (lower(?), lower(?), ?, ?, ?)",
            [schema, table, owner, generation, ours],
        )
        return
    con.execute(
        f"UPDATE {marks} SET pipeline = ?, generation = ?, columns = ?"
        " WHERE schema_name = lower(?) AND table_name = lower(?)",
        [owner, generation, ours, schema, table],
    )


def _make(con: duckdb.DuckDBPyConnection, catalog: str, marks: str) -> None:
    con.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_name(catalog)}.{quote_name(SCHEMA)}")
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {marks} (schema_name VARCHAR, table_name VARCHAR,"
        " pipeline VARCHAR, generation BIGINT, columns VARCHAR[])"
    )


def _marks(database: OpenDatabase) -> str:
    return ".".join(quote_name(part) for part in (database.catalog, SCHEMA, TABLE))
