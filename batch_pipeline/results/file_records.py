"""Which requests a request file asks, from the records it was made of."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import duckdb
from sqlalchemy import RowMapping, select

from batch_pipeline.batches.evidence import custom_id_in
from batch_pipeline.records.columns import ASKED_ROW, DUPLICATE_OF, WIRE_ID, file_columns
from batch_pipeline.records.connections import memory_connection, quote_files
from batch_pipeline.results import sql
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import submissions

Row = Mapping[str, Any] | RowMapping


class Requested:
    """The records of a request file, as they were when they were asked, for what reads them in turn.

    Nothing is read before it is needed, and the custom_ids only once.

    Args:
        stack: keeps local copies of the store's files for as long as they are read.
        store: where the files are.
        connection: DuckDB, one of our own. It gets the views ``asked``: the records; ``recipients``: these,
            and the records that were not asked because they are duplicates of these. And the table
            ``narrow``: of the recipients, what tells how it went.
        submission: the ledger's row of the file's submission; None: it is looked up.
        file: the ledger's row of the file.
    """

    def __init__(
        self,
        stack: ExitStack,
        store: Store,
        connection: duckdb.DuckDBPyConnection,
        submission: Row | None,
        file: Row,
    ) -> None:
        self.connection = connection
        self._stack, self._store, self._file = stack, store, file
        self._submission = submission

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns of the view ``asked``, name to DuckDB type, once it and the others are made."""
        store, connection = self._store, self.connection
        submission = self._submission or submission_of(store, self._file)
        records = self._stack.enter_context(store.files.local(submission["records_path"]))
        rejected = "select null::bigint as _row where false"
        if submission["rejected_path"]:
            path = self._stack.enter_context(store.files.local(submission["rejected_path"]))
            rejected = f"select _row from read_parquet({quote_files([path])})"
        connection.execute(f"create or replace temp view rejected as {rejected}")
        columns = file_columns(connection, records)
        about = {
            "records": quote_files([records]),
            "first_row": int(self._file["first_row"]),
            "last_row": int(self._file["last_row"]),
        }
        connection.execute("create or replace temp view asked as " + sql.ASKED.format(**about))
        duplicates = ASKED_ROW in columns  # a file has none without, or of earlier versions
        recipients = sql.RECIPIENTS if duplicates else "from asked"
        connection.execute(
            "create or replace temp view recipients as " + recipients.format(**about)
        )
        narrow = sql.NARROW.format(
            asked_as=_asked_as(columns),
            duplicate_of=DUPLICATE_OF if duplicates else "null::varchar",
        )
        connection.execute(f"create or replace temp table narrow as {narrow}")
        return columns

    @property
    def has_duplicates(self) -> bool:
        """Whether ``recipients`` may hold more than ``asked`` does."""
        return ASKED_ROW in self.columns

    @property
    def asked_as(self) -> str:
        """The column of ``recipients`` that names a record's request as its batch does."""
        return _asked_as(self.columns)

    @cached_property
    def custom_ids(self) -> frozenset[str]:
        """What the requests are called in their batch."""
        assert self.columns, "records have columns"
        found = self.connection.execute("select asked_as from narrow where _duplicate_of is null")
        return frozenset(custom_id for (custom_id,) in found.fetchall())


def _asked_as(columns: Mapping[str, str]) -> str:
    if ASKED_ROW in columns:
        return "_bp_asked_as"
    return WIRE_ID if WIRE_ID in columns else "_custom_id"


def submission_of(store: Store, file: Row) -> RowMapping:
    """Return the ledger's row of a file's submission."""
    mine = select(submissions).where(submissions.c.id == file["submission_id"])
    return store.ledger.rows(mine)[0]


def custom_ids_of(store: Store, file: Row, submission: Row | None = None) -> frozenset[str]:
    """Return the custom_ids of a request file's requests.

    Args:
        store: where the files are.
        file: the ledger's row of the file.
        submission: the ledger's row of its submission; None: it is looked up.
    """
    with ExitStack() as stack:
        connection = stack.enter_context(memory_connection(threads=1))
        return Requested(stack, store, connection, submission, file).custom_ids


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
