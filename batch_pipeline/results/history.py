"""Everything that happened with one record: from the store's index, its rows, and the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import duckdb
from sqlalchemy import RowMapping, select

from batch_pipeline.errors import InputError
from batch_pipeline.records.columns import (
    ASKED_ROW,
    DUPLICATE_OF,
    EARLIER_ANSWER,
    asked_row,
    file_columns,
)
from batch_pipeline.records.connections import (
    lost_files_told,
    memory_connection,
    quote_files,
    quote_name,
    quote_text,
)
from batch_pipeline.records.earlier import look_back
from batch_pipeline.records.identity import key_hash_sql
from batch_pipeline.records.index_rows import index_rows, located
from batch_pipeline.records.rules import RULE
from batch_pipeline.records.sources import VARIANT
from batch_pipeline.results.question import Question
from batch_pipeline.store.erasures import ERASED
from batch_pipeline.store.scopes import variants_in
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import index_files, latest_records
from batch_pipeline.store.tables import FileKind, FileState, request_files, submissions
from batch_pipeline.store.variants import partition_of, variant_of

EXAMPLES = 5
PENDING, DELETED, ERASURE = "pending", "deleted", "erasure"


@dataclass(frozen=True)
class Asking:
    """One submission that had the record.

    Attributes:
        submission: its number.
        partition: the partition; "" without.
        selected_at: when it was selected.
        reason: why: new, changed, version, retry, forced, reuse (an earlier answer was published
            again), rule (a rule settled it), deleted (its key had left the source), erasure (its records
            were erased), erased (not known any more, because of that).
        content: a hash of what the question read of it.
        is_new_content: whether that differs from the submission before.
        version: a hash of the question.
        is_new_version: whether that differs from the submission before.
        custom_id: its request's name.
        attempt: counted from 1.
        status: of the answer; None while there is none.
        state: where its request file stands; None without one.
        file: the request file.
        batch_id: the batch.
        sent_at: when its file was first sent.
        answered_at: when its batch ended.
        published_at: when its row went into the table.
        error: why there is no answer; or why its file waits.
        cost_usd: what the answer cost; None when that is not known, or nothing was asked.
        input_tokens: of the request, what was read from or written to a cache not counted.
        output_tokens: of the answer.
        answer: the answer's fields.
        after: what the attempt before came to, if that is why it was asked again.
        corrects: its request held the answer of the attempt before, and what was wrong with it.
        duplicate_of: the request of another record, which was the same: this one was not asked itself.
        variant: which variant of the question asked; "" without.
    """

    submission: int
    partition: str
    selected_at: datetime
    reason: str
    content: str
    is_new_content: bool
    version: str
    is_new_version: bool
    custom_id: str
    attempt: int
    status: str | None = None
    state: str | None = None
    file: str | None = None
    batch_id: str | None = None
    sent_at: datetime | None = None
    answered_at: datetime | None = None
    published_at: datetime | None = None
    error: str | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)
    duplicate_of: str | None = None
    variant: str = ""
    after: str | None = None
    corrects: bool = False


def history(
    store: Store, pipeline: str, keys: Sequence[str], values: Sequence[str]
) -> list[Asking]:
    """Return every submission that had a record, oldest first; nothing for a key that none had.

    Of a pipeline with variants, of each of them.

    Args:
        store: where ledger and files are.
        pipeline: its name.
        keys: the key columns, as the source declares them.
        values: their values as text, as DuckDB prints them.

    Raises:
        InputError: there are not as many values as key columns.
        LostFileError: a file of the store cannot be read.
    """
    if len(keys) != len(values):
        raise InputError(
            f"The key of {pipeline} has {len(keys)} columns ({', '.join(keys)}), and {len(values)} values are given: "
            'write them with commas between, or as JSON: ["a","b"].'
        )
    known = {
        row["number"]: row
        for row in store.ledger.rows(select(submissions).where(submissions.c.pipeline == pipeline))
    }
    found: list[Asking] = []
    with lost_files_told(
        pipeline,
        f"Run {pipeline}_collect, which makes lost files of the store again, or bring the file back from a backup.",
    ):
        with memory_connection() as connection:
            store.files.register(connection)
            key_hashes = [
                key_hash_of(connection, store, pipeline, variant, keys, values)
                for variant in variants_in(store.ledger, pipeline) or [""]
            ]
            rows = _index_rows(connection, store, pipeline, key_hashes)
            ids = {known[row[0]]["id"] for row in rows}
            files = store.ledger.rows(
                select(request_files).where(request_files.c.submission_id.in_(ids))
            )
            by_index = {file["index_path"]: file for file in files if file["index_path"]}
            # Of the same request, what was collected says more than what was selected.
            weight = {PENDING: 0, DELETED: 0, "answered": 2}
            ordered = sorted(rows, key=lambda row: weight.get(row[1], 1))
            once = {(row[0], row[2]): row for row in ordered}
            for row in sorted(once.values(), key=lambda row: (row[0], row[3])):
                variant = variant_of(known[row[0]]["partition"])
                before = next((one for one in reversed(found) if one.variant == variant), None)
                submission = known[row[0]]
                mine = [file for file in files if file["submission_id"] == submission["id"]]
                found.append(_asking(connection, store, submission, mine, by_index, row, before))
    return found


def key_examples(store: Store, pipeline: str, keys: Sequence[str]) -> list[str]:
    """Return how a few keys of a pipeline look, of its last submission."""
    rows = store.ledger.rows(
        select(submissions.c.records_path)
        .where(submissions.c.pipeline == pipeline, submissions.c.records_path.is_not(None))
        .order_by(submissions.c.number.desc())
        .limit(1)
    )
    if not rows:
        return []
    texts = ", ".join(f"CAST({quote_name(key)} AS VARCHAR)" for key in keys)
    there = f"_reason IS DISTINCT FROM {quote_text(ERASED)}"
    try:
        with memory_connection() as connection:
            store.files.register(connection)
            path = quote_files([store.files.url(rows[0]["records_path"])])
            found = connection.execute(
                f"SELECT {texts} FROM read_parquet({path}) WHERE {there} ORDER BY _row LIMIT {EXAMPLES}"
            ).fetchall()
    except (duckdb.Error, FileNotFoundError):
        return []
    return [",".join(map(str, row)) for row in found]


def key_hash_of(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    pipeline: str,
    variant: str,
    keys: Sequence[str],
    values: Sequence[str],
) -> UUID:
    """Return the hash of a key: it is built on texts, so the columns' types do not matter."""
    if variant and VARIANT not in keys:
        keys, values = (*keys, VARIANT), (*values, variant)
    records = [store.files.url(name) for name in latest_records(store.ledger, pipeline, variant)]
    given = {key.lower(): value for key, value in zip(keys, values, strict=True)}
    keys = look_back(connection, keys, {}, records).keys
    values = [given[key.lower()] for key in keys]
    columns = ", ".join(f"CAST(? AS VARCHAR) AS {quote_name(key)}" for key in keys)
    query = f"SELECT {key_hash_sql(keys, dict.fromkeys(keys, 'VARCHAR'))} FROM (SELECT {columns}) AS source"
    (found,) = connection.execute(query, list(values)).fetchall()[0]
    return found


