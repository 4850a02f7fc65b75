"""Whether a source may hold something new, found out as cheaply as it can be.

``look`` asks the file system alone. Only when its answer has changed is it worth to ``read``: by the
column that the source names for it, or else by a hash of what makes a record new or changed.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from batch_pipeline.errors import BatchPipelineError, InputError
from batch_pipeline.records.connections import DatabaseInUseError, quote_name, quote_text
from batch_pipeline.records.identity import NESTED_TYPES, column_text_sql, read_twice_sql
from batch_pipeline.records.parquet_files import list_files
from batch_pipeline.records.partitions import HAS_OFFSET, PartitionFilter
from batch_pipeline.records.reading import closest, open_source, source_columns
from batch_pipeline.records.request_lines import ENDINGS
from batch_pipeline.records.sources import DuckDBSource, RequestFiles, ResultsSource, Source
from batch_pipeline.settings import project_path

LOCK_WAIT_SECONDS = 3.0  # a sensor has little time, and looks again soon
# What file systems and object stores call the thing that is another one after each write.
MARKS = ("ETag", "etag", "md5Hash", "generation", "version_id", "content_md5", "mtime")
TIMES = ("LastModified", "last_modified", "updated", "modified", "created")


class TooLongError(BatchPipelineError):
    """The source could not be read within the time there was."""


class BusyError(BatchPipelineError):
    """Another program holds the database."""


@dataclass(frozen=True)
class Group:
    """What a read found in one partition, or in all of an unpartitioned source.

    Attributes:
        rows: how many rows it has.
        newest: the largest value of the source's ``changes`` column, as text; None without one.
        keys: a hash of the keys where there is no such column; else "".
        content: the same of keys and contents.
    """

    rows: int
    newest: str | None = None
    keys: str = ""
    content: str = ""


@dataclass(frozen=True)
class Keyed:
    """Rows are grouped by the text of a column."""

    column: str


@dataclass(frozen=True)
class Windowed:
    """Rows are grouped by the time windows that a column's values lie in; see ``time_window_filter``.

    Attributes:
        column: the column.
        zone: the IANA name of the zone that values without an offset are in.
        windows: key, first moment, and first moment after it, of each window.
    """

    column: str
    zone: str
    windows: Sequence[tuple[str, datetime, datetime]]


Grouping = Sequence[Keyed | Windowed]
"""How a row's partition is told; the keys of several are joined by ``|``, as Dagster joins them."""


def look(source: Source) -> str | None:
    """Return a text that is another one after each write to the source; None: there is no file.

    Nothing is opened: it goes by names, sizes and times (or, in object stores, etags) of the files.
    Of a DuckDB query it goes by the database's own file.
    """
    if isinstance(source, ResultsSource):
        return source.table.look() if source.table is not None else None
    if isinstance(source, DuckDBSource):
        return look_at_database(project_path(source.database))
    endings = ENDINGS if isinstance(source, RequestFiles) else (".parquet",)
    files = list_files(project_path(source.path), endings)
    if not files:
        return None
    return _short([[name, info.get("size"), *marks_of(info)] for name, info in files.items()])


def look_at_database(path: str) -> str | None:
    """Return a text that is another one after each write to a DuckDB file; None: there is none."""
    found = [_stat(name) for name in (path, f"{path}.wal")]
    return _short(found) if found[0] else None


def read(
    source: Source,
    content: Callable[[dict[str, str]], Sequence[str]],
    grouping: Grouping,
    seconds: float,
) -> tuple[dict[str, Group], list[str]]:
    """Return what is in each partition of a source (under "" when it is not grouped), and the
    columns that were read for it besides the key's.

    Args:
        source: where the records are; waits for a database in use no longer than ``seconds``.
        content: gets the source's columns and types, returns those that a change matters in.
        grouping: how a row's partition is told.
        seconds: how long it may take; another program cannot write to a database meanwhile.

    Raises:
        TooLongError: it took longer.
        BusyError: another program holds the database.
        InputError: the source is not as declared.
    """
    with opened(source, seconds) as connection:
        columns = source_columns(connection)
        named = source.changes if isinstance(source, DuckDBSource) else None
        change = _column(columns, named, "changes") if named else None
        used = [] if change else list(content(columns))
        measures = f"count(*) AS rows, {f'max({change})' if change else 'NULL'} AS newest"
        for name, hashed in (("keys", source.keys), ("content", [*source.keys, *used])):
            measures += f", {'0' if change else _digest(columns, hashed)} AS {name}"
        sql = _by_partition(connection, columns, grouping, measures)
        found = connection.execute(sql).fetchall()
    if change:
        return {key: Group(rows, newest) for key, rows, newest, *_ in found}, used
    return {
        key: Group(rows, None, f"{keys:016x}", f"{contents:016x}")
        for key, rows, _, keys, contents in found
    }, used


