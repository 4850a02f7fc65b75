"""A table that is written anew each time, whole: into a DuckDB database, or a Parquet file.

What is there is replaced in one step, and only if this package made it for the same purpose.
"""

import os
import secrets
import tempfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import InputError
from batch_pipeline.records.connections import open_database, quote_name, quote_text
from batch_pipeline.results.destinations import DuckDBTable
from batch_pipeline.settings import project_path

MARK = b"batch_pipeline"


def replace_table(to: DuckDBTable | str, rows: pa.Table, mark: str) -> str:
    """Write rows in the place of those that are there; return where that is, in words.

    Args:
        to: a table of a DuckDB database; or a path, or an object-store URL, of a Parquet file.
        rows: what it holds from now on.
        mark: says what made it; what is there under another mark, or none, is left alone.

    Raises:
        InputError: something else is there; or the database stayed in use.
    """
    if isinstance(to, DuckDBTable):
        _into_database(to, rows, mark)
        return to.describe()
    url = project_path(to)
    _into_file(url, rows, mark)
    return f"Parquet file {url}"


def _into_database(to: DuckDBTable, rows: pa.Table, mark: str) -> None:
    schema, table = to.schema_and_table
    with open_database(to.path, read_only=False, wait_seconds=to.lock_wait_seconds) as database:
        connection, where = database.connection, (database.catalog, schema, table)
        there = connection.execute(
            "select comment from duckdb_tables() where database_name = $1 and schema_name = $2 "
            "and lower(table_name) = lower($3) union all select coalesce(comment, '') from duckdb_views() "
            "where database_name = $1 and schema_name = $2 and lower(view_name) = lower($3)",
            list(where),
        ).fetchall()
        if there and there[0][0] != mark:
            raise _strange(to.describe(), there[0][0], mark)
        name = ".".join(map(quote_name, where))
        connection.register("_bp_whole", rows)
        connection.execute("begin")
        try:
            connection.execute(
                f"create schema if not exists {quote_name(database.catalog)}.{quote_name(schema)}"
            )
            connection.execute(f"create or replace table {name} as select * from _bp_whole")
            connection.execute(f"comment on table {name} is {quote_text(mark)}")
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise
        finally:
            connection.unregister("_bp_whole")


def _into_file(url: str, rows: pa.Table, mark: str) -> None:
    files, path = fsspec.core.url_to_fs(url)
    if files.exists(path):
        try:
            with files.open(path, "rb") as there:
                metadata = pq.read_schema(there).metadata or {}
        except (pa.ArrowException, OSError):
            metadata = {}
        found = metadata.get(MARK, b"").decode()
        if found != mark:
            raise _strange(f"Parquet file {url}", found, mark)
    rows = rows.replace_schema_metadata({MARK: mark.encode()})
    if "://" in url and not url.startswith("file://"):
        with tempfile.TemporaryDirectory(prefix="batch-pipeline-") as folder:
            pq.write_table(rows, f"{folder}/rows.parquet")
            files.put_file(f"{folder}/rows.parquet", path)  # whole, or not at all
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        pq.write_table(rows, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _strange(where: str, found: str | None, mark: str) -> InputError:
    if found and found.partition(" of ")[0] == mark.partition(" of ")[0]:
        return InputError(
            f"The {where} holds what was made from another ledger ({found}; this is {mark}). Nothing in it was "
            "changed. Name another place, or drop it if it is not needed any more."
        )
    return InputError(
        f"The {where} is there already, and was not made by batch_pipeline for this. Nothing in it was changed. Name "
        "another place."
    )
