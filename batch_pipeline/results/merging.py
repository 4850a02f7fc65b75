"""What all destinations share: what a merge reports, and how columns grow together."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import stored_type
from batch_pipeline.records.connections import quote_files, quote_name, quote_text
from batch_pipeline.records.identity import bits_sql, column_text_sql
from batch_pipeline.results.wider import wider_type
from batch_pipeline.store.tally import NO_ROWS, Tally

OUR_COLUMNS = ("_custom_id", "_status")
"""Every table of results has these; a table without them was not made by this package."""


CUSTOM_ID, STATUS = "_bp_custom_id", "_bp_status"
"""The columns of a snapshot's file that stand before the key's own."""


class OvertakenError(Exception):
    """Somebody else changed the destination since it was looked at; look again, and merge then."""


@dataclass(frozen=True)
class Snapshot:
    """What a destination holds now.

    Attributes:
        generation: which state of it this is; the next merge into it has another one.
        columns: name to DuckDB type, in order; empty when there is no table.
        ours: the names of the columns that this package wrote; None when nobody knows.
        path: a local Parquet file, a row per row: its custom_id, its status, its key columns; None
            when there are no rows, or none were asked for.
        owner: the pipeline whose results it says it holds; "" when it does not say.
        tally: of what the file holds, or would hold.
    """

    generation: int
    columns: Mapping[str, str]
    ours: frozenset[str] | None
    path: str | None
    owner: str = ""
    tally: Tally = NO_ROWS


def _never(_name: str) -> bool:
    return False


@dataclass(frozen=True)
class Writer:
    """Who merges, and what it took the destination for.

    Attributes:
        pipeline: the pipeline whose table it is.
        names: what the pipeline was called earlier.
        generation: the state that was looked at; None: whichever there is.
        took_over: whether what was under a name is this pipeline's now, by what the ledger says.
    """

    pipeline: str
    names: tuple[str, ...] = ()
    generation: int | None = None
    took_over: Callable[[str], bool] = _never

    def check_owner(self, owner: str | None, destination: str) -> None:
        """Refuse the table of another pipeline.

        Args:
            owner: whose it is; None when nobody wrote that down.
            destination: which table of which file, for the message.

        Raises:
            InputError: it is another pipeline's.
        """
        if owner and not self.is_owner(owner):
            raise InputError(
                f"The destination ({destination}) holds the results of the pipeline {owner}, so"
                f" {self.pipeline} cannot have it: two pipelines never share one. Nothing in it was"
                f" changed. Name another destination for {self.pipeline}."
            )

    def is_owner(self, owner: str) -> bool:
        """Return whether a pipeline is this one, or what it was called earlier."""
        return owner in (self.pipeline, *self.names) or self.took_over(owner)

    def check_generation(self, found: int) -> None:
        """Refuse to write over a state that this writer has not seen.

        Raises:
            OvertakenError: another writer was here meanwhile.
        """
        if self.generation is not None and self.generation != found:
            raise OvertakenError


@dataclass(frozen=True)
class Wanted:
    """What a pipeline is going to keep in a destination, for a check before any money is spent.

    Attributes:
        writer: the pipeline.
        key: the key columns.
        columns: returns the columns of its results, name to DuckDB type; asked only when it matters.
        answers: returns those of them that are NULL in a row without an answer.
    """

    writer: Writer
    key: Sequence[str]
    columns: Callable[[], Mapping[str, str]]
    answers: Callable[[], Sequence[str]]


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


@dataclass(frozen=True)
class Rows:
    """Result rows to merge, unique by key, where they are.

    Attributes:
        query: SQL for them, which any connection on this machine can read.
        count: how many there are.
    """

    query: str
    count: int


def rows_to_merge(con: duckdb.DuckDBPyConnection, given: str | Rows) -> Rows:
    """Return rows that are given as a query, or as the path of a local Parquet file."""
    if isinstance(given, Rows):
        return given
    query = f"SELECT * FROM read_parquet({quote_files([given])})"
    row = con.execute(f"SELECT count(*) FROM ({query})").fetchone()
    return Rows(query, row[0] if row else 0)


def columns_in(con: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    """Return the columns of a query, name to DuckDB type, in order."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE {query}").fetchall()}


def grown_columns(
    con: duckdb.DuckDBPyConnection,
    old: Mapping[str, str],
    new: Mapping[str, str],
    fits: Callable[[str, str], bool],
) -> dict[str, str]:
    """Return the columns that hold the rows of both: ``old`` in their order, then what is added.

    Names are compared without case; a column of two types gets one that holds both.

    Args:
        con: any connection.
        old: the columns of the one, name to DuckDB type.
        new: those of the other.
        fits: tells whether all values of a column survive in a type (see ``fitting``).
    """
    grown = dict(old)
    spelled = {name.lower(): name for name in old}
    for name, kind in new.items():
        known = spelled.get(name.lower())
        if known is None:
            grown[name] = stored_type(kind)
        else:
            grown[known] = wider_type(con, grown[known], kind, partial(fits, name))
    return grown


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
                f" another key. Go back to the earlier key (a query as source may give the column its"
                f" earlier name). Or give the pipeline another name, without renamed_from, and another"
                f" destination: under the new key all of it is asked, and paid, again there."
            )


def copy_rows(
    con: duckdb.DuckDBPyConnection,
    rows: str,
    columns: Mapping[str, str],
    key: Sequence[str],
    path: str | None,
    only: str | None,
) -> Tally:
    """Write the file of a snapshot; return the tally of what it holds.

    Args:
        con: a connection; what it reads stays as it is between two statements.
        rows: SQL that stands for the destination's rows.
        columns: their columns, name to DuckDB type.
        key: the key columns.
        path: a local file; None: nothing is written.
        only: a local Parquet file of custom_ids: other rows are left out; None: none is.
    """
    keys = ", ".join(f"source.{quote_name(name)}" for name in key)
    among = ""
    if only is not None:
        among = f" WHERE source._custom_id IN (SELECT custom_id FROM read_parquet({quote_files([only])}))"
    if path is not None:
        con.execute(
            f"COPY (SELECT source._custom_id AS {CUSTOM_ID}, source._status AS {STATUS}, {keys}"
            f" FROM {rows} AS source{among}) TO {quote_text(path)} (FORMAT parquet)"
        )
    types = {name.lower(): kind for name, kind in columns.items()}
    texts = [column_text_sql(name, types[name.lower()]) for name in key]
    found = con.execute(
        "SELECT count(*), bit_xor(row), CAST(sum(row) AS VARCHAR) FROM (SELECT"
        f" {bits_sql(['source._custom_id', 'source._status', *texts])} AS row"
        f" FROM {rows} AS source{among})"
    ).fetchone()
    count, xor, total = found or (0, 0, "0")
    return Tally(count, xor or 0, int(total or 0))


def is_read_only(path: Path) -> bool:
    """Return whether a file or folder may not be written, by this user or by anybody."""
    # The superuser may write all, but what is marked so for everybody is marked so on purpose.
    return not os.access(path, os.W_OK) or not path.stat().st_mode & 0o222


def nearest(path: Path) -> Path:
    """Return the path, or the nearest folder above it that there is."""
    return next(one for one in (path, *path.parents) if one.exists())
