"""Answers in the table to what waits to be sent, which the store does not know.

Selection looks for such answers to what it selects. Files that wait from an earlier run are looked at
here, before they are sent: a store that was restored together with its ledger, from a moment before
they were sent, would send them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
from sqlalchemy import RowMapping, select

from batch_pipeline.records.columns import ASKED_ROW, asked_row, file_columns
from batch_pipeline.records.connections import (
    memory_connection,
    quote_files,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.index_rows import index_rows, located
from batch_pipeline.results.destinations import DuckDBTable, ParquetDataset
from batch_pipeline.results.join import MEMORY
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import Scope, index_files
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions

TO_SEND = (FileState.READY, FileState.SENDING, FileState.UNKNOWN, FileState.HELD)
"""What is sent, or may be sent again, without another selection."""

# Table lost: the answered rows of the table that the store does not know. Settled are those whose
# requests it knows to have failed.
LOST = """
create or replace temp table lost as
select there.*, known.custom_id is not null as settled from read_parquet({there}) as there
left join (select custom_id, bool_or(status = 'answered') as answered from ({index})
           where status not in ('pending', 'deleted') group by custom_id)
    as known on known.custom_id = there._custom_id
where _custom_id is not null and not coalesce(known.answered, false)
"""

# Per file of a submission, how many of its records are answered by a lost row: one about the same
# content and question (which the custom_id tells, whoever asked), or one of the same key.
ANSWERED = """
select files.id, count(*)
from (values {files}) as files (id, first_row, last_row)
join read_parquet({records}) as records on {asked_row} between first_row and last_row
where records._kind in ('ask', 'duplicate') and (
    substr(records._custom_id, 10, 16) in (select substr(_custom_id, 10, 16) from lost)
    or exists (select 1 from lost where not settled and {same_key}))
group by all
"""


@dataclass(frozen=True)
class Answered:
    """A file that is to be sent, and is answered in the table.

    Attributes:
        file: its row in the ledger.
        records: how many of its records are.
    """

    file: RowMapping
    records: int


def waiting(store: Store, scope: Scope) -> Sequence[RowMapping]:
    """Return the files of a scope that are sent without another selection, oldest first."""
    return store.ledger.rows(
        select(request_files, submissions.c.records_path, submissions.c.created_at)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(
            request_files.c.pipeline == scope.pipeline,
            request_files.c.partition == scope.partition,
            request_files.c.endpoint_id == scope.endpoint.id,
            request_files.c.kind == FileKind.BATCH,
            request_files.c.state.in_(TO_SEND),
        )
        .order_by(request_files.c.number, request_files.c.seq)
    )


def copy_answered(destination: DuckDBTable | ParquetDataset, key: Sequence[str], path: str) -> bool:
    """Write the answered rows of a table to a file: their custom_ids, and the key where it is there.

    Returns:
        False when there is no table.

    Raises:
        InputError, OSError, duckdb.Error: the table cannot be read.
    """
    columns = {name.lower(): name for name in destination.columns()}
    if not columns:
        return False
    shown = ["_custom_id", *(columns[name.lower()] for name in key if name.lower() in columns)]
    with destination.connection(MEMORY) as con:
        rows = destination.relation(con)
        copy = (
            f"copy (select {', '.join(map(quote_name, shown))} from {rows} as source"
            f" where _status = 'answered') to {quote_text(path)} (format parquet)"
        )
        with_enough_memory(con, lambda: con.execute(copy))
    return True


def answered(
    store: Store, scope: Scope, files: Sequence[RowMapping], there: str, key: Sequence[str]
) -> tuple[list[Answered], bool]:
    """Return which files ask what is answered in the table, by answers that the store does not know.

    And whether the store knows all answers in the table.

    Args:
        store: where files and ledger are. What it knows is read here, so after the table.
        scope: whose files.
        files: as ``waiting`` gives them.
        there: the file of ``copy_answered``.
        key: the key columns.

    Raises:
        duckdb.Error, FileNotFoundError: a file of the store cannot be read.
    """
    index = index_rows(located(index_files(store.ledger, scope.pipeline), store.files.url))
    found: list[Answered] = []
    with memory_connection(MEMORY) as con:
        store.files.register(con)
        sql = LOST.format(there=quote_files([there]), index=index.sql)
        with_enough_memory(con, lambda: con.execute(sql))
        if not con.execute("select 1 from lost limit 1").fetchone():
            return [], True
        has = {name.lower(): name for name in file_columns(con, there)}
        by_records: dict[str, list[RowMapping]] = {}
        for file in files:
            by_records.setdefault(file["records_path"], []).append(file)
        for name, some in by_records.items():
            counts = _counts(con, store.files.url(name), some, has, key)
            found += [Answered(file, counts[file["id"]]) for file in some if file["id"] in counts]
    return found, False


def _counts(
    con: duckdb.DuckDBPyConnection,
    records: str,
    files: Sequence[RowMapping],
    has: dict[str, str],
    key: Sequence[str],
) -> dict[str, int]:
    asked = {name.lower(): name for name in file_columns(con, records)}
    same_key = "false"
    if all(name.lower() in has and name.lower() in asked for name in key):
        same_key = " and ".join(
            f"cast(lost.{quote_name(has[name.lower()])} as varchar)"
            f" = cast(records.{quote_name(asked[name.lower()])} as varchar)"
            for name in key
        )
    values = ", ".join(
        f"({quote_text(file['id'])}, {file['first_row']}, {file['last_row']})" for file in files
    )
    sql = ANSWERED.format(
        files=values,
        records=quote_files([records]),
        same_key=same_key,
        asked_row=asked_row("records", ASKED_ROW in asked),
    )
    found: list[tuple[str, int]] = []
    with_enough_memory(con, lambda: found.extend(con.execute(sql).fetchall()))
    return dict(found)


def state_of(destination: DuckDBTable | ParquetDataset, generation: int) -> str:
    """Return a text for a state of a table, which no other table and no other state has."""
    return f"{generation} of {destination.describe()}"
