"""A table of results in a DuckDB database: whether it takes rows, what it holds, and merging into it."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import tenacity

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import (
    MANY_ROWS,
    MEMORY_LIMIT,
    OpenDatabase,
    allow_memory,
    attach_database,
    compress_texts,
    first_line,
    memory_connection,
    one_thread,
    open_database,
    quote_files,
    quote_name,
    with_enough_memory,
)
from batch_pipeline.records.fingerprint import look_at_database
from batch_pipeline.results.marks import Mark, read_mark, write_mark
from batch_pipeline.results.merging import (
    OUR_COLUMNS,
    Merged,
    Rows,
    Snapshot,
    Wanted,
    Writer,
    check_key_is_there,
    columns_in,
    copy_rows,
    grown_columns,
    is_read_only,
    nearest,
    rows_to_merge,
)
from batch_pipeline.results.table_rows import TableRows
from batch_pipeline.results.table_shape import (
    check_shape,
    check_types,
    is_view,
    rebuild,
    shape_of,
)
from batch_pipeline.results.wider import fitting
from batch_pipeline.store.tally import Tally

MERGE_MEMORY = "64MB"
"""What a merge may hold at first. Rows that are not committed yet stay in memory as far as it goes."""

ROW_GROUP_SIZE = 16_384
"""Rows of a new table that are held in memory until they are compressed and written together.

