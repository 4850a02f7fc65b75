"""Where records come from: a table or query of a DuckDB database, or Parquet files.

A code location declares them, and loads no DuckDB for it: ``reading`` opens them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from batch_pipeline.errors import InputError
from batch_pipeline.settings import LOCK_WAIT_SECONDS, project_path

VARIANT = "_variant"
"""The column that says which variant of the question a row is about."""


@dataclass(frozen=True, kw_only=True)
class DuckDBSource:
    """Records in a DuckDB database: all rows of ``table``, or what ``query`` returns.

    Attributes:
        database: path of the database file; it is only ever read.
        query: one SELECT statement.
        table: a table or view, optionally as ``schema.table``.
        key: the column, or columns, that name a record.
        lock_wait_seconds: how long to wait while another program holds the file.
        changes: a column that grows with every insert and update (such as ``updated_at`` or a
            number that counts up): whether records arrived is then told by its largest value and
            the number of rows. None: all rows are read for that whenever the file has changed.

    Raises:
        InputError: not exactly one of ``query`` and ``table`` is given, or there is no key.
    """

    database: str
    query: str | None = None
    table: str | None = None
    key: str | Sequence[str]
    lock_wait_seconds: float = LOCK_WAIT_SECONDS
    changes: str | None = None

    def __post_init__(self) -> None:
        if (self.query is None) == (self.table is None):
            raise InputError(
                "DuckDBSource needs exactly one of `query` (a SELECT) and `table` (a name)."
            )
        _check_key(self.key, "DuckDBSource")

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's columns, in order."""
        return _key_columns(self.key)

    def describe(self) -> str:
        """Return which table or query of which file, for messages and metadata."""
        what = f"table {self.table}" if self.table is not None else "a query"
        return f"{what} in {project_path(self.database)}"


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Records in Parquet files.

    Attributes:
        path: a file, a glob, a folder (all ``*.parquet`` below it), or an object-store URL.
        key: the column, or columns, that name a record.

    Raises:
        InputError: there is no key.
    """

    path: str
    key: str | Sequence[str]

    def __post_init__(self) -> None:
        _check_key(self.key, "ParquetSource")

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's columns, in order."""
        return _key_columns(self.key)

    def describe(self) -> str:
        """Return which files, for messages and metadata."""
        return f"Parquet files at {project_path(self.path)}"


Source = DuckDBSource | ParquetSource


@dataclass(frozen=True, kw_only=True)
class _OneVariant:
    """What makes of a source the records of one variant: a column that says so, which belongs to the key."""

    variant: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's columns, in order."""
        return (*super().keys, VARIANT)  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class _VariantOfDuckDB(_OneVariant, DuckDBSource):
    """Records in a DuckDB database, as one variant asks about them."""


@dataclass(frozen=True, kw_only=True)
class _VariantOfParquet(_OneVariant, ParquetSource):
    """Records in Parquet files, as one variant asks about them."""


def for_variant(source: Source, variant: str) -> Source:
    """Return a source with the constant column ``_variant``, which belongs to its key."""
    kind = _VariantOfDuckDB if isinstance(source, DuckDBSource) else _VariantOfParquet
    return kind(**{one.name: getattr(source, one.name) for one in fields(source)}, variant=variant)


def variant_column(source: Source) -> str | None:
    """Return which variant asks about the records of a source; None: it has no column of that."""
    return source.variant if isinstance(source, _OneVariant) else None


def _key_columns(key: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of a key's columns; what SQL would write in quotes may be declared with them."""
    columns = (key,) if isinstance(key, str) else tuple(key)
    return tuple(
        column[1:-1].replace('""', '"')
        if len(column) > 2 and column[0] == column[-1] == '"'
        else column
        for column in columns
    )


def _check_key(key: str | Sequence[str], kind: str) -> None:
    columns = _key_columns(key)
    if not columns or not all(columns) or len({c.lower() for c in columns}) < len(columns):
        raise InputError(
            f"{kind} needs `key`: the column that names a record, or several different columns."
        )
