"""A batch that was made elsewhere joins a pipeline's table: its answers are paid for, and count from now on.

The records are stored as they are now, so an answer counts as the answer to today's content and question.
Nothing is asked. All that is written down is written in one transaction, whose key is the batch's id.
"""

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.evidence import custom_id_in
from batch_pipeline.batches.lines import lines_in
from batch_pipeline.batches.outcome import NoSuchBatch
from batch_pipeline.batches.wire import Batch
from batch_pipeline.errors import HeldError, InputError, counted, plain
from batch_pipeline.records.columns import WIRE_ID, check_names
from batch_pipeline.records.comparison import Comparison, one_row
from batch_pipeline.records.connections import (
    first_line,
    quote_files,
    quote_name,
    quote_text,
    with_enough_memory,
)
from batch_pipeline.records.earlier import look_back
from batch_pipeline.records.identity import variant_sql
from batch_pipeline.records.partitions import PartitionFilter
from batch_pipeline.records.reading import open_source, single_select, source_columns
from batch_pipeline.records.selection import Ask, IndexFile, Selection, select
from batch_pipeline.records.sources import VARIANT, Source
from batch_pipeline.records.submission import counts_of
from batch_pipeline.requests.compiled import CompiledTemplate
from batch_pipeline.results.download import Incomplete, custom_id_of
from batch_pipeline.results.judge import Counts, judge_file
from batch_pipeline.results.question import Question
from batch_pipeline.store.adoptions import (
    NewAdoption,
    commit_adoption,
    file_of_batch,
    is_adopted,
    is_candidate,
)
from batch_pipeline.store.layout import (
    answers_name,
    index_name,
    new_submission_id,
    records_name,
    request_name,
    safe_part,
)
from batch_pipeline.store.manifest import keep_manifests
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import (
    NewFile,
    NewSelection,
    Scope,
    Situation,
    latest_records,
    situation,
)

NANO = 10**9
TRIES = 3
"""Downloads of results that come incomplete."""
SHOWN = 5
IDS_AT_ONCE = 10_000
OWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{16}-\d+(-.*)?")
"""What a ledger of ours calls a request: the record's key, content and question are in the middle part."""
IDS = pa.schema([("wire_id", pa.string()), ("own", pa.bool_())])


@dataclass(frozen=True)
class Wanted:
    """What to take over.

    Attributes:
        batch_id: the batch.
        key_from: SQL over ``custom_id`` for the text of a record's key; None: it is the key's text.
        requests: a local file of the requests that the batch was made of; needed while it is in progress.
    """

    batch_id: str
    key_from: str | None = None
    requests: str | None = None


@dataclass(frozen=True)
class Pipeline:
    """What of a pipeline matters here.

    Attributes:
        scope: its name, the partition, and who is asked.
        source: its records.
        compile_question: binds its question to the source's columns.
        partition_filter: as for ``select_submission``.
        max_attempts: how often a record is asked.
        question: what its answers must look like.
    """

    scope: Scope
    source: Source
    compile_question: Callable[[Mapping[str, str]], CompiledTemplate]
    partition_filter: Callable[[Mapping[str, str]], PartitionFilter | None]
    max_attempts: int
    question: Question


@dataclass(frozen=True)
class Known:
    """A batch that the ledger has already.

    Attributes:
        pipeline: whose.
        submission: the number of its submission.
        file: its request file.
        state: where that stands.
        adopted: it was taken over; else it was sent from here.
        partition: the partition and variant that it asked about, as the ledger has them.
    """

    pipeline: str
    submission: int
    file: str
    state: str
    adopted: bool
    partition: str = ""


@dataclass(frozen=True)
class Adoption:
    """A batch that can be taken over, in local files.

    Attributes:
        batch: as the API shows it.
        records: records that it has requests of.
        answered_before: of these, the ones that are answered as they are now.
        requests: all that it has.
        unmatched: requests that no record has the key of.
        examples: some of their custom_ids.
        statuses: how its results are judged; empty while it is in progress.
        cost: USD of all results whose cost is known; None while it is in progress.
        cost_unknown: results whose cost is not known.
    """

    batch: Batch
    records: int
    answered_before: int
    requests: int
    unmatched: int
    examples: list[str]
    statuses: dict[str, int]
    cost: Decimal | None
    cost_unknown: int
    read: Situation
    selection: Selection
    paths: "_Paths"
    version: str
    question: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Paths:
    records: str
    index: str
    requests: str
    answers: str | None


