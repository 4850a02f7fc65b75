"""What would be asked now: the selection of a night, without its consequences. It reads only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import and_, or_, select

from batch_pipeline.records.columns import check_names
from batch_pipeline.records.connections import quote_files, quote_name, quote_text
from batch_pipeline.records.partitions import PartitionFilter
from batch_pipeline.records.reading import open_source, source_columns
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.selection import ASKED_VERDICTS, Ask, IndexFile, Selection
from batch_pipeline.records.selection import select as select_records
from batch_pipeline.records.sources import Source
from batch_pipeline.records.submission import Question
from batch_pipeline.store.store import Store
from batch_pipeline.store.submissions import (
    KEPT,
    REQUEST,
    IndexRow,
    Scope,
    index_elsewhere,
    latest_records,
    placed,
)
from batch_pipeline.store.tables import request_files, submissions
from batch_pipeline.store.variants import partition_of, variant_of

NO_LEDGER = "00000000"  # stands for the id of a ledger that the first run will make
QuestionT = TypeVar("QuestionT", bound=Question)

WANTED = """
-- One row per verdict: how many records that the run wants have it. It reads what selecting left behind.
SELECT verdict, count(*)
FROM _bp_verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = _bp_verdicts.id
WHERE wanted GROUP BY verdict
"""


WANTED_TWICE = """
-- One row: how many of the records that would be asked are duplicates of others.
SELECT count(*) - count(DISTINCT (hashed.content_hash, _bp_verdicts.doubled, plan.turns))
FROM _bp_verdicts JOIN _bp_hashed AS hashed ON hashed.rowid = _bp_verdicts.id
LEFT JOIN _bp_plan AS plan ON plan.key_hash = hashed.key_hash
WHERE wanted AND _bp_verdicts.verdict IN {asked}
"""


@dataclass(frozen=True)
class PreviewedRecord:
    """One of the first records that would be asked.

    Attributes:
        path: a local ``records.parquet`` that holds this record alone.
        key: its key's values as text.
        custom_id: what its request would be called.
        reason: why it is asked: new, changed, version, retry or forced.
        attempt: counted from 1.
    """

    path: str
    key: tuple[str, ...]
    custom_id: str
    reason: str
    attempt: int


@dataclass(frozen=True)
class RecordsPreview(Generic[QuestionT]):
    """What would be asked.

    Attributes:
        question: the question, bound to the source's columns.
        reasons: how many records would be asked, by reason.
        selection: the rest of what was found; its files hold the first records only, ``most`` of them.
        first: the first records, by key.
        duplicates: of the records that would be asked, those whose request is another one's.
    """

    question: QuestionT
    reasons: dict[str, int]
    selection: Selection
    first: list[PreviewedRecord]
    duplicates: int = 0

    @property
    def asked(self) -> int:
        """How many records would be asked."""
        return sum(self.reasons.values())

    @property
    def requests(self) -> int:
        """How many requests that would be."""
        return self.asked - self.duplicates


def preview_records(
    store: Store | None,
    scope: Scope,
    source: Source,
    compile_question: Callable[[Mapping[str, str]], QuestionT],
    *,
    partition_filter: Callable[[Mapping[str, str]], PartitionFilter | None],
    refresh: Literal["changed", "new"],
    max_attempts: int,
    first: int,
    most: int | None,
    where: str | None,
    force: bool,
    dedupe: bool,
    correct: bool,
    rules: Sequence[Rule],
    folder: str,
) -> RecordsPreview[QuestionT]:
    """Select as ``NAME_submit`` would, and keep nothing of it.

    Args:
        store: where the ledger and the index are; None: nothing was ever asked.
        scope: pipeline, partition and endpoint.
        source: the records.
        compile_question: binds the question to the source's columns.
        partition_filter: as for ``select_submission``.
        refresh: the pipeline's.
        max_attempts: the pipeline's.
        first: how many records to bring along, each by itself.
        most: how many to write together; None: all.
        where: the run's condition.
        force: as if the run had it.
        dedupe, correct, rules: the pipeline's.
        folder: an empty local folder; it gets the records.

    Raises:
        InputError: the source, the question or the condition cannot be used.
    """
    with open_source(source) as connection:
        columns = source_columns(connection)
        question = compile_question(columns)
        check_names(columns, [name for name, _ in question.output_columns])
        if store is not None:
            store.files.register(connection)
        selection = select_records(
            connection,
            keys=source.keys,
            content_columns=question.columns,
            files=question.files,
            version=question.version,
            request=question.request_hash,
            most_doublings=question.most_doublings,
            together=question.cache_by,
            index=[] if store is None else _index(store, scope),
            elsewhere=[
                IndexFile.of(row, store.files.url) for row in index_elsewhere(store.ledger, scope)
            ]
            if store is not None
            else [],
            earlier=[
                store.files.url(name)
                for name in latest_records(store.ledger, scope.pipeline, scope.variant)
            ]
            if store is not None
            else [],
            out_dir=folder,
            ledger_id=NO_LEDGER if store is None else store.ledger.id,
            refresh=refresh,
            max_attempts=max_attempts,
            partition=partition_filter(columns),
            ask=Ask(None if most is None else max(first, most), where, force),
            dedupe=dedupe,
            correct=correct,
            rules=rules,
        )
        found = dict(connection.execute(WANTED).fetchall())
        reasons = {name: found[name] for name in ASKED_VERDICTS if name in found}
        duplicates = 0
        if dedupe:
            verdicts = ", ".join(map(quote_text, ASKED_VERDICTS))
            sql = WANTED_TWICE.format(asked=f"({verdicts})")
            [(duplicates,)] = connection.execute(sql).fetchall()
        records = _each(connection, selection, source.keys, folder, first)
    return RecordsPreview(question, reasons, selection, records, duplicates)


def _index(store: Store, scope: Scope) -> list[IndexFile]:
    """Return the index files that a run would read; what it would drop first, unbuilt, is left out."""
    kept = or_(
        submissions.c.state == "built",
        and_(submissions.c.state == "selected", submissions.c.partition != scope.partition),
    )
    mine = (
        submissions.c.pipeline == scope.pipeline,
        submissions.c.endpoint_id == scope.endpoint.id,
        kept,
    )
    about = submissions.c.number, submissions.c.partition, REQUEST
    selected = select(submissions.c.index_path, *about).where(*mine)
    collected = (
        select(request_files.c.index_path, *about, *KEPT)
        .join(submissions, submissions.c.id == request_files.c.submission_id)
        .where(*mine)
    )
    with store.ledger.read() as tx:
        rows = [
            IndexRow(name, number, partition_of(partition), *rest)
            for query in (selected, collected)
            for name, number, partition, *rest in tx.execute(query)
            if name and variant_of(partition) == scope.variant
        ]
        rows = placed(tx, scope.pipeline, rows)
    return [IndexFile.of(row, store.files.url) for row in rows]


def _each(
    connection: Any, selection: Selection, keys: tuple[str, ...], folder: str, first: int
) -> list[PreviewedRecord]:
    """Write each of the first records to ask into a file of its own: requests are built from such files."""
    if not selection.asked or selection.records_path is None:
        return []
    records = f"read_parquet({quote_files([selection.records_path])})"
    names = ", ".join(f"CAST({quote_name(key)} AS VARCHAR)" for key in keys)
    rows = connection.execute(
        f"SELECT _row, _custom_id, _reason, _attempt, {names} FROM {records}"
        f" WHERE _kind = 'ask' ORDER BY _row LIMIT {int(first)}"
    ).fetchall()
    found = []
    for row, custom_id, reason, attempt, *key in rows:
        path = f"{folder}/record-{row}.parquet"
        connection.execute(
            f"COPY (SELECT * FROM {records} WHERE _row = {int(row)}) TO {quote_text(path)} (FORMAT parquet)"
        )
        found.append(PreviewedRecord(path, tuple(key), custom_id, reason, attempt))
    return found
