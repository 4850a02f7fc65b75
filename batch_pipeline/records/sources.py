"""Where records come from: a table or query of a DuckDB database, Parquet files, or files of ready requests.

A code location declares them, and loads no DuckDB for it: ``reading`` opens them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from batch_pipeline.errors import InputError
from batch_pipeline.settings import LOCK_WAIT_SECONDS, project_path

CUSTOM_ID = "custom_id"
"""The key of records that are ready requests."""
PARAMS, PARAMS_HASH = "_bp_params", "_bp_params_hash"
"""Of ready requests: the parameters as they are sent, and a hash of them that is the same in any order."""


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


@dataclass(frozen=True)
class RequestFiles:
    """Ready requests in files of JSON lines: each line is a record, asked with its own parameters as they are.

    A line is ``{"custom_id": ..., "params": {...}}``, as the Message Batches API's guides have it. The key is
    ``custom_id``, any text that no other line has. A pipeline of these has no ``request``.

    Attributes:
        path: a file, a glob, a folder (all ``*.jsonl`` and ``*.jsonl.gz`` below it), or an object-store URL.
        betas: what the header ``anthropic-beta`` of the batches names; it stands in no line.

    Raises:
        InputError: ``path`` is no text, or a beta is none.
    """

    path: str
    betas: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise InputError(
                f'RequestFiles needs the path of files of requests, such as "requests/*.jsonl", not {self.path!r}.'
            )
        if isinstance(self.betas, str) or not all(isinstance(one, str) for one in self.betas):
            raise InputError(f"RequestFiles: betas must be a list of names, not {self.betas!r}.")

    @property
    def key(self) -> str:
        """The key's column."""
        return CUSTOM_ID

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's columns, in order."""
        return (CUSTOM_ID,)

    def describe(self) -> str:
        """Return which files, for messages and metadata."""
        return f"requests at {project_path(self.path)}"


Source = DuckDBSource | ParquetSource | RequestFiles


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