def known(store: Store, batch_id: str) -> Known | None:
    """Return what the ledger knows of a batch; None: nothing."""
    file = file_of_batch(store.ledger, batch_id)
    if file is None:
        return None
    return Known(
        file["pipeline"],
        file["number"],
        file["id"],
        file["state"],
        is_adopted(store.ledger, file["submission_id"]),
        file["partition"],
    )


def look(
    store: Store, api: BatchesApi, pipeline: Pipeline, wanted: Wanted, folder: str
) -> Adoption:
    """Return what taking a batch over would come to. Nothing is written down.

    Args:
        store: where the files and the ledger are.
        api: the endpoint of the pipeline's scope.
        pipeline: whose records the batch asked about.
        wanted: the batch.
        folder: an empty local folder; it gets the files.

    Raises:
        InputError: the API knows no such batch, or its requests and the records do not go together.
        HeldError: some of the records are on their way already, or the batch may be one of our own.
        Incomplete: its results came incomplete.
    """
    if is_candidate(store.ledger, wanted.batch_id):
        raise HeldError(
            f"{wanted.batch_id} may be the batch of a request file whose reply was lost. `batch-pipeline reconcile` "
            "finds that out; nothing was changed."
        )
    try:
        batch = api.retrieve(wanted.batch_id)
    except NoSuchBatch as error:
        raise InputError(
            f"{pipeline.scope.endpoint} knows no batch {wanted.batch_id} ({error}). It is another workspace's or "
            "organization's, or of another address: batches are seen with a key of their own workspace only. Nothing was "
            "changed."
        ) from error
    read = situation(store.ledger, pipeline.scope)
    answers = f"{folder}/answers" if batch.ended else None
    ids = f"{folder}/ids.parquet"
    if answers is not None:
        requests = _fetch(api, batch, answers, ids, f"{folder}/requests")
    else:
        requests = _given(batch, wanted.requests, ids, f"{folder}/requests")
    counts = Counts()
    if answers is not None:
        _judge(answers, batch, pipeline.question, counts)
    with open_source(pipeline.source) as connection:
        store.files.register(connection)
        columns = source_columns(connection)
        question = pipeline.compile_question(columns)
        check_names(columns, [name for name, _ in question.output_columns])
        _view_wire(connection, ids, wanted)
        selection = _select(store, pipeline, connection, columns, question, read, folder)
        records, index = _name(connection, selection, pipeline, folder)
        unmatched = connection.execute(
            "SELECT wire_id FROM _bp_wire ANTI JOIN _bp_named USING (wire_id) ORDER BY 1"
        ).fetchmany(SHOWN)
        total, left = one_row(
            connection,
            "SELECT (SELECT count(*) FROM _bp_wire), (SELECT count(*) FROM _bp_wire ANTI JOIN _bp_named USING (wire_id))",
        )
        (before,) = one_row(connection, "SELECT count(*) FILTER (latest & 3 = 3) FROM _bp_verdicts")
    return Adoption(
        batch=batch,
        records=selection.asked,
        answered_before=before,
        requests=batch.requests or total,
        unmatched=left,
        examples=[plain(name) for (name,) in unmatched],
        statuses=dict(counts.statuses),
        cost=counts.cost if batch.ended else None,
        cost_unknown=counts.cost_unknown,
        read=read,
        selection=selection,
        paths=_Paths(records, index, requests, answers),
        version=question.version,
        question=pipeline.question.to_store() | {"request": question.request_hash},
    )