def count_changes(
    source: DuckDBSource,
    base: Group,
    partition_filter: Callable[[dict[str, str]], PartitionFilter | None],
    seconds: float,
) -> int:
    """Return how many rows of a source changed since a read, by its ``changes`` column.

    Args:
        source: one with ``changes``.
        base: what was read then.
        partition_filter: makes the filter of the partition whose rows are counted.
        seconds: as for ``read``.

    Raises:
        TooLongError, BusyError, InputError: as ``read`` does.
    """
    with opened(source, seconds) as connection:
        columns = source_columns(connection)
        change = _column(columns, source.changes, "changes")
        kind = _type(columns, change)
        part = partition_filter(columns)
        later = "true" if base.newest is None else (
            f"{change} > CAST({quote_text(base.newest)} AS {kind})"
        )  # fmt: skip
        found = connection.execute(
            f"SELECT count(*) FILTER (WHERE {later}), count(*) FROM source WHERE {part.sql if part else 'true'}"
        ).fetchone()
    changed, rows = found or (0, 0)
    # What was inserted with an older value is not later, but there.
    return max(changed, rows - base.rows)


@contextmanager
def opened(source: Source, seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a source for a block that may take so many seconds; it is interrupted then.

    Raises:
        TooLongError, BusyError, InputError: as ``read`` does.
    """
    if isinstance(source, DuckDBSource):
        source = replace(source, lock_wait_seconds=min(source.lock_wait_seconds, LOCK_WAIT_SECONDS))
    elif isinstance(source, ResultsSource):
        source = replace(source, lock_wait_seconds=LOCK_WAIT_SECONDS)
    late = threading.Event()
    too_long = f"{source.describe()} could not be read within {seconds:.0f} seconds"
    try:
        with open_source(source, seconds) as connection:

            def stop() -> None:
                late.set()
                connection.interrupt()

            timer = threading.Timer(seconds, stop)
            timer.start()
            try:
                yield connection
            finally:
                timer.cancel()
    except TimeoutError as error:
        raise TooLongError(too_long) from error
    except (duckdb.Error, InputError) as error:
        if late.is_set():
            raise TooLongError(too_long) from error
        if isinstance(error.__cause__, DatabaseInUseError):
            raise BusyError(f"another program is using {source.describe()}") from error
        if isinstance(error, duckdb.Error):
            raise InputError(f"{source.describe()} cannot be read. DuckDB says: {error}") from error
        raise


def _stat(path: str) -> list[int] | None:
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def marks_of(info: Mapping[str, Any]) -> list[str]:
    """Return what tells one version of a file from the next: a mark if there is one, else its times."""
    found = [str(info[name]) for name in MARKS if info.get(name) is not None]
    return found or [str(info[name]) for name in TIMES if info.get(name) is not None]


def _short(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _column(columns: dict[str, str], name: str | None, field: str = "partition_column") -> str:
    for known in columns:
        if known.lower() == (name or "").lower():
            return quote_name(known)
    raise InputError(
        f"The column `{name}` ({field}) is not in the source.{closest(name or '', list(columns))}"
        f" Its columns are: {', '.join(columns)}."
    )


def _type(columns: dict[str, str], quoted: str) -> str:
    return next(kind for name, kind in columns.items() if quote_name(name) == quoted)


def _digest(columns: dict[str, str], names: Sequence[str]) -> str:
    by_lower = {name.lower(): name for name in columns}
    wanted = dict.fromkeys(by_lower.get(name.lower(), name) for name in names)
    values = [
        read_twice_sql(column_text_sql(name, columns.get(name, "")))
        if _is_hashed_alike(columns.get(name, ""))
        else quote_name(name)
        for name in wanted
    ]  # fmt: skip
    # Keys are unique, so no two rows cancel each other out.
    return f"bit_xor(hash({', '.join(values)}))"


def _is_hashed_alike(kind: str) -> bool:
    """Whether DuckDB's hash takes some values of a type for others: 0 and -1 of 128 bits, [] and [NULL], texts."""
    return kind.endswith("]") or kind.startswith(
        (*NESTED_TYPES, "HUGEINT", "DECIMAL", "VARCHAR", "BLOB")
    )


def _by_partition(
    connection: duckdb.DuckDBPyConnection,
    columns: dict[str, str],
    grouping: Grouping,
    measures: str,
) -> str:
    """Return a query of the measures of each partition: its key, rows, newest, keys, content."""
    groups, joins, keys, conditions = [], [], [], ["true"]
    for place, one in enumerate(grouping):
        if isinstance(one, Keyed):
            groups.append(f"CAST({_column(columns, one.column)} AS VARCHAR) AS g{place}")
            keys.append(f"moments.g{place}")
            conditions.append(f"moments.g{place} IS NOT NULL")
            continue
        moment = _moments(connection, columns, one, f"_bp_windows{place}")
        # Windows begin at whole minutes: few moments are joined, however many rows there are.
        groups.append(f"date_trunc('minute', {moment}) AS g{place}")
        joins.append(
            f"ASOF JOIN _bp_windows{place} AS w{place} ON moments.g{place} >= w{place}.start"
        )
        keys.append(f"w{place}.key")
        conditions.append(f"moments.g{place} < w{place}.stop")
    names = ", ".join([f"g{place}" for place in range(len(groups))])
    return (
        f"SELECT {' || {} || '.format(quote_text('|')).join(keys) or quote_text('')} AS key,"
        " CAST(sum(rows) AS BIGINT), CAST(max(newest) AS VARCHAR), bit_xor(keys), bit_xor(content)"
        f" FROM (SELECT {', '.join([*groups, measures])} FROM source"
        f"{f' GROUP BY {names}' if names else ''}) AS moments {' '.join(joins)}"
        f" WHERE {' AND '.join(conditions)} AND rows > 0 GROUP BY 1"
    )


def _moments(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], grouping: Windowed, table: str
) -> str:
    """Make a table of the windows; return SQL for the moment that a row is at."""
    name = _column(columns, grouping.column)
    kind = _type(columns, name)
    # A date may be too far off for a time stamp; text that is no time is an error.
    cast = "CAST" if kind == "VARCHAR" else "TRY_CAST"
    as_wall, as_instant = f"{cast}({name} AS TIMESTAMP)", f"{cast}({name} AS TIMESTAMPTZ)"
    is_wall = kind == "DATE" or (kind.startswith("TIMESTAMP") and "WITH TIME ZONE" not in kind)
    if is_wall:
        moment = as_wall
    elif kind == "VARCHAR":
        moment = (
            f"CASE WHEN regexp_matches({name}, {quote_text(HAS_OFFSET)}) THEN {as_instant}"
            f" ELSE timezone({quote_text(grouping.zone)}, {as_wall}) END"
        )
    else:
        moment = as_instant
    keys, starts, stops = [], [], []
    for key, start, stop in grouping.windows:
        keys.append(key)
        for bound, texts in ((start, starts), (stop, stops)):
            texts.append(
                (bound.replace(tzinfo=None) if is_wall else bound.astimezone(UTC)).isoformat(
                    sep=" "
                )
            )
    at = "TIMESTAMP" if is_wall else "TIMESTAMPTZ"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT key, CAST(start AS"
        f" {at}) AS start, CAST(stop AS {at}) AS stop FROM (SELECT unnest($keys::VARCHAR[]) AS key,"
        " unnest($starts::VARCHAR[]) AS start, unnest($stops::VARCHAR[]) AS stop)",
        {"keys": keys, "starts": starts, "stops": stops},
    )
    return moment
