"""Whether a Parquet file of the store can be read: every value of it, as it was written."""

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from batch_pipeline.records.connections import (
    is_unreadable,
    let_read,
    memory_connection,
    quote_files,
    with_enough_memory,
)
from batch_pipeline.store.store import Store

UNREADABLE = (OSError, ValueError, duckdb.Error, pa.ArrowException)
"""What reading a damaged file may raise."""

# Per status, the rows of a file; every value of it is read.
READ = (
    "select {status}, count(*), bit_xor(hash(rows)) from read_parquet({file}) as rows group by all"
)


def is_readable(
    store: Store, name: str, status: str = "", told: Mapping[str, int] | None = None
) -> bool:
    """Return whether every value of a Parquet file can be read, and its rows are those it was written with.

    Args:
        store: where it is.
        name: its name.
        status: the column of its rows' status, if it has one.
        told: by status, the rows that the ledger says it has; None when it does not say.
    """
    found = rows_of(store.files.url(name), status)
    return found is not None and (told is None or found == told)


def rows_of(url: str, status: str = "") -> dict[str, int] | None:
    """Return the rows of a Parquet file by their status; None when not every value of it can be read."""
    query = READ.format(status=status or "''", file=quote_files([url]))
    try:
        with memory_connection() as con:
            let_read(con, [url])
            rows = with_enough_memory(con, lambda: con.execute(query).fetchall())
    except Exception as error:
        if not is_unreadable(error):
            raise
        return None
    return {row[0]: row[1] for row in rows}