def adopt(store: Store, scope: Scope, found: Adoption) -> int:
    """Take a batch over: from then on it is collected as any other.

    Returns:
        The number of its submission.

    Raises:
        HeldError: another run selected records, or took the batch over, since it was looked at.
    """
    submission = new_submission_id(store.clock.now())
    pipeline, paths, part = scope.pipeline, found.paths, store.files.new_part()
    batch, size = found.batch, _size(paths.requests)
    placed = [
        store.files.put(paths.records, records_name(pipeline, submission)),
        store.files.put(paths.index, index_name(pipeline, submission, "selected")),
        store.files.put(paths.requests, request_name(pipeline, submission, f"00000-{part}")),
    ]
    answers = None
    if paths.answers is not None:
        name = f"00000-{safe_part(batch.id)}-{part}"
        answers = store.files.put(paths.answers, answers_name(pipeline, submission, name))
        placed.append(answers)
    unknown = found.cost is None or found.cost_unknown
    new = NewAdoption(
        selection=NewSelection(
            submission, found.version, placed[0], placed[1], counts_of(found.selection)
        ),
        question=found.question,
        file=NewFile(0, placed[2], found.requests, size, 0, found.records - 1),
        batch_id=batch.id,
        created_at=batch.created_at,
        expires_at=batch.expires_at,
        ended_at=(batch.ended_at or store.clock.now()) if batch.ended else None,
        answers_path=answers,
        nanousd=None if unknown or found.cost is None else int(found.cost * NANO),
    )
    number = commit_adoption(store.ledger, scope, found.read, new)
    if number is None:
        for name in placed:
            store.files.remove(name)
        raise HeldError(
            f"{pipeline}: another run selected records, or took {batch.id} over, while this one looked. Nothing was "
            "changed by this one: run it again."
        )
    keep_manifests(store, [submission])
    return number


def _fetch(api: BatchesApi, batch: Batch, path: str, ids: str, requests: str) -> str:
    """Download the results of a batch, whole, and write down its custom_ids; returns the file of its requests.

    Of what it was asked the API tells no more than the custom_ids.
    """
    damage = ""
    for _ in range(TRIES):
        try:
            with closing(api.results(batch.id)) as stream, open(path, "wb") as out:
                for chunk in stream:
                    out.write(chunk)
        except NoSuchBatch as error:
            raise InputError(
                f"The API has no results of {batch.id} any more ({error}): it drops them 29 days after the batch was "
                "created. Nothing was changed."
            ) from error
        damage = _written(ids, _ids_of(path), batch, requests)
        if not damage:
            return requests
    raise Incomplete(
        f"The results of {batch.id} came incomplete in {TRIES} downloads ({damage}). Nothing was changed: run this again."
    )


def _ids_of(path: str) -> Iterator[str | None]:
    with open(path, "rb") as results:
        for line in lines_in(results):
            yield custom_id_of(line)


def _given(batch: Batch, requests: str | None, ids: str, copy: str) -> str:
    """Take the custom_ids of a batch that is in progress from the file that it was made of."""
    if requests is None:
        until = (
            f" (by {batch.expires_at:%Y-%m-%d %H:%M} UTC at the latest)" if batch.expires_at else ""
        )
        raise InputError(
            f"{batch.id} is still in progress, and the API tells what is in a batch only when it has ended{until}. Name "
            "the file of requests that it was made of: --requests FILE. Or run this again when it has ended; until then "
            "a run of the pipeline would ask its records, too. Nothing was changed."
        )
    try:
        with open(requests, "rb") as lines:
            damage = _written(ids, (custom_id_in(line) for line in lines if line.strip()), batch)
        shutil.copyfile(requests, copy)
    except OSError as error:
        raise InputError(f"{requests} cannot be read: {error.strerror or error}.") from error
    if damage:
        raise InputError(
            f"{requests} is not what {batch.id} was made of: {damage}. Nothing was changed."
        )
    return copy


