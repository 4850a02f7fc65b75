"""Joining answers to the records they were asked about, by DuckDB, one file at a time."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
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
    one_thread,
    quote_files,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.requests.compiled import CITATIONS, THINKING, TOOL_CALLS, answer_columns
from batch_pipeline.requests.own_prices import OwnPrices, prices_to_store
from batch_pipeline.requests.schema import OutputSchema
from batch_pipeline.results import sql
from batch_pipeline.results.download import Answers
from batch_pipeline.results.file_records import asked_as, asked_ids, view_requested
from batch_pipeline.results.judge import Counts, judge_file
from batch_pipeline.results.widening import read_widened, schemas_of, widened
from batch_pipeline.store.adoptions import ADOPTED
from batch_pipeline.store.store import Store
from batch_pipeline.store.tables import FileKind, FileState, request_files

FINAL = ("answered", "refused", "rejected", "paused", *rules.STATUSES)
MEMORY = "128MB"  # per connection, before more is given
ROW_GROUP_SIZE = 20_480
ROW_GROUP_BYTES = (
    16_000_000  # a row group is held in memory while it is written, and rows may be wide
)
COMPRESSION = "snappy"  # rows are read once more soon, and seldom after
JUDGED_TYPES = {
    "custom_id": "varchar", "status": "varchar", "error": "varchar", "model": "varchar",
    "stop_reason": "varchar", "input_tokens": "bigint", "output_tokens": "bigint",
    "cache_read_tokens": "bigint", "cache_write_tokens": "bigint", "cost": "decimal(38,15)",
    "answer": "varchar", "tool_calls": "varchar", "citations": "varchar",
    "thinking": "varchar",
}  # fmt: skip
"""The columns of a batch of judged rows, as DuckDB sees them."""


@dataclass(frozen=True)
class _Billed:
    """What of an answer a row shows as billed, as SQL."""

    input_tokens: str = "judged.input_tokens"
    output_tokens: str = "judged.output_tokens"
    cache_read_tokens: str = "judged.cache_read_tokens"
    cache_write_tokens: str = "judged.cache_write_tokens"
    cost: str = "cast(judged.cost as double)"
    duplicate_of: str = "null::varchar"
    asked_as: str = "_custom_id"


BILLED = _Billed()
_ASKED = "case when records._duplicate_of is null then {} end"
BILLED_ONCE = _Billed(
    _ASKED.format(BILLED.input_tokens),
    _ASKED.format(BILLED.output_tokens),
    _ASKED.format(BILLED.cache_read_tokens),
    _ASKED.format(BILLED.cache_write_tokens),
    f"case when records._duplicate_of is null then {BILLED.cost} else 0 end",
    "records._duplicate_of",
    "_bp_asked_as",
)
"""Where some rows are duplicates: these show that nothing was billed for them."""


@dataclass(frozen=True)
class Question:
    """What an answer must look like, as it was when it was asked (the code may have changed since).

    The ledger keeps the JSON Schema of an output, and no pydantic class. When answers come, the class
    of today's code judges them if its schema is the one that was asked: its validators are those of
    today. If it has another schema by now, or is gone, the schema that was asked judges alone.

    Attributes:
        output: the schema of answers; None for plain text.
        prefix: put before the names of the output's columns.
        tool_calls: the user declared tools: there is a column for what the model calls.
        prices: that the user declared: what answers cost. Today's go before those of the asking.
        citations: documents asked for citations: there is a column for them.
        others: of today's code, the questions of the other variants.
        thinking: what the model thought is kept: there is a column for it.
    """

    output: OutputSchema | None
    prefix: str
    tool_calls: bool = False
    prices: OwnPrices = field(default_factory=dict)
    citations: bool = False
    thinking: bool = False
    others: "tuple[Question, ...]" = ()

    @classmethod
    def stored(cls, value: dict[str, Any], today: "Question | None" = None) -> "Question":
        """Read a question from the ledger.

        Args:
            value: as `to_store` returned it.
            today: the question of today's code, whose class judges if it asks for the same.
        """
        output = OutputSchema.stored(value["output"])
        # Questions of earlier versions do not say whether there are tools.
        tools = value.get("tool_calls", False)
        prices, cites = value.get("prices", {}), value.get("citations", False)
        thinks = value.get("thinking", False)
        if today is None:
            return cls(output, value["prefix"], tools, prices, cites, thinks)
        for one in (today, *today.others):
            if output is None or one.output is None:
                same = output is one.output
            else:
                same = output.fingerprint == one.output.fingerprint
            if same:
                output, tools = one.output, value.get("tool_calls", one.tool_calls)
                break
        return cls(output, value["prefix"], tools, {**prices, **today.prices}, cites, thinks)

    def to_store(self) -> dict[str, Any]:
        """Return what the ledger keeps of a question."""
        question = {
            "output": None if self.output is None else self.output.declared,
            "prefix": self.prefix,
            "tool_calls": self.tool_calls,
        }
        question |= {"prices": prices_to_store(self.prices)} if self.prices else {}
        question |= {"thinking": True} if self.thinking else {}
        return question | ({"citations": True} if self.citations else {})

    def outdates(self, today: "Question | None") -> bool:
        """Whether today's class has another schema than was asked, so that it does not judge."""
        models = [
            one.output.model
            for one in ((today, *today.others) if today else ())
            if one.output is not None and one.output.model is not None
        ]
        return bool(models) and (self.output is None or self.output.model not in models)

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The output's columns and their DuckDB types."""
        columns = answer_columns(self.output, self.tool_calls, self.citations, self.thinking)
        return [(f"{self.prefix}{name}", kind) for name, kind in columns]

    def parsed(self) -> str:
        """Return SQL for the typed fields of a judged answer; NULL unless it was answered."""
        typed = (
            "struct_pack(answer := answer)"
            if self.output is None
            else f"json_transform(answer, {quote_text(self.output.structure)})"
        )
        return f"case when status = 'answered' then {typed} end"

    def select_list(self) -> str:
        """Return SQL that makes the output's columns of those fields."""
        names = ["answer"] if self.output is None else [name for name, _ in self.output.columns]
        fields = [
            f"judged.fields.{quote_name(name)} as {quote_name(self.prefix + name)}"
            for name in names
        ]
        if self.tool_calls:
            fields.append(f"judged.tool_calls::json as {quote_name(self.prefix + TOOL_CALLS)}")
        if self.citations:
            fields.append(f"judged.citations::json as {quote_name(self.prefix + CITATIONS)}")
        if self.thinking:
            fields.append(f"judged.thinking as {quote_name(self.prefix + THINKING)}")
        return ", ".join(fields)

    def null_list(self) -> str:
        """Return SQL for the output's columns of a record that has no answer."""
        return ", ".join(f"null::{kind} as {quote_name(name)}" for name, kind in self.columns)


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
    connection: duckdb.DuckDBPyConnection | None = None,
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
        connection: one of our own, used for several files in turn; None: one is opened.
    """
    question = Question.stored(submission["question"], today)
    counts = Counts()
    with ExitStack() as stack:
        if connection is None:
            connection = stack.enter_context(memory_connection(MEMORY))
        view_requested(stack, store, connection, submission, file)
        _empty_table(connection, question)
        if answers.name is not None:
            path = stack.enter_context(store.files.local(answers.name))
            for batch in judge_file(
                path,
                question.output,
                priced_at=file["ended_at"] or submission["created_at"],
                counts=counts,
                asked=asked_ids(connection),
                tools=question.tool_calls,
                prices=question.prices,
                citations=question.citations,
                thinking=question.thinking,
            ):
                _put(connection, batch, question)
        # A second batch of the same file is there for what it answered, not for what it lacks.
        join = "inner" if file["kind"] == FileKind.LATE else "left"
        billed = (
            BILLED_ONCE if _has_duplicates(connection) else _Billed(asked_as=asked_as(connection))
        )
        query = sql.JOINED.format(
            source=_source_list(connection, "asked"),
            output=question.select_list(),
            join=join,
            billed=billed,
            attempts=_attempts(_columns(connection, "recipients")),
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
                "create or replace temp table joined as "
                + sql.OUTCOMES.format(join=join, billed=billed),
                {"unanswered": unanswered},
            )
        joined = _summed_up(connection, rows_path, submission["version"], max_attempts, folder)
        joined.refusals = dict(connection.execute(sql.REFUSALS).fetchall())
        found = connection.execute("select count(*) from joined where _is_asked").fetchone()
        joined.asked = found[0] if found else 0
    if submission["question"].get(ADOPTED):
        counts.add_foreign()
    joined.counts = counts
    joined.judged_by_schema_alone = question.outdates(today)
    return joined


def _has_duplicates(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the view ``recipients`` may hold more than ``asked`` does."""
    return BILLED_ONCE.asked_as in _columns(connection, "recipients")


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> set[str]:
    return {row[0] for row in connection.execute(f"describe {view}").fetchall()}


