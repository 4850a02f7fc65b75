"""Where results go: two kinds of destination, declared alike and used alike.

A code location declares them, and loads neither DuckDB nor Arrow for it: what reads and writes the
rows stands in ``duckdb_table`` and ``parquet_dataset``, and is imported by whoever calls a method.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_pipeline.errors import InputError
from batch_pipeline.settings import LOCK_WAIT_SECONDS, name_parts, project_path, resolve

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from batch_pipeline.results.duckdb_table import DuckDBRows
    from batch_pipeline.results.merging import Merged, Rows, Snapshot, Wanted, Writer
    from batch_pipeline.results.parquet_dataset import ParquetRows


class Destination(ABC):
    """Results with one row per record, in a table or in files."""

    @abstractmethod
    def describe(self) -> str:
        """Return which table of which file, or which folder, for messages and metadata."""

    @abstractmethod
    def _rows(self) -> "DuckDBRows | ParquetRows":
        """Return what reads and writes the rows."""

    def check(self, wanted: "Wanted | None" = None) -> None:
        """Check that results may be written here; to be called before any money is spent.

        Args:
            wanted: whose results, and which columns they have; None: look only whose place it is.

        Raises:
            InputError: it cannot take them: something is there that was not made by this package, it
                is another pipeline's, it is read-only, or a row of results might be turned away.
        """
        self._rows().check(wanted)

    def snapshot(self, key: Sequence[str], path: str | None, only: str | None = None) -> "Snapshot":
        """Return what is there now, with the rows' custom_ids and keys in a local file ``path``.

        Args:
            key: the key columns.
            path: the file to write; None: none, the tally alone is wanted.
            only: a local Parquet file of custom_ids: it is about the rows that have one of them.

        Raises:
            InputError: what is there was not made by this package, or under another key.
        """
        return self._rows().snapshot(key, path, only)

    def whose(self) -> tuple[int, str]:
        """Return which state of it this is, as a snapshot says it, and the pipeline that it names.

        No row is read.
        """
        return self._rows().whose()

    def exists(self) -> bool:
        """Return whether results were ever written."""
        return bool(self.columns())

    def columns(self) -> dict[str, str]:
        """Return the columns, name to DuckDB type, in order; empty when nothing was written.

        Raises:
            InputError: something is there that was not made by this package.
        """
        return self._rows().columns()

    def row_count(self) -> int:
        """Return how many rows there are; 0 when nothing was written."""
        return self._rows().row_count()

    def sample(self, n: int) -> "pa.Table":
        """Return any ``n`` rows."""
        return self._rows().sample(n)

    def relation(self, con: "duckdb.DuckDBPyConnection") -> str:
        """Return SQL that reads all rows through ``con``, as in ``SELECT * FROM <it>``.

        A DuckDB file stays attached to ``con``, and closed to writers, until ``con`` is closed.
        """
        return self._rows().relation(con)

    @contextmanager
    def connection(
        self, memory_limit: str | None = None, wait_seconds: float | None = None
    ) -> "Iterator[duckdb.DuckDBPyConnection]":
        """Yield a connection to read ``relation`` through; a DuckDB file is open as long as it.

        Args:
            memory_limit: as of ``memory_connection``; None: what that has by itself.
            wait_seconds: how long to wait while another program holds the file; None: as declared.
        """
        from batch_pipeline.records.connections import (
            MEMORY_LIMIT,
            memory_connection,
            open_database,
        )

        memory_limit = memory_limit or MEMORY_LIMIT
        if not isinstance(self, DuckDBTable):
            with memory_connection(memory_limit) as con:
                yield con
            return
        with open_database(
            self.path,
            read_only=True,
            wait_seconds=self.lock_wait_seconds if wait_seconds is None else wait_seconds,
            memory_limit=memory_limit,
        ) as database:
            yield database.connection

    def look(self) -> str | None:
        """Return a text that is another one after each write; None: there is nothing yet.

        No row is read. Of a table it goes by the database's own file.
        """
        return self._rows().look()

    def merge(
        self,
        rows: "str | Rows | None",
        key: Sequence[str],
        deleted_path: str | None,
        writer: "Writer | None" = None,
    ) -> "Merged":
        """Put rows in and take rows out, in one transaction (or one step, of a Parquet dataset).

        Args:
            rows: a local Parquet file of result rows, unique by key, or a query for them; each
                replaces the row of its key. Columns that are not there yet are added, types are widened where needed.
            key: the key columns.
            deleted_path: a local Parquet file with the key columns of rows to remove.
            writer: whose rows they are, and which state of the destination they are meant for.

        Raises:
            InputError: what is there was not made by this package, or is another pipeline's, or under
                another key, or it stayed in use.
            OvertakenError: another writer changed it since ``writer`` looked at it.
        """
        return self._rows().merge(rows, key, deleted_path, writer)

    def sign(self, writer: "Writer") -> None:
        """Write down that this holds the results of ``writer`` now, which had another name before.

        Raises:
            InputError: it is another pipeline's, or it stayed in use.
            OvertakenError: another writer changed it since ``writer`` looked at it.
        """
        self._rows().sign(writer)


@dataclass(frozen=True, kw_only=True)
class DuckDBTable(Destination):
    """A table of results in a DuckDB database, one row per record.

    The file is opened for writing only while a merge runs. It may also hold the source.

    Attributes:
        database: path of the database file; created when missing.
        table: the table, optionally as ``schema.table``; created when missing. What holds a dot is
            written in double quotes: ``"my schema"."a.b"``.
        lock_wait_seconds: how long to wait while another program holds the file.

    Raises:
        InputError: ``table`` is no name, or one of more parts than two.
    """

    database: str
    table: str
    lock_wait_seconds: float = LOCK_WAIT_SECONDS

    def __post_init__(self) -> None:
        if not hasattr(self.table, "env_var_name"):
            self.schema_and_table  # noqa: B018

    def describe(self) -> str:
        """Return which table of which file, for messages and metadata."""
        return f"table {resolve(self.table)} in {self.path}"

    @property
    def path(self) -> str:
        """The database file, as an absolute path."""
        return project_path(self.database)

    @property
    def schema_and_table(self) -> tuple[str, str]:
        """The table's schema (``main`` when none is named) and its name."""
        name = resolve(self.table)
        parts = name_parts(name)
        if parts is None or len(parts) > 2:
            # Earlier versions took what stands before the last dot for the schema.
            earlier = [part for part in name.rpartition(".")[::2] if part.strip()]
            quoted = ".".join('"' + part.replace('"', '""') + '"' for part in earlier)
            raise InputError(
                f"DuckDBTable(table={name!r}) names no table. Write table or schema.table, and in double"
                ' quotes what holds a dot or a quote: "my schema"."a.b"; the database is `database`.'
                + (f" The table that earlier versions made of it is {quoted}." if quoted else "")
            )
        return (parts[0] if len(parts) > 1 else "main", parts[-1])

    def _rows(self) -> "DuckDBRows":
        from batch_pipeline.results.duckdb_table import DuckDBRows

        return DuckDBRows(self.path, *self.schema_and_table, self.lock_wait_seconds)


