"""Reading results files together whose columns or types differ: a source changes from night to night."""

from collections.abc import Iterable, Mapping, Sequence

import duckdb

from batch_pipeline.records.connections import quote_files
from batch_pipeline.results.merging import cast_columns, grown_columns
from batch_pipeline.results.wider import fitting

Schema = tuple[tuple[str, str], ...]
"""The columns of a file: name and DuckDB type, in order."""


def schemas_of(con: duckdb.DuckDBPyConnection, urls: Iterable[str]) -> dict[str, Schema]:
    """Return the columns of each of some Parquet files."""
    found: dict[str, Schema] = {}
    for url in urls:
        described = con.execute(f"DESCRIBE SELECT * FROM {_read([url])}").fetchall()
        found[url] = tuple((row[0], row[1]) for row in described)
    return found


def widened(con: duckdb.DuckDBPyConnection, schemas: Mapping[str, Schema]) -> dict[str, str]:
    """Return columns that hold the rows of all these files, widened as a merge widens a table's."""
    alike = _alike(schemas)
    fits = fitting(con, [(_read(urls), dict(schema)) for schema, urls in alike.items()])
    columns: dict[str, str] = {}
    for schema in alike:
        columns = grown_columns(con, columns, dict(schema), fits)
    return columns


def read_widened(
    con: duckdb.DuckDBPyConnection,
    schemas: Mapping[str, Schema],
    columns: Mapping[str, str] | None = None,
) -> str:
    """Return SQL for the rows of some Parquet files, all with the same columns.

    Args:
        con: the connection that is going to read.
        schemas: the files, from ``schemas_of``; at least one.
        columns: the columns and types to give the rows; those of all the files, widened, when None.
    """
    wanted = widened(con, schemas) if columns is None else columns
    return " UNION ALL ".join(
        f"SELECT {cast_columns(dict(schema), wanted, 'rows')} FROM {_read(urls)} AS rows"
        for schema, urls in _alike(schemas).items()
    )


def _alike(schemas: Mapping[str, Schema]) -> dict[Schema, list[str]]:
    """Return the files by their columns."""
    alike: dict[Schema, list[str]] = {}
    for url, schema in schemas.items():
        alike.setdefault(schema, []).append(url)
    return alike


def _read(urls: Sequence[str]) -> str:
    return f"read_parquet({quote_files(urls)})"