def _attempts(columns: Collection[str]) -> str:
    """Return SQL for what came of a record's earlier attempts; they stand in few files of records."""
    return f"records.{PAST_ATTEMPTS}::json" if PAST_ATTEMPTS in columns else "null::json"


def _empty_table(connection: duckdb.DuckDBPyConnection, question: Question) -> None:
    """Make the table ``judged``, without rows."""
    columns = ", ".join(f"null::{kind} as {name}" for name, kind in JUDGED_TYPES.items())
    connection.execute(
        "create or replace temp table judged as "
        + sql.JUDGED.format(parsed=question.parsed(), rows=f"(select {columns} limit 0)")
    )


def _put(connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, question: Question) -> None:
    """Put judged rows into the table ``judged``."""
    connection.register("batch", pa.Table.from_batches([batch]))
    query = "insert into judged " + sql.JUDGED.format(parsed=question.parsed(), rows="batch")
    with_enough_memory(connection, lambda: connection.execute(query))
    connection.unregister("batch")


@contextmanager
def _in_order(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let a join of ``asked`` and ``judged`` stream through the records as they are, for the block.

    One thread gives rows always in the same order, and what is kept in memory of the join are the
    answers: records may be wide documents.
    """
    with one_thread(connection):
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
            source=_source_list(connection, records),
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
                    source=_source_list(connection, records),
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
        source=_source_list(connection, records),
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


def _source_list(connection: duckdb.DuckDBPyConnection, records: str) -> str:
    """Return the source's columns, as SQL that reads them from ``records``."""
    relation = records if records == "asked" else f"read_parquet({quote_files([records])})"
    described = connection.execute(f"describe select * from {relation}").fetchall()
    return ", ".join(
        f"records.{quote_name(row[0])}" for row in described if row[0] not in HIDDEN_COLUMNS
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
) -> Joined:
    """Write the index of the rows in ``joined``, and return what they came to."""
    index_path = f"{folder}/index.parquet"
    index = sql.INDEX.replace("$version", quote_text(version))
    write_parquet(connection, f"{index} order by _custom_id", index_path)
    statuses = dict(
        connection.execute(
            "select _status, count(*) from joined group by all order by all"
        ).fetchall()
    )
    retryable = connection.execute(
        f"select count(*) from joined where _attempt < {int(max_attempts)} "
        f"and _status not in {FINAL} and not {sql.OVERFLOWED}"
    ).fetchone()
    return Joined(
        rows_path,
        index_path,
        sum(statuses.values()),
        statuses,
        retryable[0] if retryable else 0,
    )
