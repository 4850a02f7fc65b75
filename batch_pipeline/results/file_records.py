"""Which requests a request file asks, from the records it was made of."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from sqlalchemy import RowMapping, select

from batch_pipeline.batches.evidence import custom_id_in
from batch_pipeline.records.columns import ASKED_ROW, WIRE_ID, file_columns
from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.results import sql
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import submissions

Row = Mapping[str, Any] | RowMapping


def view_requested(stack: ExitStack, store: Store, connection, submission: Row, file: Row) -> None:
    """Make the view ``asked``: the records of a request file, as they were when they were asked.

    And ``recipients``: these, and the records that were not asked because they are duplicates of these.

    Args:
        stack: keeps local copies of the store's files for as long as the view is read.
        store: where the files are.
        connection: DuckDB.
        submission: the ledger's row of the file's submission.
        file: the ledger's row of the file.
    """
    records = stack.enter_context(store.files.local(submission["records_path"]))
    if submission["rejected_path"]:
        path = stack.enter_context(store.files.local(submission["rejected_path"]))
        connection.execute(
            "create or replace temp view rejected as "
            f"select _row from read_parquet({quote_files([path])})"
        )
    else:
        connection.execute(
            "create or replace temp view rejected as select null::bigint as _row where false"
        )
    about = {
        "records": quote_files([records]),
        "first_row": int(file["first_row"]),
        "last_row": int(file["last_row"]),
    }
    connection.execute("create or replace temp view asked as " + sql.ASKED.format(**about))
    recipients = sql.RECIPIENTS if has_duplicates(connection, records) else "from asked"
    connection.execute("create or replace temp view recipients as " + recipients.format(**about))


def has_duplicates(connection, records: str) -> bool:
    """Whether a records.parquet has the columns of duplicates; it has none without, or of earlier versions."""
    return ASKED_ROW in file_columns(connection, records)


def custom_ids_of(store: Store, file: RowMapping, connection=None) -> set[str]:
    """Return the custom_ids of a request file's requests.

    Args:
        store: where the files are.
        file: the ledger's row of the file.
        connection: DuckDB, one of our own; None: one is opened.
    """
    submission = store.ledger.rows(
        select(submissions).where(submissions.c.id == file["submission_id"])
    )[0]
    return custom_ids_in(store, submission, file, connection)


def custom_ids_in(store: Store, submission: Row, file: Row, connection=None) -> set[str]:
    """Return the custom_ids of a request file's requests, of a submission that is at hand."""
    with ExitStack() as stack:
        if connection is None:
            connection = stack.enter_context(memory_connection())
        view_requested(stack, store, connection, submission, file)
        return {*asked_ids(connection)}


def asked_as(connection) -> str:
    """Return the column of the view ``asked`` that names a record's request as its batch does."""
    described = connection.execute("describe asked").fetchall()
    return WIRE_ID if any(row[0] == WIRE_ID for row in described) else "_custom_id"


def asked_ids(connection) -> list[str]:
    """Return what the requests of the view ``asked`` are called in their batch."""
    rows = connection.execute(f"select {asked_as(connection)} from asked").fetchall()
    return [custom_id for (custom_id,) in rows]


def custom_ids_sent(store: Store, file: RowMapping) -> set[str] | None:
    """Return the custom_ids of a request file's requests by the file itself; None when it does not tell.

    It tells which answers are whole while the records that they belong to are lost.
    """
    found: set[str] = set()
    try:
        with store.files.open(file["path"]) as requests:
            for line in requests:
                found |= {custom_id} if (custom_id := custom_id_in(line)) else set()
    except OSError:
        return None
    return found if len(found) == file["requests"] else None
