"""The demo's DuckDB file, opened for writing as soon as nobody else has it open."""

import duckdb
import tenacity

LOCK_WAIT_SECONDS = 60


@tenacity.retry(
    # One process at a time may write to a DuckDB file: wait for whoever has it open.
    retry=tenacity.retry_if_exception_type(duckdb.IOException),
    stop=tenacity.stop_after_delay(LOCK_WAIT_SECONDS),
    wait=tenacity.wait_random(0.1, 0.5),
    reraise=True,
)
def connect(path: str) -> duckdb.DuckDBPyConnection:
    """Open the warehouse."""
    return duckdb.connect(path)