Of DuckDB's own 122,880 rows of 1 KB most are written to disk and read back before they are compressed, which
takes half as much again. A table that is there keeps the size that it has: before 1.5 DuckDB may fail to
write one in which large and small ones meet.
"""
LEAST_VERSION = (1, 5)


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

    def check(self, wanted: Wanted | None = None) -> None:
        """Check that results may be written here; to be called before any money is spent.

        Args:
            wanted: whose results, and which columns they have; None: look only whose table it is.

        Raises:
            InputError: it cannot take them; it says why, and what to do.
        """
        self._check_writable()
        if not Path(self._path).exists():
            return
        with self._open(read_only=True) as database:
            self._check_kind(database)
            columns = self._columns(database)
            if wanted is None:
                return
            mark = read_mark(database, self._schema, self._table)
            wanted.writer.check_owner(mark and mark.pipeline, self.describe())
            shape = shape_of(database, self._schema, self._table)
            if shape is None:
                return
            check_key_is_there(wanted.key, columns, self.describe())
            strangers = self._strangers(database, mark, columns)
        results = wanted.columns()
        check_shape(shape, self.describe(), wanted.key, results, wanted.answers())
        for name in results:
            if name.lower() in strangers:
                raise InputError(
                    f"The destination ({self.describe()}) has a column `{name}` that somebody added,"
                    " with values in it, and the results have one of that name now. Nothing was sent"
                    " or changed. Rename one of them; `output_prefix` puts something before the"
                    " output's names."
                )
        with memory_connection(MERGE_MEMORY) as con:
            # Of values nobody knows yet; those that do not fit make the column text in the merge.
            grown = grown_columns(con, columns, results, lambda _name, _kind: True)
            check_types(shape, self.describe(), columns, grown)

    def _strangers(
        self, database: OpenDatabase, mark: Mark | None, columns: dict[str, str]
    ) -> set[str]:
        """Return the columns that somebody added and filled, in small letters."""
        if mark is None or not mark.ours:
            return set()
        others = [name for name in columns if name.lower() not in mark.ours]
        if not others:
            return set()
        counts = ", ".join(f"count({quote_name(name)})" for name in others)
        name = self._full_name(database.catalog)
        row = database.connection.execute(f"SELECT {counts} FROM {name}").fetchone() or ()
        return {name.lower() for name, count in zip(others, row, strict=True) if count}

    def _check_writable(self) -> None:
        """Check that the file, or the folder in which it is to be made, is not read-only."""
        place = Path(self._path)
        for one in (place, place.parent) if place.exists() else (nearest(place.parent),):
            if is_read_only(one):
                raise InputError(
                    f"The destination ({self.describe()}) cannot be written: {one} is read-only for"
                    " the user that runs this. Nothing was sent or changed. Give that user write"
                    " access, or name another destination."
                )

    def _check_kind(self, database: OpenDatabase) -> None:
        if is_view(database, self._schema, self._table):
            raise InputError(
                f"The destination ({self.describe()}) is a view, which takes no rows, and was not made"
                " by batch_pipeline. Nothing in it was changed. Name another table as destination; the"
                " view may read that."
            )

    def snapshot(self, key: Sequence[str], path: str | None, only: str | None = None) -> Snapshot:
        """Return what the table holds now, with its rows' custom_ids and keys in a file.

        Args:
            key: the key columns.
            path: a local file to write; None: none.
            only: a local Parquet file of custom_ids: other rows are left out.

        Raises:
            InputError: the table was not made by this package, or under another key.
        """
        if not Path(self._path).exists():
            return Snapshot(0, {}, None, None)
        with self._open(read_only=True) as database:
            con = database.connection
            self._check_kind(database)
            columns = self._columns(database)
            mark = read_mark(database, self._schema, self._table)
            generation, ours = (mark.generation, mark.ours or None) if mark else (0, None)
            owner = mark.pipeline if mark else ""
            if not columns:
                return Snapshot(generation, {}, ours, None, owner)
            check_key_is_there(key, columns, self.describe())
            name = self._full_name(database.catalog)

            def copy() -> Tally:
                # Another connection of this process may write meanwhile.
                con.execute("BEGIN TRANSACTION")
                try:
                    return copy_rows(con, name, columns, key, path, only)
                finally:
                    con.execute("ROLLBACK")

            tally = with_enough_memory(con, copy)
        return Snapshot(generation, columns, ours, path, owner, tally)

    def whose(self) -> tuple[int, str]:
        """Return which state of the table this is, and the pipeline whose it is; "" when none says so."""
        if not Path(self._path).exists():
            return 0, ""
        with self._open(read_only=True) as database:
            mark = read_mark(database, self._schema, self._table)
        return (mark.generation, mark.pipeline) if mark else (0, "")

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

    def look(self) -> str | None:
        """Return a text that is another one after each write to the file; None: there is none."""
        return look_at_database(self._path)

    def relation(self, con: duckdb.DuckDBPyConnection) -> str:
        """Return SQL that reads the whole table through ``con``, as in ``SELECT * FROM <it>``.

        The file stays attached to ``con``, and closed to writers, until ``con`` is closed.
        """
        catalog = attach_database(con, self._path, self._lock_wait_seconds)
        return self._full_name(catalog)

    def merge(
        self,
        rows: str | Rows | None,
        key: Sequence[str],
        deleted_path: str | None,
        writer: Writer | None = None,
    ) -> Merged:
        """Put rows into the table and take rows out, in one transaction.

        Columns of the table that the rows do not have are the team's: a row that is updated keeps
        what it has there, and a new one gets their defaults.

        Args:
            rows: a local Parquet file of result rows, unique by key, or a query for them; each
                replaces the row (or rows) of its key. Columns the table lacks are added, types are widened where needed.
            key: the key columns.
            deleted_path: a local Parquet file with the key columns of rows to remove.
            writer: whose rows they are, and which state of the table they are meant for.

        Raises:
            InputError: the table was not made by this package, or is another pipeline's, or under
                another key, or turns a row away, or the database stayed in use.
            OvertakenError: another writer changed the table since ``writer`` looked at it.
        """
        retry = tenacity.Retrying(
            # Only another connection of this process can make transactions conflict.
            retry=tenacity.retry_if_exception_type(duckdb.TransactionException),
            stop=tenacity.stop_after_delay(self._lock_wait_seconds),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        )
        self._check_writable()
        try:
            return retry(self._merge_once, rows, key, deleted_path, writer)
        except duckdb.ConstraintException as error:
            raise InputError(
                f"The destination ({self.describe()}) turns rows away. DuckDB says:"
                f" {first_line(error)}. Nothing in it was changed, and the answers wait in the store:"
                " take that constraint from the table, then run NAME_collect or `batch-pipeline"
                " publish NAME`."
            ) from error

    def sign(self, writer: Writer) -> None:
        """Write down that the table is this writer's, which had another name before."""
        self.merge(None, (), None, writer)

    def _merge_once(
        self,
        rows: str | Rows | None,
        key: Sequence[str],
        deleted_path: str | None,
        writer: Writer | None,
    ) -> Merged:
        size = None if rows is None else self._row_group_size(rows)
        with self._open(read_only=False, row_group_size=size) as database:
            con = database.connection
            new = None if rows is None else rows_to_merge(con, rows)
            many = new is not None and new.count > MANY_ROWS
            if many:
                allow_memory(con, MEMORY_LIMIT)
            compress_texts(con)

            def change() -> Merged:
                con.execute("BEGIN TRANSACTION")
                try:
                    merged = self._change(database, new and new.query, key, deleted_path, writer)
                    con.execute("COMMIT")
                except BaseException as error:
                    with suppress(duckdb.Error):  # a COMMIT that failed has rolled back already
                        con.execute("ROLLBACK")
                    if _is_short_of_memory(error):
                        raise duckdb.OutOfMemoryException(str(error)) from error
                    raise
                return merged

            with nullcontext() if many else one_thread(con):
                return with_enough_memory(con, change)

    def _change(
        self,
        database: OpenDatabase,
        query: str | None,
        key: Sequence[str],
        deleted_path: str | None,
        writer: Writer | None,
    ) -> Merged:
        con, name = database.connection, self._full_name(database.catalog)
        self._check_kind(database)
        mark = read_mark(database, self._schema, self._table)
        if writer is not None:
            writer.check_owner(mark and mark.pipeline, self.describe())
            # Here and not before: a writer that slept must not put older rows over newer ones.
            writer.check_generation(mark.generation if mark else 0)
        columns = self._columns(database)
        if columns and key:
            check_key_is_there(key, columns, self.describe())
        inserted = updated = deleted = 0
        have: dict[str, str] = {}
        if deleted_path is not None and columns:
            gone = f"SELECT * FROM read_parquet({quote_files([deleted_path])})"
            deleted = TableRows(con, name, columns, key).delete(gone)
        if query is not None:
            have = columns_in(con, query)
            is_new = not columns
            columns = self._grow(database, columns, have, query)
            rows = TableRows(con, name, columns, key)
            if not is_new:
                rows.drop_doubles(query)
                updated = rows.update(query, have)
            inserted = rows.insert(query, have, is_new)
        if columns or mark is not None:
            write_mark(database, self._schema, self._table, mark, writer, have)
        total = self._count(database) if columns else 0
        return Merged(inserted=inserted, updated=updated, deleted=deleted, total=total)

    def _grow(
        self,
        database: OpenDatabase,
        columns: dict[str, str],
        new: dict[str, str],
        query: str,
    ) -> dict[str, str]:
        """Create the table, or change it so that a query's rows, with columns ``new``, fit."""
        con, name = database.connection, self._full_name(database.catalog)
        given = (f"({query})", new)
        fits = fitting(con, [(name, columns), given] if columns else [given])
        grown = grown_columns(con, columns, new, fits)
        if not columns:
            con.execute(
                f"CREATE SCHEMA IF NOT EXISTS {quote_name(database.catalog)}"
                f".{quote_name(self._schema)}"
            )
            declared = ", ".join(f"{quote_name(c)} {kind}" for c, kind in grown.items())
            con.execute(f"CREATE TABLE {name} ({declared})")
            return grown
        changed = [column for column, kind in columns.items() if grown[column] != kind]
        shape = shape_of(database, self._schema, self._table) if changed else None
        if shape is not None and (shape.referenced_by or not shape.is_plain):
            check_types(shape, self.describe(), columns, grown)
            rebuild(database, self._schema, self._table, shape, grown)
        else:
            for column in changed:
                con.execute(
                    f"ALTER TABLE {name} ALTER COLUMN {quote_name(column)} TYPE {grown[column]}"
                )
        for column, kind in grown.items():
            if column not in columns:
                con.execute(f"ALTER TABLE {name} ADD COLUMN {quote_name(column)} {kind}")
        return grown

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

    def _row_group_size(self, rows: str | Rows) -> int | None:
        """Return the size of row groups to write rows in; None: DuckDB's own."""
        version = tuple(int(part) for part in duckdb.__version__.split(".")[:2])
        if version < LEAST_VERSION or (isinstance(rows, Rows) and rows.count <= ROW_GROUP_SIZE):
            return None
        return None if self.columns() else ROW_GROUP_SIZE

    def _open(
        self, *, read_only: bool, row_group_size: int | None = None
    ) -> AbstractContextManager[OpenDatabase]:
        return open_database(
            self._path,
            read_only=read_only,
            wait_seconds=self._lock_wait_seconds,
            memory_limit=MERGE_MEMORY,
            row_group_size=row_group_size,
        )

    def _full_name(self, catalog: str) -> str:
        return ".".join(quote_name(part) for part in (catalog, self._schema, self._table))


def _is_short_of_memory(error: BaseException) -> bool:
    """Whether a COMMIT had too little memory: it says so in words, as of any transaction that fails."""
    return isinstance(error, duckdb.TransactionException) and bool(
        re.search(r"memory|pin block|allocate", str(error), re.IGNORECASE)
    )