def _index_rows(
    connection: duckdb.DuckDBPyConnection, store: Store, pipeline: str, key_hashes: Sequence[UUID]
) -> list[tuple[Any, ...]]:
    """Return (number, status, custom_id, attempt, content, version, name of the index file)."""
    named = index_files(store.ledger, pipeline)
    alone = [row.name for row in named if row.compacted is None]
    there = store.files.present(alone)
    index = [row for row in named if row.compacted is not None or row.name in there]
    if not index:
        return []
    read = index_rows(located(index, store.files.url))
    rows = connection.execute(
        "SELECT status, custom_id, attempt, CAST(content_hash AS VARCHAR), version, file"
        f" FROM ({read.sql}) WHERE key_hash IN (SELECT unnest(?::UUID[]))",
        [list(key_hashes)],
    ).fetchall()
    by_number = dict(zip(read.numbers, index, strict=True))
    # A compaction may have rows of files that are not asked for.
    return [
        (by_number[file].number, *row, by_number[file].name)
        for *row, file in rows
        if file in by_number
    ]


def _asking(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    submission: RowMapping,
    files: Sequence[RowMapping],
    by_index: Mapping[str, RowMapping],
    row: tuple[Any, ...],
    before: Asking | None,
) -> Asking:
    number, status, custom_id, attempt, content, version, name = row
    is_settled = status not in (PENDING, DELETED)
    reason = ERASURE if version == ERASED else DELETED
    place, duplicate_of, corrects = None, None, False
    if status != DELETED and submission["records_path"]:
        reason, place, duplicate_of, corrects = _selected(connection, store, submission, custom_id)
    file = by_index.get(name) if is_settled else _file_of(files, reason, place)
    result = _result(connection, store, submission, file, custom_id) if is_settled else {}
    is_reused = reason in ("reuse", RULE)
    return Asking(
        submission=number,
        partition=partition_of(submission["partition"]),
        variant=variant_of(submission["partition"]),
        selected_at=submission["created_at"],
        reason=reason,
        content=content,
        is_new_content=before is not None and before.content != content,
        version=version,
        is_new_version=before is not None and before.version != version,
        custom_id=custom_id,
        attempt=attempt,
        status=status if is_settled else None,
        state=file["state"] if file is not None else submission["state"],
        file=file["id"] if file is not None else None,
        batch_id=result.get("_batch_id") or (file["batch_id"] if file is not None else None),
        sent_at=file["first_sent_at"] if file is not None else None,
        answered_at=result.get("_answered_at"),
        published_at=file["published_at"] if file is not None else None,
        error=result.get("_error") or (file["error"] if file is not None and not is_settled else None),
        cost_usd=None if is_reused else result.get("_cost_usd"),
        input_tokens=result.get("_input_tokens"),
        output_tokens=result.get("_output_tokens"),
        answer={
            column: result[column]
            for column, _ in _answer_columns(submission)
            if result.get("_status") in ("answered", RULE) and column in result and reason != ERASED
        },
        duplicate_of=duplicate_of,
        after=before.status if before is not None and reason == "retry" else None,
        corrects=corrects,
    )  # fmt: skip


