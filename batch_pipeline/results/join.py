"""Joining answers to the records they were asked about, by DuckDB, one file at a time."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import duckdb
from sqlalchemy import RowMapping, select

from batch_pipeline.records import rules
from batch_pipeline.records.columns import (
    ASKED_ROW,
    DUPLICATE_OF,
    HIDDEN_COLUMNS,
    PAST_ATTEMPTS,
    asked_row,
    file_columns,
)
from batch_pipeline.records.connections import (
    memory_connection,
    quote_files,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.results import sql
from batch_pipeline.results.download import Answers
from batch_pipeline.results.file_records import Requested
from batch_pipeline.results.judge import Counts
from batch_pipeline.results.judged import JudgedAnswers
from batch_pipeline.results.question import Question
from batch_pipeline.results.widening import read_widened, schemas_of, widened
from batch_pipeline.store.adoptions import ADOPTED
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, is_live, request_files

log = logging.getLogger(__name__)

FINAL = ("answered", "refused", "rejected", "paused", *rules.STATUSES)
MEMORY = "128MB"  # per connection, before more is given
ROW_GROUP_SIZE = 20_480
ROW_GROUP_BYTES = (
    16_000_000  # a row group is held in memory while it is written, and rows may be wide
)
COMPRESSION = "snappy"  # rows are read once more soon, and seldom after


@dataclass(frozen=True)
class _Billed:
    """What of an answer a row shows as billed, as SQL."""

    input_tokens: str = "judged.input_tokens"
    output_tokens: str = "judged.output_tokens"
    cache_read_tokens: str = "judged.cache_read_tokens"
    cache_write_tokens: str = "judged.cache_write_tokens"
    cost: str = "cast(judged.cost as double)"
    duplicate_of: str = "null::varchar"


BILLED = _Billed()
_ASKED = "case when records._duplicate_of is null then {} end"
BILLED_ONCE = _Billed(
    _ASKED.format(BILLED.input_tokens),
    _ASKED.format(BILLED.output_tokens),
    _ASKED.format(BILLED.cache_read_tokens),
    _ASKED.format(BILLED.cache_write_tokens),
    f"case when records._duplicate_of is null then {BILLED.cost} else 0 end",
    "records._duplicate_of",
)
"""Where some rows are duplicates: these show that nothing was billed for them."""


class Batch:
    """A batch whose rows are to be made. Nothing of it is read before it is needed.

    Args:
        stack: keeps local copies of the store's files for as long as they are read.
        store: where the files are.
        connection: DuckDB, one of our own, with one thread.
        file: the ledger's row of the request file.
        submission: the ledger's row of its submission.
        today: the question of today's code (see `Question`).

    Attributes:
        requested: the records of its request file.
    """

    def __init__(
        self,
        stack: ExitStack,
        store: Store,
        connection: duckdb.DuckDBPyConnection,
        file: RowMapping,
        submission: RowMapping,
        today: Question | None,
    ) -> None:
        self.requested = Requested(stack, store, connection, submission, file)
        self._file, self._submission, self._today = file, submission, today

    @cached_property
    def question(self) -> Question:
        """What an answer must look like."""
        return Question.stored(self._submission["question"], self._today)

    @cached_property
    def judged(self) -> JudgedAnswers:
        """Its answers."""
        priced_at = self._file["ended_at"] or self._submission["created_at"]
        live = is_live(self._file["batch_id"])
        return JudgedAnswers(self.requested, self.question, priced_at, live=live)

    def are_whole(self, path: str, asked: Set[str], expected: int) -> bool:
        """Judge the answers of a local file if they are whole, so that its lines are parsed once.

        Whatever hinders that is met again when rows are made of them. It must not keep answers from being
        counted and kept before.

        Args:
            path: the file.
            asked: the custom_ids of the batch's requests.
            expected: lines that the API says there are.

        Returns:
            Whether each request has its one line, and there is no other. Only then they are judged.
        """
        try:
            if asked != self.requested.custom_ids:
                return False
            self.judged.fill(path)
        except Exception:
            log.debug("%s is counted with care.", path, exc_info=True)
            return False
        return self.judged.are_whole(expected)


@dataclass
class Joined:
    """Rows that were joined: local files, and what they came to."""

    rows_path: str
    index_path: str
    rows: int
    statuses: dict[str, int]
    retryable: int
    refusals: dict[str, int] = field(default_factory=dict)  # of the API, by its message
    asked: int = 0  # rows of requests, without their duplicates
    counts: Counts = field(default_factory=Counts)
    judged_by_schema_alone: bool = False  # today's class asks for something else


def join_batch(
    store: Store,
    file: RowMapping,
    submission: RowMapping,
    answers: Answers,
    max_attempts: int,
    folder: str,
    today: Question | None = None,
    batch: Batch | None = None,
) -> Joined:
    """Judge a batch's kept answers and join them to the records of its request file.

    Args:
        store: where the files are.
        file: the ledger's row of the request file.
        submission: the ledger's row of its submission.
        answers: the kept answers, and what is wrong with them.
        max_attempts: how often a record is asked at most.
        folder: gets the files.
        today: the question of today's code (see `Question`).
        batch: what is at hand of it already; None: nothing.
    """
    with ExitStack() as stack:
        if batch is None:
            connection = stack.enter_context(memory_connection(MEMORY, threads=1))
            batch = Batch(stack, store, connection, file, submission, today)
        requested, judged, question = batch.requested, batch.judged, batch.question
        connection = requested.connection
        if not answers.are_judged:
            judged.clear()
            if answers.name is not None:
                judged.fill(stack.enter_context(store.files.local(answers.name)))
        # A second batch of the same file is there for what it answered, not for what it lacks.
        join = "inner" if file["kind"] == FileKind.LATE else "left"
        query = sql.JOINED.format(
            source=_source_list(requested.columns),
            output=question.select_list(),
            join=join,
            billed=BILLED_ONCE if requested.has_duplicates else BILLED,
            asked_as=requested.asked_as,
            attempts=_attempts(requested.columns),
        )
        unanswered = "canceled" if _was_withdrawn(file) else "missing"
        parameters = {
            "unanswered": unanswered,
            "missing": answers.damage or "The API returned no result for this request.",
            "batch_id": file["batch_id"],
            "answered_at": file["ended_at"],
        }
        rows_path = f"{folder}/rows.parquet"
        with _in_order(connection):
            write_parquet(connection, query, rows_path, parameters)
            connection.execute(
                "create or replace temp table joined as " + sql.OUTCOMES.format(join=join),
                {"unanswered": unanswered},
            )
        joined = _summed_up(
            connection, rows_path, submission["version"], max_attempts, folder, "_is_asked"
        )
        if "rejected" in joined.statuses:
            joined.refusals = dict(connection.execute(sql.REFUSALS).fetchall())
    if submission["question"].get(ADOPTED):
        judged.counts.add_foreign()
    joined.counts = judged.counts
    joined.judged_by_schema_alone = question.outdates(today)
    return joined


def _attempts(columns: Collection[str]) -> str:
    """Return SQL for what came of a record's earlier attempts; they stand in few files of records."""
    return f"records.{PAST_ATTEMPTS}::json" if PAST_ATTEMPTS in columns else "null::json"