def _written(
    ids: str, found: Iterable[str | None], batch: Batch, requests: str | None = None
) -> str:
    """Write custom_ids into a Parquet file; returns what is wrong with them, or ""."""
    seen: set[str] = set()
    unreadable = twice = 0
    with pq.ParquetWriter(ids, IDS) as out:
        some: list[str] = []

        def write() -> None:
            own = [bool(OWN.fullmatch(name)) for name in some]
            out.write_table(pa.table({"wire_id": some, "own": own}, IDS))
            some.clear()

        for custom_id in found:
            if custom_id is None:
                unreadable += 1
            elif custom_id in seen:
                twice += 1
            else:
                seen.add(custom_id)
                some.append(custom_id)
                if len(some) >= IDS_AT_ONCE:
                    write()
        write()
    if requests is not None:
        with open(requests, "wb") as lines:
            for custom_id in sorted(seen):
                lines.write(orjson.dumps({"custom_id": custom_id}) + b"\n")
    problems = []
    if unreadable:
        problems.append(f"{counted(unreadable, 'line')} cannot be read")
    if twice:
        problems.append(f"{counted(twice, 'custom_id')} twice")
    if batch.requests and len(seen) != batch.requests:
        problems.append(f"{len(seen):,} of {counted(batch.requests, 'request')}")
    return ", ".join(problems)


def _judge(answers: str, batch: Batch, question: Question, counts: Counts) -> None:
    for _ in judge_file(
        answers,
        question.output,
        priced_at=batch.ended_at or batch.created_at,
        counts=counts,
        tools=question.tool_calls,
        prices=question.prices,
        citations=question.citations,
    ):
        pass


def _view_wire(connection: duckdb.DuckDBPyConnection, ids: str, wanted: Wanted) -> None:
    """Make the table _bp_wire: each request of the batch, with the key that its custom_id tells.

    Raises:
        InputError: ``key_from`` is no SQL expression, or two requests have one key.
    """
    expression = wanted.key_from or "custom_id"
    what = f"--key-from ({plain(expression)})"
    query = (
        f"SELECT wire_id, CAST(({expression}\n) AS VARCHAR) AS key, "
        f"{'own' if wanted.key_from is None else 'false'} AS own "
        f"FROM (SELECT wire_id, wire_id AS custom_id, own FROM read_parquet({quote_files([ids])}))"
    )
    single_select(connection, query, what)
    try:
        connection.execute(f"CREATE TEMP TABLE _bp_wire AS {query}")
    except duckdb.Error as error:
        raise InputError(
            f"{what} cannot be used: write SQL over custom_id for the text of the key, such as "
            f"split_part(custom_id, '-', 2). DuckDB says: {first_line(error)}"
        ) from error
    twice = connection.execute(
        "SELECT key, min(wire_id), max(wire_id) FROM _bp_wire WHERE NOT own AND key IS NOT NULL "
        f"GROUP BY key HAVING count(*) > 1 ORDER BY 1 LIMIT {SHOWN}"
    ).fetchall()
    if twice:
        shown = "; ".join(f"{plain(key)} ({plain(a)} and {plain(b)})" for key, a, b in twice)
        raise InputError(
            f"Several requests of the batch have the same key: {shown}. A record gets one answer: give --key-from an "
            "expression that tells them apart. Nothing was changed."
        )


def _key_text(keys: Collection[str], table: str) -> str:
    """Return SQL for the text of a record's key; that of several columns is joined by ``_``."""
    named = [key for key in keys if key != VARIANT]  # what a script called a record by
    return " || '_' || ".join(f"CAST({table}.{quote_name(key)} AS VARCHAR)" for key in named)