def _selected(
    connection: duckdb.DuckDBPyConnection, store: Store, submission: RowMapping, custom_id: str
) -> tuple[str, int | None, str | None, bool]:
    """Return why a record was selected, its row among the selected ones, whose duplicate it is, and whether
    an earlier answer went with its request."""
    url = store.files.url(submission["records_path"])
    path = quote_files([url])
    columns = file_columns(connection, url)
    may_be_duplicate = ASKED_ROW in columns
    corrects = f"{EARLIER_ANSWER} IS NOT NULL" if EARLIER_ANSWER in columns else "false"
    row = asked_row("records", may_be_duplicate)
    duplicate_of = DUPLICATE_OF if may_be_duplicate else "NULL::VARCHAR"
    rows = connection.execute(
        f"SELECT _kind, _reason, {row}, {duplicate_of}, {corrects} FROM read_parquet({path}) AS records WHERE _custom_id = ?",
        [custom_id],
    ).fetchall()
    if not rows:
        return "unknown", None, None, False
    kind, reason, row, duplicate_of, corrects = rows[0]
    return ("reuse" if kind == "reuse" else reason), row, duplicate_of, corrects


def _file_of(files: Sequence[RowMapping], reason: str, row: int | None) -> RowMapping | None:
    """Return the request file that a record which is not settled belongs to."""
    if reason in ("reuse", RULE, DELETED, ERASURE):
        return next((file for file in files if file["kind"] == FileKind.REUSED), None)
    for file in files:
        is_batch = file["kind"] == FileKind.BATCH and file["state"] != FileState.SPLIT
        if row is not None and is_batch and file["first_row"] <= row <= file["last_row"]:
            return file
    return None


def _result(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    submission: RowMapping,
    file: RowMapping | None,
    custom_id: str,
) -> dict[str, Any]:
    """Return a record's joined row."""
    if file is None or not file["results_path"] or not store.files.exists(file["results_path"]):
        return {}
    path = quote_files([store.files.url(file["results_path"])])
    found = connection.execute(
        f"SELECT * FROM read_parquet({path}) WHERE _custom_id = ?", [custom_id]
    )
    names = [column[0] for column in found.description or ()]
    rows = found.fetchall()
    return dict(zip(names, rows[0], strict=True)) if rows else {}


def _answer_columns(submission: RowMapping) -> list[tuple[str, str]]:
    return Question.stored(submission["question"]).columns if submission["question"] else []
