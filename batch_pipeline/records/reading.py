"""Reading a source: its records as a view of a DuckDB connection, its files, its columns."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import RESULT_COLUMNS
from batch_pipeline.records.connections import (
    SMALL_MEMORY,
    OpenDatabase,
    first_line,
    let_read,
    memory_connection,
    open_database,
    quote_name,
    quote_text,
)
from batch_pipeline.records.parquet_files import check_decimals, files_sql, matching_files
from batch_pipeline.records.request_lines import COLUMNS, view_lines
from batch_pipeline.records.sources import (
    ESCALATED,
    PARAMS,
    PARAMS_HASH,
    VARIANT,
    DuckDBSource,
    NoResultsYetError,
    RequestFiles,
    ResultsSource,
    ResultsTable,
    Source,
    escalates,
    variant_column,
)
from batch_pipeline.settings import name_parts, project_path, resolve

NO_PARQUET = (
    " A file is not Parquet, or not whole, and only Parquet is read here. Read CSV or JSON through"
    " DuckDB: DuckDBSource(database=..., key=..., query=\"select * from read_csv('...')\");"
    " `database` may be any DuckDB file. Unpack what is packed (.gz), write again what is not whole."
)
_NO_PARQUET_WORDS = ("to be a Parquet file", "magic bytes")


@contextmanager
def open_source(
    source: Source, seconds: float | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a DuckDB connection that has the records as the temporary view ``source``.

    The session's time zone is UTC. Nothing can be written to the source.

    Args:
        source: where the records are.
        seconds: how long ready requests may take to be read; None: as long as it takes.

    Raises:
        InputError: the file, table, query, glob or key column is not as declared; a line is no request.
        NoResultsYetError: it is another pipeline's results, and there are none yet.
        TimeoutError: it took longer.
    """
    if isinstance(source, DuckDBSource):
        path = project_path(source.database)
        with open_database(
            path,
            read_only=True,
            wait_seconds=source.lock_wait_seconds,
            memory_limit=SMALL_MEMORY,
        ) as database:
            if source.table is not None:
                _view_table(database, resolve(source.table), path)
            else:
                _view_query(database.connection, resolve(source.query or ""), source.describe())
            _add_column(database.connection, source)
            _check_key_columns(database.connection, source)
            yield database.connection
    elif isinstance(source, ResultsSource):
        if (not_yet := source.not_yet()) is not None:
            raise NoResultsYetError(not_yet)
        assert source.table is not None
        with source.table.connection(SMALL_MEMORY, source.lock_wait_seconds) as connection:
            _view_results(connection, source, source.table)
            _add_column(connection, source)
            _check_key_columns(connection, source)
            yield connection
    elif isinstance(source, RequestFiles):
        with memory_connection(SMALL_MEMORY) as connection, view_lines(connection, source, seconds):
            _add_column(connection, source)
            yield connection
    else:
        with memory_connection(SMALL_MEMORY) as connection:
            _view_files(connection, project_path(source.path))
            _add_column(connection, source)
            _check_key_columns(connection, source)
            yield connection


def columns_of(source: Source) -> dict[str, str]:
    """Return the columns of a source, name to DuckDB type, in order, reading no more than that takes.

    Raises:
        InputError: as ``open_source`` does.
    """
    if isinstance(source, RequestFiles):
        return dict(COLUMNS) | ({VARIANT: "VARCHAR"} if variant_column(source) else {})
    with open_source(source) as connection:
        return source_columns(connection)