@contextmanager
def _in_order(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a join of ``asked`` and ``judged`` stream through the records as they are, for the block.

    One thread, which such a connection has, gives rows always in the same order, and what is kept in memory
    of the join are the answers: records may be wide documents.
    """
    connection.execute("set disabled_optimizers = 'join_order,build_side_probe_side'")
    try:
        yield
    finally:
        connection.execute("reset disabled_optimizers")


def _was_withdrawn(file: RowMapping) -> bool:
    """Whether a person cancelled the file before it became a batch."""
    return file["batch_id"] is None and file["cancel_requested_at"] is not None


def join_rejected(store: Store, file: RowMapping, submission: RowMapping, folder: str) -> Joined:
    """Make the rows of records that could not be asked."""
    question = Question.stored(submission["question"])
    with ExitStack() as stack:
        connection = stack.enter_context(memory_connection(MEMORY))
        records = stack.enter_context(store.files.local(submission["records_path"]))
        rejected = stack.enter_context(store.files.local(file["path"]))
        connection.execute(
            f"create temp view rejected as select * from read_parquet({quote_files([rejected])})"
        )
        columns = file_columns(connection, records)
        duplicates = ASKED_ROW in columns
        query = sql.REJECTED.format(
            source=_source_list(columns),
            output=question.null_list(),
            records=quote_files([records]),
            duplicate_of="records._duplicate_of" if duplicates else "null::varchar",
            asked_row=asked_row("records", duplicates),
            attempts=_attempts(columns),
        )
        parameters = {"answered_at": submission["created_at"]}
        return _write(connection, query, parameters, submission["version"], 0, folder)


def join_reused(
    store: Store, submission: RowMapping, folder: str, lost: Collection[str] = ()
) -> Joined | None:
    """Make the rows of records whose answer is known: from earlier, or by a rule; None when only keys are deleted.

    Args:
        store: where the files are.
        submission: the ledger's row of the submission.
        folder: gets the files.
        lost: names of rows that are known to be lost; they are left out.
    """
    counts = submission["counts"]
    if not submission["records_path"] or not (counts.get("reused") or counts.get("ruled")):
        return None
    question = Question.stored(submission["question"])
    with (
        memory_connection(MEMORY) as connection,
        store.files.local(submission["records_path"]) as records,
    ):
        store.files.register(connection)
        parts: list[str] = []
        parameters: dict[str, Any] = {}
        if counts.get("reused"):
            parts.append(_reused(connection, store, submission, question, records, lost))
        if counts.get("ruled"):
            parameters["answered_at"] = submission["created_at"]
            parts.append(
                sql.RULED.format(
                    source=_source_list(file_columns(connection, records)),
                    output=question.select_list(),
                    parsed=question.parsed(),
                    records=quote_files([records]),
                )
            )
        query = " union all by name ".join(f"(from ({part}))" for part in parts)
        return _write(connection, query, parameters, submission["version"], 0, folder)


def _reused(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    submission: RowMapping,
    question: Question,
    records: str,
    lost: Collection[str],
) -> str:
    """Return SQL for the rows of records whose answer is known from earlier."""
    # Rows that are gone from the store are made again after the others, from the others.
    named = results_files(store, submission["pipeline"])
    there = store.files.present(named) - set(lost)
    there -= store.files.damaged(there)
    results = [store.files.url(name) for name in named if name in there]
    schemas = schemas_of(connection, results)
    kinds = widened(connection, schemas)
    columns = {name.lower() for name in kinds}
    output = ", ".join(
        f"try_cast(earlier.{quote_name(name)} as {kind}) as {quote_name(name)}"
        if name.lower() in columns else f"null::{kind} as {quote_name(name)}"
        for name, kind in question.columns
    )  # fmt: skip
    return sql.REUSED.format(
        source=_source_list(file_columns(connection, records)),
        output=output,
        duplicate_of="earlier._duplicate_of" if DUPLICATE_OF in columns else "null::varchar",
        attempts="earlier._attempts" if "_attempts" in columns else "null::json",
        records=quote_files([records]),
        results=read_widened(connection, schemas, kinds),
    )


def results_files(store: Store, pipeline: str) -> list[str]:
    """Return the names of all joined rows of a pipeline."""
    rows = store.ledger.rows(
        select(request_files.c.results_path).where(
            request_files.c.pipeline == pipeline,
            request_files.c.state == FileState.COLLECTED,
            request_files.c.results_path.is_not(None),
        )
    )
    return [row["results_path"] for row in rows]


def _source_list(columns: Iterable[str]) -> str:
    """Return those of records' columns that are the source's, as SQL that reads them from ``records``."""
    return ", ".join(
        f"records.{quote_name(name)}" for name in columns if name not in HIDDEN_COLUMNS
    )


def write_parquet(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    path: str,
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Write a query's rows to a local Parquet file, in memory of bounded size."""
    copy = (
        f"copy ({query}) to {quote_text(path)} (format parquet, compression {COMPRESSION}, "
        f"row_group_size {ROW_GROUP_SIZE}, row_group_size_bytes {ROW_GROUP_BYTES})"
    )
    with_enough_memory(connection, lambda: connection.execute(copy, parameters or {}))


def _write(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: dict[str, Any],
    version: str,
    max_attempts: int,
    folder: str,
) -> Joined:
    """Write joined rows and their index, in an order that is always the same."""
    with_enough_memory(
        connection,
        lambda: connection.execute(f"create or replace temp table joined as {query}", parameters),
    )
    rows_path = f"{folder}/rows.parquet"
    write_parquet(
        connection,
        "select * exclude (_key_hash, _content_hash) from joined order by _custom_id",
        rows_path,
    )
    return _summed_up(connection, rows_path, version, max_attempts, folder)


def _summed_up(
    connection: duckdb.DuckDBPyConnection,
    rows_path: str,
    version: str,
    max_attempts: int,
    folder: str,
    is_asked: str = "false",
) -> Joined:
    """Write the index of the rows in ``joined``, and return what they came to.

    Args:
        connection: has ``joined``.
        rows_path: the file of the rows.
        version: of their question.
        max_attempts: how often a record is asked at most.
        folder: gets the index.
        is_asked: SQL for whether a row is one of a request.
    """
    index_path = f"{folder}/index.parquet"
    index = sql.INDEX.replace("$version", quote_text(version))
    write_parquet(connection, f"{index} order by _custom_id", index_path)
    sums = sql.SUMS.format(
        attempts=int(max_attempts), final=FINAL, overflowed=sql.OVERFLOWED, is_asked=is_asked
    )
    found = connection.execute(sums).fetchall()
    statuses = {status: count for status, count, _, _ in found}
    return Joined(
        rows_path,
        index_path,
        sum(statuses.values()),
        statuses,
        sum(retryable for _, _, retryable, _ in found),
        asked=sum(asked for _, _, _, asked in found),
    )