@dataclass(frozen=True, kw_only=True)
class ParquetDataset(Destination):
    """A folder of Parquet files with one row per record.

    ``_manifests/<number>.json`` with the highest number says which files under ``data/`` are the
    dataset's rows. To read it without this package, ask for the files first::

        files = ParquetDataset(path="out/invoices").files()
        duckdb.execute("select * from read_parquet($files)", {"files": files}).df()
        pandas.concat(map(pandas.read_parquet, files))

    Attributes:
        path: a folder, or an object-store URL (s3://..., gs://..., any fsspec protocol).
        rows_per_bucket: how many rows a file should hold; more rows make more files.
        grace_seconds: how long files that are no longer in use stay, for readers that have
            already asked for the list. A merge must take less.
    """

    path: str
    rows_per_bucket: int = 100_000
    grace_seconds: float = 6 * 3600

    def describe(self) -> str:
        """Return which folder, for messages and metadata."""
        return f"Parquet dataset {self.url}"

    def key(self) -> tuple[str, ...]:
        """Return the key columns that the rows were written under; none when there are no rows yet."""
        return self._rows().key()

    def files(self) -> list[str]:
        """Return the paths (or URLs) of the Parquet files that are the dataset's rows now."""
        return self._rows().files()

    def sweep(self) -> None:
        """Delete files that are no rows of the dataset any more at once, whatever ``grace_seconds`` says.

        Nobody may be merging meanwhile; who reads such a file has to read again.
        """
        self._rows().sweep()

    @property
    def url(self) -> str:
        """The folder, as an absolute path or a URL."""
        return project_path(self.path).rstrip("/")

    def _rows(self) -> "ParquetRows":
        from batch_pipeline.results.parquet_dataset import ParquetRows

        return ParquetRows(self.url, self.rows_per_bucket, self.grace_seconds)