def source_columns(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return the columns of the view ``source``: name to DuckDB type, in order."""
    return {row[0]: row[1] for row in con.execute("DESCRIBE source").fetchall()}


def closest(name: str, names: Sequence[str]) -> str:
    """Return " Did you mean ...?" when a name of ``names`` is close to ``name``, else ""."""
    by_lower = {known.lower(): known for known in names}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1)
    return f" Did you mean `{by_lower[found[0]]}`?" if found else ""


def _view_table(database: OpenDatabase, table: str, path: str) -> None:
    known = database.connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables()"
        " WHERE database_name = $catalog AND NOT internal"
        " UNION SELECT schema_name, view_name FROM duckdb_views()"
        " WHERE database_name = $catalog AND NOT internal ORDER BY ALL",
        {"catalog": database.catalog},
    ).fetchall()
    by_name: dict[str, tuple[str, str]] = {}
    for schema, name in known:
        for spelled in (f"{database.catalog}.{schema}.{name}", f"{schema}.{name}"):
            by_name[spelled.lower()] = (schema, name)
    by_name |= {name.lower(): (schema, name) for schema, name in known if schema == "main"}
    found = by_name.get(table.lower())
    if found is None and (parts := name_parts(table)):  # in quotes, as SQL writes it
        wanted = tuple(part.lower() for part in parts)
        for schema, name in known:
            whole = (database.catalog.lower(), schema.lower(), name.lower())
            if wanted in (whole, whole[1:]) or (schema == "main" and wanted == whole[2:]):
                found = (schema, name)
    if found is None:
        shown = [name if schema == "main" else f"{schema}.{name}" for schema, name in known]
        there = ", ".join(shown[:30]) if shown else "no tables at all"
        raise InputError(
            f"There is no table `{table}` in {path}.{closest(table, shown)} It holds: {there}."
            f" Correct `table`."
        )
    full_name = ".".join(quote_name(part) for part in (database.catalog, *found))
    try:
        database.connection.execute(f"CREATE TEMP VIEW source AS SELECT * FROM {full_name}")
    except duckdb.Error as error:
        raise InputError(
            f"`{'.'.join(found)}` in {path} cannot be read. If it is a view, make it again over what"
            f" is there now, or name another `table`. DuckDB says: {first_line(error)}"
        ) from error


def _view_query(connection: duckdb.DuckDBPyConnection, query: str, where: str) -> None:
    text = single_select(connection, query, f"The `query` of the source ({where})")
    try:
        columns = [row[0] for row in connection.execute(f"DESCRIBE {text}").fetchall()]
        _check_distinct(columns, where)
        connection.execute(f"CREATE TEMP VIEW source AS SELECT * FROM ({text}\n)")
    except duckdb.Error as error:
        raise InputError(
            f"The `query` of the source ({where}) cannot be run. DuckDB says: {error}"
        ) from error
    try:
        connection.execute("DESCRIBE source")
    except duckdb.BinderException as error:
        if "infinite recursion" not in str(error):
            raise
        # The query reads a table that is itself called `source`: read it before our view hides it.
        connection.execute("DROP VIEW source")
        connection.execute(f"CREATE TEMP TABLE _bp_source AS SELECT * FROM ({text}\n)")
        connection.execute("CREATE TEMP VIEW source AS SELECT * FROM _bp_source")


def single_select(connection: duckdb.DuckDBPyConnection, query: str, what: str) -> str:
    """Return ``query`` as it can stand in parentheses, with a line break after it.

    Raises:
        InputError: it is not one SELECT statement; the message starts with ``what``.
    """
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise InputError(f"{what} is not valid SQL. DuckDB says: {error}") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InputError(f"{what} must be a single SELECT statement, and nothing else.")
    # As a subquery it may have no closing semicolon, and a comment may follow that.
    text = statements[0].query
    while True:
        try:
            connection.extract_statements(f"FROM ({text}\n)")
            return text
        except duckdb.Error as error:
            text, semicolon, _ = text.rpartition(";")
            if not semicolon:
                raise InputError(f"{what} cannot be used as a subquery: {error}") from error


def _check_distinct(columns: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for column in columns:
        if column.lower() in seen:
            raise InputError(
                f"The `query` of the source ({where}) returns the column `{column}` more than"
                f" once. Name each column, for example `select a.id, b.id as other_id ...`."
            )
        seen.add(column.lower())


def _view_files(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    let_read(connection, [path])
    files = matching_files(path)
    try:
        connection.execute(f"CREATE TEMP VIEW source AS {files_sql(connection, files)}")
        check_decimals(connection, files, path)
    except duckdb.Error as error:
        advice = NO_PARQUET if any(words in str(error) for words in _NO_PARQUET_WORDS) else ""
        raise InputError(
            f"The Parquet files at {path} cannot be read together.{advice} DuckDB says: {error}"
        ) from error


def _view_results(
    connection: duckdb.DuckDBPyConnection, source: ResultsSource, table: ResultsTable
) -> None:
    relation = table.relation(connection)
    there = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
    books = {name.lower() for name in RESULT_COLUMNS}
    if getattr(source.results, "escalate", None) is not None:
        books.add(ESCALATED)
    shown = ", ".join(f"results.{quote_name(name)}" for name in there if name.lower() not in books)
    only = f" WHERE ({source.where}\n)" if source.where else ""
    try:
        connection.execute(
            f"CREATE TEMP VIEW source AS SELECT {shown} FROM {relation} AS results{only}"
        )
    except duckdb.Error as error:
        raise InputError(
            f"The `where` of the source ({source.where}) cannot be used on {source.describe()}. Their columns are: "
            f"{', '.join(there)}. DuckDB says: {first_line(error)}"
        ) from error


def _add_column(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Add the column that says which variant asks, or why the better model is asked, where there is one."""
    variant = variant_column(source)
    if variant is not None:
        name, value = VARIANT, quote_text(variant)
        about = "which of the pipeline's variants a row is about"
    elif escalates(source):
        name, value = ESCALATED, "CAST(NULL AS VARCHAR)"
        about = "why the better model was asked"
    else:
        return
    for there in source_columns(connection):
        if there.lower() == name:
            raise InputError(
                f"The source ({source.describe()}) has a column `{there}`, the name of the results' column that says "
                f"{about}. Give it another name in the source's query, for "
                f'example `select * rename ("{there}" as "{there.strip("_")}") from ...`.'
            )
    connection.execute("ALTER VIEW source RENAME TO _bp_plain_source")
    connection.execute(
        f"CREATE TEMP VIEW source AS SELECT *, {value} AS {name} FROM _bp_plain_source"
    )


def _check_key_columns(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    columns = list(source_columns(connection))
    known = {column.lower() for column in columns}
    for key in source.keys:
        if key.lower() not in known:
            raise InputError(
                f"The key column `{key}` is not in the source ({source.describe()})."
                f"{closest(key, columns)} Its columns are: {', '.join(columns)}."
            )
    if hidden := known & {PARAMS, PARAMS_HASH}:
        raise InputError(
            f"The source has a column `{min(hidden)}`, a name that is reserved. Give it another one."
        )