def _select(
    store: Store,
    pipeline: Pipeline,
    connection: duckdb.DuckDBPyConnection,
    columns: Mapping[str, str],
    question: CompiledTemplate,
    read: Situation,
    folder: str,
) -> Selection:
    """Select the records that the batch has requests of, as if they were asked now.

    Raises:
        InputError: there are none.
        HeldError: some are on their way already.
    """
    scope, source = pipeline.scope, pipeline.source
    earlier = [
        store.files.url(name)
        for name in latest_records(store.ledger, scope.pipeline, scope.variant)
    ]
    keys = look_back(connection, source.keys, columns, earlier).keys
    as_asked = Comparison(
        connection, keys, question.columns, question.version, None, None, files=question.files
    )
    variant = variant_sql(as_asked.key_hash, as_asked.content_hash, question.version)
    connection.execute("ALTER VIEW source RENAME TO _bp_every_record")
    connection.execute(
        "CREATE TEMP VIEW source AS SELECT source.* FROM _bp_every_record AS source"
        f" WHERE {_key_text(source.keys, 'source')} IN (SELECT key FROM _bp_wire WHERE NOT own AND key IS NOT NULL)"
        " OR ((SELECT bool_or(own) FROM _bp_wire)"
        f" AND {variant} IN (SELECT substr(wire_id, 10, 16) FROM _bp_wire WHERE own))"
    )
    selection = select(
        connection,
        keys=source.keys,
        content_columns=question.columns,
        files=question.files,
        version=question.version,
        request=question.request_hash,
        most_doublings=question.most_doublings,
        index=[IndexFile.of(row, store.files.url) for row in read.index],
        earlier=earlier,
        out_dir=folder,
        ledger_id=store.ledger.id,
        max_attempts=pipeline.max_attempts,
        partition=pipeline.partition_filter(columns),
        ask=Ask(force=True, allow_reask=True),
    )
    if selection.in_flight:
        raise HeldError(
            f"{scope.pipeline}: {counted(selection.in_flight, 'record')} of this batch are on their way already, in "
            "another batch or in a file that waits to be sent: they would have two answers. Let these be collected "
            f"first (`batch-pipeline status {scope.pipeline}`), or give up what was never sent (`batch-pipeline cancel "
            f"{scope.pipeline}`). Nothing was changed."
        )
    if not selection.asked:
        shown = connection.execute(f"SELECT key, wire_id FROM _bp_wire LIMIT {SHOWN}").fetchall()
        told = ", ".join(plain(str(wire_id if key is None else key)) for key, wire_id in shown)
        raise InputError(
            f"No record of {source.describe()} has a key ({', '.join(source.keys)}) that a custom_id of the batch tells: "
            f"{told} ... Say how the key follows: --key-from \"split_part(custom_id, '-', 2)\". Nothing was changed."
        )
    return selection


def _name(
    connection: duckdb.DuckDBPyConnection, selection: Selection, pipeline: Pipeline, folder: str
) -> tuple[str, str]:
    """Write the records again, each with what its request is called in the batch."""
    assert selection.records_path is not None and selection.index_path is not None
    records = f"read_parquet({quote_files([selection.records_path])})"
    connection.execute(
        "CREATE TEMP TABLE _bp_named AS SELECT records._row, wire.wire_id "
        f"FROM {records} AS records JOIN _bp_wire AS wire ON NOT wire.own AND "
        f"wire.key = {_key_text(pipeline.source.keys, 'records')} "
        "UNION ALL SELECT records._row, wire.wire_id "
        f"FROM {records} AS records JOIN _bp_wire AS wire ON wire.own AND "
        "substr(wire.wire_id, 10, 16) = substr(records._custom_id, 10, 16)"
    )
    rows, wires, pairs = one_row(
        connection,
        "SELECT count(DISTINCT _row), count(DISTINCT wire_id), count(*) FROM _bp_named",
    )
    if not rows == wires == pairs == selection.asked:
        raise InputError(
            f"The custom_ids of the batch do not tell the records apart: {pairs:,} pairs of {rows:,} records and "
            f"{wires:,} requests. Give --key-from an expression for the whole key; that of several columns is their "
            "texts, joined by `_`. Nothing was changed."
        )
    path = f"{folder}/named.parquet"
    copy = (
        f"COPY (SELECT records.*, named.wire_id AS {WIRE_ID} FROM {records} AS records "
        f"JOIN _bp_named AS named USING (_row) ORDER BY _row) TO {quote_text(path)} "
        "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)"
    )
    with_enough_memory(connection, lambda: connection.execute(copy))
    return path, selection.index_path


def _size(path: str) -> int:
    with open(path, "rb") as file:
        return file.seek(0, 2)
