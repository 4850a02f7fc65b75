"""Whether a Parquet file of the store can be read: every value of it, as it was written."""

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from batch_pipeline.records.connections import memory_connection, quote_files
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
    query = READ.format(status=status or "''", file=quote_files([store.files.url(name)]))
    try:
        with memory_connection() as connection:
            store.files.register(connection)
            found = {row[0]: row[1] for row in connection.execute(query).fetchall()}
    except UNREADABLE:
        return False
    return told is None or found == told
