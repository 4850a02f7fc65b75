"""The rows of a table of results in a DuckDB database: reading and merging."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import tenacity

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import file_columns
from batch_pipeline.records.connections import (
    MANY_ROWS,
    MEMORY_LIMIT,
    OpenDatabase,
    allow_memory,
    attach_database,
    one_thread,
    open_database,
    quote_files,
    quote_name,
    with_enough_memory,
)
from batch_pipeline.results.merging import (
    OUR_COLUMNS,
    Merged,
    cast_columns,
    check_key_is_there,
    file_rows,
    grown_columns,
    same_key,
)

MERGE_MEMORY = "100MB"
"""What a merge may hold at first. Rows that are not committed yet stay in memory as far as it goes."""


class DuckDBRows:
    """The rows of a ``DuckDBTable``, whose fields these are, read at run time."""

    def __init__(self, path: str, schema: str, table: str, lock_wait_seconds: float) -> None:
        """Open nothing yet."""
        self._path, self._schema, self._table = path, schema, table
        self._lock_wait_seconds = lock_wait_seconds

    def describe(self) -> str:
        """Return which table of which file."""
        table = self._table if self._schema == "main" else f"{self._schema}.{self._table}"
        return f"table {table} in {self._path}"

    def check(self) -> None:
        """Check that the table, if there is one, was made by this package."""
        self.columns()

    def columns(self) -> dict[str, str]:
        """Return the table's columns, name to DuckDB type, in order; empty when there is no table.

        Raises:
            InputError: the table exists and was not made by this package.
        """
        if not Path(self._path).exists():
            return {}
        with self._open(read_only=True) as database:
            return self._columns(database)

    def row_count(self) -> int:
        """Return how many rows the table has; 0 when there is no table."""
        if not self.columns():
            return 0
        with self._open(read_only=True) as database:
            return self._count(database)

    def sample(self, n: int) -> pa.Table:
        """Return any ``n`` rows of the table."""
        with self._open(read_only=True) as database:
            name = self._full_name(database.catalog)
            return database.connection.sql(f"SELECT * FROM {name} LIMIT {int(n)}").to_arrow_table()

    def relation(self, con: duckdb.DuckDBPyConnection) -> str:
        """Return SQL that reads the whole table through ``con``, as in ``SELECT * FROM <it>``.

        The file stays attached to ``con``, and closed to writers, until ``con`` is closed.
        """
        catalog = attach_database(con, self._path, self._lock_wait_seconds)
        return self._full_name(catalog)

    def merge(self, rows_path: str | None, key: Sequence[str], deleted_path: str | None) -> Merged:
        """Put rows into the table and take rows out, in one transaction.

        Args:
            rows_path: a local Parquet file of result rows, unique by key; each replaces the row of
                its key. Columns the table lacks are added, types are widened where needed.
            key: the key columns.
            deleted_path: a local Parquet file with the key columns of rows to remove.

        Raises:
            InputError: the table was not made by this package, or under another key, or the
                database stayed in use.
        """
        retry = tenacity.Retrying(
            # Only another connection of this process can make transactions conflict.
            retry=tenacity.retry_if_exception_type(duckdb.TransactionException),
            stop=tenacity.stop_after_delay(self._lock_wait_seconds),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        )
        return retry(self._merge_once, rows_path, key, deleted_path)

    def _merge_once(
        self, rows_path: str | None, key: Sequence[str], deleted_path: str | None
    ) -> Merged:
        with self._open(read_only=False) as database:
            con = database.connection
            many = rows_path is not None and file_rows(con, rows_path) > MANY_ROWS
            if many:
                allow_memory(con, MEMORY_LIMIT)

            def change() -> Merged:
                con.execute("BEGIN TRANSACTION")
                try:
                    merged = self._change(database, rows_path, key, deleted_path)
                    con.execute("COMMIT")
                except BaseException:
                    with suppress(duckdb.Error):  # a COMMIT that failed has rolled back already
                        con.execute("ROLLBACK")
                    raise
                return merged

            with nullcontext() if many else one_thread(con):
                return with_enough_memory(con, change)

    def _change(
        self,
        database: OpenDatabase,
        rows_path: str | None,
        key: Sequence[str],
        deleted_path: str | None,
    ) -> Merged:
        con, name = database.connection, self._full_name(database.catalog)
        columns = self._columns(database)
        if columns:
            check_key_is_there(key, columns, self.describe())
        inserted = updated = deleted = 0
        if deleted_path is not None and columns:
            deleted = self._delete(con, name, columns, key, deleted_path)
        if rows_path is not None:
            columns = self._grow(database, columns, file_columns(con, rows_path))
            updated = self._delete(con, name, columns, key, rows_path)
            rows = self._insert(con, name, columns, rows_path)
            inserted = rows - updated
        total = self._count(database) if columns else 0
        return Merged(inserted=inserted, updated=updated, deleted=deleted, total=total)

    def _grow(
        self, database: OpenDatabase, columns: dict[str, str], new: dict[str, str]
    ) -> dict[str, str]:
        """Create the table, or change it so that rows with the columns ``new`` fit."""
        con, name = database.connection, self._full_name(database.catalog)
        grown = grown_columns(con, columns, new)
        if not columns:
            con.execute(
                f"CREATE SCHEMA IF NOT EXISTS {quote_name(database.catalog)}"
                f".{quote_name(self._schema)}"
            )
            declared = ", ".join(f"{quote_name(c)} {kind}" for c, kind in grown.items())
            con.execute(f"CREATE TABLE {name} ({declared})")
            return grown
        for column, kind in grown.items():
            if column not in columns:
                con.execute(f"ALTER TABLE {name} ADD COLUMN {quote_name(column)} {kind}")
            elif columns[column] != kind:
                con.execute(f"ALTER TABLE {name} ALTER COLUMN {quote_name(column)} TYPE {kind}")
        return grown

    def _delete(
        self,
        con: duckdb.DuckDBPyConnection,
        name: str,
        columns: dict[str, str],
        key: Sequence[str],
        path: str,
    ) -> int:
        keys = self._cast_keys(con, columns, key, path)
        row = con.execute(
            f"DELETE FROM {name} AS old USING ({keys}) AS gone WHERE {same_key(key, 'old', 'gone')}"
        ).fetchone()
        return row[0] if row else 0

    def _cast_keys(
        self,
        con: duckdb.DuckDBPyConnection,
        columns: dict[str, str],
        key: Sequence[str],
        path: str,
    ) -> str:
        kinds = {name.lower(): kind for name, kind in columns.items()}
        want = {name: kinds[name.lower()] for name in key}
        casts = cast_columns(file_columns(con, path), want, "rows")
        return f"SELECT {casts} FROM read_parquet({quote_files([path])}) AS rows"

    def _insert(
        self, con: duckdb.DuckDBPyConnection, name: str, columns: dict[str, str], path: str
    ) -> int:
        casts = cast_columns(file_columns(con, path), columns, "rows")
        row = con.execute(
            f"INSERT INTO {name} BY NAME"
            f" SELECT {casts} FROM read_parquet({quote_files([path])}) AS rows"
        ).fetchone()
        return row[0] if row else 0

    def _columns(self, database: OpenDatabase) -> dict[str, str]:
        names = [database.catalog, self._schema, self._table]
        rows = database.connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = ?"
            " AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?)"
            " ORDER BY column_index",
            names,
        ).fetchall()
        columns = {row[0]: row[1] for row in rows}
        known = {column.lower() for column in columns}
        if columns and not known.issuperset(OUR_COLUMNS):
            raise InputError(
                f"The destination ({self.describe()}) exists and was not made by batch_pipeline: it"
                f" has no columns {' and '.join(OUR_COLUMNS)}. Nothing in it was changed. Name"
                f" another table as destination."
            )
        return columns

    def _count(self, database: OpenDatabase) -> int:
        name = self._full_name(database.catalog)
        row = database.connection.execute(f"SELECT count(*) FROM {name}").fetchone()
        return row[0] if row else 0

    def _open(self, *, read_only: bool) -> AbstractContextManager[OpenDatabase]:
        return open_database(
            self._path,
            read_only=read_only,
            wait_seconds=self._lock_wait_seconds,
            memory_limit=MERGE_MEMORY,
        )

    def _full_name(self, catalog: str) -> str:
        return ".".join(quote_name(part) for part in (catalog, self._schema, self._table))
