"""Publishing collected rows into the results table: the latest row per key ever selected.

Which row is a key's latest is read from the index files of all submissions, so an old batch that is
collected late never overwrites a newer answer, and publishing twice changes nothing.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from sqlalchemy import RowMapping, select, update

from batch_pipeline.records.connections import (
    memory_connection,
    quote_files,
    quote_list,
    quote_name,
    with_enough_memory,
)
from batch_pipeline.results import sql
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.join import MEMORY, results_files, write_parquet
from batch_pipeline.store.ledger import Lease
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import index_files
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

WAIT_SECONDS = 60.0  # for another process that is publishing


@dataclass
class Published:
    """What publishing changed in the table."""

    files: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    superseded: int = 0  # rows that a newer submission had overtaken already
    busy: bool = False  # another process was publishing; it or a later run does the rest


def unpublished(store: Store, pipeline: str) -> Sequence[RowMapping]:
    """Return the collected files of a pipeline whose rows are not in the table yet."""
    return store.ledger.rows(
        select(request_files)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.COLLECTED,
            request_files.c.published_at.is_(None),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def publish(
    store: Store, pipeline: str, destination: DuckDBTable | ParquetDataset, key: Sequence[str]
) -> Published:
    """Bring the table up to date with everything that is collected.

    Args:
        store: where the files and the ledger are.
        pipeline: whose rows; all its partitions share the table.
        destination: the table.
        key: the key's columns.

    Raises:
        InputError: the destination cannot take the rows; they stay in the store and are published
            later.
    """
    report = Published()
    with store.ledger.lease(f"publish/{pipeline}", WAIT_SECONDS) as lease:
        if lease is None:
            report.busy = True
            return report
        files = unpublished(store, pipeline)
        if not files:
            return report
        with store.files.scratch() as folder:
            if not _merge(store, pipeline, destination, key, files, folder, report, lease):
                report.busy = True
                return report
        with store.ledger.write() as tx:
            tx.execute(
                update(request_files)
                .where(request_files.c.id.in_([file["id"] for file in files]))
                .values(published_at=store.clock.now())
            )
        report.files = len(files)
    return report


def _merge(
    store: Store,
    pipeline: str,
    destination: DuckDBTable | ParquetDataset,
    key: Sequence[str],
    files: Sequence[RowMapping],
    folder: str,
    report: Published,
    lease: Lease,
) -> bool:
    """Merge the rows of files into the table; False when the lease was lost on the way."""
    results = {file["index_path"]: file["results_path"] for file in files if file["index_path"]}
    fresh = [*results, *_tombstones(store, files)]
    if not fresh:
        return True
    with ExitStack() as stack:
        connection = stack.enter_context(memory_connection(MEMORY))
        store.files.register(connection)
        _winners(store, connection, pipeline, fresh)
        rows_path = deleted_path = None
        if results:
            rows_path = f"{folder}/rows.parquet"
            report.superseded = _rows(store, connection, pipeline, results, rows_path)
        gone = connection.execute(
            "select count(*) from winners where status = 'deleted'"
        ).fetchone()
        if gone and gone[0]:
            deleted_path = _deleted(store, connection, pipeline, key, f"{folder}/deleted.parquet")
    if rows_path is None and deleted_path is None:
        return True
    # What is latest was read a while ago: somebody may have published newer rows if we slept.
    if not lease.still_held():
        return False
    merged = destination.merge(rows_path, key, deleted_path)
    report.inserted, report.updated, report.deleted = (
        merged.inserted,
        merged.updated,
        merged.deleted,
    )
    return True


def _tombstones(store: Store, files: Sequence[RowMapping]) -> list[str]:
    """Return the selections that declared keys deleted."""
    ids = [file["submission_id"] for file in files if file["kind"] == FileKind.REUSED]
    rows = store.ledger.rows(
        select(submissions.c.index_path, submissions.c.counts).where(submissions.c.id.in_(ids))
    )
    return [row["index_path"] for row in rows if row["counts"].get("deleted")]


def _winners(
    store: Store, connection: duckdb.DuckDBPyConnection, pipeline: str, fresh: Sequence[str]
) -> None:
    """Make the table ``winners``: for each key of the fresh files, where its latest row is."""
    index = index_files(store.ledger, pipeline)
    # Files are told apart by their place in the list: DuckDB may spell a URL in a way of its own.
    files = pa.table(
        {
            "position": pa.array(range(len(index)), pa.int64()),
            "name": [row.name for row in index],
            "number": pa.array([row.number for row in index], pa.int64()),
        }
    )
    connection.register("files", files)
    query = sql.WINNERS.format(
        fresh=quote_files(store.files.url(name) for name in fresh),
        index=quote_files(store.files.url(row.name) for row in index),
    )
    with_enough_memory(
        connection,
        lambda: connection.execute(f"create or replace temp table winners as {query}"),
    )


def _rows(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    fresh: dict[str, str],
    rows_path: str,
) -> int:
    """Write the rows to publish that are the ones to show of their key; return how many are not.

    An answer that stays although a later attempt failed is in a file that was published before.
    """
    results = fresh | _kept_answers(store, connection, pipeline, fresh)
    urls = [store.files.url(path) for path in results.values()]
    pairs = pa.table(
        {
            "position": pa.array(range(len(results)), pa.int64()),
            "name": list(results),
            "fresh": [name in fresh for name in results],
        }
    )
    connection.register("pairs", pairs)
    connection.execute(
        "create temp table latest as "
        "select w.custom_id, w.failed_id, p.position, p.fresh "
        "from winners w join pairs p on p.name = w.name left join pairs f on f.name = w.failed_name "
        "where p.fresh or f.fresh"
    )
    failures = [store.files.url(fresh[name]) for name in _failed(connection) if name in fresh]
    connection.execute(
        "create temp table failures as "
        + (
            sql.FAILURES.format(results=quote_files(failures))
            if failures
            else "select '' as custom_id, '' as said where false"
        )
    )
    write_parquet(connection, sql.LATEST.format(results=quote_files(urls)), rows_path)
    read = quote_files(store.files.url(path) for path in fresh.values())
    total = connection.execute(f"select count(*) from read_parquet({read})").fetchone()
    kept = connection.execute("select count(*) from latest where fresh").fetchone()
    return (total[0] if total else 0) - (kept[0] if kept else 0)


def _failed(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the index files of attempts that failed and whose earlier answer stays."""
    found = connection.execute(
        "select distinct failed_name from winners where failed_name is not null"
    )
    return [name for (name,) in found.fetchall()]


def _kept_answers(
    store: Store, connection: duckdb.DuckDBPyConnection, pipeline: str, fresh: dict[str, str]
) -> dict[str, str]:
    """Return the earlier files with answers that stay: index file to rows."""
    failed = [name for name in _failed(connection) if name in fresh]
    if not failed:
        return {}
    names = connection.execute(
        f"select distinct name from winners where list_contains({quote_list(failed)}, failed_name)"
    ).fetchall()
    wanted = {name for (name,) in names} - fresh.keys()
    rows = store.ledger.rows(
        select(request_files.c.index_path, request_files.c.results_path).where(
            request_files.c.pipeline == pipeline, request_files.c.results_path.is_not(None)
        )
    )
    return {row["index_path"]: row["results_path"] for row in rows if row["index_path"] in wanted}


def _deleted(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    key: Sequence[str],
    path: str,
) -> str | None:
    """Write the keys that are gone, as earlier rows of them have them; None without such rows."""
    earlier = [store.files.url(name) for name in results_files(store, pipeline)]
    if not earlier:
        return None
    query = sql.GONE.format(
        key=", ".join(quote_name(name) for name in key), results=quote_files(earlier)
    )
    write_parquet(connection, query, path)
    return path
