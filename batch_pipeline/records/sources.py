"""Where records come from: a table or query of a DuckDB database, Parquet files, or files of ready requests.

A code location declares them, and loads no DuckDB for it: ``reading`` opens them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

from batch_pipeline.errors import InputError
from batch_pipeline.settings import LOCK_WAIT_SECONDS, project_path

if TYPE_CHECKING:
    import duckdb

VARIANT = "_variant"
"""The column that says which variant of the question a row is about."""
ESCALATED = "_escalated"
"""The column that says why the better model was asked, where it was: see ``escalation``."""
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


class ResultsTable(Protocol):
    """A results table, as far as reading it as a source must know it."""

    def describe(self) -> str:
        """Return where it is."""
        ...

    def columns(self) -> dict[str, str]:
        """Return its columns; none when there is no table yet."""
        ...

    def relation(self, con: "duckdb.DuckDBPyConnection") -> str:
        """Return SQL that reads it."""
        ...

    def connection(
        self, memory_limit: str, wait_seconds: float | None = None
    ) -> "AbstractContextManager[duckdb.DuckDBPyConnection]":
        """Open what it is read through."""
        ...

    def look(self) -> str | None:
        """Return a text that is another one after each write."""
        ...


class NoResultsYetError(InputError):
    """The results that a source reads are not there yet."""


@dataclass(frozen=True, kw_only=True)
class ResultsSource:
    """The results of another pipeline, as `BatchPipeline.results` returns them.

    Its columns are that table's, without those that the other pipeline keeps its books in (``_status``,
    ``_cost_usd``, ...), which ``where`` may name.

    Attributes:
        results: the other pipeline; in a component's YAML its name until that is looked up.
        where: a SQL condition over the table's columns: only rows for which it holds are records.
        key: the column, or columns, that name a record; None: the other pipeline's key.
        table: where the results are, which is known at run time.
        lock_wait_seconds: how long to wait while another program holds the table's file; None: as
            long as the other pipeline's destination says.

    Raises:
        InputError: ``where`` is no condition, or the key is none.
    """

    results: Any
    where: str | None = None
    key: str | Sequence[str] | None = None
    table: ResultsTable | None = field(default=None, repr=False)
    lock_wait_seconds: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.key is not None:
            _check_key(self.key, "The source that is another pipeline's results")
        if self.where is None:
            return
        from batch_pipeline.records.rules import check_condition

        check_condition(self.where, "The `where` of the source")

    def __repr__(self) -> str:
        # Arrivals remember what they are about by this text: it is the same in each process.
        return f"ResultsSource({self.name!r}, where={self.where!r}, key={self.keys!r})"

    @property
    def name(self) -> str:
        """What the other pipeline is called."""
        return self.results if isinstance(self.results, str) else self.results.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The key's columns, in order."""
        if self.key is None:
            first = self.results
            if isinstance(first, str):
                return ()
            return (*first.source.keys, VARIANT) if first.variants else first.source.keys
        return _key_columns(self.key)

    def at(self, table_of: Callable[[Any], ResultsTable]) -> "ResultsSource":
        """Return the source with the table that it reads.

        Args:
            table_of: from a pipeline to its results table.
        """
        return replace(self, table=table_of(self.results))

    def describe(self) -> str:
        """Return whose results, and where they are, for messages and metadata."""
        where = f" ({self.table.describe()})" if self.table is not None else ""
        return f"the results of {self.name}{where}"

    def not_yet(self) -> str | None:
        """Return that there are no results, and what to do; None when there are some.

        Raises:
            InputError: something else is in their place.
        """
        if self.table is not None and self.table.columns():
            return None
        why = "nothing was asked yet"
        if self.table is not None:
            why = f"{self.table.describe()} does not exist"
        return (
            f"There are no results of {self.name} yet: {why}. They are made when its first answers are "
            f"collected. If they were there before, {self.name}_submit puts them back, at no cost."
        )


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


Source = DuckDBSource | ParquetSource | ResultsSource | RequestFiles


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


@dataclass(frozen=True, kw_only=True)
class _VariantOfResults(_OneVariant, ResultsSource):
    """The results of another pipeline, as one variant asks about them."""

    def __repr__(self) -> str:
        return f"{super().__repr__()} as {self.variant}"


@dataclass(frozen=True, kw_only=True)
class _VariantOfRequests(_OneVariant, RequestFiles):
    """Ready requests, beside what a variant asked when the pipeline had another source: none is declared for them."""


_OF_VARIANTS = {
    DuckDBSource: _VariantOfDuckDB,
    ParquetSource: _VariantOfParquet,
    ResultsSource: _VariantOfResults,
    RequestFiles: _VariantOfRequests,
}


def for_variant(source: Source, variant: str) -> Source:
    """Return a source with the constant column ``_variant``, which belongs to its key."""
    kind = _OF_VARIANTS[type(source)]
    return kind(**{one.name: getattr(source, one.name) for one in fields(source)}, variant=variant)


def variant_column(source: Source) -> str | None:
    """Return which variant asks about the records of a source; None: it has no column of that."""
    return source.variant if isinstance(source, _OneVariant) else None


@dataclass(frozen=True, kw_only=True)
class _Escalating:
    """What makes of a source one with a column that says why the better model is asked.

    ``among`` is a local Parquet file of the records that it is asked about, as ``escalation`` writes it;
    None: all records, and none for that reason.
    """

    among: str | None = None


@dataclass(frozen=True, kw_only=True)
class _EscalatingDuckDB(_Escalating, DuckDBSource):
    """Records in a DuckDB database, of a pipeline that escalates."""


@dataclass(frozen=True, kw_only=True)
class _EscalatingParquet(_Escalating, ParquetSource):
    """Records in Parquet files, of a pipeline that escalates."""


@dataclass(frozen=True, kw_only=True)
class _EscalatingResults(_Escalating, ResultsSource):
    """The results of another pipeline, of a pipeline that escalates."""

    def __repr__(self) -> str:
        return super().__repr__()


_OF_ESCALATION = {
    DuckDBSource: _EscalatingDuckDB,
    ParquetSource: _EscalatingParquet,
    ResultsSource: _EscalatingResults,
}


def for_escalation(source: Source) -> Source:
    """Return a source with the column ``_escalated``, which is no part of its key."""
    kind = _OF_ESCALATION[type(source)]
    return kind(**{one.name: getattr(source, one.name) for one in fields(source)})


def only_among(source: Source, path: str) -> Source:
    """Return a source of ``for_escalation`` with the records alone that a file names, as ``escalation`` writes it."""
    assert isinstance(source, _Escalating)
    return replace(source, among=path)


def escalates(source: Source) -> bool:
    """Whether a source has the column ``_escalated``."""
    return isinstance(source, _Escalating)


def named_among(source: Source) -> str | None:
    """Return the file that names the only records of a source; None: it has all."""
    return source.among if isinstance(source, _Escalating) else None


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
