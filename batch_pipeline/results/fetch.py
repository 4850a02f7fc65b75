"""Fetching and publishing what a pipeline has at the API, without the pipeline's code."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations

import duckdb
from sqlalchemy import select

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.live import end_asking
from batch_pipeline.batches.policy import SendPolicy
from batch_pipeline.batches.poll import poll
from batch_pipeline.batches.whose import whose
from batch_pipeline.errors import LostFileError, counted
from batch_pipeline.records.columns import HIDDEN_COLUMNS
from batch_pipeline.records.connections import lost_files_told, memory_connection, quote_files
from batch_pipeline.records.identity import key_hash_sql
from batch_pipeline.records.sources import VARIANT
from batch_pipeline.results.collect import Collected, collect
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.lost import make_again, with_lost_files
from batch_pipeline.results.publish import Published, publish, unpublished
from batch_pipeline.store.layout import table_name
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Endpoint, Scope
from batch_pipeline.store.tables import OPEN, FileState, endpoints, request_files, submissions
from batch_pipeline.store.variants import variant_of

MOST_KEY_COLUMNS = 3
ROWS_COMPARED = 1_000


@dataclass
class Fetched:
    """What was fetched of a pipeline.

    Attributes:
        collected: what came back, partition by partition.
        published: what publishing changed; None when nothing was published.
        table: where the rows are now, in words; "" when they were not published.
        kept: why rows stay in the store and go into no table; "" when none do.
        open: batches that did not end yet.
        ready: files that were never sent; nothing sends them without code.
        held: files that wait for a person.
        elsewhere: what was sent with another account, in words; it is left alone.
    """

    collected: list[Collected] = field(default_factory=list)
    published: Published | None = None
    table: str = ""
    kept: str = ""
    open: int = 0
    ready: int = 0
    held: int = 0
    elsewhere: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def fetch(
    store: Store,
    api: BatchesApi,
    pipeline: str,
    policy: SendPolicy,
    max_attempts: int,
    keys: Sequence[str] | None = None,
    destination: DuckDBTable | ParquetDataset | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """Look at the API, collect what has ended, and publish it. Nothing is sent.

    Args:
        store: where the files and the ledger are.
        api: the endpoint; what was sent elsewhere is left alone.
        pipeline: its name.
        policy: limits and waits.
        max_attempts: how often a record is asked at most.
        keys: the key's columns; None: they are found out, see ``find_keys``.
        destination: the table; None: Parquet under the store, unless the rows went elsewhere before.
        tell: gets a line per file.

    Raises:
        HeldError, ApiUnavailable: the API refuses the key or does not answer.
        InputError: the destination cannot take the rows; they stay in the store.
    """
    report = Fetched()
    here = whose(store, api)
    report.notes += poll(store, api, here, policy).notes
    scopes = [Scope(pipeline, partition, here) for partition in _partitions(store, pipeline, here)]
    for scope in scopes:
        end_asking(store, api, scope, policy, tell)
    report.collected += [collect(store, api, scope, max_attempts, tell) for scope in scopes]
    if any(one.broken for one in report.collected):
        # What is in their way may be a file that is damaged in its middle.
        with suppress(LostFileError):
            make_again(store, api, pipeline, max_attempts, None, tell, thorough=True)
            for one in report.collected:
                one.broken.clear()
            report.collected += [collect(store, api, scope, max_attempts, tell) for scope in scopes]
    with_lost_files(
        store,
        api,
        pipeline,
        max_attempts,
        lambda: _publish(store, pipeline, keys, destination, report),
        tell=tell,
    )
    _left(store, pipeline, here, report)
    return report


def _publish(
    store: Store,
    pipeline: str,
    keys: Sequence[str] | None,
    destination: DuckDBTable | ParquetDataset | None,
    report: Fetched,
) -> None:
    files = unpublished(store, pipeline)
    if not files:
        return
    where = destination or known_destination(store, pipeline)
    if where is None:
        report.kept = (
            f"The rows of {counted(len(files), 'file')} stay in the store, because earlier ones went into a "
            "table that only the pipeline's code names. Where the code is, its collect job publishes them."
        )
        return
    keys = keys or find_keys(store, pipeline)
    if keys is None:
        report.kept = (
            f"The rows of {counted(len(files), 'file')} stay in the store, because nobody can tell which "
            "columns are the key. Name them: --key-column COLUMN."
        )
        return
    report.published = publish(store, pipeline, where, keys)
    report.table = where.describe()


def known_destination(store: Store, pipeline: str) -> ParquetDataset | None:
    """Return the table under the store; None when rows of the pipeline went into another one."""
    own = ParquetDataset(path=store.files.url(table_name(pipeline)))
    if own.columns():
        return own
    elsewhere = store.ledger.rows(
        select(request_files.c.id)
        .where(request_files.c.pipeline == pipeline, request_files.c.published_at.is_not(None))
        .limit(1)
    )
    return None if elsewhere else own


def find_keys(store: Store, pipeline: str) -> tuple[str, ...] | None:
    """Return the key's columns: those of which the stored key hashes are the hashes.

    That is a proof and no guess. None when there is none, or several are alike.
    """
    rows = store.ledger.rows(
        select(submissions.c.records_path, submissions.c.partition)
        .where(submissions.c.pipeline == pipeline, submissions.c.records_path.is_not(None))
        .order_by(submissions.c.number.desc())
        .limit(1)
    )
    if not rows:
        return None
    with (
        lost_files_told(pipeline, "Name the key's columns: --key-column COLUMN."),
        memory_connection() as connection,
    ):
        store.files.register(connection)
        path = quote_files([store.files.url(rows[0]["records_path"])])
        connection.execute(
            f"CREATE TEMP TABLE source AS SELECT * FROM read_parquet({path}) LIMIT {ROWS_COMPARED}"
        )
        types = {row[0]: row[1] for row in connection.execute("DESCRIBE source").fetchall()}
        columns = [name for name in types if name not in HIDDEN_COLUMNS]
        # Of a variant the key ends with its name.
        last = [VARIANT] if variant_of(rows[0]["partition"]) and VARIANT in columns else []
        columns = [name for name in columns if name not in last]
        for size in range(1, MOST_KEY_COLUMNS + 1):
            fitting = [
                some
                for some in combinations(columns, size)
                if _fits(connection, (*some, *last), types)
            ]
            if fitting:
                return fitting[0] if len(fitting) == 1 else None
    return None


def _fits(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[str], types: dict[str, str]
) -> bool:
    hashed = key_hash_sql(columns, types)
    try:
        (fits,) = connection.execute(
            f"SELECT bool_and({hashed} IS NOT DISTINCT FROM _key_hash) FROM source"
        ).fetchall()
    except duckdb.Error:
        return False  # no type that a key can have
    return bool(fits[0])


def _partitions(store: Store, pipeline: str, here: Endpoint) -> list[str]:
    rows = store.ledger.rows(
        select(request_files.c.partition)
        .where(
            request_files.c.pipeline == pipeline,
            request_files.c.endpoint_id == here.id,
            request_files.c.state.in_(OPEN),
        )
        .distinct()
    )
    return sorted(row["partition"] for row in rows)


def _left(store: Store, pipeline: str, here: Endpoint, report: Fetched) -> None:
    """Write down what is still on its way, or was sent with another account."""
    rows = store.ledger.rows(
        select(
            request_files.c.state,
            request_files.c.endpoint_id,
            endpoints.c.base_url,
            endpoints.c.organization,
            endpoints.c.workspace,
        )
        .join(endpoints, endpoints.c.id == request_files.c.endpoint_id)
        .where(request_files.c.pipeline == pipeline, request_files.c.state.in_(OPEN))
    )
    for row in rows:
        if row["endpoint_id"] != here.id:
            whose = Endpoint(row["base_url"], row["organization"], row["workspace"])
            report.elsewhere.append(f"a file was sent to {whose}, and the key belongs to {here}")
        elif row["state"] == FileState.HELD:
            report.held += 1
        elif row["state"] == FileState.READY:
            report.ready += 1
        else:
            report.open += 1
    report.elsewhere = list(dict.fromkeys(report.elsewhere))
